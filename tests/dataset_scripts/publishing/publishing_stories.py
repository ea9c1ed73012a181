"""What `test_publishing.py` has done in a process that talks to a Hub: publish, and read with `datasets` alone."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np


def publish(source: Path, repo_id: str, license: str | None = "cc-by-4.0", **options: Any) -> Any:
    from dataset_scripts.publishing.dataset import publish_dataset
    from dataset_scripts.publishing.dataset_card import DatasetCardSettings

    card = DatasetCardSettings(license) if license else None
    return publish_dataset(str(source), repo_id, card=card, progress=False, **options)


def read(name: str, streaming: bool = False, **options: Any) -> dict[str, list]:
    """Paths, captions and pixels of all rows, by split."""
    splits = datasets.load_dataset(name, streaming=streaming, **options)
    return {
        split: [[row["image_path"], row["caption1"], np.asarray(row["image"]).tolist()] for row in dataset]
        for split, dataset in splits.items()
    }


def read_as_webperson(repo_id: str) -> dict[str, list]:
    import dataset_scripts  # noqa: F401, makes the name known

    return read("webperson", repo_id=repo_id)
