"""Turn errors of LanceDB into ones that say what is wrong with a gallery and what to do.

LanceDB raises `RuntimeError` and `ValueError` whose texts name source files of the machine that built it.
"""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


class GalleryStorageError(OSError):
    """Raised if the files of a gallery cannot be read or written."""


class GalleryFilesMissingError(GalleryStorageError):
    """Raised if a file is missing, as after a purge for a process that still reads an earlier version."""


class GalleryBusyError(GalleryStorageError):
    """Raised if other processes change the gallery at the same time; nothing was written."""


_AGAIN = "restore it from a backup, or index the persons anew"
_CAUSES: tuple[tuple[str, type[GalleryStorageError], str], ...] = (
    (r"No space left|os error 28\b", GalleryStorageError,
     "No space left on the disk; what was committed before is kept"),
    (r"Permission denied|Read-only file system|os error (1|13|30)\b", GalleryStorageError,
     "its files may not be changed or read by this user"),
    (r"[Cc]ommit conflict|[Cc]oncurrent (writer|commit)|[Rr]etryable|Incompatible transaction", GalleryBusyError,
     "other processes change it at the same time; try again"),
    (r"scheme: '(?P<scheme>[^']*)'", GalleryStorageError,
     "there is no object store of the kind {scheme}:// ; use s3://, gs://, az:// or a folder"),
    (r"ConnectError|TokenRequest|RetryError|HttpError|reqwest|dispatch failure", GalleryStorageError,
     "its object store does not answer, or refuses access; check the address and the keys"),
    (r"[Nn]ot found|No such file", GalleryFilesMissingError,
     f"its file {{file}} is missing. If no other process has just purged or replaced it, {_AGAIN}"),
    (r"not appear to be a Lance file|size is too small|fill whole buffer|[Cc]orrupt|[Ii]nvalid (magic|protobuf)"
     r"|[Dd]ecode|[Uu]nexpected end|out of (range|bounds)|LanceError\(IO\)|[Pp]anic", GalleryStorageError,
     f"its files are damaged; {_AGAIN}"),
)  # fmt: skip
_NOISE = re.compile(
    r",? ?/\S*\.rs:\d+(:\d+)?|,? ?location: Location.*|\.* Detail: .*|\b\w+Error\(\w+\): ?|^(\w+ )+error: "
)
"""Places in source code, and names of layers of LanceDB."""


@contextmanager
def clear_errors(location: str, action: str) -> Iterator[None]:
    """Translate the errors of LanceDB; others pass.

    Args:
        location (`str`): the gallery, for the message.
        action (`str`): what fails, such as `"read"`.

    Raises:
        GalleryStorageError: instead of an error of LanceDB.
    """
    try:
        yield
    except BaseException as error:
        if not _is_of_lancedb(error):
            raise
        raise _translated(error, location, action) from error


def _is_of_lancedb(error: BaseException) -> bool:
    """Whether an error was raised in LanceDB or below it, and is not one of the operating system, which is clear."""
    if type(error).__name__ == "PanicException":  # of Rust code; a BaseException, as KeyboardInterrupt is
        return True
    if not isinstance(error, (RuntimeError, ValueError, OSError)) or getattr(error, "errno", None) is not None:
        return False
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(name.partition(".")[0] == "lancedb" for name in frames)


def _translated(error: BaseException, location: str, action: str) -> GalleryStorageError:
    text = f"{type(error).__name__}: {error}"
    for pattern, kind, reason in _CAUSES:
        if found := re.search(pattern, text):
            file = re.search(r"[^/\s]+\.lance/[^\s,]+", text)
            reason = reason.format(file=file.group() if file else "list", **found.groupdict())
            return kind(f"The gallery in {location} could not be {action}: {reason}")
    cleaned = " ".join(_NOISE.sub("", str(error).split("\n")[0]).split())[:300]
    return GalleryStorageError(f"The gallery in {location} could not be {action}: {cleaned}")
