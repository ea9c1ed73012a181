"""Private data in rows: paths of files on this machine, and GPS positions in images."""

import io
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import datasets
import pyarrow.compute as pc
from PIL import ExifTags, Image


_ABSOLUTE_PATH = r"^(/|[A-Za-z]:)"
_Trace = tuple[int, str, str]
"""Row, column, and a description of a value that should not be published."""


def refuse_private_traces(split: datasets.Dataset, image: str, place: str) -> None:
    """Refuse texts that are the path of an existing file, and images with a GPS position.

    Args:
        split (`datasets.Dataset`): the rows.
        image (`str`): column of images.
        place (`str`): description of the split for the error message.

    Raises:
        ValueError: naming the first such row and its column.
    """
    if trace := next(chain(_paths(split), _positions(split, image)), None):
        row, column, what = trace
        raise ValueError(f"row {row} of {place}: `{column}` is {what}: remove it from all rows before publishing")


def _paths(split: datasets.Dataset) -> Iterator[_Trace]:
    texts = [name for name, feature in split.features.items() if feature == datasets.Value("string")]
    first = 0
    for batch in split.select_columns(texts).with_format("arrow").iter(10_000) if texts else ():
        for name in texts:
            column = batch[name].combine_chunks()
            suspects = pc.indices_nonzero(pc.fill_null(pc.match_substring_regex(column, _ABSOLUTE_PATH), False))
            for position in suspects.to_pylist():
                text = column[position].as_py()
                if Path(text).exists():
                    yield first + position, name, f"{text}, a path on this machine"
        first += len(batch)


def _positions(split: datasets.Dataset, image: str) -> Iterator[_Trace]:
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
                position = picture.getexif().get_ifd(ExifTags.IFD.GPSInfo)
        except (OSError, SyntaxError, ValueError):
            continue  # the inspection reports unreadable images
        if position:
            yield number, image, "an image with the coordinates of where it was taken (GPS)"
