"""Measure retrieval: encode a data set, rank it in both directions, report the metrics."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
