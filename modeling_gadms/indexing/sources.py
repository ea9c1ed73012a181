"""Readers of image sources: WebDataset archives, tables, and `datasets` objects, beside folders and videos.

A source is a folder, a video, an archive or a table. A reader iterates over its images as frames, and counts those
that it skips.
"""

import glob
import json
import lzma
import posixpath
import ssl
import tarfile
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from PIL import Image

from ..media.folders import Tally, passed_over_kind
from ..media.guarded_fetch import FetchError, Policy, fetch, normal_address, tls_context
from ..media.images import UnreadableReason, read_image_file
from ..media.names import resolved_name
from ..media.video import FrameReader, FrameSource, Item, SkippedImageError, relative_name
from .tables import TABLE_SUFFIXES, BadRow, Row, Table
from .values import convert_value, is_null


if TYPE_CHECKING:
    import datasets


COMPRESSED_SUFFIXES = {".tar.gz": "gz", ".tgz": "gz", ".tar.bz2": "bz2", ".tbz2": "bz2", ".tar.xz": "xz", ".txz": "xz"}
ARCHIVE_SUFFIXES = (".tar", *COMPRESSED_SUFFIXES)
IMAGE_COLUMN, PATH_COLUMN, URL_COLUMN = "image", "image_path", "url"
"""A table needs one of these columns: the content of the image, its path, or its URL. The first in a row counts."""
_ADVICE = dict.fromkeys((".zip", ".7z", ".rar", ".gz", ".zst"), "unpack it, and give the folder or the file inside")
_ADVICE |= dict.fromkeys((".xls", ".xlsx", ".ods"), "save it as CSV")
_ADVICE[".json"] = "write one object a line, as .jsonl"
MAX_IMAGE_BYTES = 50_000_000
"""Maximum size of an image in an archive or at a URL; larger ones are skipped."""
_TOO_LARGE = f"more than {MAX_IMAGE_BYTES:,} bytes"
_DAMAGED_FIELDS = "its .json is damaged"
_NO_IMAGE = "the row has no image"
_NO_KEY = "the row has no key"
_LINK = "link or special file in an archive"
_FIELDS_SUFFIX = ".json"
_MAX_GROUP = 256
"""Maximum number of images of an archive that wait for a shared `.json`. WebDataset's key ends at the first dot, so
all of `frame.0001.jpg`, `frame.0002.jpg`, ... would wait in memory."""
FETCHES = 16
"""Number of URLs fetched at once."""
_MAX_REDIRECTS = 5
_USER_AGENT = "gadms"
FETCH_SECONDS = 20.0
"""Timeout for a response."""


