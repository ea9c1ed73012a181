"""The best crops of each walk through a video."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from ..gallery.records import PersonRecord
from ..media.detection import PersonBox, intersection_area
from ..media.tracking import PersonTracker


CROPS_PER_WALK = 3
TRACKS_PER_FRAME = 1_000
"""A walk is numbered by the frame in which it begins, times so many, and its place there: the number is the same
whenever the video is indexed, and tells where to look."""
_APART_SECONDS = 1.0
"""Crops of a walk that are kept show different moments: two of the same second look alike."""


@dataclass
class _Walk:
    track: int
    kept: dict[int, tuple[float, PersonRecord]] = field(default_factory=dict)
    """By the second, the best crop of it and its quality."""


class WalkCrops:
    """Follows the persons of a video, and of each walk keeps the crops that show most.

    A walk's crops are given out when it is over, since only then are they known.

    Args:
        crops (`int`): of a walk, at most; each of another second.
        tracker ([`~modeling_gadms.media.tracking.PersonTracker`], *optional*)

    Attributes:
        walks (`int`): begun so far.

    Raises:
        ValueError: if `crops` is not positive.
    """

    def __init__(self, crops: int = CROPS_PER_WALK, tracker: PersonTracker | None = None):
        if crops < 1:
            raise ValueError(f"crops must be 1 or more, not {crops}")
        self.crops = crops
        self.walks = 0
        self._tracker = tracker or PersonTracker()
        self._walks: dict[int, _Walk] = {}

    def add(self, persons: Sequence[PersonRecord], frame: int, time_seconds: float) -> Iterator[PersonRecord]:
        """Take the persons of the next frame; gives the crops of walks that are over.

        Args:
            persons (`Sequence[PersonRecord]`): with their boxes.
            frame (`int`), time_seconds (`float`): of the frame.

        Raises:
            ValueError: if the frame is not later than the one before.
        """
        boxes = [_box_of(person) for person in persons]
        numbers = self._tracker(boxes, time_seconds)
        for place, (person, number) in enumerate(zip(persons, numbers, strict=True)):
            if number not in self._walks:
                self.walks += 1
                self._walks[number] = _Walk(frame * TRACKS_PER_FRAME + place)
            others = boxes[:place] + boxes[place + 1 :]
            self._keep(self._walks[number], person, crop_quality(boxes[place], others), time_seconds)
        for number in sorted(self._walks.keys() - self._tracker.live):
            yield from self._crops_of(self._walks.pop(number))

    def rest(self) -> Iterator[PersonRecord]:
        """The crops of walks that go on when the video ends."""
        walks, self._walks = self._walks, {}
        for walk in walks.values():
            yield from self._crops_of(walk)

    def _keep(self, walk: _Walk, person: PersonRecord, quality: float, time_seconds: float) -> None:
        second = math.floor(time_seconds / _APART_SECONDS)
        if second in walk.kept and walk.kept[second][0] >= quality:
            return
        walk.kept[second] = (quality, person)
        if len(walk.kept) > self.crops:
            del walk.kept[min(walk.kept, key=lambda second: (walk.kept[second][0], -second))]

    def _crops_of(self, walk: _Walk) -> list[PersonRecord]:
        return [replace(person, track=walk.track) for _, (_, person) in sorted(walk.kept.items())]


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
