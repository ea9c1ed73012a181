"""Fetch the images of a URL table with img2dataset into WebDataset tars, with a reason for each failed row.

img2dataset needs an older pandas than this project. So it runs in its own environment, as a separate process
(`guarded_img2dataset.py`) that receives the rows of one tar at a time.

Tar k contains the images of rows k * rows_per_tar to (k + 1) * rows_per_tar - 1 of the table, in order:

- `00000.tar`: for each image `<key>.jpg`, the file as the server sent it (whatever its format), and `<key>.json` with
  its id, URL, SHA-256, format and size. The key is the number of the row.
- `00000.failed.parquet`: key, row, url, reason and detail of each row without an image.
- `00000.done.json`: the counts; written last, it marks the tar as finished.

`fetch.json` in the same folder records the table and settings that the tars depend on.
"""

import io
import json
import shutil
import tarfile
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from PIL import Image, UnidentifiedImageError
from tqdm.auto import tqdm

from modeling_gadms.encoders.atomic_files import move_into_place
from modeling_gadms.media.guarded_fetch import FetchError
from modeling_gadms.media.images import IMAGE_FORMATS

from ..shards import RunFolderError, lock_folder, remove_leftovers
from ..storage import Location, local_copies, location, matching, write_atomically
from .fetch_process import Downloaded, Downloader
from .fetch_settings import FetchProblem, FetchReport, FetchSettings
from .opt_out_list import OptOutList
from .tars import FAILED_SUFFIX
from .url_table import UrlRow, UrlTable, rows_by_tar


_FAILED_SCHEMA = pa.schema(
    [("key", pa.string()), ("row", pa.int64()), ("url", pa.string()), ("reason", pa.string()), ("detail", pa.string())]
)
_WORK_PREFIX = ".fetching-"
# These may change when a run is resumed: they affect speed, not which images are kept.
_NOT_OF_THE_RUN = ("python", "processes", "threads", "timeout_seconds", "retries")


def fetch_images(
    table: str | Location, folder: str | Location, settings: FetchSettings, opt_out: OptOutList | None = None
) -> FetchReport:
    """Fetch the images of a table of URLs into WebDataset tars.

    The same call resumes an interrupted one; finished tars are not fetched again.

    Args:
        table (`str` or `Path`): a Parquet file, a folder of them, or a CSV file; or its URL, which is copied first.
        folder (`str` or `Path`): folder for the tars, created if missing; or its URL.
        settings (`FetchSettings`): how to fetch.
        opt_out (`OptOutList`, *optional*): URLs that must not be fetched.

    Returns:
        `FetchReport`: counts of the whole table.

    Raises:
        FileNotFoundError: if the table or the environment of img2dataset is missing.
        ValueError: if the table lacks a column or cannot be read.
        RunFolderError: if `folder` contains the tars of another run, or another process is fetching into it.
        FetchFailedError: if img2dataset fails.
    """
    table, folder = location(table), location(folder)
    with local_copies(*_table_files(table)) as files:
        path = table if isinstance(table, Path) else files[0] if table.is_file() else files[0].parent
        rows = UrlTable.open(path, settings.url_column, settings.id_column)
        if not Path(settings.python).is_file():
            raise FileNotFoundError(
                f"There is no Python at {settings.python}: create the environment of img2dataset with `make "
                "fetch-env`, or set `python` to an interpreter that has img2dataset 1.47.0"
            )
        with lock_folder(folder):
            remove_leftovers(folder)
            beside = folder if isinstance(folder, Path) else None
            for left in beside.glob(f"{_WORK_PREFIX}*") if beside else ():
                shutil.rmtree(left, ignore_errors=True)
            # A new name each time: processes of a killed run may still be writing.
            with tempfile.TemporaryDirectory(prefix=_WORK_PREFIX, dir=beside, ignore_cleanup_errors=True) as work:
                _check_same_run(folder, rows, settings, opt_out)
                return _Run(folder, Path(work), rows, settings, opt_out).run()


def _table_files(table: Location) -> list[Location]:
    """The files of a table in an object store, which are read as local copies.

    Raises:
        FileNotFoundError: if there are none.
    """
    if isinstance(table, Path):
        return []
    files: list[Location] = [table] if table.is_file() else matching(table, "*.parquet")
    if not files:
        raise FileNotFoundError(
            f"{table} is not a table of URLs: name a Parquet or CSV file, or a folder of Parquet files"
        )
    return files


