"""A gallery of persons in one Lance table: add, search, update and maintain it."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