class ArchiveReader(FrameSource):
    """Reads the images of WebDataset archives, without unpacking them to the disk.

    The `fields` of an image are the content of the `.json` of the same name, such as `0001.left.json` for
    `0001.left.jpg`; or else of the one that has its name up to the first dot, `0001.json`.

    Args:
        paths (`Iterable[Path]`): `.tar` files, optionally compressed.
        root (`Path`, *optional*): folder that archives are named relative to.
        name (`str`, *optional*): name of the archive in a gallery, or of the folder of several; by default the
            resolved path of each.

    Raises:
        FileNotFoundError: if an archive does not exist.
        ValueError: during iteration, if an archive is damaged.
    """

    def __init__(self, paths: Iterable[str | Path], *, root: Path | None = None, name: str | None = None):
        self.paths = [Path(path) for path in paths]
        for path in self.paths:
            if not path.is_file():
                raise FileNotFoundError(f"The archive {path} does not exist")
        super().__init__(", ".join(str(path) for path in self.paths), None)
        if name is None:
            self._names = [relative_name(path, root) for path in self.paths]
        else:
            self._names = [name] if len(self.paths) == 1 else [f"{name}/{path.name}" for path in self.paths]

    def _items(self) -> Generator[Item, None, None]:
        self.passed_over = Tally()
        for path, name in zip(self.paths, self._names, strict=True):
            suffix = next((suffix for suffix in COMPRESSED_SUFFIXES if path.name.lower().endswith(suffix)), None)
            # Only what its name says: a .tar that unpacks to a thousand times its size is an attack.
            mode = "r|" if suffix is None else f"r|{COMPRESSED_SUFFIXES[suffix]}"
            try:
                with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
                    yield from self._grouped(name, archive)
            except (tarfile.TarError, EOFError, OSError, lzma.LZMAError) as error:
                hint = " (if it is compressed, unpack it, or name it .tar.gz)" if suffix is None else ""
                raise ValueError(f"The archive {path} cannot be read: {error}{hint}") from error

    def _grouped(self, archive_name: str, archive: tarfile.TarFile) -> Iterator[Item]:
        key: str | None = None
        images: dict[str, bytes | None] = {}
        fields: dict[str, dict[str, Any] | None] = {}
        for member in archive:
            if member.isdir():
                continue
            folder, name = posixpath.split(member.name)
            new_key = posixpath.join(folder, name.partition(".")[0])
            if new_key != key or len(images) == _MAX_GROUP or member.name in images:
                yield from self._with_fields(archive_name, key, images, fields)
                key, images, fields = new_key, {}, {}
            kind = passed_over_kind(member.name) if member.isfile() else _LINK
            if kind is None:
                images[member.name] = _content(archive, member)
            elif kind == _FIELDS_SUFFIX:
                fields[posixpath.splitext(member.name)[0]] = _json_object(_content(archive, member))
            else:
                self.passed_over.add(kind, member.name)
        yield from self._with_fields(archive_name, key, images, fields)

    def _with_fields(
        self,
        archive_name: str,
        key: str | None,
        images: Mapping[str, bytes | None],
        fields: Mapping[str, dict[str, Any] | None],
    ) -> Iterator[Item]:
        used = set()
        for name, content in images.items():
            stem = posixpath.splitext(name)[0]
            found = stem if stem in fields else key
            used.add(found)
            own = fields.get(found, {}) if found else {}
            yield Item(partial(_member, content, own), f"{archive_name}/{name}", own or {})
        for stem in fields.keys() - used:
            self.passed_over.add(_FIELDS_SUFFIX, stem + _FIELDS_SUFFIX)


