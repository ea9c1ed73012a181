"""Images that annotations name and the disk lacks: an error that lists them, or rows that are left out and counted."""

import warnings
from collections.abc import Sequence
from pathlib import Path


_NAMED = 10


def check_on_missing_images(on_missing_images: str) -> None:
    """Raises ValueError: for another option than `"error"` and `"skip"`."""
    if on_missing_images not in ("error", "skip"):
        raise ValueError(f"on_missing_images = {on_missing_images!r} must be 'error' or 'skip'")


def report_missing_images(
    missing: Sequence[str], total: int, file: str | Path, folder: Path, on_missing_images: str
) -> None:
    """Refuse a copy that lacks images, or warn that their rows are left out.

    Args:
        missing (`Sequence[str]`): paths of the images, one at least.
        total (`int`): images that the annotations name.
        file (`str` or `Path`), folder (`Path`): of the annotations, and of the images.
        on_missing_images (`str`): `"error"` or `"skip"`.

    Raises:
        FileNotFoundError: with the number and the first ten, if all are missing or none may be.
    """
    problem = (
        f"{len(missing):,} of {total:,} images of {file} are not in {folder}: {', '.join(missing[:_NAMED])}"
        f"{', ...' if len(missing) > _NAMED else ''}"
    )
    if on_missing_images == "error" or len(missing) == total:
        raise FileNotFoundError(f"{problem}. Complete them, or leave some out with on_missing_images='skip'")
    warnings.warn(f"{problem}. Their rows are left out", UserWarning, stacklevel=3)
