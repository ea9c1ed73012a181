"""From a source of pictures to the rows of a gallery."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

from tqdm.auto import tqdm

from ..gallery.filter import in_utc
from ..gallery.person_gallery import PersonGallery, PersonRecord
from ..gallery.schema import check_values
from ..media.detection import PersonDetector, crop_person
from ..media.video import Frame
from .sources import FrameSource, open_source
from .tracks import CROPS_PER_TRACK, TrackCropSelector


NO_PERSON = "no person found"
_OWN_FIELDS = {"camera": "string", "time": "time"}
"""Fields of a source that go into a gallery's own columns."""


@dataclass(frozen=True)
class IndexProgress:
    """How far indexing is.

    Attributes:
        seen (`int`): pictures or frames met.
        expected (`int`, *optional*): how many there are; none where the source does not say.
        found (`int`): persons seen in them.
    """

    seen: int
    expected: int | None
    found: int


@dataclass(frozen=True)
class IndexReport:
    """What became of the pictures: `seen` = `used` + the sum of `skipped`; and of the persons:
    `found` = `persons` + `already_there` + `skipped_crops`.

    Attributes:
        seen (`int`): pictures or frames met.
        used (`int`): those that gave at least one person.
        skipped (`dict[str, int]`): the others, by reason.
        persons (`int`): rows added to the gallery.
        lost_frames (`int`): frames that a video announces and that do not decode, also those not to be taken.
        found (`int`): persons seen.
        already_there (`int`): those that the gallery held before.
        skipped_crops (`int`): crops of a track that are not among its best.
        tracks (`int`): persons followed through a video; 0 without tracking.
        cancelled (`bool`): whether it was stopped before its end.
        unused_fields (`tuple[str, ...]`): what the source says of its pictures and the gallery has no column for.
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
            lines.append(f"  {self.already_there} persons were there already")
        if self.tracks:
            lines.append(f"  {self.tracks} tracks, of which {self.skipped_crops} crops of lower quality were skipped")
        lines += [f"  skipped {count}: {reason}" for reason, count in sorted(self.skipped.items())]
        if self.lost_frames:
            lines.append(f"  the video is damaged: {self.lost_frames} of its frames do not decode")
        if self.unused_fields:
            lines.append(f"  fields that the gallery has no column for: {', '.join(self.unused_fields)}")
        if self.cancelled:
            lines.append("  stopped before the end; what was found until then is in the gallery")
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
    """Add the persons of a source of pictures to a gallery; what cannot be read is counted, not raised.

    A run that was cut off can be repeated: who is there already is not added again.

    Args:
        frames (`FrameSource`): a folder, a video, archives, a table; see
            [`~modeling_gadms.indexing.sources.open_source`].
        detector (`PersonDetector`, *optional*): finds the persons of full frames; without it an image is one person.
        crops_per_track (`int`): of a person in a video, how many crops to keep, each of another second;
            0 to keep every crop and to follow nobody. Only where there is a detector.
        camera (`str`, *optional*): that took the pictures, where they do not say so themselves.
        start (`datetime`, *optional*): of a video, when its first frame was taken; UTC where it has no zone.
        batch_size (`int`): persons that are embedded at once.
        max_frames (`int`, *optional*): above which the source is refused.
        progress (`bool` or a function of [`IndexProgress`]): whether to show a bar, or what to call for each picture.
        cancelled (`Callable[[], bool]`, *optional*): asked after each picture; what was found until then is kept.

    Raises:
        ValueError: if not one frame of a video decodes, if there are more than `max_frames`, or if `start` is given
            for what is not a video.
    """
    if start is not None and not frames.is_video:
        raise ValueError(f"start ({start}) is the time of a video's first frame, and {frames.source} is not a video")
    if crops_per_track < 0:
        raise ValueError(f"crops_per_track must be 0 or more, not {crops_per_track}")
    if max_frames is not None and (frames.expected or 0) > max_frames:
        raise ValueError(_too_many(frames, f"{frames.expected:,}", max_frames))
    finder = _PersonFinder(gallery, frames, detector, crops_per_track, camera, start)
    shown = progress if callable(progress) else None
    stopped = False

    def watched() -> Iterator[Frame]:
        nonlocal stopped
        bar = tqdm(frames, total=frames.expected, desc="Indexing", unit="image", disable=progress is not True)
        for number, frame in enumerate(bar, start=1):
            if max_frames is not None and number > max_frames:
                raise ValueError(_too_many(frames, f"more than {max_frames:,}", max_frames))
            yield frame
            if shown is not None:
                shown(IndexProgress(frames.seen, frames.expected, finder.found))
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
        lost_frames=frames.lost,
        found=finder.found,
        already_there=added.already_there,
        skipped_crops=finder.found - added.added - added.already_there,
        tracks=finder.tracks,
        cancelled=stopped,
        unused_fields=tuple(sorted(finder.unused_fields)),
    )


@dataclass(frozen=True)
class SourceOptions:
    """What a person may want of a source; see [`index_frames`] and [`~modeling_gadms.indexing.sources.open_source`].

    Attributes:
        detect (`bool`, *optional*): whether to search pictures for persons; by default those of videos.
        every (`int`), per_second (`float`, *optional*): of a video, how many frames to take.
        crops_per_track (`int`), camera (`str`, *optional*), start (`datetime`, *optional*), batch_size (`int`)
    """

    detect: bool | None = None
    every: int = 1
    per_second: float | None = None
    crops_per_track: int = CROPS_PER_TRACK
    camera: str | None = None
    start: datetime | None = None
    batch_size: int = 64

    def open(self, source: str | Path, *, root: Path | None = None) -> FrameSource:
        """The frames of a source, so many as are wanted."""
        return open_source(source, self.every, per_second=self.per_second, root=root)


class SourceIndexer:
    """Indexes one source after another, with one detector, which is made when it is first needed.

    Args:
        gallery ([`~modeling_gadms.gallery.person_gallery.PersonGallery`]): opened with its model.
        detector (`Callable[[], PersonDetector]`): makes it.
    """

    def __init__(self, gallery: PersonGallery, detector: Callable[[], PersonDetector]):
        self._gallery, self._make_detector = gallery, detector
        self._detector: PersonDetector | None = None

    def __call__(self, frames: FrameSource, options: SourceOptions, **further: Any) -> IndexReport:
        """Index one source.

        Args:
            frames (`FrameSource`)
            options (`SourceOptions`)
            further: `max_frames`, `progress` and `cancelled` of [`index_frames`].
        """
        wanted = frames.is_video if options.detect is None else options.detect
        if wanted and self._detector is None:
            self._detector = self._make_detector()
        return index_frames(
            self._gallery,
            frames,
            detector=self._detector if wanted else None,
            crops_per_track=options.crops_per_track,
            camera=options.camera,
            start=options.start,
            batch_size=options.batch_size,
            **further,
        )


class _PersonFinder:
    """The persons of frames, and what is to be counted on the way."""

    def __init__(
        self,
        gallery: PersonGallery,
        frames: FrameSource,
        detector: PersonDetector | None,
        crops_per_track: int,
        camera: str | None,
        start: datetime | None,
    ):
        self.found = self.without_person = 0
        self.unused_fields: set[str] = set()
        self._columns = gallery.columns
        self._detector, self._camera = detector, camera
        self._start = None if start is None else in_utc(start)
        follows = crops_per_track and detector is not None and frames.is_video
        self._crops = TrackCropSelector(crops_per_track) if follows else None

    @property
    def tracks(self) -> int:
        return self._crops.tracks if self._crops else 0

    def records(self, frames: Iterator[Frame]) -> Iterator[PersonRecord]:
        for frame in frames:
            persons = self._persons(frame)
            self.found += len(persons)
            self.without_person += not persons
            if self._crops is None:
                yield from persons
            else:
                yield from self._crops.add(persons, cast(int, frame.index), cast(float, frame.time_seconds))
        if self._crops is not None:
            yield from self._crops.rest()

    def _persons(self, frame: Frame) -> list[PersonRecord]:
        whole = self._record(frame)
        if self._detector is None:
            return [whole]
        boxes = self._detector([frame.image])[0]
        return [replace(whole, image=crop_person(frame.image, box), box=box) for box in boxes]

    def _record(self, frame: Frame) -> PersonRecord:
        own = check_values({name: frame.fields[name] for name in _OWN_FIELDS if name in frame.fields}, _OWN_FIELDS)
        columns = {name: frame.fields[name] for name in self._columns if name in frame.fields}
        self.unused_fields |= frame.fields.keys() - own.keys() - columns.keys()
        return PersonRecord(
            frame.image,
            frame.source,
            frame.index,
            frame.time_seconds,
            camera=own.get("camera") or self._camera,
            time=own.get("time") or self._time_of(frame),
            columns=columns,
        )

    def _time_of(self, frame: Frame) -> datetime | None:
        if self._start is None or frame.time_seconds is None:
            return None
        return self._start + timedelta(seconds=frame.time_seconds)


def _too_many(frames: FrameSource, number: str, limit: int) -> str:
    what = "frames" if frames.is_video else "pictures"
    return f"{frames.source} has {number} {what} to be taken, and at most {limit:,} are: take fewer of each second"
