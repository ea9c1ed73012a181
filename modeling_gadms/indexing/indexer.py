"""Index a source: add the persons of its images or frames to a gallery."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, cast

from tqdm.auto import tqdm

from ..gallery.filter import in_utc
from ..gallery.person_gallery import PersonGallery, PersonRecord
from ..gallery.schema import check_values
from ..media.detection import PersonDetector, crop_person
from ..media.video import Frame, FrameSource
from .sources import open_source
from .tracks import CROPS_PER_TRACK, TrackCropSelector


NO_PERSON = "no person found"
_STANDARD_FIELDS = {"camera": "string", "time": "time"}
"""Fields of a source that set standard columns of a gallery, with their types."""


@dataclass(frozen=True)
class IndexProgress:
    """Numbers of images or frames read so far and, if known in advance, in all, and of persons found so far."""

    seen: int
    expected: int | None
    found: int


@dataclass(frozen=True)
class IndexReport:
    """Counts of the images and persons of an indexed source.

    For images, `seen` is the sum of `used` and `skipped`. For persons, `found` is the sum of `persons`,
    `already_there` and `skipped_crops`.

    Attributes:
        seen (`int`): images or frames read.
        used (`int`): images or frames with at least one person.
        skipped (`dict[str, int]`): the other images or frames, by reason.
        persons (`int`): persons added to the gallery.
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

    def __str__(self) -> str:
        lines = [f"{self.persons} persons from {self.used} of {self.seen} images"]
        if self.already_there:
            lines.append(f"  {self.already_there} persons were already in the gallery")
        if self.tracks:
            lines.append(f"  {self.tracks} tracks; {self.skipped_crops} crops of lower quality skipped")
        lines += [f"  skipped {count}: {reason}" for reason, count in sorted(self.skipped.items())]
        if self.lost_frames:
            lines.append(f"  the video is damaged: {self.lost_frames} of its frames do not decode")
        if self.unused_fields:
            lines.append(f"  fields that the gallery has no column for: {', '.join(self.unused_fields)}")
        if self.cancelled:
            lines.append("  stopped before the end; the persons found so far are in the gallery")
        return "\n".join(lines)


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
    """Add the persons of a source to a gallery. Unreadable images are skipped and counted.

    An interrupted run can be repeated: persons that are already in the gallery are skipped.

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
        ValueError: if no frame of a video decodes, the source has more than `max_frames` frames, or `start` is given
            for a source that is not a video.
    """
    if start is not None and not frames.is_video:
        raise ValueError(f"start ({start}) is the time of a video's first frame, but {frames.source} is not a video")
    if crops_per_track < 0:
        raise ValueError(f"crops_per_track must be 0 or more, not {crops_per_track}")
    if max_frames is not None and (frames.expected or 0) > max_frames:
        raise ValueError(_too_many(frames, f"{frames.expected:,}", max_frames))
    tracked = crops_per_track and detector is not None and frames.is_video
    selector = TrackCropSelector(crops_per_track) if tracked else None
    finder = _PersonFinder(gallery.columns, detector, selector, camera, start)
    stopped = False

    def watched() -> Iterator[Frame]:
        nonlocal stopped
        bar = tqdm(frames, total=frames.expected, desc="Indexing", unit="image", disable=progress is not True)
        for number, frame in enumerate(bar, start=1):
            if max_frames is not None and number > max_frames:
                raise ValueError(_too_many(frames, f"more than {max_frames:,}", max_frames))
            yield frame
            if callable(progress):
                progress(IndexProgress(frames.seen, frames.expected, finder.found))
            if stopped := cancelled is not None and cancelled():
                return

    added = gallery.add(finder.records(watched()), batch_size=batch_size)
    skipped = Counter(frames.skipped)
    skipped[NO_PERSON] = finder.without_person
    return IndexReport(
        seen=frames.seen,
        used=frames.seen - skipped.total(),
        skipped=dict(+skipped),
        persons=added.added,
        lost_frames=frames.undecodable,
        found=finder.found,
        already_there=added.already_there,
        skipped_crops=finder.found - added.added - added.already_there,
        tracks=selector.tracks if selector else 0,
        cancelled=stopped,
        unused_fields=tuple(sorted(finder.unused_fields)),
    )