class _Run:
    """One call of `fetch_images`: orders tars from the downloader and finishes them."""

    def __init__(
        self, folder: Location, work: Path, table: UrlTable, settings: FetchSettings, opt_out: OptOutList | None
    ):
        self.folder = folder
        self.work = work
        self.table = table
        self.settings = settings
        self.opt_out = opt_out
        # Enough digits for the last tar, so that names sort in the order of rows.
        self.digits = max(5, len(str(table.rows // settings.rows_per_tar)))

    def run(self) -> FetchReport:
        report = FetchReport(0, 0)
        with (
            tqdm(total=self.table.rows, desc="Fetching", unit="row") as progress,
            Downloader(self.settings, self.work) as downloader,
        ):
            for finished in self._finished_tars(downloader):
                report += finished
                progress.update(finished.seen)
        if report.seen != self.table.rows:
            raise ValueError(f"the table declares {self.table.rows} rows, but {report.seen} were read")
        return report

    def _finished_tars(self, downloader: Downloader) -> Iterator[FetchReport]:
        settings = self.settings
        ordered: dict[int, list[UrlRow]] = {}

        def finish_next() -> FetchReport:
            tar = downloader.next_done()
            return self._finish(tar, ordered.pop(tar))

        tars = rows_by_tar(self.table, settings.rows_per_tar, self.opt_out, settings.allowed_addresses)
        for tar, rows in enumerate(tars):
            if finished := self._finished(tar):
                yield finished
            elif not any(row.request for row in rows):
                yield self._finish(tar, rows)
            else:
                # Every process has its next tar waiting; more would only take up disk space.
                while len(ordered) >= 2 * settings.processes:
                    yield finish_next()
                downloader.order(tar, rows)
                ordered[tar] = rows
        while ordered:
            yield finish_next()

    def _path(self, tar: int, suffix: str) -> Location:
        return self.folder / f"{tar:0{self.digits}d}{suffix}"

    def _finished(self, tar: int) -> FetchReport | None:
        try:
            marker = json.loads(self._path(tar, ".done.json").read_bytes())
            if any(self._path(tar, suffix).stat().st_size != size for suffix, size in marker["bytes"].items()):
                return None
        except FileNotFoundError:
            return None
        failed = {FetchProblem(problem): count for problem, count in marker["failed"].items()}
        return FetchReport(marker["seen"], marker["fetched"], failed)

    def _finish(self, tar: int, rows: list[UrlRow]) -> FetchReport:
        """Write the final files of a tar: img2dataset writes in order of arrival, the tar is in order of rows."""
        failed: list[dict[str, Any]] = []
        tar_file, failed_file = self.work / "finished.tar", self.work / "finished.parquet"
        with Downloaded(self.work, tar) as downloaded, tarfile.open(tar_file, "w", format=tarfile.USTAR_FORMAT) as out:
            for row in rows:
                key = f"{row.row:010d}"
                try:
                    content, meta = self._image(downloaded, row)
                except FetchError as error:
                    failure = {"reason": FetchProblem(error.reason), "detail": error.detail}
                    failed.append({"key": key, "row": row.row, "url": row.url} | failure)
                else:
                    _add(out, f"{key}.jpg", content)
                    _add(out, f"{key}.json", json.dumps({"key": key} | meta, sort_keys=True).encode())
        pa.parquet.write_table(pa.Table.from_pylist(failed, schema=_FAILED_SCHEMA), failed_file)
        counts = Counter(row["reason"] for row in failed)
        in_order = {problem: counts[problem] for problem in FetchProblem if counts[problem]}
        report = FetchReport(len(rows), len(rows) - len(failed), in_order)
        sizes = {".tar": tar_file.stat().st_size, FAILED_SUFFIX: failed_file.stat().st_size}
        _put(tar_file, self._path(tar, ".tar"))
        _put(failed_file, self._path(tar, FAILED_SUFFIX))
        counted = {"failed": report.failed, "fetched": report.fetched, "first_row": rows[0].row, "seen": report.seen}
        write_atomically(self._path(tar, ".done.json"), json.dumps({"bytes": sizes} | counted, indent=1))
        return report

    def _image(self, downloaded: Downloaded, row: UrlRow) -> tuple[bytes, dict[str, Any]]:
        """Content and metadata of a row's image; raises `FetchError` if the row has none, or if it is rejected."""
        if row.problem:
            raise FetchError(row.problem, row.detail)
        content, sha256 = downloaded.image(row.row)
        redirects = downloaded.redirects.get(row.request, [])
        for url in redirects:
            entry = self.opt_out.matches(url) if self.opt_out is not None else None
            if entry is not None:
                raise FetchError(FetchProblem.OPTED_OUT, f"redirected to {url}, by the entry {entry}")
        image_format, width, height = _image_header(content)
        least = self.settings.min_image_size
        if min(width, height) < least:
            detail = f"{width}x{height} pixels, the minimum of the shorter side is {least}"
            raise FetchError(FetchProblem.TOO_SMALL, detail)
        return content, {
            "row": row.row, "id": row.id, "url": row.url, "fetched_url": (redirects or [row.request])[-1],
            "sha256": sha256, "bytes": len(content), "format": image_format, "width": width, "height": height,
        }  # fmt: skip


def _put(file: Path, place: Location) -> None:
    if isinstance(place, Path):
        move_into_place(file, place)
    else:
        place.upload(file)


def _check_same_run(folder: Location, table: UrlTable, settings: FetchSettings, opt_out: OptOutList | None) -> None:
    """Write `fetch.json`, or compare with the existing one."""
    values = {name: value for name, value in asdict(settings).items() if name not in _NOT_OF_THE_RUN}
    values |= {"table": table.digest, "rows": table.rows, "opt_out": opt_out.digest if opt_out is not None else None}
    text = json.dumps(values, indent=1, sort_keys=True)
    path = folder / "fetch.json"
    if not path.exists():
        write_atomically(path, text)
        return
    before, now = json.loads(path.read_bytes()), json.loads(text)  # both from JSON, which turns tuples into lists
    changed = sorted(name for name in before | now if before.get(name) != now.get(name))
    if changed:
        raise RunFolderError(
            f"{folder} was started with another {', '.join(changed)} ({path.name} has the old values): finished and "
            "new tars would not match. Fetch into another folder, or remove this one"
        )


def _image_header(content: bytes) -> tuple[str, int, int]:
    """Read format, width and height from the header, without decoding."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
                return image.format or "", *image.size
    except Image.DecompressionBombError as error:
        raise FetchError(FetchProblem.TOO_LARGE, str(error)) from error
    except UnidentifiedImageError as error:
        detail = f"not {', '.join(IMAGE_FORMATS)}; starts with {content[:12]!r}"
        raise FetchError(FetchProblem.NOT_AN_IMAGE, detail) from error
    except Exception as error:  # parsers raise many kinds on damaged headers
        raise FetchError(FetchProblem.NOT_AN_IMAGE, f"its header is damaged: {error}") from error


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    # A new TarInfo has neither time nor owner, so the bytes are reproducible.
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
