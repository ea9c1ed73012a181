"""Files on this machine or in an object store, by one interface: a path, or a URL that fsspec opens.

A local folder is a `pathlib.Path`. A URL (`s3://`, `gs://`, `hf://`, ...) is a `RemotePath`, which has the methods of
`Path` that a run uses. Files are put whole: a reader sees the old file, the new one or none. Calls are repeated after
errors that may pass. Credentials come from where the store's own tools look for them, such as the environment.
"""

import errno
import hashlib
import json
import os
import re
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any, Self, TypeVar

import fsspec
import fsspec.core
import pyarrow as pa
import pyarrow.parquet as pq

from modeling_gadms.encoders import atomic_files
from modeling_gadms.training.retry import call_with_retries

from .blocks import OutageError, SettingsError


Result = TypeVar("Result")

HEARTBEAT_SECONDS = 20.0
"""A run renews its lock in an object store this often. Chosen: far more than a slow request takes."""
_MISSED_BEATS = 3  # after so many heartbeats without a change a lock belongs to a dead run
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_OPTIONS: dict[str, dict[str, Any]] = {
    # botocore would repeat each of our attempts five times itself.
    "s3": {"config_kwargs": {"retries": {"max_attempts": 0}}}
}
_PERMANENT = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError)
_PERMANENT_CODES = (errno.EINVAL, errno.EPERM, errno.ENAMETOOLONG, errno.EMSGSIZE, errno.ENOSPC)
_EXCLUSIVE = ("s3", "s3a", "gs", "gcs", "memory")  # protocols whose file systems can write only if absent
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}


class StoreOutageError(OutageError, ConnectionError):
    """The store does not answer, or not as it should. It is no fault of a shard."""


class StoreRefusalError(SettingsError, PermissionError):
    """The store wants other credentials."""


