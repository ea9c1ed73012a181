"""The img2dataset process, and the files that it writes for each tar."""

import json
import os
import subprocess
import tarfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet

from modeling_gadms.media.guarded_fetch import FetchError

from .fetch_settings import FetchProblem, FetchSettings
from .url_table import UrlRow


_SCRIPT = Path(__file__).with_name("guarded_img2dataset.py")
_LOG_LINES = 15
_SECONDS_TO_END = 10


class FetchFailedError(RuntimeError):
    """The img2dataset process has failed. Finished tars are kept; the same call resumes."""


class Downloader:
    """img2dataset in its own environment, started when the first tar is ordered; it writes into the folder `work`."""

    def __init__(self, settings: FetchSettings, work: Path):
        self._settings = settings
        self._work = work
        self._log = work / "img2dataset.log"
        self._process: subprocess.Popen[str] | None = None

    def order(self, tar: int, rows: list[UrlRow]) -> None:
        """Order the download of a tar, for those rows that have a request."""
        requested = [row for row in rows if row.request]
        table = pa.table({"row": [row.row for row in requested], "url": [row.request for row in requested]})
        path = self._work / f"{tar}.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        if self._process is None:
            self._process = self._start()
        stdin = self._process.stdin
        try:
            if stdin is not None:
                stdin.write(json.dumps({"tar": tar, "table": str(path)}) + "\n")
                stdin.flush()
        except BrokenPipeError as error:
            raise self._failure("it has ended") from error

    def next_done(self) -> int:
        """Wait until any ordered tar is done, and return its number.

        Raises:
            FetchFailedError: if the process failed, with the end of its log.
        """
        stdout = self._process.stdout if self._process is not None else None
        line = stdout.readline() if stdout is not None else ""
        if not line:
            raise self._failure("it has ended")
        reply = json.loads(line)
        if not reply["done"]:
            raise self._failure(f"tar {reply['tar']}: {reply['error'] or 'see below'}")
        return reply["tar"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        process = self._process
        if process is None:
            return
        try:
            # The process exits at the end of its input, at once if tars are unfinished.
            process.communicate(timeout=_SECONDS_TO_END)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            process.kill()
            process.communicate()

    def _start(self) -> "subprocess.Popen[str]":
        options = json.dumps(asdict(self._settings) | {"folder": str(self._work.absolute())})
        # Keeps libraries of img2dataset from connecting to their vendors.
        quiet = {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}
        # The path is not resolved: the symbolic link identifies the virtual environment. Isolated mode (-I) ignores
        # the paths of this environment.
        command = [os.path.abspath(self._settings.python), "-I", str(_SCRIPT), options]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | quiet
            )

    def _failure(self, what: str) -> FetchFailedError:
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        log = "\n".join(lines[-_LOG_LINES:]) or "(nothing)"
        return FetchFailedError(
            f"img2dataset, run by {self._settings.python}, has failed ({what}). Finished tars are kept: run the same "
            f"call again to resume. End of its log:\n{log}"
        )


class Downloaded:
    """The files that img2dataset wrote for one tar, removed in the end; empty if the tar was not ordered."""

    def __init__(self, work: Path, tar: int):
        self._files = [work / f"{tar}{suffix}" for suffix in (".tar", ".parquet", ".redirects.json", "_stats.json")]
        self._archive: tarfile.TarFile | None = None
        self._members: dict[str, tarfile.TarInfo] = {}
        self._meta: dict[int, dict[str, Any]] = {}
        self.redirects: dict[str, list[str]] = {}
        """Requested URL -> the redirect URLs that were followed."""

    def __enter__(self) -> Self:
        tar, parquet, redirects, _ = self._files
        if tar.exists():
            columns = ["row", "key", "error_message", "sha256"]
            for meta in pa.parquet.read_table(parquet, columns=columns).to_pylist():
                self._meta[meta["row"]] = meta
            self.redirects = json.loads(redirects.read_bytes())
            self._archive = tarfile.open(tar)
            self._members = {member.name: member for member in self._archive}
        return self

    def __exit__(self, *error: object) -> None:
        if self._archive is not None:
            self._archive.close()
        for file in self._files:
            file.unlink(missing_ok=True)

    def image(self, row: int) -> tuple[bytes, str]:
        """Content and SHA-256 of a row's file; raises `FetchError` if there is none."""
        meta = self._meta.get(row)
        if meta is None:
            raise FetchError(FetchProblem.LOST, "it did not report this row")
        if meta["error_message"] is not None:
            problem, _, detail = meta["error_message"].partition(": ")
            if problem not in list(FetchProblem):
                raise FetchError(FetchProblem.LOST, meta["error_message"])
            raise FetchError(problem, detail)
        member = self._members.get(f"{meta['key']}.jpg")
        content = self._archive.extractfile(member) if self._archive is not None and member is not None else None
        if content is None:
            raise FetchError(FetchProblem.LOST, "it returned neither an image nor a reason")
        return content.read(), meta["sha256"]
