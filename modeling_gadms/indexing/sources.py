"""Readers of image sources: WebDataset archives, tables, and `datasets` objects, beside folders and videos.

A source is a folder, a video, an archive or a table. A reader iterates over its images as frames, and counts those
that it skips.
"""

import glob
import json
import os
import ssl
import tarfile
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..media.guarded_fetch import FetchError, Policy, fetch, normal_address, tls_context
from ..media.images import IMAGE_SUFFIXES, UnreadableReason, load_image
from ..media.video import FrameReader, FrameSource, Item, SkippedImageError, relative_name


if TYPE_CHECKING:
    import datasets


COMPRESSED_SUFFIXES = (".tar.gz", ".tgz")
ARCHIVE_SUFFIXES = (".tar", *COMPRESSED_SUFFIXES)
TABLE_FORMATS = {".csv": "csv", ".parquet": "parquet", ".jsonl": "json"}
IMAGE_COLUMN, URL_COLUMN, PATH_COLUMN = "image", "url", "image_path"
"""A table needs one of these columns: the content of the image, its URL, or its path."""
_IMAGE_COLUMNS = {IMAGE_COLUMN, URL_COLUMN, PATH_COLUMN}
MAX_IMAGE_BYTES = 50_000_000
"""Maximum size of an image in an archive or at a URL; larger ones are skipped."""
_TOO_LARGE = f"more than {MAX_IMAGE_BYTES:,} bytes"
_DAMAGED_FIELDS = "its .json is damaged"
FETCHES = 16
"""Number of URLs fetched at once."""
FETCH_SECONDS = 20.0
"""Time to fetch an image, from the look-up of its host to the last byte, with redirects."""
_MAX_REDIRECTS = 5
_USER_AGENT = "gadms"


class ArchiveReader(FrameSource):
    """Reads the images of WebDataset archives. Members belong together if their names agree up to the first dot, such
    as `0001.jpg` and `0001.json`.

    The content of the `.json` becomes the image's `fields`. Nothing is unpacked to the disk.

    Args:
        paths (`Iterable[Path]`): `.tar` files, or `.tar.gz` and `.tgz` files, which are compressed.
        root (`Path`, *optional*): folder that images are named relative to.

    Raises:
        FileNotFoundError: if an archive does not exist.
        ValueError: during iteration, if an archive is damaged.
    """

    def __init__(self, paths: Iterable[str | Path], *, root: Path | None = None):
        self._root = root
        self.paths = [Path(path) for path in paths]
        for path in self.paths:
            if not path.is_file():
                raise FileNotFoundError(f"The archive {path} does not exist")
        super().__init__(", ".join(str(path) for path in self.paths), None)

    def _items(self) -> Generator[Item, None, None]:
        for path in self.paths:
            is_compressed = path.name.lower().endswith(COMPRESSED_SUFFIXES)
            try:
                # Only what its name says: a .tar that unpacks to a thousand times its size is an attack.
                with tarfile.open(path, "r|gz" if is_compressed else "r|") as archive:
                    yield from self._grouped(path, archive)
            except (tarfile.TarError, EOFError, OSError) as error:
                hint = "" if is_compressed else " (if it is compressed, unpack it, or name it .tar.gz)"
                raise ValueError(f"The archive {path} cannot be read: {error}{hint}") from error

    def _grouped(self, path: Path, archive: tarfile.TarFile) -> Iterator[Item]:
        key: str | None = None
        images: list[tuple[str, bytes | None]] = []
        fields: dict[str, Any] | None = {}
        for member in archive:
            if not member.isfile():
                continue
            folder, name = os.path.split(member.name)
            stem, _, ending = name.partition(".")
            if os.path.join(folder, stem) != key:
                yield from _with_fields(images, fields)
                key, images, fields = os.path.join(folder, stem), [], {}
            if ending.lower() == "json":
                fields = _json_object(_content(archive, member))
            elif f".{ending.lower()}" in IMAGE_SUFFIXES:
                images.append((f"{relative_name(path, self._root)}/{member.name}", _content(archive, member)))
        yield from _with_fields(images, fields)