@dataclass(frozen=True)
class RemotePath:
    """A file or folder in an object store. Pickles as its URL.

    Methods raise `FileNotFoundError`, [`StoreRefusalError`], [`StoreOutageError`] (after the last attempt) or another
    `OSError` that names the URL, `ImportError` if the package of the protocol is missing, and `ValueError` if there is
    no such protocol.
    """

    url: str

    def __post_init__(self) -> None:
        if "::" in self.url:
            raise ValueError(f"{self.url} is a chain of file systems: give the plain URL of a folder or file")
        protocol, _, place = self.url.partition("://")
        if not place.strip("/"):
            raise ValueError(f"{self.url} names no bucket: give a URL such as {protocol}://bucket/folder")
        object.__setattr__(self, "url", self.url.rstrip("/"))

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        return PurePosixPath(self.url).name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.url).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.url).suffix

    def with_name(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.url.rpartition('/')[0]}/{name}")

    def resolve(self) -> "RemotePath":
        return self

    def exists(self) -> bool:
        return self._info() is not None

    def is_file(self) -> bool:
        info = self._info()
        return info is not None and info["type"] == "file"

    def is_dir(self) -> bool:
        info = self._info()
        return info is not None and info["type"] == "directory"

    def stat(self) -> SimpleNamespace:
        """Returns: an object with `st_size`, in bytes."""
        return SimpleNamespace(st_size=self._call("read", lambda fs, path: fs.info(path))["size"])

    def read_bytes(self) -> bytes:
        return self._call("read", lambda fs, path: fs.cat_file(path))

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def files(self, *, deep: bool = True) -> dict[str, int]:
        """Sizes in bytes of the files below this folder by their names relative to it; empty if there is none."""
        depth = None if deep else 1
        found = self._call("list", lambda fs, path: (fs.find(path, maxdepth=depth, detail=True), path))
        return {
            name.removeprefix(f"{found[1]}/"): info["size"]
            for name, info in found[0].items()
            if name != found[1] and not name.endswith("/")  # consoles write empty objects for folders
        }

    def iterdir(self) -> Iterator["RemotePath"]:
        for name in sorted({name.partition("/")[0] for name in self.files()}):
            yield self / name

    def glob(self, pattern: str) -> list["RemotePath"]:
        """The files of this folder itself, not of those below, that match."""
        return [self / name for name in self.files(deep=False) if PurePosixPath(name).match(pattern)]

    def unlink(self, missing_ok: bool = True) -> None:
        """Remove the file. It may be missing in any case: S3 does not tell."""
        with suppress(FileNotFoundError):
            self._call("remove", lambda fs, path: fs.rm_file(path))

    def download(self, target: Path) -> None:
        """Copy this file to a local path."""
        self._call("read", lambda fs, path: fs.get_file(path, str(target)))

    def upload(self, file: Path) -> None:
        """Put a local file here, whole; large ones in several parts."""
        self._call("write", lambda fs, path: fs.put_file(str(file), path))

    def create(self, content: bytes) -> bool:
        """Write unless the file exists. Returns: whether it was written.

        S3 and Google's storage decide this themselves, so that one of several writers wins. In other stores the file
        is looked for first: two writers at the same moment can both succeed.
        """
        exclusive = {"mode": "create"} if self._protocol in _EXCLUSIVE else {}
        if not exclusive and self.is_file():
            return self.read_bytes() == content
        try:
            self._call("write", lambda fs, path: fs.pipe_file(path, content, **exclusive))
        except FileExistsError:
            # The reply to an attempt that succeeded may have been lost.
            return self.read_bytes() == content
        return True

    def read_parquet(self, read: Callable[[Any], Result]) -> Result:
        """Apply a function of pyarrow to the opened file: only the bytes that it needs are fetched."""

        def opened(fs: fsspec.AbstractFileSystem, path: str) -> Result:
            with fs.open(path, "rb", cache_type="none") as file:
                return read(file)

        return self._call("read", opened)

    def _info(self) -> dict[str, Any] | None:
        try:
            return self._call("read", lambda fs, path: fs.info(path))
        except FileNotFoundError:
            return None

    @property
    def _protocol(self) -> str:
        return self.url.partition("://")[0].lower()

    def _fs(self) -> tuple[fsspec.AbstractFileSystem, str]:
        protocol = self._protocol
        try:
            # Another machine may have written in between, so that no listing is kept.
            return fsspec.core.url_to_fs(self.url, use_listings_cache=False, **_OPTIONS.get(protocol, {}))
        except ImportError as error:
            advice = f"pip install {_PACKAGES[protocol]}" if protocol in _PACKAGES else str(error)
            raise ImportError(f"{self.url} needs a package for {protocol}://: {advice}") from error
        except ValueError as error:
            raise ValueError(f"{self.url} cannot be opened: {error}") from error

    def _call(self, what: str, action: Callable[[fsspec.AbstractFileSystem, str], Result]) -> Result:
        fs, path = self._fs()

        def attempt() -> Result:
            fs.invalidate_cache()
            return action(fs, path)

        try:
            return call_with_retries(attempt, _may_pass)
        except FileExistsError:
            raise
        except FileNotFoundError as error:
            raise FileNotFoundError(f"cannot {what} {self.url}: there is no such bucket, folder or file") from error
        except Exception as error:  # of any library behind fsspec
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            if _is_refused(error):
                raise StoreRefusalError(
                    f"no permission to {what} {self.url} ({reason}): check the credentials in the environment"
                ) from error
            kind = StoreOutageError if _may_pass(error) else OSError
            raise kind(f"cannot {what} {self.url} ({reason})") from error


Location = Path | RemotePath


def location(place: str | Path | RemotePath) -> Location:
    """A path as `Path`, a URL as `RemotePath`.

    >>> location("runs/street"), location("s3://bucket/run/"), location("file:///data")
    (PosixPath('runs/street'), RemotePath(url='s3://bucket/run'), PosixPath('/data'))
    """
    if isinstance(place, RemotePath):
        return place
    protocol = _URL.match(str(place))
    if protocol is None:
        return Path(place)
    if protocol[1].lower() == "file":
        return Path(str(place)[len(protocol[0]) :])
    return RemotePath(str(place))


def matching(folder: Location, pattern: str) -> list[Location]:
    """The files of a folder, not of those below, whose name matches a pattern, sorted by name."""
    return sorted(folder.glob(pattern), key=lambda file: file.name)


