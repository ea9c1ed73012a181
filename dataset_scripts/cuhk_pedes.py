"""CUHK-PEDES from its raw release: `reid_raw.json` and `imgs/`.

```python
import dataset_scripts  # registers the name

datasets.load_dataset("cuhk_pedes", data_dir="datasets/CUHK-PEDES")
```

Source: "Person Search with Natural Language Description" (CVPR 2017). Identities start at 1. Most images have two
captions, a few up to nine.
"""

from .releases.raw import RawRelease, ReleaseFormat, SplitCounts


class CuhkPedes(RawRelease):
    """Builder of CUHK-PEDES: splits `train`, `validation` and `test`. See [`RawReleaseConfig`] for options."""

    RELEASE = ReleaseFormat(
        title="CUHK-PEDES",
        annotations=("reid_raw.json",),
        path_key="file_path",
        published={
            "train": SplitCounts(images=34_054, captions=68_126, identities=11_003),
            "validation": SplitCounts(images=3_078, captions=6_158, identities=1_000),
            "test": SplitCounts(images=3_074, captions=6_156, identities=1_000),
        },
    )
