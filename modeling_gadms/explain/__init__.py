"""Explain a search result by the relevance of caption tokens and image patches."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
