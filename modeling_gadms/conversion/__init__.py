"""Convert the weights of other projects to GA-DMS, and export GA-DMS for other software."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
