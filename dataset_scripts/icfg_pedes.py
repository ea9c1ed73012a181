"""ICFG-PEDES from its raw release: `ICFG-PEDES.json` and `imgs/`.

```python
import dataset_scripts  # makes the bare name known

datasets.load_dataset("icfg_pedes", data_dir="datasets/ICFG-PEDES")
datasets.load_dataset("icfg_pedes", "holdout", data_dir="datasets/ICFG-PEDES")  # with a validation split
```

Source: "Semantically Self-Aligned Network for Text-to-Image Part-aware Person Re-identification" (arXiv 2107.12666).
Identities begin with 0; one caption an image; the folders `imgs/train` and `imgs/test` are not the split.

The release has no validation split, and whoever chooses a checkpoint by its test split measures the choice. Under
`holdout` 200 of the 3,102 training persons, as many as RSTPReid validates on, are the validation split and no longer
trained on; the test split stays as it is. Train with `holdout` to choose, or on `default` for a number of epochs that
was fixed before.
"""

import hashlib
from dataclasses import replace

from .releases.raw import Entry, RawRelease, RawReleaseConfig, ReleaseFormat, SplitCounts


HELD_OUT = 200
"""Validation persons of the whole release. Not stated by any source: chosen."""


class IcfgPedes(RawRelease):
    """Builder of ICFG-PEDES: splits `train` and `test`, under `holdout` also `validation`; options as of
    [`RawReleaseConfig`]."""

    BUILDER_CONFIGS = [RawReleaseConfig(name="default"), RawReleaseConfig(name="holdout")]
    RELEASE = ReleaseFormat(
        title="ICFG-PEDES",
        annotations=("ICFG-PEDES.json", "ICFG_PEDES.json"),
        path_key="file_path",
        published={
            "train": SplitCounts(images=34_674, captions=34_674, identities=3_102),
            "test": SplitCounts(images=19_848, captions=19_848, identities=1_000),
        },
    )

    def choose_splits(self, entries: list[Entry]) -> list[Entry]:
        """Under `holdout`, the images of the held-out persons are validation."""
        if self.config.name != "holdout":
            return entries
        if any(entry.split == "validation" for entry in entries):
            raise ValueError("this copy of ICFG-PEDES has a validation split; load its configuration `default`")
        held_out = choose_held_out({entry.source_id for entry in entries if entry.split == "train"})
        return [replace(entry, split="validation") if entry.source_id in held_out else entry for entry in entries]


def choose_held_out(train_ids: set[int]) -> set[int]:
    """The persons that `holdout` validates on: those whose numbers have the smallest SHA-256.

    The same ones on every machine, and whatever other persons a copy lacks, nearly the same ones. Of a smaller release
    the same share.

    Raises:
        ValueError: if there are fewer than two persons to train on.
    """
    if len(train_ids) < 2:
        raise ValueError(f"holding persons out takes 2 or more to train on; there are {len(train_ids)}")
    number = max(1, round(len(train_ids) * HELD_OUT / IcfgPedes.RELEASE.published["train"].identities))
    return set(sorted(train_ids, key=lambda source_id: hashlib.sha256(str(source_id).encode()).digest())[:number])
