"""Sources of pictures beside folders and videos: WebDataset archives, tables, `datasets` objects, URLs."""

import glob
import json
import os
import tarfile
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from ..media.images import IMAGE_SUFFIXES, UnreadableImageError, UnreadableReason, load_image
from ..media.video import Frame, FrameReader, relative_name


if TYPE_CHECKING:
    import datasets


ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz")
TABLE_FORMATS = {".csv": "csv", ".parquet": "parquet", ".jsonl": "json"}
IMAGE_COLUMN, URL_COLUMN, PATH_COLUMN = "image", "url", "image_path"
"""Columns of a table of which one says where a row's picture is: its content, its address, or its file."""
_PICTURE_COLUMNS = {IMAGE_COLUMN, URL_COLUMN, PATH_COLUMN}
MAX_PICTURE_BYTES = 50_000_000
"""Of a file in an archive or behind a URL; larger ones are not read."""
_TOO_LARGE = f"more than {MAX_PICTURE_BYTES:,} bytes"
_DAMAGED_FIELDS = "its .json is damaged"
FETCHES = 16
"""URLs that are fetched at a time."""
FETCH_SECONDS = 20.0
"""For which a server may say nothing."""


class FrameSource(Protocol):
    """What indexing asks of a source: an iterable of frames that counts, as `FrameReader` does.

    Attributes:
        source: for messages.
        is_video (`bool`): whether the frames are of one video, in the order of time.
        expected (`int`, *optional*): how many frames will be seen; none where that is not known.
        seen (`int`), skipped (`Counter[str]`), undecodable (`int`): as in [`~modeling_gadms.media.video.FrameReader`].
    """

    source: Any
    is_video: bool
    expected: int | None
    seen: int
    skipped: Counter[str]
    undecodable: int

    def __iter__(self) -> Iterator[Frame]: ...


Picture = tuple[str, Callable[[], Image.Image], Mapping[str, Any]]
"""Its place, what loads it, and what the source says of it."""


class PictureReader:
    """Base of readers of pictures that are not frames of a video."""

    is_video = False
    undecodable = 0

    def __init__(self, source: Any, expected: int | None):
        self.source = source
        self.expected = expected
        self.seen = 0
        self.skipped: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Frame]:
        self.seen, self.skipped = 0, Counter()
        return self._frames()

    def _pictures(self) -> Generator[Picture, None, None]:
        raise NotImplementedError

    def _frames(self) -> Iterator[Frame]:
        with closing(self._pictures()) as pictures:
            for place, load, fields in pictures:
                self.seen += 1
                try:
                    image = load()
                except UnreadableImageError as error:
                    self.skipped[error.reason.value] += 1
                except SkippedPictureError as error:
                    self.skipped[error.reason] += 1
                else:
                    yield Frame(image, place, fields=fields)


class ArchiveReader(PictureReader):
    """Pictures of WebDataset archives, whose members share a key up to the first dot: `0001.jpg`, `0001.json`.

    What a `.json` says of its picture goes into `fields`. Nothing is unpacked onto the disk.

    Args:
        paths (`Iterable[Path]`): of `.tar` files, perhaps compressed.
        root (`Path`, *optional*): folder that pictures are named relative to.

    Raises:
        FileNotFoundError: if one does not exist.
        ValueError: while reading, if one is damaged.
    """

    def __init__(self, paths: Iterable[str | Path], *, root: Path | None = None):
        self._root = root
        self.paths = [Path(path) for path in paths]
        for path in self.paths:
            if not path.is_file():
                raise FileNotFoundError(f"The archive {path} does not exist")
        super().__init__(", ".join(str(path) for path in self.paths), None)

    def _pictures(self) -> Generator[Picture, None, None]:
        for path in self.paths:
            try:
                with tarfile.open(path, "r|*") as archive:
                    yield from self._grouped(path, archive)
            except (tarfile.TarError, EOFError, OSError) as error:
                raise ValueError(f"The archive {path} is damaged or none: {error}") from error

    def _grouped(self, path: Path, archive: tarfile.TarFile) -> Iterator[Picture]:
        key: str | None = None
        pictures: list[tuple[str, bytes | None]] = []
        fields: dict[str, Any] | None = {}
        for member in archive:
            if not member.isfile():
                continue
            folder, name = os.path.split(member.name)
            stem, _, ending = name.partition(".")
            if os.path.join(folder, stem) != key:
                yield from _with_fields(pictures, fields)
                key, pictures, fields = os.path.join(folder, stem), [], {}
            if ending.lower() == "json":
                fields = _json_object(_content(archive, member))
            elif f".{ending.lower()}" in IMAGE_SUFFIXES:
                pictures.append((f"{relative_name(path, self._root)}/{member.name}", _content(archive, member)))
        yield from _with_fields(pictures, fields)


