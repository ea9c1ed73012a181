"""Save the figures that commands draw."""

from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from PIL import Image


def save_figure(figure: "Image.Image", out: Path) -> None:
    """Save a figure; its folder is created if missing."""
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.save(out)