@dataclass(frozen=True)
class SourceOptions:
    """Options for indexing a source; see [`index_frames`] and [`~modeling_gadms.indexing.sources.open_source`].

    Attributes:
        detect (`bool`, *optional*): whether to run the person detector; by default only for videos.
        every (`int`), per_second (`float`, *optional*): which frames of a video to read.
        crops_per_track (`int`), camera (`str`, *optional*), start (`datetime`, *optional*), batch_size (`int`)
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
    allowed_addresses: tuple[str, ...] = ()

    def open(self, source: str | Path, *, root: Path | None = None) -> FrameSource:
        """Open a source with the options for sampling frames and for URLs."""
        return open_source(
            source, self.every, per_second=self.per_second, root=root, allowed_addresses=self.allowed_addresses
        )


class SourceIndexer:
    """Indexes one source after another with the same person detector.

    Args:
        gallery ([`~modeling_gadms.gallery.person_gallery.PersonGallery`]): opened with its model.
        detector (`Callable[[], PersonDetector]`): called once, when a source first needs the person detector.
    """

    def __init__(self, gallery: PersonGallery, detector: Callable[[], PersonDetector]):
        self._gallery, self._detector = gallery, cache(detector)

    def __call__(self, frames: FrameSource, options: SourceOptions, **further: Any) -> IndexReport:
        """Index one source; `further` are `max_frames`, `progress` and `cancelled` of [`index_frames`]."""
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
    """Iterates over the persons of frames and counts them."""

    columns: Collection[str]
    detector: PersonDetector | None
    selector: TrackCropSelector | None
    camera: str | None
    start: datetime | None
    found: int = 0
    without_person: int = 0
    unused_fields: set[str] = field(default_factory=set)

    def records(self, frames: Iterator[Frame]) -> Iterator[PersonRecord]:
        for frame in frames:
            persons = self._persons(frame)
            self.found += len(persons)
            self.without_person += not persons
            if self.selector is None:
                yield from persons
            else:
                yield from self.selector.add(persons, cast(int, frame.index), cast(float, frame.time_seconds))
        if self.selector is not None:
            yield from self.selector.rest()

    def _persons(self, frame: Frame) -> list[PersonRecord]:
        whole = self._record(frame)
        if self.detector is None:
            return [whole]
        boxes = self.detector([frame.image])[0]
        return [replace(whole, image=crop_person(frame.image, box), box=box) for box in boxes]

    def _record(self, frame: Frame) -> PersonRecord:
        given = {name: frame.fields[name] for name in _STANDARD_FIELDS if name in frame.fields}
        standard = check_values(given, _STANDARD_FIELDS)
        columns = {name: frame.fields[name] for name in self.columns if name in frame.fields}
        self.unused_fields |= frame.fields.keys() - standard.keys() - columns.keys()
        return PersonRecord(
            frame.image,
            frame.source,
            frame.index,
            frame.time_seconds,
            camera=standard.get("camera") or self.camera,
            time=standard.get("time") or self._time_of(frame),
            columns=columns,
        )

    def _time_of(self, frame: Frame) -> datetime | None:
        if self.start is None or frame.time_seconds is None:
            return None
        try:
            return in_utc(self.start) + timedelta(seconds=frame.time_seconds)
        except OverflowError as error:
            raise ValueError(f"start ({self.start}) is too late for this video: years end with 9999") from error


def _too_many(frames: FrameSource, number: str, limit: int) -> str:
    what = "frames" if frames.is_video else "images"
    return f"{frames.source} has {number} {what}; the maximum is {limit:,}: read fewer frames per second"
