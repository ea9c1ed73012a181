"""Fetch the images of a URL table with img2dataset: rows in, WebDataset tars and a reason for every other row out.

img2dataset needs an older pandas than the rest of this project, so it runs in its own environment, as a process
(`guarded_img2dataset.py`) that is given the rows of one tar after the other.

Tar k holds what was fetched of the rows k * rows_per_tar to (k + 1) * rows_per_tar - 1 of the table, in their order:

- `00000.tar`: for each image `<key>.jpg`, the file as the server sent it (whatever its format), and `<key>.json` with
  its id, URL, SHA-256, format and size. The key is the number of the row.
- `00000.failed.parquet`: key, row, url, reason and detail of each row that has no image.
- `00000.done.json`: the counts; written last, it marks the tar as finished.

Beside them, `fetch.json` holds what the tars depend on.
"""

import io
import json
import shutil
import tarfile
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from PIL import Image, UnidentifiedImageError
from tqdm.auto import tqdm

from modeling_gadms.encoders.atomic_files import move_into_place, write_atomically
from modeling_gadms.media.images import IMAGE_FORMATS

from ..shards import RunFolderError, lock_folder, remove_leftovers
from .fetch_process import Downloaded, Downloader, FetchFailedError
from .fetch_settings import FetchProblem, FetchReport, FetchSettings
from .opt_out_list import OptOutList
from .planning import FAILED_SUFFIX
from .url_table import UrlRow, UrlTable, rows_by_tar


__all__ = ["FetchFailedError", "FetchProblem", "FetchReport", "FetchSettings", "fetch_images"]

_FAILED_SCHEMA = pa.schema(
    [("key", pa.string()), ("row", pa.int64()), ("url", pa.string()), ("reason", pa.string()), ("detail", pa.string())]
)
_WORK_PREFIX = ".fetching-"
# What may change between a run and its continuation: it decides how fast images come, not which are kept.
_NOT_OF_THE_RUN = ("python", "processes", "threads", "timeout_seconds", "retries")


