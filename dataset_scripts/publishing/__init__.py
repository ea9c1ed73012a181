"""Publish a data set to the Hub: Parquet files and a data set card."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