class RowReader(FrameSource):
    """Reads the images of a table. One of its columns contains them: `image` (the content of a file, or the format of
    `datasets`), `url`, or `image_path`. The other columns become the `fields` of the image.

    Args:
        rows (`Iterable[Mapping[str, Any]]`): must support repeated iteration.
        name (`str`): name of the table. An image is named `name/number`, or by its URL.
        expected (`int`, *optional*): number of rows.
        folder (`Path`, *optional*): folder of relative paths.
        allowed_addresses (`Sequence[str]`): "address:port" pairs that URLs may lead to although they are not public.
    """

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        name: str,
        expected: int | None = None,
        *,
        folder: Path | None = None,
        allowed_addresses: Sequence[str] = (),
    ):
        super().__init__(name, expected)
        self.rows, self.folder = rows, folder or Path()
        self._policy = Policy(MAX_IMAGE_BYTES, _MAX_REDIRECTS, tuple(map(normal_address, allowed_addresses)))

    @classmethod
    def of_table(cls, path: str | Path, *, allowed_addresses: Sequence[str] = ()) -> "RowReader":
        """Read a CSV, Parquet or JSON-lines file.

        Raises:
            FileNotFoundError: if the file does not exist.
            ValueError: if the file cannot be read, or has no column with images.
        """
        table = _Table(Path(path))
        folder = Path(path).parent
        return cls(table, str(path), table.length, folder=folder, allowed_addresses=allowed_addresses)

    @classmethod
    def of_dataset(cls, dataset: "datasets.Dataset | datasets.IterableDataset", name: str) -> "RowReader":
        """Read a `datasets` object with a column `image`, in memory or streamed.

        Args:
            name (`str`): name of the data set. Indexing the same data set again must use the same name.

        Raises:
            ValueError: if there is no column `image`.
        """
        from datasets import Image as ImageFeature

        features = dataset.features or {}
        if features and IMAGE_COLUMN not in features:
            raise ValueError(
                f"The data set {name} has no column {IMAGE_COLUMN!r}: rename one of {', '.join(features)}"
            )
        if isinstance(features.get(IMAGE_COLUMN), ImageFeature):
            # The reader decodes, so that a damaged image is skipped and counted.
            dataset = dataset.cast_column(IMAGE_COLUMN, ImageFeature(decode=False))
        return cls(dataset, name, len(dataset) if hasattr(dataset, "__len__") else None)

    def _items(self) -> Generator[Item, None, None]:
        with closing(_fetched_ahead(self.rows, FETCHES, self._policy)) as rows:
            for number, (row, fetched) in enumerate(rows):
                name = str(row[URL_COLUMN]) if fetched else f"{self.source}/{number}"
                fields = {column: value for column, value in row.items() if column not in _IMAGE_COLUMNS}
                yield name, partial(self._load, row, fetched), fields

    def _load(self, row: Mapping[str, Any], fetched: "Future[bytes] | None") -> Image.Image:
        if fetched is not None:
            return load_image(fetched.result())
        image = row.get(IMAGE_COLUMN)
        return load_image(_stored(row.get(PATH_COLUMN) if image is None else image, self.folder))


def open_source(
    source: str | Path,
    every: int = 1,
    *,
    per_second: float | None = None,
    root: Path | None = None,
    allowed_addresses: Sequence[str] = (),
) -> FrameSource:
    """Open a source with the reader for its format.

    Args:
        source (`str` or `Path`): a folder of images, a video, a WebDataset archive (`.tar`) or a glob pattern of
            archives (`shards/*.tar`), or a table (`.csv`, `.parquet`, `.jsonl`) with a column `image`, `url` or
            `image_path`.
        every, per_second: sampling of videos and folders; see [`~modeling_gadms.media.video.FrameReader`].
        root (`Path`, *optional*): folder that files are named relative to in the gallery; ignored for tables.
        allowed_addresses (`Sequence[str]`): "address:port" pairs that the URLs of a table may lead to although they
            are not public.

    Raises:
        FileNotFoundError: if the source does not exist.
        ValueError: if the source cannot be read.
    """
    name = str(source)
    is_archive, is_table = name.lower().endswith(ARCHIVE_SUFFIXES), Path(name).suffix.lower() in TABLE_FORMATS
    if not (is_archive or is_table) or Path(name).is_dir():
        return FrameReader(source, every, per_second=per_second, root=root)
    if every != 1 or per_second is not None:
        raise ValueError(f"{source} cannot be sampled: every and per_second are for videos and folders")
    if is_table:
        return RowReader.of_table(source, allowed_addresses=allowed_addresses)
    paths = [name] if Path(name).exists() else sorted(glob.glob(name))
    if not paths:
        raise FileNotFoundError(f"The archive {source} does not exist")
    return ArchiveReader(paths, root=root)


