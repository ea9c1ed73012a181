"""Annotated images that are missing on disk: raise an error, or skip their rows with a warning."""

import warnings
from collections.abc import Sequence
from pathlib import Path


_NAMED = 10


def check_on_missing_images(on_missing_images: str) -> None:
    """Raises ValueError: if the option is neither `"error"` nor `"skip"`."""
    if on_missing_images not in ("error", "skip"):
        raise ValueError(f"on_missing_images = {on_missing_images!r} must be 'error' or 'skip'")


def report_missing_images(
    missing: Sequence[str], total: int, file: str | Path, folder: Path, on_missing_images: str
) -> None:
    """Raise an error about missing images, or warn that their rows are skipped.

    Args:
        missing (`Sequence[str]`): paths of the missing images, at least one.
        total (`int`): number of annotated images.
        file (`str` or `Path`), folder (`Path`): annotations and folder of images.
        on_missing_images (`str`): `"error"` or `"skip"`.

    Raises:
        FileNotFoundError: with the number and the first ten paths, for `"error"` or if all images are missing.
    """
    problem = (
        f"{len(missing):,} of {total:,} images of {file} are not in {folder}: {', '.join(missing[:_NAMED])}"
        f"{', ...' if len(missing) > _NAMED else ''}"
    )
    if on_missing_images == "error" or len(missing) == total:
        raise FileNotFoundError(f"{problem}. Complete the copy, or skip their rows with on_missing_images='skip'")
    warnings.warn(f"{problem}. Their rows are skipped", UserWarning, stacklevel=3)