def fetch_images(
    table: str | Path, folder: str | Path, settings: FetchSettings, optout: OptOutList | None = None
) -> FetchReport:
    """Fetch the images of a table of URLs into WebDataset tars.

    Stopped anywhere, the same call goes on with the tars that are not finished; a finished one is not fetched again.

    Args:
        table (`str` or `Path`): a Parquet file, a folder of them, or a CSV file.
        folder (`str` or `Path`): for the tars; made if it is not there.
        settings (`FetchSettings`)
        optout (`OptOutList`, *optional*): what must not be fetched.

    Returns:
        `FetchReport`, of the whole table.

    Raises:
        FileNotFoundError: if there is no such table, or no environment of img2dataset.
        ValueError: if the table lacks a column or cannot be read.
        RunFolderError: if `folder` holds another run's tars, or another process is fetching into it.
        FetchFailedError: if img2dataset fails.
    """
    folder = Path(folder)
    rows = UrlTable.open(table, settings.url_column, settings.id_column)
    if not Path(settings.python).is_file():
        raise FileNotFoundError(
            f"There is no Python at {settings.python}: make the environment of img2dataset with `make fetch-env`, "
            "or set python to the interpreter of one that has img2dataset 1.47.0"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with _work_folder(folder) as work:
        _check_same_run(folder, rows, settings, optout)
        return _Run(folder, work, rows, settings, optout).run()


class _Run:
    """One call of `fetch_images`: hands tars out, takes them back, and finishes them."""

    def __init__(self, folder: Path, work: Path, table: UrlTable, settings: FetchSettings, optout: OptOutList | None):
        self.folder = folder
        self.work = work
        self.table = table
        self.settings = settings
        self.optout = optout
        # As many digits as the last tar needs: the order of names is the order of rows.
        self.digits = max(5, len(str(table.rows // settings.rows_per_tar)))
        self.report = FetchReport(0, 0)

    def run(self) -> FetchReport:
        settings = self.settings
        open_tars: dict[int, list[UrlRow]] = {}
        tars = rows_by_tar(self.table, settings.rows_per_tar, self.optout, settings.allowed_addresses)
        with (
            tqdm(total=self.table.rows, desc="Fetching", unit="row") as progress,
            Downloader(settings, self.work) as downloader,
        ):

            def finish(tar: int, rows: list[UrlRow]) -> None:
                self.report += self._finish(tar, rows)
                progress.update(len(rows))

            for tar, rows in enumerate(tars):
                finished = self._finished(tar)
                if finished is not None:
                    self.report += finished
                    progress.update(len(rows))
                    continue
                if not any(row.request for row in rows):
                    finish(tar, rows)
                    continue
                # Enough for every process to have its next tar at hand, and no more than that on disk.
                while len(open_tars) >= 2 * settings.processes:
                    done = downloader.next_done()
                    finish(done, open_tars.pop(done))
                downloader.order(tar, rows)
                open_tars[tar] = rows
            while open_tars:
                done = downloader.next_done()
                finish(done, open_tars.pop(done))
        if self.report.seen != self.table.rows:
            raise ValueError(f"{self.table.rows} rows were announced by the table, but {self.report.seen} were read")
        return self.report

    def _path(self, tar: int, suffix: str) -> Path:
        return self.folder / f"{tar:0{self.digits}d}{suffix}"

    def _finished(self, tar: int) -> FetchReport | None:
        try:
            marker = json.loads(self._path(tar, ".done.json").read_bytes())
            for suffix, size in marker["bytes"].items():
                if self._path(tar, suffix).stat().st_size != size:
                    return None
        except FileNotFoundError:
            return None
        failed = {FetchProblem(problem): count for problem, count in marker["failed"].items()}
        return FetchReport(marker["seen"], marker["fetched"], failed)

    def _finish(self, tar: int, rows: list[UrlRow]) -> FetchReport:
        """Bring what img2dataset wrote, in the order in which images arrived, into the order of the rows."""
        failed: list[dict[str, Any]] = []
        fetched = 0
        tar_file, failed_file = self.work / "finished.tar", self.work / "finished.parquet"
        with Downloaded(self.work, tar) as downloaded, tarfile.open(tar_file, "w", format=tarfile.USTAR_FORMAT) as out:
            index = 0
            for row in rows:
                key = f"{row.row:010d}"
                problem, detail = row.problem or "", row.detail
                if row.request:
                    content, meta, problem, detail = self._looked_at(downloaded, row, index)
                    index += 1
                if problem:
                    reason = FetchProblem(problem)
                    failed.append({"key": key, "row": row.row, "url": row.url, "reason": reason, "detail": detail})
                    continue
                fetched += 1
                _add(out, f"{key}.jpg", content)
                _add(out, f"{key}.json", json.dumps({"key": key} | meta, sort_keys=True).encode())
        pa.parquet.write_table(pa.Table.from_pylist(failed, schema=_FAILED_SCHEMA), failed_file)
        counts = Counter(row["reason"] for row in failed)
        report = FetchReport(
            len(rows), fetched, {problem: counts[problem] for problem in FetchProblem if counts[problem]}
        )
        sizes = {".tar": tar_file.stat().st_size, FAILED_SUFFIX: failed_file.stat().st_size}
        move_into_place(tar_file, self._path(tar, ".tar"))
        move_into_place(failed_file, self._path(tar, FAILED_SUFFIX))
        marker = {
            "bytes": sizes,
            "failed": report.failed,
            "fetched": fetched,
            "first_row": rows[0].row,
            "seen": len(rows),
        }
        write_atomically(self._path(tar, ".done.json"), json.dumps(marker, indent=1))
        downloaded.remove()
        return report

    def _looked_at(self, downloaded: Downloaded, row: UrlRow, index: int) -> tuple[bytes, dict[str, Any], str, str]:
        """Content, what is known about it, and the reason and detail if it is not to be kept."""
        content, sha256, problem, detail = downloaded.image(row.row)
        if problem:
            return b"", {}, problem, detail
        redirects = downloaded.redirects.get(str(index), [])
        for url in redirects:
            entry = self.optout.matches(url) if self.optout is not None else None
            if entry is not None:
                return b"", {}, FetchProblem.OPTED_OUT, f"redirected to {url}, by the entry {entry}"
        image_format, width, height, problem, detail = _image_header(content)
        if not problem and min(width, height) < self.settings.min_image_size:
            problem = FetchProblem.TOO_SMALL
            detail = f"{width}x{height} pixels, the shorter side must have at least {self.settings.min_image_size}"
        meta = {
            "row": row.row, "id": row.id, "url": row.url, "fetched_url": (redirects or [row.request])[-1],
            "sha256": sha256, "bytes": len(content), "format": image_format, "width": width, "height": height,
        }  # fmt: skip
        return content, meta, problem, detail


@contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """A new folder in `folder`, for one process at a time; what killed ones left is removed.

    A new name each time: processes of a killed run may write for a moment yet.
    """
    lock = lock_folder(folder)
    try:
        remove_leftovers(folder)
        for left in folder.glob(f"{_WORK_PREFIX}*"):
            shutil.rmtree(left, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=_WORK_PREFIX, dir=folder))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
    finally:
        # Not `with lock`: that would take the lock, which is held already, a second time and give it back once.
        lock.release()


def _check_same_run(folder: Path, table: UrlTable, settings: FetchSettings, optout: OptOutList | None) -> None:
    """Write what the tars depend on, or compare it with what is there."""
    values = {name: value for name, value in asdict(settings).items() if name not in _NOT_OF_THE_RUN}
    values |= {"table": table.digest, "rows": table.rows, "optout": optout.digest if optout is not None else None}
    text = json.dumps(values, indent=1, sort_keys=True)
    path = folder / "fetch.json"
    if not path.exists():
        write_atomically(path, text)
        return
    before = json.loads(path.read_bytes())
    # Through JSON, as the other one: a tuple becomes a list.
    now = json.loads(text)
    changed = sorted(name for name in before | now if before.get(name) != now.get(name))
    if changed:
        raise RunFolderError(
            f"{folder} was begun with another {', '.join(changed)} ({path.name} has the old values): its finished "
            "tars would not fit the new ones. Fetch into another folder, or remove this one"
        )


def _image_header(content: bytes) -> tuple[str, int, int, str, str]:
    """Format, width and height as the header gives them, without decoding; else the problem and its detail."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
                return image.format or "", *image.size, "", ""
    except Image.DecompressionBombError as error:
        return "", 0, 0, FetchProblem.TOO_LARGE, str(error)
    except UnidentifiedImageError:
        return "", 0, 0, FetchProblem.NOT_AN_IMAGE, f"none of {', '.join(IMAGE_FORMATS)}; begins {content[:12]!r}"
    except Exception as error:  # parsers raise many kinds on damaged headers
        return "", 0, 0, FetchProblem.NOT_AN_IMAGE, f"its header is damaged: {error}"


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    # A new TarInfo has neither time nor owner: the same members are the same bytes.
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
