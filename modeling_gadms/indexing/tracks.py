"""The best crops of each track through a video."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from ..gallery.records import PersonRecord
from ..media.detection import PersonBox, intersection_area
from ..media.tracking import PersonTracker


CROPS_PER_TRACK = 3
TRACKS_PER_FRAME = 1_000
"""A track is numbered by the frame in which it begins, times so many, and its place there: the number is the same
whenever the video is indexed, and tells where to look."""
_APART_SECONDS = 1.0
"""Crops of a track that are kept show different moments: two of the same second look alike."""


@dataclass
class _Track:
    track: int
    kept: dict[int, tuple[float, PersonRecord]] = field(default_factory=dict)
    """By the second, the best crop of it and its quality."""


class TrackCropSelector:
    """Follows the persons of a video, and of each track keeps the crops that show most.

    A track's crops are given out when it is over, since only then are they known.

    Args:
        crops (`int`): of a track, at most; each of another second.
        tracker ([`~modeling_gadms.media.tracking.PersonTracker`], *optional*)

    Attributes:
        tracks (`int`): begun so far.

    Raises:
        ValueError: if `crops` is not positive.
    """

    def __init__(self, crops: int = CROPS_PER_TRACK, tracker: PersonTracker | None = None):
        if crops < 1:
            raise ValueError(f"crops must be 1 or more, not {crops}")
        self.crops = crops
        self.tracks = 0
        self._tracker = tracker or PersonTracker()
        self._tracks: dict[int, _Track] = {}

    def add(self, persons: Sequence[PersonRecord], frame: int, time_seconds: float) -> Iterator[PersonRecord]:
        """Take the persons of the next frame; gives the crops of tracks that are over.

        Args:
            persons (`Sequence[PersonRecord]`): with their boxes.
            frame (`int`), time_seconds (`float`): of the frame.

        Raises:
            ValueError: if the frame is not later than the one before.
        """
        boxes = [_box_of(person) for person in persons]
        numbers = self._tracker(boxes, time_seconds)
        for place, (person, number) in enumerate(zip(persons, numbers, strict=True)):
            if number not in self._tracks:
                self.tracks += 1
                self._tracks[number] = _Track(frame * TRACKS_PER_FRAME + place)
            others = boxes[:place] + boxes[place + 1 :]
            self._keep(self._tracks[number], person, crop_quality(boxes[place], others), time_seconds)
        for number in sorted(self._tracks.keys() - self._tracker.live):
            yield from self._crops_of(self._tracks.pop(number))

    def rest(self) -> Iterator[PersonRecord]:
        """The crops of tracks that go on when the video ends."""
        tracks, self._tracks = self._tracks, {}
        for track in tracks.values():
            yield from self._crops_of(track)

    def _keep(self, track: _Track, person: PersonRecord, quality: float, time_seconds: float) -> None:
        second = math.floor(time_seconds / _APART_SECONDS)
        if second in track.kept and track.kept[second][0] >= quality:
            return
        track.kept[second] = (quality, person)
        if len(track.kept) > self.crops:
            del track.kept[min(track.kept, key=lambda second: (track.kept[second][0], -second))]

    def _crops_of(self, track: _Track) -> list[PersonRecord]:
        return [replace(person, track=track.track) for _, (_, person) in sorted(track.kept.items())]


def crop_quality(box: PersonBox, others: Sequence[PersonBox]) -> float:
    """How much a crop shows: the pixels of its box that no other person's box covers, times the detector's confidence.

    Not from the paper. Others are taken as if they did not cover each other.
    """
    covered = sum(intersection_area(box, other) for other in others)
    return box.confidence * max(0.0, box.width * box.height - covered)


def _box_of(person: PersonRecord) -> PersonBox:
    if person.box is None:
        raise ValueError(f"A person of {person.source} has no box: only what a detector found can be tracked")
    return person.box
