"""Read the images of a construction run from folders, tars, videos and tables of URLs."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
