"""Data sets for text-based person retrieval, one builder per module.

Importing this package registers `webperson`, `cuhk_pedes`, `icfg_pedes`, `rstpreid` and `synthetic_garments` with
`datasets.load_dataset`. If the installed version of `datasets` is incompatible, the import only warns. `load_splits`
then raises an error with advice for these names; everything else works.
"""

import lazy_loader

from .registration import register_builders


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
register_builders()
