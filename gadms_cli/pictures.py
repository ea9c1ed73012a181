"""Write the pictures that commands draw."""

from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from PIL import Image


def save_picture(picture: "Image.Image", out: Path) -> None:
    """Save a picture, and make the folder it belongs to if there is none."""
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(out)
