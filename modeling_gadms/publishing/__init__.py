"""Publish a model to the Hub, with a model card of what was measured on it."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
