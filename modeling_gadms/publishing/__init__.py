"""Publish models on the Hub, with a model card whose metrics are bound to the weights."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
