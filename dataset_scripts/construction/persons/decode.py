"""Block `decode`: whether the content of a file is a picture that can be used."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from PIL import Image

from modeling_gadms.media.images import MAX_PIXELS, UnreadableImageError, load_image

from ..blocks import Filter, Verdict


class DecodeImages(Filter):
    """Decodes every image once, so that what follows may rely on it; the reasons are those of `load_image`.

    Pictures of absurd size are refused by their header, before a pixel is decoded. What is not a picture, as HTML or
    SVG that a server calls a JPEG, is refused by its content, and so is what only some program can draw, as EPS.
    """

    name = "decode"
    reads = ("image",)
    batch_size = 64

    def judge(self, row: Mapping[str, Any]) -> Verdict:
        try:
            load_image(row["image"])
        except UnreadableImageError as error:
            return False, error.reason.value, error.detail
        return True


def load_in_groups(contents: Iterable[bytes]) -> Iterator[list[Image.Image]]:
    """Decode images that have passed the block, a few at a time: as many as fit into the pixels of the largest one
    allowed. Otherwise one batch of them could fill the memory of any machine.

    Args:
        contents (`Iterable[bytes]`): image files.

    Returns:
        `Iterator[list[PIL.Image.Image]]`: all of them, in order, in lists of one at least.
    """
    group: list[Image.Image] = []
    pixels = 0
    for content in contents:
        image = load_image(content)
        size = image.width * image.height
        if group and pixels + size > MAX_PIXELS:
            yield group
            group, pixels = [], 0
        group.append(image)
        pixels += size
    if group:
        yield group
