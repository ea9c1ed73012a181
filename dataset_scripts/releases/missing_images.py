"""Annotated images that are missing on disk: raise an error, or skip their rows with a warning."""

import os
import warnings
from collections.abc import Iterable
from pathlib import Path

from tqdm.auto import tqdm


_NAMED = 10


def check_on_missing_images(on_missing_images: str) -> None:
    """Raises ValueError: if the option is neither `"error"` nor `"skip"`."""
    if on_missing_images not in ("error", "skip"):
        raise ValueError(f"on_missing_images = {on_missing_images!r} must be 'error' or 'skip'")


def missing_images(paths: Iterable[str], folder: Path, file: str | Path, on_missing_images: str) -> set[str]:
    """Find the annotated images that are missing. Raise an error about them, or warn that their rows are skipped.

    Args:
        paths (`Iterable[str]`): paths of the annotated images, relative to `folder`.
        folder (`Path`), file (`str` or `Path`): folder of images, and the annotations, for the message.
        on_missing_images (`str`): `"error"` or `"skip"`.

    Raises:
        FileNotFoundError: with the number and the first ten paths, for `"error"` or if all images are missing.
    """
    paths = list(paths)
    looked_for = tqdm(paths, desc="Looking for images", unit="image", disable=None)
    missing = [path for path in looked_for if not os.path.isfile(folder / path)]
    if not missing:
        return set()
    problem = (
        f"{len(missing):,} of {len(paths):,} images of {file} are not in {folder}: {', '.join(missing[:_NAMED])}"
        f"{', ...' if len(missing) > _NAMED else ''}"
    )
    if on_missing_images == "error" or len(missing) == len(paths):
        raise FileNotFoundError(f"{problem}. Complete the copy, or skip their rows with on_missing_images='skip'")
    warnings.warn(f"{problem}. Their rows are skipped", UserWarning, stacklevel=2)
    return set(missing)
