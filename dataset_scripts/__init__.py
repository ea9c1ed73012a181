"""Data sets for text-based person retrieval, one builder a module.

Importing this package lets `datasets.load_dataset` know `webperson`, `cuhk_pedes`, `icfg_pedes`, `rstpreid` and
`synthetic_garments`.
"""

from .registration import register


for _name in ("webperson", "cuhk_pedes", "icfg_pedes", "rstpreid", "synthetic_garments"):
    register(_name, f"{__name__}.{_name}")