class RowReader(PictureReader):
    """Pictures of the rows of a table, which says in one of its columns what they are: `image` (the content of a file,
    or as `datasets` stores it), `url`, or `image_path`. The other columns go into `fields`.

    Args:
        rows (`Iterable[Mapping[str, Any]]`): iterated anew each time.
        name (`str`): of the table; a row is called `name/number`, one with a URL by that.
        expected (`int`, *optional*): how many rows there are.
        folder (`Path`, *optional*): of relative paths.
    """

    def __init__(
        self, rows: Iterable[Mapping[str, Any]], name: str, expected: int | None = None, *, folder: Path | None = None
    ):
        super().__init__(name, expected)
        self.rows, self.folder = rows, folder or Path()

    @classmethod
    def of_table(cls, path: str | Path) -> "RowReader":
        """The rows of a CSV, Parquet or JSON-lines file.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is none of these, does not read, or has no column that says what the pictures are.
        """
        table = _Table(Path(path))
        return cls(table, str(path), table.length, folder=Path(path).parent)

    @classmethod
    def of_dataset(cls, dataset: "datasets.Dataset | datasets.IterableDataset", name: str) -> "RowReader":
        """The rows of a `datasets` object with a column `image`, in memory or streamed.

        Args:
            name (`str`): that rows are called by, so that they are known when it is indexed again.

        Raises:
            ValueError: if it has no column of images.
        """
        from datasets import Image as ImageFeature

        features = dataset.features or {}
        if features and IMAGE_COLUMN not in features:
            raise ValueError(
                f"The data set {name} has no column {IMAGE_COLUMN!r}: rename one of {', '.join(features)}"
            )
        if isinstance(features.get(IMAGE_COLUMN), ImageFeature):
            # Decoded here, where a damaged picture is counted instead of ending the run.
            dataset = dataset.cast_column(IMAGE_COLUMN, ImageFeature(decode=False))
        return cls(dataset, name, len(dataset) if hasattr(dataset, "__len__") else None)

    def _pictures(self) -> Generator[Picture, None, None]:
        with closing(_fetched_ahead(self.rows, FETCHES)) as rows:
            for number, (row, fetched) in enumerate(rows):
                place = str(row[URL_COLUMN]) if fetched else f"{self.source}/{number}"
                fields = {name: value for name, value in row.items() if name not in _PICTURE_COLUMNS}
                yield place, partial(self._load, row, place, fetched), fields

    def _load(self, row: Mapping[str, Any], place: str, fetched: "Future[bytes] | None") -> Image.Image:
        if fetched is not None:
            return load_image(fetched.result())
        image = row.get(IMAGE_COLUMN)
        return load_image(_stored(row.get(PATH_COLUMN) if image is None else image, place, self.folder))


class SkippedPictureError(ValueError):
    """A picture that did not come as far as to be decoded; `reason` is for counting."""

    def __init__(self, place: str, reason: str):
        super().__init__(place, reason)
        self.place, self.reason = place, reason

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


def open_source(
    source: str | Path, every: int = 1, *, per_second: float | None = None, root: Path | None = None
) -> FrameReader | ArchiveReader | RowReader:
    """What a person means by a source.

    Args:
        source (`str` or `Path`): a folder of images, a video, a `.tar` archive of WebDataset or a pattern of them
            (`shards/*.tar`), or a table (`.csv`, `.parquet`, `.jsonl`) with a column `image`, `url` or `image_path`.
        every, per_second: of videos and folders; see [`~modeling_gadms.media.video.FrameReader`].
        root (`Path`, *optional*): folder that files are named relative to in the gallery; not for tables.

    Raises:
        FileNotFoundError: if there is no such thing.
        ValueError: if it cannot be used.
    """
    name = str(source)
    is_archive, is_table = name.lower().endswith(ARCHIVE_SUFFIXES), Path(name).suffix.lower() in TABLE_FORMATS
    if not (is_archive or is_table) or Path(name).is_dir():
        return FrameReader(source, every, per_second=per_second, root=root)
    if every != 1 or per_second is not None:
        raise ValueError(f"{source} is read whole: every and per_second are for videos and folders")
    if is_table:
        return RowReader.of_table(source)
    paths = [name] if Path(name).exists() else sorted(glob.glob(name))
    if not paths:
        raise FileNotFoundError(f"There is no archive {source}")
    return ArchiveReader(paths, root=root)


