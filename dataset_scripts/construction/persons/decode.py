"""Block `decode`: reject files that are not usable images."""

from collections.abc import Mapping
from typing import Any

from modeling_gadms.media.images import UnreadableImageError, load_image

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