@contextmanager
def atomic_file(path: Location) -> Iterator[Path]:
    """Yield a temporary local path to write to, which becomes the file `path` at the end of the `with` block."""
    if isinstance(path, Path):
        with atomic_files.atomic_file(path) as part:
            yield part
        return
    with tempfile.TemporaryDirectory(prefix="gadms-") as folder:
        part = Path(folder, path.name)
        yield part
        path.upload(part)


def write_atomically(path: Location, text: str) -> None:
    """Write a text file atomically."""
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def file_digest(path: Location) -> str:
    """SHA-256 of a file, hexadecimal. A file of an object store is read into memory."""
    return atomic_files.file_digest(path) if isinstance(path, Path) else hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def local_copies(*paths: Location, missing_ok: bool = False) -> Iterator[list[Path]]:
    """Yield files as local paths: those of an object store as copies, in one folder, which is removed in the end.

    With `missing_ok` files that an object store lacks are left out.
    """
    with tempfile.TemporaryDirectory(prefix="gadms-") as folder:
        copies = []
        for path in paths:
            if isinstance(path, Path):
                copies.append(path)
                continue
            copy = Path(folder, path.name)
            try:
                path.download(copy)
            except FileNotFoundError:
                if not missing_ok:
                    raise
            else:
                copies.append(copy)
        yield copies


def read_table(path: Location, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, or only some of its columns."""
    if isinstance(path, Path):
        return pq.read_table(path, columns=columns)
    return path.read_parquet(lambda file: pq.read_table(file, columns=columns))


def read_footer(path: Location) -> pq.FileMetaData:
    """Read the metadata of a Parquet file."""
    return pq.read_metadata(path) if isinstance(path, Path) else path.read_parquet(pq.read_metadata)


class RemoteLock:
    """The lock of a folder in an object store: a file that its owner rewrites every few seconds.

    Who finds such a file watches it for some heartbeats, and takes the lock over if nothing changes. So a killed run
    blocks the next one for a minute only, and no clocks are compared.

    Args:
        path (`RemotePath`): the file.
        seconds (`float`): time of a heartbeat.
    """

    def __init__(self, path: RemotePath, seconds: float = HEARTBEAT_SECONDS):
        self._path, self._seconds = path, seconds
        self._owner = f"{socket.gethostname()}, process {os.getpid()}, {uuid.uuid4().hex[:8]}"
        self._beat = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self.is_lost = False
        """Whether another run has taken the lock over, which took this one for dead."""

    def acquire(self) -> bool:
        """Returns: whether the lock is ours now; `False` if its owner is alive."""
        while not self._path.create(self._content()):
            before = self._read()
            if before is not None:
                time.sleep(_MISSED_BEATS * self._seconds)
                if self._read() != before:
                    return False
                self._path.unlink(missing_ok=True)
        self._thread.start()
        return True

    def owner(self) -> str:
        """The machine and process that hold the lock."""
        return json.loads(self._read() or b"{}").get("owner", "it has ended by now")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Raises OSError: if another run has taken the lock over, unless another error is on its way."""
        self._end.set()
        self._thread.join()
        if not self.is_lost:
            self._path.unlink(missing_ok=True)
        elif kind is None:
            raise OSError(f"another run has taken over {self._path}, as this one did not reach the store for long")

    def _renew(self) -> None:
        while not self._end.wait(self._seconds):
            try:
                if (found := self._read()) is not None and json.loads(found)["owner"] != self._owner:
                    self.is_lost = True
                    return
                self._beat += 1
                with atomic_file(self._path) as part:
                    part.write_bytes(self._content())
            except OSError:
                continue  # the store fails now; the next beat may reach it

    def _read(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return None

    def _content(self) -> bytes:
        return json.dumps({"owner": self._owner, "beat": self._beat}).encode()


def _may_pass(error: Exception) -> bool:
    """Whether the call may succeed when it is repeated."""
    if isinstance(error, (*_PERMANENT, ImportError, ValueError, TypeError, NotImplementedError)) or _is_refused(error):
        return False
    return not (isinstance(error, OSError) and error.errno in _PERMANENT_CODES)


def _is_refused(error: Exception) -> bool:
    """Whether the store wants other credentials. Libraries say so in different ways."""
    status = getattr(getattr(error, "response", None), "status_code", getattr(error, "code", None))
    return isinstance(error, PermissionError) or status in (401, 403) or "Credentials" in type(error).__name__
