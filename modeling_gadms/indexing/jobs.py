"""Index sources in a background thread, for programs that serve searches at the same time."""

import fcntl
import logging
import os
import queue
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter

from ..encoders.atomic_files import write_atomically
from ..gallery.person_gallery import PersonGallery
from ..media.detection import PersonDetector
from ..media.images import IMAGE_SUFFIXES
from ..media.video import VIDEO_SUFFIXES, relative_name
from .indexer import IndexProgress, IndexReport, SourceIndexer, SourceOptions
from .isolation import DecodingLimits, IsolatedSource


UPLOAD_SUFFIXES = (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES, ".tar")
"""File types accepted from untrusted users. Compressed archives are excluded: a small one may unpack to any size."""
MAX_WAITING = 16
"""Maximum number of waiting jobs."""
KEPT_JOBS = 200
"""Number of finished jobs whose results are kept."""
MAX_STARTS = 3
"""A job during which the program ended this many times is not started again: it may be the cause."""
_STATES, _UPLOAD_PREFIX = "jobs", "upload-"
"""In the folder for uploads: the folder of state files, and the beginning of folders of single uploads."""
_UNSAFE = re.compile(r"[^\w.\- ]+")
_MAX_NAME = 100

logger = logging.getLogger(__name__)


class JobState(StrEnum):
    """State of a job."""

    WAITING = "waiting"
    """Also if the program was stopped while the job was running."""
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    """Persons found before the cancellation are in the gallery."""
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        return self in (JobState.DONE, JobState.CANCELLED, JobState.FAILED)


@dataclass(frozen=True)
class IndexJob:
    """A source to index, with its state and result.

    Attributes:
        id (`str`): random, so that it cannot be guessed.
        source (`str`): name of the source in the gallery.
        state (`JobState`)
        progress (`IndexProgress`, *optional*): progress of a running job.
        report (`IndexReport`, *optional*): result of a finished job.
        error (`str`, *optional*): why the job failed.
        created (`datetime`)
    """

    id: str
    source: str
    state: JobState = JobState.WAITING
    progress: IndexProgress | None = None
    report: IndexReport | None = None
    error: str | None = None
    created: datetime = field(default_factory=lambda: datetime.now(UTC))


class JobsFullError(RuntimeError):
    """Raised by `room` and `submit` if too many jobs are waiting."""


class JobsClosedError(JobsFullError):
    """Raised by `room` and `submit` if no job is taken any more."""


class FolderInUseError(OSError):
    """Another program uses the folder of uploads, or it cannot be written to."""


@dataclass(frozen=True)
class _Stored:
    """What the state file of a job holds.

    Attributes:
        job (`IndexJob`)
        path (`Path`), options (`SourceOptions`), root (`Path`, *optional*): the source.
        remove (`Path`, *optional*): folder to remove when the job is over.
        starts (`int`): number of times that the job was started, without those that were stopped in peace.
    """

    job: IndexJob
    path: Path
    options: SourceOptions
    root: Path | None
    remove: Path | None
    starts: int = 0


_STORED = TypeAdapter(_Stored)


