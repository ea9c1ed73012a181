"""Names and digests of files: what tells the pictures and videos of a gallery apart."""

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path

from PIL import Image


_DIGEST_BYTES = 8
_SAMPLES, _SAMPLE_BYTES = 16, 2**20
"""A large file is told by its size and this many parts of it, as reading all of a day's video takes minutes."""
_ESCAPED_BYTE = re.compile(r"\\x([0-9a-f]{2})")


def resolved_name(path: Path, *, follow: bool = True) -> str:
    """The path of a file that is the same from every working directory and by every link to its folder.

    Args:
        path (`Path`)
        follow (`bool`): whether the file itself may be a link to follow; without, only its folder is resolved.
    """
    if follow:
        return os.path.realpath(path)
    return os.path.join(_real_folder(os.path.abspath(path.parent)), path.name)


def escape_name(name: str) -> str:
    r"""Write a name as text that UTF-8 can encode: bytes that are not UTF-8 become escapes such as `\xe9`.

    Other names stay as they are, unless they contain such an escape themselves, so that [`unescape_name`] gives every
    name back.

    >>> escape_name(os.fsdecode(b"caf\xe9.jpg")), escape_name("café.jpg"), escape_name(r"a\b\xe9.jpg")
    ('caf\\xe9.jpg', 'café.jpg', 'a\\b\\x5cxe9.jpg')
    """
    plain = _ESCAPED_BYTE.sub(lambda escape: rf"\x5cx{escape[1]}", name)
    try:
        plain.encode()
    except UnicodeEncodeError:
        return _bytes_of(plain).decode("utf-8", "backslashreplace")
    return plain


def unescape_name(text: str) -> str:
    r"""The name that [`escape_name`] has written.

    >>> os.fsencode(unescape_name(r"caf\xe9.jpg"))
    b'caf\xe9.jpg'
    """
    pieces = _ESCAPED_BYTE.split(text)  # text, digits, text, digits, ..., text
    content = b"".join(bytes.fromhex(piece) if place % 2 else piece.encode() for place, piece in enumerate(pieces))
    return content.decode("utf-8", "surrogateescape")


def content_digest(content: bytes | Image.Image) -> str:
    """Digest of the content of a file, or of the pixels of an image."""
    if isinstance(content, Image.Image):
        content = repr((content.mode, content.size)).encode() + content.tobytes()
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).hexdigest()


def file_digest(path: str | Path) -> str:
    """Digest of a file that may be too large to read: its size, and parts of it at equal distances.

    Raises:
        OSError: if the file cannot be read.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest = hashlib.blake2b(str(size).encode(), digest_size=_DIGEST_BYTES)
        last = max(0, size - _SAMPLE_BYTES)
        for start in sorted({last * sample // (_SAMPLES - 1) for sample in range(_SAMPLES)}):
            file.seek(start)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _bytes_of(name: str) -> bytes:
    try:
        return name.encode("utf-8", "surrogateescape")  # as the system gives the names of files
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogatepass")  # half of a pair, from JSON


@lru_cache(maxsize=1024)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)
