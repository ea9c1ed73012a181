"""The three benchmarks in miniature, in the exact raw formats, and what is wrong with real copies of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


Raw = list[dict[str, Any]]


def cuhk_pedes() -> Raw:
    """Persons 1, 2 and 5 to train on (3 and 4 are a gap), 11004 to validate, 12004 and 12005 to test."""
    persons = {1: "train", 2: "train", 5: "train", 11004: "val", 12004: "test", 12005: "test"}
    entries = []
    for person, split in persons.items():
        for image in range(2):
            captions = [f"Person {person} in view {image}, told by {teller}. " for teller in ("one", "another")]
            entries.append(
                {
                    "split": split,
                    "captions": captions,
                    "file_path": f"cam_{'ab'[image]}/{person:05d}_{image}.png",
                    "processed_tokens": [caption.lower().split() for caption in captions],
                    "id": person,
                }
            )
    entries[0]["captions"] = [f"Caption {number} of nine." for number in range(9)]
    entries[0]["processed_tokens"] = []
    entries[2]["captions"][0] = " ".join(f"word{number}" for number in range(96))
    return entries


def icfg_pedes(train_persons: int = 4) -> Raw:
    """Persons from 0, a caption an image; images of the training persons lie in `test` too."""
    entries = []
    for person in range(train_persons + 2):
        for image in range(2):
            entries.append(
                {
                    "split": "train" if person < train_persons else "test",
                    "captions": [f"The person {person} walks, seen {image}."],
                    "file_path": f"{'test' if image else 'train'}/{person:04d}/{person:04d}_{image}.jpg",
                    "processed_tokens": [["the", "person"]],
                    "id": person,
                }
            )
    return entries


def rstpreid() -> Raw:
    """Two persons to train on, one to validate, one to test; five images each."""
    splits = ("train", "train", "val", "test")
    return [
        {
            "id": person,
            "img_path": f"{person:04d}_c{camera}_0001.jpg",
            "captions": [f"Somebody {person} before camera {camera}.", f"Number {person} again."],
            "split": split,
        }
        for person, split in enumerate(splits)
        for camera in range(5)
    ]


def write(
    folder: Path, annotations: str, entries: Raw, *, missing: Sequence[str] = (), encoding: str = "utf-8"
) -> Path:
    """Write the JSON file and the images, each of a colour of its own, but for those that are to be missing."""
    paths = {str(entry.get("file_path", entry.get("img_path"))).replace("\\", "/") for entry in entries}
    (folder / "imgs").mkdir(parents=True)
    for path in paths - set(missing):
        place = folder / "imgs" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 48), colour(path)).save(place)
    (folder / annotations).write_text(json.dumps(entries), encoding=encoding)
    return folder


def colour(path: str) -> tuple[int, int, int]:
    values = np.random.default_rng(list(path.encode())).integers(0, 256, 3)
    return (int(values[0]), int(values[1]), int(values[2]))
