"""Select the best crops of each track in a video."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from ..gallery.records import PersonRecord
from ..media.detection import PersonBox, intersection_area
from ..media.tracking import PersonTracker


CROPS_PER_TRACK = 3
TRACKS_PER_FRAME = 1_000
"""A track's number is its first frame times this constant, plus its position among the persons of that frame. So the
number is the same whenever the video is indexed."""
_INTERVAL_SECONDS = 1.0
"""At most one crop is kept for each interval, because crops of the same moment look alike."""


@dataclass
class _Track:
    number: int
    best: dict[int, tuple[float, PersonRecord]] = field(default_factory=dict)
    """For each interval, the quality of its best crop and the crop."""


class TrackCropSelector:
    """Tracks the persons of a video and keeps the best crops of each track.

    The crops of a track are returned after it has ended, because only then the best ones are known.

    Args:
        crops (`int`): maximum number of crops of a track, each from another second.

    Attributes:
        tracks (`int`): number of tracks so far.
    """

    def __init__(self, crops: int):
        self.crops = crops
        self.tracks = 0
        self._tracker = PersonTracker()
        self._tracks: dict[int, _Track] = {}

    def add(self, persons: Sequence[PersonRecord], frame: int, time_seconds: float) -> Iterator[PersonRecord]:
        """Add the persons of the next frame, who have boxes, and return the crops of tracks that have ended.

        Raises:
            ValueError: if the frame is not later than the previous one.
        """
        boxes = [cast(PersonBox, person.box) for person in persons]
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
        """Return the crops of the tracks that are still active at the end of the video."""
        tracks, self._tracks = self._tracks, {}
        for track in tracks.values():
            yield from self._crops_of(track)

    def _keep(self, track: _Track, person: PersonRecord, quality: float, time_seconds: float) -> None:
        interval = math.floor(time_seconds / _INTERVAL_SECONDS)
        if interval in track.best and track.best[interval][0] >= quality:
            return
        track.best[interval] = (quality, person)
        if len(track.best) > self.crops:
            del track.best[min(track.best, key=lambda each: (track.best[each][0], -each))]

    def _crops_of(self, track: _Track) -> list[PersonRecord]:
        return [replace(person, track=track.number) for _, (_, person) in sorted(track.best.items())]


def crop_quality(box: PersonBox, others: Sequence[PersonBox]) -> float:
    """Quality of a crop: the area of its box that no other box covers, times the confidence of the detector.

    Not from the paper. Overlaps among the other boxes are counted twice.
    """
    covered = sum(intersection_area(box, other) for other in others)
    return box.confidence * max(0.0, box.width * box.height - covered)
