"""Private data in rows: paths of files on this machine, and GPS positions in images."""

import io
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow.compute as pc
from PIL import Image


_GPS = 0x8825
"""The EXIF tag of the GPS position."""
_ABSOLUTE_PATH = r"^(/|[A-Za-z]:)"


@dataclass(frozen=True)
class Trace:
    """A value that should not be published.

    Attributes:
        row (`int`), column (`str`): its place.
        what (`str`): a description for an error message.
    """

    row: int
    column: str
    what: str


def find_trace(split: datasets.Dataset, image: str) -> Trace | None:
    """Find the first text that is the path of an existing file, or else the first image with a GPS position.

    Args:
        split (`datasets.Dataset`): the rows.
        image (`str`): column of images.

    Returns:
        [`Trace`], or `None` if there is none.
    """
    return _find_path(split) or _find_position(split, image)


def _find_path(split: datasets.Dataset) -> Trace | None:
    texts = [name for name, feature in split.features.items() if feature == datasets.Value("string")]
    first = 0
    for batch in split.select_columns(texts).with_format("arrow").iter(10_000) if texts else ():
        for name in texts:
            column = batch[name].combine_chunks()
            suspects = pc.indices_nonzero(pc.fill_null(pc.match_substring_regex(column, _ABSOLUTE_PATH), False))
            for position in suspects.to_pylist():
                text = column[position].as_py()
                if Path(text).exists():
                    return Trace(first + position, name, f"{text}, a path on this machine")
        first += len(batch)
    return None


def _find_position(split: datasets.Dataset, image: str) -> Trace | None:
    rows = split.select_columns([image]).with_format(None).cast_column(image, datasets.Image(decode=False))
    for number, row in enumerate(rows):
        value = row[image] or {}
        content = value.get("bytes")
        if content is None and value.get("path") and Path(value["path"]).is_file():
            content = Path(value["path"]).read_bytes()
        # Most images have no EXIF metadata. Opening them would be slow.
        if content is None or (b"Exif" not in content and b"eXIf" not in content):
            continue
        try:
            with Image.open(io.BytesIO(content)) as picture:
                position = picture.getexif().get_ifd(_GPS)
        except (OSError, SyntaxError, ValueError):
            continue  # the inspection reports unreadable images
        if position:
            return Trace(number, image, "an image with the coordinates of where it was taken (GPS)")
    return None
