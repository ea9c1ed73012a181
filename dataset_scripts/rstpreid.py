"""RSTPReid from its raw release: `data_captions.json` and `imgs/`.

```python
import dataset_scripts  # registers the name

datasets.load_dataset("rstpreid", data_dir="datasets/RSTPReid")
```

Source: "DSSL: Deep Surroundings-person Separation Learning for Text-based Person Retrieval" (ACM MM 2021). Five images
per person, two captions per image.
"""

from .releases.raw import RawRelease, ReleaseFormat, SplitCounts


class RstpReid(RawRelease):
    """Builder of RSTPReid: splits `train`, `validation` and `test`. See [`RawReleaseConfig`] for options."""

    RELEASE = ReleaseFormat(
        title="RSTPReid",
        annotations=("data_captions.json",),
        path_key="img_path",
        published={
            "train": SplitCounts(images=18_505, captions=37_010, identities=3_701),
            "validation": SplitCounts(images=1_000, captions=2_000, identities=200),
            "test": SplitCounts(images=1_000, captions=2_000, identities=200),
        },
    )
