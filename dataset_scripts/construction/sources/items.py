"""What sources are read into: images, and the problems that stand where an image would."""

import re
from dataclasses import dataclass
from enum import StrEnum


MAX_FILE_BYTES = 64 * 2**20
"""Larger files are refused unread: 64 MiB is beyond any photograph of the web, and bounds what one row can cost."""
# Control characters, line separators, halves of surrogate pairs (bytes that are no UTF-8) and the escape itself.
_NO_PLAIN_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\\\]")


class SourceProblem(StrEnum):
    """Every reason for which an item of a source does not become an image. `rejected_by` is `read`."""

    CLIMBS_OUT = "path climbs out of the archive"
    LINK = "link in an archive"
    NOT_A_FILE = "no regular file"
    DUPLICATE_KEY = "duplicate key"
    NO_IMAGE = "sample without an image"
    TOO_LARGE = "file too large"
    UNREADABLE = "unreadable file"
    DAMAGED_ARCHIVE = "damaged archive"
    UNDECODABLE_FRAME = "frame does not decode"


class SourceNote(StrEnum):
    """What is counted of an image beside its fate."""

    UNREADABLE_METADATA = "unreadable metadata"


@dataclass
class SourceItem:
    """One item of a source: an image's content, or the problem that stands in its place.

    Attributes:
        name (`str`): unique in its source, unless somebody made an archive to the contrary.
        image (`bytes`, *optional*): content of an image file.
        problem (`str`, *optional*): why there is none.
        detail (`str`, *optional*): the problem, for people.
        rejected_by (`str`): `read`, or `fetch` for a problem that fetching had.
        fetched (`bool`): whether it was fetched from a URL by this pipeline.
        url (`str`, *optional*): where it comes from.
        note (`SourceNote`, *optional*): what is to be counted besides.
        frame (`int`, *optional*): number in its video.
        time_seconds (`float`, *optional*): when its video shows it.
    """

    name: str
    image: bytes | None = None
    problem: str | None = None
    detail: str | None = None
    rejected_by: str = "read"
    fetched: bool = False
    url: str | None = None
    note: SourceNote | None = None
    frame: int | None = None
    time_seconds: float | None = None


def plain_text(name: str) -> str:
    r"""A name of any characters as one line that can be encoded; different names stay different.

    >>> print(plain_text("caf\u00e9.jpg"), plain_text("a\n\udcff.jpg"), plain_text("a\\n.jpg"))
    café.jpg a\n\udcff.jpg a\\n.jpg
    """
    return _NO_PLAIN_TEXT.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), name)