class _Table:
    """The rows of a file; iterated anew each time, in batches."""

    def __init__(self, path: Path):
        import pyarrow as pa
        from pyarrow import dataset

        if not path.is_file():
            raise FileNotFoundError(f"The table {path} does not exist")
        try:
            self._dataset = dataset.dataset(path, format=TABLE_FORMATS[path.suffix.lower()])
            self.length = self._dataset.count_rows()
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"The table {path} does not read: {error}") from error
        names = self._dataset.schema.names
        if not _PICTURE_COLUMNS & set(names):
            raise ValueError(
                f"The table {path} has no column {IMAGE_COLUMN!r}, {URL_COLUMN!r} or {PATH_COLUMN!r} that says what "
                f"the pictures are; its columns are {', '.join(names)}"
            )

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for batch in self._dataset.to_batches(batch_size=256):
            yield from batch.to_pylist()


def _fetched_ahead(
    rows: Iterable[Mapping[str, Any]], count: int
) -> Generator[tuple[Mapping[str, Any], "Future[bytes] | None"], None, None]:
    """Rows in their order, and for those with a URL its content, which is fetched while earlier rows are used."""
    waiting: deque[tuple[Mapping[str, Any], Future[bytes] | None]] = deque()
    pool = ThreadPoolExecutor(count, thread_name_prefix="fetch")
    try:
        for row in rows:
            url = row.get(URL_COLUMN)
            waiting.append((row, pool.submit(_fetch, str(url)) if url else None))
            if len(waiting) > count:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(cancel_futures=True)


def _fetch(url: str) -> bytes:
    import requests

    if not url.lower().startswith(("http://", "https://")):
        raise SkippedPictureError(url, "not an http address")
    content = bytearray()
    try:
        with requests.get(url, stream=True, timeout=FETCH_SECONDS) as response:
            if response.status_code != requests.codes.ok:
                raise SkippedPictureError(url, f"not fetched: HTTP {response.status_code}")
            for part in response.iter_content(2**16):
                content += part
                if len(content) > MAX_PICTURE_BYTES:
                    raise SkippedPictureError(url, _TOO_LARGE)
    except requests.Timeout as error:
        raise SkippedPictureError(url, "not fetched: no answer in time") from error
    except requests.RequestException as error:
        raise SkippedPictureError(url, f"not fetched: {type(error).__name__}") from error
    return bytes(content)


def _stored(image: Any, place: str, folder: Path) -> bytes | Path | Image.Image:
    """A picture as a table holds it: its content, or as `datasets` does, the content or a path."""
    if isinstance(image, Mapping):
        content, path = image.get("bytes"), image.get("path")
        image = content if content is not None else path and folder / path
    if isinstance(image, str):
        return folder / image
    if isinstance(image, (bytes, Path, Image.Image)):
        return image
    raise SkippedPictureError(place, UnreadableReason.NOT_AN_IMAGE.value)


def _with_fields(pictures: list[tuple[str, bytes | None]], fields: dict[str, Any] | None) -> Iterator[Picture]:
    for place, content in pictures:
        yield place, partial(_load_member, place, content, fields), fields or {}


def _load_member(place: str, content: bytes | None, fields: dict[str, Any] | None) -> Image.Image:
    if fields is None:
        raise SkippedPictureError(place, _DAMAGED_FIELDS)
    if content is None:
        raise SkippedPictureError(place, _TOO_LARGE)
    return load_image(content)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    """Of a member; none if it is too large."""
    if member.size > MAX_PICTURE_BYTES:
        return None
    file = archive.extractfile(member)
    return file.read() if file else b""


def _json_object(content: bytes | None) -> dict[str, Any] | None:
    """None where it is no object of fields."""
    try:
        value = json.loads(content or b"")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
