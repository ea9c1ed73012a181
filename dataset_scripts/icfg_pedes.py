"""ICFG-PEDES from its raw release: `ICFG-PEDES.json` and `imgs/`.

```python
import dataset_scripts  # registers the name

datasets.load_dataset("icfg_pedes", data_dir="datasets/ICFG-PEDES")
datasets.load_dataset("icfg_pedes", "holdout", data_dir="datasets/ICFG-PEDES")  # with a validation split
```

Source: "Semantically Self-Aligned Network for Text-to-Image Part-aware Person Re-identification" (arXiv 2107.12666).
Identities start at 0. Images have one caption. The folders `imgs/train` and `imgs/test` are not the split.

The release has no validation split, and choosing a checkpoint on the test split biases its results. Configuration
`holdout` therefore moves 200 of the 3,102 training persons, as many as RSTPReid validates on, to a validation split.
The test split is unchanged. Use `holdout` to choose checkpoints, or `default` with a fixed number of epochs.
"""

import hashlib
from dataclasses import replace

from .releases.raw import Entry, RawRelease, RawReleaseConfig, ReleaseFormat, SplitCounts


HELD_OUT = 200
"""Number of validation persons of the whole release. Not stated by any source: chosen."""


class IcfgPedes(RawRelease):
    """Builder of ICFG-PEDES: splits `train`, `test` and, for `holdout`, `validation`. See [`RawReleaseConfig`]."""

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
        """For `holdout`, move the images of the held-out persons to validation."""
        if self.config.name != "holdout":
            return entries
        if any(entry.split == "validation" for entry in entries):
            raise ValueError("this copy of ICFG-PEDES already has a validation split: load configuration `default`")
        held_out = choose_held_out({entry.source_id for entry in entries if entry.split == "train"})
        return [replace(entry, split="validation") if entry.source_id in held_out else entry for entry in entries]


def choose_held_out(train_ids: set[int]) -> set[int]:
    """Choose the validation persons of `holdout`: those whose ids have the smallest SHA-256 digests.

    The choice is the same on every machine, and nearly the same if a copy lacks some persons. Smaller releases hold
    out the same share.

    Raises:
        ValueError: if there are fewer than two training persons.
    """
    if len(train_ids) < 2:
        raise ValueError(f"holding out persons needs 2 or more training persons, found {len(train_ids)}")
    number = max(1, round(len(train_ids) * HELD_OUT / IcfgPedes.RELEASE.published["train"].identities))
    return set(sorted(train_ids, key=lambda source_id: hashlib.sha256(str(source_id).encode()).digest())[:number])
