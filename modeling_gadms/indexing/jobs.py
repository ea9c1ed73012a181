"""Index sources in a background thread, for programs that serve searches at the same time."""

import logging
import os
import queue
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from ..gallery.person_gallery import PersonGallery
from ..media.detection import PersonDetector
from ..media.images import IMAGE_SUFFIXES
from ..media.video import VIDEO_SUFFIXES, relative_name
from .indexer import IndexProgress, IndexReport, SourceIndexer, SourceOptions


UPLOAD_SUFFIXES = (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES, ".tar")
"""File types accepted from untrusted users. Compressed archives are excluded: a small one may unpack to any size."""
MAX_WAITING = 16
"""Maximum number of waiting jobs."""
KEPT_JOBS = 200
"""Number of finished jobs whose results are kept."""
_UNSAFE = re.compile(r"[^\w.\- ]+")
_MAX_NAME = 100

logger = logging.getLogger(__name__)


class JobState(StrEnum):
    """State of a job."""

    WAITING = "waiting"
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
    """Raised by `submit` if too many jobs are waiting."""


@dataclass
class _Work:
    path: Path
    options: SourceOptions
    root: Path | None
    finished: Callable[[Path], None] | None
    cancelled: threading.Event = field(default_factory=threading.Event)


class IndexJobs:
    """Indexes sources in one thread, in the order of submission.

    Args:
        gallery ([`~modeling_gadms.gallery.person_gallery.PersonGallery`]): opened with its model.
        detector (`Callable[[], PersonDetector]`): called once, when a source first needs the person detector.
        max_frames (`int`, *optional*): maximum number of frames of a source; larger sources fail.
    """

    def __init__(
        self, gallery: PersonGallery, detector: Callable[[], PersonDetector], *, max_frames: int | None = None
    ):
        self._indexer, self._max_frames = SourceIndexer(gallery, detector), max_frames
        self._jobs: dict[str, IndexJob] = {}
        self._work: dict[str, _Work] = {}
        self._waiting: queue.Queue[str | None] = queue.Queue()
        self._lock = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="index-jobs", daemon=True)
        self._thread.start()

    def submit(
        self,
        path: Path,
        options: SourceOptions | None = None,
        *,
        root: Path | None = None,
        finished: Callable[[Path], None] | None = None,
    ) -> IndexJob:
        """Queue a source.

        Args:
            path (`Path`): a video, a folder, an archive or a table.
            options ([`~modeling_gadms.indexing.indexer.SourceOptions`], *optional*)
            root (`Path`, *optional*): folder that the source is named relative to in the gallery.
            finished (`Callable[[Path], None]`, *optional*): called with the path when the job ends, in any state.

        Raises:
            JobsFullError: if too many jobs are waiting, or the jobs are closed.
        """
        job = IndexJob(secrets.token_urlsafe(12), relative_name(path, root))
        with self._lock:
            waiting = sum(other.state == JobState.WAITING for other in self._jobs.values())
            if self._closing or waiting >= MAX_WAITING:
                raise JobsFullError(f"{waiting} sources are already waiting to be indexed: try again later")
            self._jobs[job.id] = job
            self._work[job.id] = _Work(path, options or SourceOptions(), root, finished)
            over = [job.id for job in self._jobs.values() if job.state.is_over]
            for job_id in over[: max(0, len(over) - KEPT_JOBS)]:
                del self._jobs[job_id]
        self._waiting.put(job.id)
        return job

    def get(self, job_id: str) -> IndexJob:
        """Look up a job.

        Raises:
            KeyError: if the id is unknown, or the job ended long ago (see `KEPT_JOBS`).
        """
        with self._lock:
            return self._jobs[job_id]

    def all(self) -> list[IndexJob]:
        """All jobs, newest first."""
        with self._lock:
            return list(reversed(self._jobs.values()))

    def cancel(self, job_id: str) -> IndexJob:
        """Stop a job before its next image. A finished job is unchanged.

        Raises:
            KeyError: as `get`.
        """
        with self._lock:
            job = self._jobs[job_id]
            if not job.state.is_over:
                self._work[job_id].cancelled.set()
            return job

    def close(self, timeout: float | None = None) -> None:
        """Cancel all jobs, and wait at most `timeout` seconds until the persons found are in the gallery."""
        with self._lock:
            self._closing = True
            for work in self._work.values():
                work.cancelled.set()
        self._waiting.put(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        while (job_id := self._waiting.get()) is not None:
            work = self._work[job_id]
            try:
                self._index(job_id, work)
            except Exception as error:  # an untrusted file may raise anything; the thread must go on
                logger.warning(
                    "Indexing %s failed: %s", work.path.name, error, exc_info=not isinstance(error, ValueError)
                )
                self._change(job_id, state=JobState.FAILED, error=_public_message(error, work.root))
            finally:
                if work.finished is not None:
                    work.finished(work.path)
                with self._lock:
                    del self._work[job_id]

    def _index(self, job_id: str, work: _Work) -> None:
        if work.cancelled.is_set():
            self._change(job_id, state=JobState.CANCELLED)
            return
        self._change(job_id, state=JobState.RUNNING)
        report = self._indexer(
            work.options.open(work.path, root=work.root),
            work.options,
            max_frames=self._max_frames,
            progress=lambda progress: self._change(job_id, progress=progress),
            cancelled=work.cancelled.is_set,
        )
        self._change(job_id, state=JobState.CANCELLED if report.cancelled else JobState.DONE, report=report)

    def _change(self, job_id: str, **fields: object) -> None:
        with self._lock:
            self._jobs[job_id] = replace(self._jobs[job_id], **fields)  # type: ignore[arg-type]


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


def _public_message(error: Exception, root: Path | None) -> str:
    """The message of an error without the path of the upload folder, which users must not see."""
    if isinstance(error, (ValueError, OSError, ImportError)):
        text = " ".join(str(error).split())
        return text.replace(f"{root}{os.sep}", "") if root else text
    return f"internal error ({type(error).__name__}); see the log"