class _Table:
    """The rows of a file, read in batches; supports repeated iteration."""

    def __init__(self, path: Path):
        import pyarrow as pa
        from pyarrow import dataset

        if not path.is_file():
            raise FileNotFoundError(f"The table {path} does not exist")
        try:
            self._dataset = dataset.dataset(path, format=TABLE_FORMATS[path.suffix.lower()])
            self.length = self._dataset.count_rows()
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"The table {path} cannot be read: {error}") from error
        names = self._dataset.schema.names
        if not _IMAGE_COLUMNS & set(names):
            raise ValueError(
                f"The table {path} has no column {IMAGE_COLUMN!r}, {URL_COLUMN!r} or {PATH_COLUMN!r}; "
                f"its columns are {', '.join(names)}"
            )

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for batch in self._dataset.to_batches(batch_size=256):
            yield from batch.to_pylist()


def _fetched_ahead(
    rows: Iterable[Mapping[str, Any]], count: int, policy: Policy
) -> Generator[tuple[Mapping[str, Any], "Future[bytes] | None"], None, None]:
    """Rows in order, with the content of their URL if they have one. URLs are fetched while earlier rows are used."""
    waiting: deque[tuple[Mapping[str, Any], Future[bytes] | None]] = deque()
    pool, tls = ThreadPoolExecutor(count, thread_name_prefix="fetch"), tls_context()
    try:
        for row in rows:
            url = row.get(URL_COLUMN)
            waiting.append((row, pool.submit(_fetch, str(url), policy, tls) if url else None))
            if len(waiting) > count:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(cancel_futures=True)


def _fetch(url: str, policy: Policy, tls: ssl.SSLContext) -> bytes:
    try:
        return fetch(url, FETCH_SECONDS, _USER_AGENT, policy, tls)[0]
    except FetchError as error:
        if error.reason == "too large":
            raise SkippedImageError(f"more than {policy.max_bytes:,} bytes") from error
        reason = error.detail if error.reason == "HTTP error" else error.reason
        raise SkippedImageError(f"not fetched: {reason}") from error


def _stored(image: Any, folder: Path) -> bytes | Path | Image.Image:
    """Content, path or image of a table's cell, which may have the format of `datasets`."""
    if isinstance(image, Mapping):
        content, path = image.get("bytes"), image.get("path")
        image = content if content is not None else path and folder / path
    if isinstance(image, str):
        return folder / image
    if isinstance(image, (bytes, Path, Image.Image)):
        return image
    raise SkippedImageError(UnreadableReason.NOT_AN_IMAGE.value)


def _with_fields(images: list[tuple[str, bytes | None]], fields: dict[str, Any] | None) -> Iterator[Item]:
    for name, content in images:
        yield name, partial(_load_member, content, fields), fields or {}


def _load_member(content: bytes | None, fields: dict[str, Any] | None) -> Image.Image:
    if fields is None:
        raise SkippedImageError(_DAMAGED_FIELDS)
    if content is None:
        raise SkippedImageError(_TOO_LARGE)
    return load_image(content)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    """The content of a member; None if it is too large."""
    if member.size > MAX_IMAGE_BYTES:
        return None
    file = archive.extractfile(member)
    return file.read() if file else b""


def _json_object(content: bytes | None) -> dict[str, Any] | None:
    """Parse a JSON object; None if it is damaged or not an object."""
    try:
        value = json.loads(content or b"")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
