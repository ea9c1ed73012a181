"""Save the figures that commands draw."""

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from PIL import Image

_SOFTWARE = 0x0131
"""EXIF tag for the program that made an image."""
_NAME = "gadms"


def save_figure(figure: "Image.Image", out: Path) -> str:
    """Save a figure in one step; its folder is created if missing.

    An earlier figure is replaced. Any other file of this name is renamed.

    Returns:
        `str`: the path, and what became of the file that was there, to be printed.

    Raises:
        IsADirectoryError: if `out` is a folder.
        ValueError: if Pillow has no image format for its suffix.
    """
    from PIL import Image

    from modeling_gadms.encoders.atomic_files import atomic_file

    if out.is_dir():
        raise IsADirectoryError(f"{out} is a folder: name a file in it, such as {out / 'result.png'}")
    note = ""
    exif = Image.Exif()
    exif[_SOFTWARE] = _NAME
    with atomic_file(out) as part:
        figure.save(part, exif=exif)
        if out.exists() and _is_ours(out):
            note = " (replaces an earlier figure)"
        elif out.exists():
            numbered = (out.with_name(f"{out.stem}-{number}{out.suffix}") for number in count(1))
            kept = next(name for name in numbered if not name.exists())
            out.rename(kept)
            note = f" (the file that was there is now {kept.name})"
    return f"{out}{note}"


def _is_ours(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.getexif().get(_SOFTWARE) == _NAME
    except Exception:  # no image at all
        return False