class RowReader(FrameSource):
    """Reads the images of a table. One of its columns contains them: `image` (the content of a file, or the format of
    `datasets`), `image_path`, or `url`. The other columns, path and URL become the `fields` of the image.

    A row is identified by its key, or without a column of keys by the resolved path or URL of its image, or else by
    the image's content. Rows of the same image are told apart by their order. A second row of the same key is skipped.

    Args:
        rows (`Iterable[Mapping[str, Any]]`): must support repeated iteration.
        name (`str`): name of the table, for rows without path and URL.
        expected (`int`, *optional*): number of rows.
        folder (`Path`, *optional*): folder of relative paths.
        key (`str`, *optional*): column that identifies a row, in tables of this name.
        allowed_addresses (`Sequence[str]`): "address:port" pairs that URLs may lead to although they are not public.
    """

    def __init__(
        self,
        rows: Iterable[Row | Mapping[str, Any]],
        name: str,
        expected: int | None = None,
        *,
        folder: Path | None = None,
        key: str | None = None,
        allowed_addresses: Sequence[str] = (),
    ):
        super().__init__(name, expected)
        self.rows, self.folder, self._key = rows, folder or Path(), key
        policy = Policy(MAX_IMAGE_BYTES, _MAX_REDIRECTS, tuple(map(normal_address, allowed_addresses)))
        self._fetch = partial(_fetch, policy=policy, tls=tls_context())

    @classmethod
    def of_table(
        cls,
        path: str | Path,
        *,
        key: str | None = None,
        name: str | None = None,
        encoding: str | None = None,
        allowed_addresses: Sequence[str] = (),
    ) -> "RowReader":
        """Read a CSV, Parquet or JSON-lines file.

        Args:
            path (`str` or `Path`)
            key (`str`, *optional*): column that identifies a row.
            name (`str`, *optional*): name of the table in a gallery; by default its resolved path.
            encoding (`str`, *optional*): of a table of text; by default UTF-8, or as its byte order mark says.
            allowed_addresses (`Sequence[str]`): as for the class.

        Raises:
            FileNotFoundError: if the file does not exist.
            ValueError: if the file cannot be read, or has no column with images or no column `key`.
        """
        table = Table(Path(path), (IMAGE_COLUMN, URL_COLUMN, PATH_COLUMN), encoding)
        if key is not None and key not in table.columns:
            raise ValueError(
                f"The table {path} has no column {key!r} for the key: give one of {', '.join(table.columns)}"
            )
        named = name or resolved_name(Path(path))
        folder = Path(path).parent
        reader = cls(table, named, table.length, folder=folder, key=key, allowed_addresses=allowed_addresses)
        reader.columns = {column: "string" for column in (PATH_COLUMN, URL_COLUMN) if column in table.columns}
        return reader

    @classmethod
    def of_dataset(
        cls, dataset: "datasets.Dataset | datasets.IterableDataset", name: str, *, key: str | None = None
    ) -> "RowReader":
        """Read a `datasets` object with a column `image`, in memory or streamed.

        Args:
            name (`str`): name of the data set. Indexing the same data set again must use the same name.
            key (`str`, *optional*): column that identifies a row.

        Raises:
            ValueError: if there is no column `image`, or no column `key`.
        """
        from datasets import Image as ImageFeature

        features = dataset.features or {}
        for column in (IMAGE_COLUMN, key or IMAGE_COLUMN):
            if features and column not in features:
                raise ValueError(f"The data set {name} has no column {column!r}: rename one of {', '.join(features)}")
        if isinstance(features.get(IMAGE_COLUMN), ImageFeature):
            # The reader decodes, so that a damaged image is skipped and counted.
            dataset = dataset.cast_column(IMAGE_COLUMN, ImageFeature(decode=False))
        return cls(dataset, name, len(dataset) if hasattr(dataset, "__len__") else None, key=key)

    def _items(self) -> Generator[Item, None, None]:
        with closing(_fetched_ahead(map(self._item, count(1), self.rows), FETCHES)) as items:
            yield from items

    def _item(self, number: int, row: Row | Mapping[str, Any]) -> tuple[Item, str | None]:
        """The image of a row, and the URL to fetch it from if that is all there is."""
        if isinstance(row, BadRow):
            return Item(partial(_refuse, row.reason, row.detail), row=number), None
        fields = {column: value for column, value in row.items() if column != IMAGE_COLUMN}
        key = None
        if self._key is not None:
            key = convert_value(row.get(self._key), "string")
            if not key:
                return Item(partial(_refuse, _NO_KEY), row=number), None
            key = f"{self.name}/{key}"
        image, url = self._located(row), None
        if isinstance(image, str):
            url = image
            item = Item(partial(self._fetch, url), url)
        elif isinstance(image, Path):
            item = Item(partial(read_image_file, image), resolved_name(image, follow=False))
        else:
            item = Item(partial(_stored, image), key)
        return replace(item, fields=fields, key=key, row=number), url

    def _located(self, row: Mapping[str, Any]) -> Any:
        """The image of a row: its path as a `Path`, its URL as a string, or what the column `image` contains."""
        image = row.get(IMAGE_COLUMN)
        if isinstance(image, Mapping):  # the format of `datasets`
            content = image.get("bytes")
            image = image.get("path") if content is None else content
        for path in (image, row.get(PATH_COLUMN)):
            if isinstance(path, (str, Path)) and path != "":
                return self.folder / path
            if not is_null(path) and path != "":
                return path
        url = row.get(URL_COLUMN)
        return None if is_null(url) or url == "" else str(url)


