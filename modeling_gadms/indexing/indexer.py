"""Index a source: add the persons of its images or frames to a gallery."""

import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, cast

from PIL import Image
from tqdm.auto import tqdm

from ..gallery.filter import in_utc
from ..gallery.person_gallery import PersonGallery, PersonRecord
from ..gallery.records import content_state, counted
from ..media.detection import PersonDetector, crop_person
from ..media.folders import Tally, with_names
from ..media.names import content_digest
from ..media.video import Frame, FrameSource
from .sources import open_source
from .tracks import CROPS_PER_TRACK, TrackCropSelector
from .values import convert_value


NO_PERSON = "no person found"
WRONG_VALUE = "a value does not fit its column"
FAILED = "an error while finding persons"
_STANDARD_FIELDS = {"camera": "string", "time": "time"}
"""Fields of a source that set standard columns of a gallery, with their types."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexProgress:
    """Numbers of images or frames read so far and, if known in advance, in all, and of persons found so far."""

    seen: int
    expected: int | None
    found: int


@dataclass(frozen=True)
class IndexReport:
    """Counts of the images and persons of an indexed source.

    For images, `seen` is the sum of `used` and `skipped`; with `passed_over` it is all that a folder contains. For
    persons, `found` is the sum of `persons`, `updated`, `already_there` and `skipped_crops`.

    Attributes:
        seen (`int`): images or frames read.
        used (`int`): images or frames with at least one person.
        skipped (`dict[str, int]`): the other images or frames, by reason.
        passed_over (`dict[str, int]`): files of a folder or archive that are not read as images, by kind.
        examples (`dict[str, list[str]]`): the first three of each reason or kind, with what is wrong in them.
        persons (`int`): persons added to the gallery.
        updated (`int`): persons of the gallery whose image or fields had changed in the source.
        outdated (`int`): persons removed from the gallery, because their file was replaced and they are not in it.
        lost_frames (`int`): frames announced by the header of a video that do not decode, including unsampled ones.
        found (`int`): persons found.
        already_there (`int`): persons that were already in the gallery.
        skipped_crops (`int`): crops that are not among the best of their track.
        tracks (`int`): tracks in a video; 0 without tracking.
        cancelled (`bool`): whether indexing was stopped before the end.
        unused_fields (`tuple[str, ...]`): fields of the source for which the gallery has no column.
    """

    seen: int
    used: int
    skipped: dict[str, int]
    persons: int
    lost_frames: int
    found: int = 0
    already_there: int = 0
    skipped_crops: int = 0
    tracks: int = 0
    cancelled: bool = False
    unused_fields: tuple[str, ...] = ()
    examples: dict[str, list[str]] = field(default_factory=dict)
    passed_over: dict[str, int] = field(default_factory=dict)
    updated: int = 0
    outdated: int = 0

    @property
    def unread(self) -> int:
        """Number of images or frames that could not be read; those without a person are not among them."""
        return max(self.lost_frames, sum(self.skipped.values()) - self.skipped.get(NO_PERSON, 0))

    def __str__(self) -> str:
        lines = [f"{counted(self.persons, 'person')} from {self.used:,} of {counted(self.seen, 'image')}"]
        if self.already_there:
            were = "was" if self.already_there == 1 else "were"
            lines.append(f"  {counted(self.already_there, 'person')} {were} already in the gallery")
        if self.updated:
            lines.append(f"  {counted(self.updated, 'person')} updated, because the source has changed")
        if self.outdated:
            lines.append(f"  {counted(self.outdated, 'person')} removed, because the file was replaced")
        if self.tracks:
            lines.append(
                f"  {counted(self.tracks, 'track')}; {counted(self.skipped_crops, 'crop')} of lower quality skipped"
            )
        for reason, count in sorted(self.skipped.items()):
            lines.append(f"  skipped {count:,}: {with_names(reason, count, self.examples)}")
        for kind, count in sorted(self.passed_over.items()):
            lines.append(f"  passed over {count:,}: {with_names(kind, count, self.examples)}")
        if self.lost_frames:
            lines.append(f"  the video is damaged: {counted(self.lost_frames, 'frame')} of it cannot be decoded")
        if self.unused_fields:
            lines.append(f"  fields that the gallery has no column for: {', '.join(self.unused_fields)}")
        if self.cancelled:
            lines.append("  stopped before the end; the persons found so far are in the gallery")
        return "\n".join(lines)


_NOTHING = IndexReport(seen=0, used=0, skipped={}, persons=0, lost_frames=0)


class BrokenSourceError(ValueError):
    """A source that cannot be read to its end. The persons found before are in the gallery.

    Attributes:
        problem (`str`): why it cannot be read.
        report (`IndexReport`): counts of what was read.
    """

    def __init__(self, problem: str, report: IndexReport = _NOTHING):
        super().__init__(problem, report)
        self.problem, self.report = problem, report

    def __str__(self) -> str:
        if not self.report.seen:
            return self.problem
        kept = counted(self.report.persons + self.report.updated + self.report.already_there, "person")
        return f"{self.problem} (after {counted(self.report.seen, 'image')}, with {kept} in the gallery)"


def index_frames(
    gallery: PersonGallery,
    frames: FrameSource,
    *,
    detector: PersonDetector | None = None,
    crops_per_track: int = CROPS_PER_TRACK,
    camera: str | None = None,
    start: datetime | None = None,
    batch_size: int = 64,
    max_frames: int | None = None,
    progress: bool | Callable[[IndexProgress], None] = True,
    cancelled: Callable[[], bool] | None = None,
) -> IndexReport:
    """Add the persons of a source to a gallery.

    Images that cannot be read, and rows with a value that does not fit its column, are skipped and counted. An
    interrupted run can be repeated: persons that are already in the gallery are skipped, and those whose image or
    fields have changed are updated. If a video was replaced, or an image in which persons are detected, the persons of
    its earlier content are removed at the end.

    Args:
        gallery (`PersonGallery`): opened with its model.
        frames (`FrameSource`): a source from [`~modeling_gadms.indexing.sources.open_source`].
        detector (`PersonDetector`, *optional*): finds the persons in full frames; by default each image is one person.
        crops_per_track (`int`): number of crops to keep of each track, each from another second; with 0 all are kept
            and persons are not tracked. Only for videos with a detector.
        camera (`str`, *optional*): name of the camera, for images whose source does not give one.
        start (`datetime`, *optional*): time of a video's first frame; without a time zone it is UTC.
        batch_size (`int`): number of persons embedded at once.
        max_frames (`int`, *optional*): sources with more images or frames are refused.
        progress (`bool` or `Callable[[IndexProgress], None]`): whether to show a progress bar, or a function to call
            after each image.
        cancelled (`Callable[[], bool]`, *optional*): called after each image; if true, indexing stops and the persons
            found so far are added.

    Raises:
        BrokenSourceError: if the source cannot be read to its end, for instance because an archive is damaged or it
            has more than `max_frames` frames. The persons found before are in the gallery.
        ValueError: if an option is invalid, or `start` is given for a source that is not a video.
        OSError: if the gallery cannot be written.
    """
    _check_start(start, frames)
    if crops_per_track < 0:
        raise ValueError(f"crops_per_track must be 0 or more, not {crops_per_track}")
    if max_frames is not None and (frames.expected or 0) > max_frames:
        raise ValueError(_too_many(frames, f"{frames.expected:,}", max_frames))
    tracked = crops_per_track and detector is not None and frames.is_video
    selector = TrackCropSelector(crops_per_track) if tracked else None
    finder = _PersonFinder(gallery.columns, detector, selector, camera, start)
    stopped = False
    broken: Exception | None = None

    def watched() -> Iterator[Frame]:
        nonlocal stopped, broken
        bar = tqdm(frames, total=frames.expected, desc="Indexing", unit="image", disable=progress is not True)
        try:
            for number, frame in enumerate(bar, start=1):
                if max_frames is not None and number > max_frames:
                    raise ValueError(_too_many(frames, f"more than {max_frames:,}", max_frames))
                yield frame
                if callable(progress):
                    progress(IndexProgress(frames.seen, frames.expected, finder.found))
                if stopped := cancelled is not None and cancelled():
                    return
        except Exception as error:  # a damaged file may raise anything; the persons before it are added
            broken = error
        finally:
            bar.close()

    with closing(finder.records(watched())) as records:
        added = gallery.add(records, batch_size=batch_size)
    outdated = 0 if stopped or broken else gallery.remove_outdated(finder.contents)
    skipped = frames.skipped + finder.skipped.counts + Counter({NO_PERSON: finder.without_person})
    examples = frames.passed_over.examples | frames.examples | finder.skipped.examples
    report = IndexReport(
        seen=frames.seen,
        used=frames.seen - skipped.total(),
        skipped=dict(skipped),
        persons=added.added,
        lost_frames=frames.undecodable,
        found=finder.found,
        already_there=added.already_there,
        skipped_crops=finder.found - added.added - added.updated - added.already_there,
        tracks=selector.tracks if selector else 0,
        cancelled=stopped,
        unused_fields=tuple(sorted(finder.unused_fields)),
        examples=examples,
        passed_over=dict(frames.passed_over.counts),
        updated=added.updated,
        outdated=outdated,
    )
    if broken is not None:
        raise BrokenSourceError(describe_error(broken), report) from broken
    return report


def describe_error(error: Exception) -> str:
    """An error in one line. One that no user causes is logged with its traceback, and named by its type."""
    text = " ".join(str(error).split())
    if isinstance(error, (ValueError, OSError, ImportError)):
        return text
    logger.warning("Unexpected error", exc_info=error)
    return f"{type(error).__name__}: {text}"


@dataclass(frozen=True)
class SourceOptions:
    """Options for indexing a source; see [`index_frames`] and [`~modeling_gadms.indexing.sources.open_source`].

    Attributes:
        detect (`bool`, *optional*): whether to run the person detector; by default only for videos.
        every (`int`), per_second (`float`, *optional*): which frames of a video to read.
        crops_per_track (`int`), camera (`str`, *optional*), start (`datetime`, *optional*), batch_size (`int`)
        name (`str`, *optional*): name of the source in the gallery, in place of its path.
        key (`str`, *optional*), encoding (`str`, *optional*): of a table.
        allowed_addresses (`tuple[str, ...]`): "address:port" pairs that the URLs of a table may lead to although they
            are not public.
    """

    detect: bool | None = None
    every: int = 1
    per_second: float | None = None
    crops_per_track: int = CROPS_PER_TRACK
    camera: str | None = None
    start: datetime | None = None
    batch_size: int = 64
    name: str | None = None
    key: str | None = None
    encoding: str | None = None
    allowed_addresses: tuple[str, ...] = ()

    def open(self, source: str | Path, *, root: Path | None = None) -> FrameSource:
        """Open a source with the options for sampling frames and for tables.

        Raises:
            BrokenSourceError: if the source cannot be opened, or an option does not apply to it.
        """
        try:
            frames = open_source(
                source,
                self.every,
                per_second=self.per_second,
                root=root,
                name=self.name,
                key=self.key,
                encoding=self.encoding,
                allowed_addresses=self.allowed_addresses,
            )
            _check_start(self.start, frames)
        except Exception as error:  # a damaged file may raise anything
            raise BrokenSourceError(describe_error(error)) from error
        return frames


class SourceIndexer:
    """Indexes one source after another with the same person detector.

    Args:
        gallery ([`~modeling_gadms.gallery.person_gallery.PersonGallery`]): opened with its model.
        detector (`Callable[[], PersonDetector]`): called once, when a source first needs the person detector.
    """

    def __init__(self, gallery: PersonGallery, detector: Callable[[], PersonDetector]):
        self._gallery, self._detector = gallery, cache(detector)

    def __call__(self, frames: FrameSource, options: SourceOptions, **further: Any) -> IndexReport:
        """Index one source. `further` are `max_frames`, `progress` and `cancelled` of [`index_frames`]."""
        wanted = frames.is_video if options.detect is None else options.detect
        return index_frames(
            self._gallery,
            frames,
            detector=self._detector() if wanted else None,
            crops_per_track=options.crops_per_track,
            camera=options.camera,
            start=options.start,
            batch_size=options.batch_size,
            **further,
        )


@dataclass
class _PersonFinder:
    """Iterates over the persons of frames and counts them. Frames that raise an error are skipped and counted."""

    columns: Mapping[str, str]
    detector: PersonDetector | None
    selector: TrackCropSelector | None
    camera: str | None
    start: datetime | None
    found: int = 0
    without_person: int = 0
    skipped: Tally = field(default_factory=Tally)
    contents: dict[str, str] = field(default_factory=dict)
    """Digests of the files that may have persons of earlier contents in the gallery, by source."""
    unused_fields: set[str] = field(default_factory=set)

    def records(self, frames: Iterator[Frame]) -> Generator[PersonRecord, None, None]:
        for frame in frames:
            yield from self._persons_of(frame)
        if self.selector is not None:
            yield from self.selector.rest()

    def _persons_of(self, frame: Frame) -> list[PersonRecord]:
        try:
            whole = self._record(frame)
        except Exception as error:  # also an OverflowError, of a time or a number
            return self._skip(frame, WRONG_VALUE, error)
        try:
            persons = ready = self._detected(whole, frame.image)
            if self.selector is not None:
                ready = list(self.selector.add(persons, cast(int, frame.index), cast(float, frame.time_seconds)))
        except Exception as error:  # a detector may raise anything
            return self._skip(frame, FAILED, error)
        if frame.content is not None and (self.detector is not None or frame.index is not None):
            self.contents[frame.source] = frame.content
        self.found += len(persons)
        self.without_person += not persons
        return ready

    def _skip(self, frame: Frame, reason: str, error: Exception) -> list[PersonRecord]:
        self.skipped.add(reason, f"{frame.place}: {describe_error(error)}")
        return []

    def _detected(self, whole: PersonRecord, image: Image.Image) -> list[PersonRecord]:
        if self.detector is None:
            return [whole]
        return [replace(whole, image=crop_person(image, box), box=box) for box in self.detector([image])[0]]

    def _record(self, frame: Frame) -> PersonRecord:
        standard, columns = (_converted(frame.fields, kinds) for kinds in (_STANDARD_FIELDS, self.columns))
        self.unused_fields |= frame.fields.keys() - standard.keys() - columns.keys()
        return PersonRecord(
            frame.image,
            frame.source,
            frame.index,
            frame.time_seconds,
            camera=standard.get("camera") or self.camera,
            time=standard.get("time") or self._time_of(frame),
            columns=columns,
            key=frame.key,
            # Without the options camera and start: a run that is repeated without them changes nothing.
            content=content_state(frame.content or content_digest(frame.image), [standard, columns]),
        )

    def _time_of(self, frame: Frame) -> datetime | None:
        if self.start is None or frame.time_seconds is None:
            return None
        try:
            return in_utc(self.start) + timedelta(seconds=frame.time_seconds)
        except OverflowError as error:
            raise ValueError(f"start ({self.start}) is too late for this video: years end with 9999") from error


def _converted(fields: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, Any]:
    """Those fields that have a type, converted to it."""
    values = {}
    for name, kind in kinds.items():
        if name in fields:
            try:
                values[name] = convert_value(fields[name], kind)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
    return values


def _check_start(start: datetime | None, frames: FrameSource) -> None:
    if start is not None and not frames.is_video:
        raise ValueError(f"start ({start}) is the time of a video's first frame, but {frames.source} is not a video")


def _too_many(frames: FrameSource, number: str, limit: int) -> str:
    what = "frames" if frames.is_video else "images"
    return f"{frames.source} has {number} {what}; the maximum is {limit:,}: read fewer frames per second"
