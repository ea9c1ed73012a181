"""Track persons through the frames of a video, so that one track is one search result."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .detection import PersonBox


# Limits of a person's motion between two frames. Distances are in heights of the person's box.
SLACK = 0.25
"""Allowed distance from the expected position at any time difference, since detections jitter."""
SPEED = 1.2
"""Additional distance per second while the velocity is unknown. Walking is about 0.8 heights per second; running, or
walking towards the camera, is faster."""
TURN = 0.8
"""Additional distance per second when the velocity is known, for persons who turn or stop."""
GROWTH = 1.5
"""Allowed factor between heights per second; the allowed factor is at least `_LEAST_GROWTH`."""
PATIENCE_SECONDS = 2.0
"""A track without detections for longer than this ends."""
_LEAST_GROWTH = 1.25
_POSITIONS = 4
"""Number of last positions from which the velocity of a track is estimated."""


@dataclass
class _Track:
    number: int
    height: float
    positions: deque[tuple[float, float, float]] = field(default_factory=lambda: deque(maxlen=_POSITIONS))
    """Time, and centre in pixels."""

    @property
    def last_time(self) -> float:
        return self.positions[-1][0]

    def expected(self, time: float) -> tuple[float, float]:
        """Expected centre at a time, with constant velocity."""
        (first, x0, y0), (last, x1, y1) = self.positions[0], self.positions[-1]
        if last == first:  # one detection: the velocity is unknown
            return x1, y1
        return x1 + (x1 - x0) / (last - first) * (time - last), y1 + (y1 - y0) / (last - first) * (time - last)


class PersonTracker:
    """Assign the boxes of successive frames to tracks. A track is one person followed through a video.

    As in SORT (Bewley et al., "Simple Online and Realtime Tracking", 2016), positions are predicted with constant
    velocity, and all boxes of a frame are assigned at once, at minimum total cost. Unlike in SORT, the cost is the
    distance in heights of the person instead of the overlap: at one frame per second, which is enough for search,
    successive boxes of a walking person do not overlap.
    """

    def __init__(self) -> None:
        self._tracks: list[_Track] = []
        self._next_number = 0
        self._time = -math.inf

    def __call__(self, boxes: Sequence[PersonBox], time_seconds: float) -> list[int]:
        """Return the track number of each box of the next frame, from 0. Boxes that fit no track start a new one.

        Raises:
            ValueError: if the frame is not later than the previous one.
        """
        if not time_seconds > self._time:
            raise ValueError(
                f"Frames must be in order of time: a frame at {time_seconds} s follows one at {self._time} s"
            )
        self._time = time_seconds
        self._tracks = [track for track in self._tracks if time_seconds - track.last_time <= PATIENCE_SECONDS]
        assigned = self._assign(boxes, time_seconds)
        numbers = []
        for index, box in enumerate(boxes):
            track = assigned.get(index)
            if track is None:
                track = _Track(self._next_number, box.height)
                self._next_number += 1
                self._tracks.append(track)
            track.positions.append((time_seconds, *_centre(box)))
            track.height = box.height
            numbers.append(track.number)
        return numbers

    @property
    def live(self) -> set[int]:
        """Numbers of the tracks that may continue."""
        return {track.number for track in self._tracks}

    def _assign(self, boxes: Sequence[PersonBox], time: float) -> dict[int, _Track]:
        """The track that each box continues, by index of the box."""
        from scipy.optimize import linear_sum_assignment

        if not boxes or not self._tracks:
            return {}
        impossible = 1e6
        costs = np.array([[min(self._cost(track, box, time), impossible) for track in self._tracks] for box in boxes])
        rows, columns = linear_sum_assignment(costs)
        pairs = zip(rows.tolist(), columns.tolist(), strict=True)
        return {row: self._tracks[column] for row, column in pairs if costs[row, column] < impossible}

    def _cost(self, track: _Track, box: PersonBox, time: float) -> float:
        """Distance from the expected position, in heights, plus the change of height; infinite beyond the limits."""
        elapsed = time - track.last_time
        x, y = _centre(box)
        expected_x, expected_y = track.expected(time)
        height = (track.height + box.height) / 2
        distance = math.hypot(x - expected_x, y - expected_y) / height
        change = abs(math.log(box.height / track.height))
        reach = SLACK + (TURN if len(track.positions) > 1 else SPEED) * elapsed
        if distance > reach or change > math.log(max(_LEAST_GROWTH, GROWTH**elapsed)):
            return math.inf
        return distance + change


def _centre(box: PersonBox) -> tuple[float, float]:
    return (box.left + box.right) / 2, (box.top + box.bottom) / 2