def open_source(
    source: str | Path,
    every: int = 1,
    *,
    per_second: float | None = None,
    root: Path | None = None,
    name: str | None = None,
    key: str | None = None,
    encoding: str | None = None,
    allowed_addresses: Sequence[str] = (),
) -> FrameSource:
    """Open a source with the reader for its format.

    In a gallery, an image or a video is named and identified by its resolved path, a member of an archive by the
    archive's path and its own, a row of a table as [`RowReader`] says.

    Args:
        source (`str` or `Path`): a folder of images, an image, a video, a WebDataset archive (`.tar`) or a glob
            pattern of archives (`shards/*.tar`), or a table (`.csv`, `.tsv`, `.parquet`, `.jsonl`) with a column
            `image`, `image_path` or `url`.
        every, per_second: sampling of videos and folders; see [`~modeling_gadms.media.video.FrameReader`].
        root (`Path`, *optional*): folder that files are named relative to in the gallery; ignored for tables.
        name (`str`, *optional*): takes the place of the source's own path in these names.
        key (`str`, *optional*): column that identifies the rows of a table.
        encoding (`str`, *optional*): of a table of text; by default UTF-8, or as its byte order mark says.
        allowed_addresses (`Sequence[str]`): "address:port" pairs that the URLs of a table may lead to although they
            are not public.

    Raises:
        FileNotFoundError: if the source does not exist.
        ValueError: if the source cannot be read, or an argument does not apply to it.
    """
    if not str(source) or name == "":
        raise ValueError("The name of a source is empty: give a folder, a video, an archive or a table")
    path = Path(source).expanduser()
    lower = path.name.lower()
    is_archive, is_table = lower.endswith(ARCHIVE_SUFFIXES), lower.endswith(TABLE_SUFFIXES)
    if path.is_dir():
        is_archive = is_table = False
    if not is_table and (key is not None or encoding is not None):
        given = f"key ({key})" if key is not None else f"encoding ({encoding})"
        raise ValueError(f"{given} is for tables, and {source} is not one")
    if not (is_archive or is_table):
        if path.suffix.lower() in _ADVICE and path.is_file():
            raise ValueError(f"{source} cannot be read as a {path.suffix} file: {_ADVICE[path.suffix.lower()]}")
        return FrameReader(path, every, per_second=per_second, root=root, name=name)
    if every != 1 or per_second is not None:
        raise ValueError(f"{source} cannot be sampled: every and per_second are for videos and folders")
    if is_table:
        return RowReader.of_table(path, key=key, name=name, encoding=encoding, allowed_addresses=allowed_addresses)
    paths = [path] if path.exists() else [Path(found) for found in sorted(glob.glob(str(path)))]
    if not paths:
        raise FileNotFoundError(f"The archive {source} does not exist")
    return ArchiveReader(paths, root=root, name=name)


def _fetched_ahead(items: Iterable[tuple[Item, str | None]], wanted: int) -> Generator[Item, None, None]:
    """Items in order. Those with a URL are fetched while earlier ones are used. An error comes after the items before
    it."""
    waiting: deque[Item] = deque()
    failure: Exception | None = None
    pool = ThreadPoolExecutor(wanted, thread_name_prefix="fetch")
    try:
        try:
            for item, url in items:
                waiting.append(item if url is None else replace(item, read=pool.submit(item.read).result))
                if len(waiting) > wanted:
                    yield waiting.popleft()
        except Exception as error:
            failure = error
        while waiting:
            yield waiting.popleft()
        if failure is not None:
            raise failure
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


def _stored(image: Any) -> bytes | Image.Image:
    if image is None:
        raise SkippedImageError(_NO_IMAGE)
    if isinstance(image, (bytes, Image.Image)):
        return image
    raise SkippedImageError(
        UnreadableReason.NOT_AN_IMAGE.value, f"the column {IMAGE_COLUMN} has a {type(image).__name__}"
    )


def _member(content: bytes | None, fields: dict[str, Any] | None) -> bytes:
    if fields is None:
        raise SkippedImageError(_DAMAGED_FIELDS)
    if content is None:
        raise SkippedImageError(_TOO_LARGE)
    return content


def _refuse(reason: str, detail: str | None = None) -> NoReturn:
    raise SkippedImageError(reason, detail)


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