class IndexJobs:
    """Indexes sources in one thread, in the order of submission. Files are decoded in a process of their own.

    Jobs outlive the program: each has a state file, and those that were not over are taken up again when the next
    program opens the folder. Persons that are already in the gallery are skipped.

    Args:
        gallery ([`~modeling_gadms.gallery.person_gallery.PersonGallery`]): opened with its model.
        detector (`Callable[[], PersonDetector]`): called once, when a source first needs the person detector.
        folder (`Path`): for the state files and the uploads; created if it is missing. Only one program may use it.
        max_frames (`int`, *optional*): maximum number of frames of a source; larger sources fail.
        limits ([`~modeling_gadms.indexing.isolation.DecodingLimits`], *optional*)

    Raises:
        FolderInUseError: if another program uses the folder, or it cannot be written to.
    """

    def __init__(
        self,
        gallery: PersonGallery,
        detector: Callable[[], PersonDetector],
        folder: Path,
        *,
        max_frames: int | None = None,
        limits: DecodingLimits | None = None,
    ):
        self._indexer, self._max_frames, self._limits = SourceIndexer(gallery, detector), max_frames, limits
        self.folder, self._states = folder.absolute(), folder.absolute() / _STATES
        self._stored: dict[str, _Stored] = {}
        self._progress: dict[str, IndexProgress] = {}
        self._cancelled: dict[str, threading.Event] = {}
        self._waiting: queue.Queue[str | None] = queue.Queue()
        self._lock = threading.Lock()
        self._arriving = 0
        self._closing = threading.Event()
        self._folder_lock = claim_folder(self.folder)
        self._take_up()
        self._thread = threading.Thread(target=self._run, name="index-jobs", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread that indexes is running."""
        return self._thread.is_alive()

    @contextmanager
    def room(self) -> Iterator[Path]:
        """Hold a place in the queue while a file arrives. Yields a new folder for it, which is removed if no job of
        it was submitted.

        Raises:
            JobsFullError: if too many jobs are waiting or arriving.
            JobsClosedError: if the jobs are closed.
            OSError: if the folder cannot be made.
        """
        with self._lock:
            self._check_room(self._arriving)
            self._arriving += 1
        arrived: Path | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            arrived = Path(tempfile.mkdtemp(prefix=_UPLOAD_PREFIX, dir=self.folder))
            yield arrived
        finally:
            with self._lock:
                self._arriving -= 1
                is_used = any(stored.remove == arrived for stored in self._stored.values())
            if arrived is not None and not is_used:
                shutil.rmtree(arrived, ignore_errors=True)

    def submit(
        self, path: Path, options: SourceOptions | None = None, *, root: Path | None = None, remove: Path | None = None
    ) -> IndexJob:
        """Queue a source.

        Args:
            path (`Path`): a video, an image or an archive.
            options ([`~modeling_gadms.indexing.indexer.SourceOptions`], *optional*)
            root (`Path`, *optional*): folder that the source is named relative to in the gallery.
            remove (`Path`, *optional*): folder that is removed when the job is over, as one from `room`.

        Raises:
            JobsFullError: if too many jobs are waiting.
            JobsClosedError: if the jobs are closed.
            OSError: if the state cannot be written.
        """
        job = IndexJob(secrets.token_urlsafe(12), relative_name(path, root))
        stored = _Stored(job, path.absolute(), options or SourceOptions(), root and root.absolute(), remove)
        with self._lock:
            self._check_room(0)
            self._write(stored)
            self._add(stored)
            over = [known.job.id for known in self._stored.values() if known.job.state.is_over]
            for job_id in over[: max(0, len(over) - KEPT_JOBS)]:
                del self._stored[job_id]
                self._progress.pop(job_id, None)
                self._state_file(job_id).unlink(missing_ok=True)
        return job

    def get(self, job_id: str) -> IndexJob:
        """Look up a job.

        Raises:
            KeyError: if the id is unknown, or the job ended long ago (see `KEPT_JOBS`).
        """
        with self._lock:
            return self._shown(self._stored[job_id])

    def all(self) -> list[IndexJob]:
        """All jobs, newest first."""
        with self._lock:
            return [self._shown(stored) for stored in reversed(self._stored.values())]

    def cancel(self, job_id: str) -> IndexJob:
        """Stop a job, whatever it is reading. A finished job is unchanged.

        Raises:
            KeyError: as `get`.
        """
        with self._lock:
            stored = self._stored[job_id]
            if not stored.job.state.is_over:
                self._cancelled[job_id].set()
            return self._shown(stored)

    def close(self, timeout: float | None = None) -> None:
        """Stop, and wait at most `timeout` seconds until the persons found are in the gallery.

        Jobs that are not over are taken up again by the next program that opens the folder.
        """
        self._closing.set()
        self._waiting.put(None)
        self._thread.join(timeout)
        self._folder_lock.close()

    def _take_up(self) -> None:
        """Read the state files of an earlier program, and queue the jobs that are not over."""
        for part in self._states.glob(".part-*"):
            part.unlink(missing_ok=True)
        found = []
        for path in self._states.glob("*.json"):
            try:
                found.append(_STORED.validate_json(path.read_bytes()))
            except (ValueError, OSError) as error:
                logger.warning("The state file %s of a job cannot be read and is passed over: %s", path, error)
        for stored in sorted(found, key=lambda stored: stored.job.created):
            state, problem = stored.job.state, None
            if not state.is_over and not stored.path.exists():
                problem = "the server ended before it was indexed, and its file is gone: send it again"
            elif not state.is_over and stored.starts >= MAX_STARTS:
                problem = f"the server ended {stored.starts} times while it was being indexed"
            if problem is not None:
                stored = self._change(stored, state=JobState.FAILED, error=problem)
            elif state == JobState.RUNNING:
                stored = self._change(stored, state=JobState.WAITING)
            self._add(stored)
        used = {stored.remove for stored in self._stored.values() if not stored.job.state.is_over}
        for left in self.folder.glob(f"{_UPLOAD_PREFIX}*"):
            if left not in used:
                shutil.rmtree(left, ignore_errors=True)

    def _add(self, stored: _Stored) -> None:
        self._stored[stored.job.id] = stored
        if not stored.job.state.is_over:
            self._cancelled[stored.job.id] = threading.Event()
            self._waiting.put(stored.job.id)

    def _check_room(self, arriving: int) -> None:
        if self._closing.is_set() or not self.is_alive:
            raise JobsClosedError("No more files are taken: the program is being stopped, or its indexing has ended")
        waiting = sum(stored.job.state == JobState.WAITING for stored in self._stored.values())
        if waiting + arriving >= MAX_WAITING:
            raise JobsFullError(f"{waiting + arriving} sources are already waiting to be indexed: try again later")

    def _run(self) -> None:
        while (job_id := self._waiting.get()) is not None:
            if self._closing.is_set() and not self._cancelled[job_id].is_set():
                continue  # the next program goes on
            # An untrusted file may raise anything, and the disk may fail: the thread must go on.
            try:
                self._finish(job_id)
            except BaseException:
                logger.exception("The indexing job %s could not be finished", job_id)

    def _finish(self, job_id: str) -> None:
        """Run a job to its end, in whatever state."""
        stored = self._stored[job_id]
        end: dict[str, Any]
        try:
            end = self._index(stored)
        except BaseException as error:
            logger.warning("Indexing %s failed: %s", stored.path.name, error, exc_info=_is_bug(error))
            end = {"state": JobState.FAILED, "error": public_message(error, stored.root)}
        stored = self._stored[job_id]
        if end["state"] == JobState.WAITING:  # stopped in peace: the file is not to blame
            stored = replace(stored, starts=stored.starts - 1)
        stored = self._change(stored, **end)
        if stored.job.state.is_over:
            del self._cancelled[job_id]
            if stored.remove is not None:
                shutil.rmtree(stored.remove, ignore_errors=True)

    def _index(self, stored: _Stored) -> dict[str, Any]:
        """Index a source. Returns the fields of its job that change."""
        cancelled = self._cancelled[stored.job.id]
        if cancelled.is_set():
            return {"state": JobState.CANCELLED}
        stored = self._change(replace(stored, starts=stored.starts + 1), state=JobState.RUNNING)

        def is_stopped() -> bool:
            return cancelled.is_set() or self._closing.is_set()

        def show(progress: IndexProgress) -> None:
            self._progress[stored.job.id] = progress

        options = stored.options
        with IsolatedSource(
            stored.path,
            options.every,
            per_second=options.per_second,
            root=stored.root,
            limits=self._limits,
            cancelled=is_stopped,
        ) as frames:
            further = {"max_frames": self._max_frames, "progress": show, "cancelled": is_stopped}
            report = self._indexer(frames, options, **further)
            if frames.stopped:
                report = replace(report, cancelled=True)
        if not report.cancelled:
            return {"state": JobState.DONE, "report": report}
        if not cancelled.is_set():  # the program is being stopped: the next one goes on
            return {"state": JobState.WAITING}
        return {"state": JobState.CANCELLED, "report": report}

    def _shown(self, stored: _Stored) -> IndexJob:
        return replace(stored.job, progress=self._progress.get(stored.job.id))

    def _change(self, stored: _Stored, **fields: Any) -> _Stored:
        """Change a job here and on the disk. That its state cannot be written does not stop it."""
        stored = replace(stored, job=replace(stored.job, **fields))
        try:
            self._write(stored)
        except OSError as error:
            logger.error("The state of the indexing job %s cannot be written: %s", stored.job.id, error)
        with self._lock:
            self._stored[stored.job.id] = stored
        return stored

    def _write(self, stored: _Stored) -> None:
        write_atomically(self._state_file(stored.job.id), _STORED.dump_json(stored).decode())

    def _state_file(self, job_id: str) -> Path:
        return self._states / f"{job_id}.json"


def uploads_beside(location: str) -> Path:
    """The default folder for uploads: beside the gallery, where no program removes old files.

    Raises:
        ValueError: if the gallery is in an object store.
    """
    if "://" in location:
        raise ValueError(f"The gallery {location} is not a folder: name a folder for uploads with --uploads")
    path = Path(location).absolute()
    return path.with_name(f"{path.name}-uploads")


def claim_folder(folder: Path) -> IO[str]:
    """Make a folder for uploads, and lock it until the returned file is closed or the program ends.

    Raises:
        FolderInUseError: if another program uses the folder, or it cannot be written to.
    """
    path = folder / _STATES / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise FolderInUseError(
            f"{folder} cannot hold uploads ({error.strerror}): name another with --uploads"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise FolderInUseError(f"{folder} is used by another server or page: name another with --uploads") from error
    return file


def safe_name(name: str) -> str:
    """Sanitise an untrusted file name: no folders, no control characters, no leading dot.

    >>> safe_name("../../etc/cctv 2.mp4"), safe_name("C:\\\\gate.avi"), safe_name("<b>.png")
    ('cctv 2.mp4', 'gate.avi', '_b_.png')

    Raises:
        ValueError: if the suffix is not in `UPLOAD_SUFFIXES`.
    """
    last = name.replace("\\", "/").rpartition("/")[2]
    cleaned = _UNSAFE.sub("_", last).lstrip(". ")
    stem, dot, suffix = cleaned.rpartition(".")
    if f".{suffix.lower()}" not in UPLOAD_SUFFIXES or not dot:
        raise ValueError(f"The file {last[:_MAX_NAME]!r} is not accepted: use {', '.join(UPLOAD_SUFFIXES)}")
    return f"{stem[:_MAX_NAME] or 'upload'}.{suffix}"


def _is_bug(error: BaseException) -> bool:
    return not isinstance(error, (ValueError, OSError, ImportError, JobsFullError))


def public_message(error: BaseException, root: Path | None) -> str:
    """The message of an error without the path of the upload folder, which users must not see."""
    if _is_bug(error):
        return f"internal error ({type(error).__name__}); see the log"
    text = " ".join(str(error).split())
    text = text.replace(f"{root}{os.sep}", "") if root else text
    return text.encode("utf-8", "backslashreplace").decode()
