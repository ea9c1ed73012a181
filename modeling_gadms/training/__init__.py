"""Train a model or an adapter: run files, data, and the `Trainer` with the GA-DMS objective."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
