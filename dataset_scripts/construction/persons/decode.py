"""Block `decode`: reject files that are not usable images."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from PIL import Image

from modeling_gadms.media.images import MAX_PIXELS, UnreadableImageError, load_image

from ..blocks import Filter, Verdict


class DecodeImages(Filter):
    """Decodes each image once, so that later blocks can rely on it. The reasons are those of `load_image`.

    Oversized images are rejected by their header, before decoding. Other file types, such as HTML or SVG that a server
    declares as JPEG, are rejected by their content.
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
    """Decode valid images in groups of at most `MAX_PIXELS` pixels, so that a batch of large ones fits into memory."""
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
