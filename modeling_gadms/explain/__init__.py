"""Show why a person was found: the tokens of the caption, and the patches of the image."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
