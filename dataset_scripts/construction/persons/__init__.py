"""Find persons in images, estimate their poses, and keep the crops that meet the criteria of the paper."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
