"""Items read from a source: the content of an image, or the problem that prevented reading it."""

import re
from dataclasses import dataclass
from enum import StrEnum


MAX_FILE_BYTES = 64 * 2**20
"""Larger files are not read: 64 MiB exceeds any photograph on the web, and bounds the memory of one row."""
# Control characters, line separators, lone surrogates (from bytes that are not UTF-8) and the backslash.
_NO_PLAIN_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\\\]")


class SourceProblem(StrEnum):
    """Why an item of a source is not an image. `rejected_by` is `read`."""

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
    """Notes on an image that are counted but do not reject it."""

    UNREADABLE_METADATA = "unreadable metadata"


@dataclass
class SourceItem:
    """One item of a source: the content of an image, or a problem.

    Attributes:
        name (`str`): unique in its source, except in malformed archives.
        image (`bytes`, *optional*): content of an image file.
        problem (`str`, *optional*): why there is no image.
        detail (`str`, *optional*): human-readable detail of the problem.
        rejected_by (`str`): `read`, or `fetch` for a problem while fetching.
        fetched (`bool`): whether this pipeline fetched it from a URL.
        url (`str`, *optional*): its URL.
        note (`SourceNote`, *optional*): a note to count.
        frame (`int`, *optional*): frame number in the video.
        time_seconds (`float`, *optional*): time in the video.
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
    r"""Escape a name so that it is one encodable line; different names stay different.

    >>> print(plain_text("caf\u00e9.jpg"), plain_text("a\n\udcff.jpg"), plain_text("a\\n.jpg"))
    café.jpg a\n\udcff.jpg a\\n.jpg
    """
    return _NO_PLAIN_TEXT.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), name)
