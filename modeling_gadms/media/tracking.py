"""Follow persons from frame to frame of a video, so that one track is one result of a search."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .detection import PersonBox


@dataclass(frozen=True)
class Motion:
    """What a person can do between two frames; distances are in heights of the person's box.

    Attributes:
        slack (`float`): how far a box may lie from where it is expected, however short the time: detectors tremble.
        speed (`float`): how much farther for each second, of a person whose velocity is not known yet. A walk is about
            0.8 heights a second; a run, or a walk towards the camera, is more.
        turn (`float`): the same for a person whose velocity is known, who may turn or stop.
        growth (`float`): how much the height may change, as a factor, for each second; at least by 1.25.
        patience (`float`): seconds after which a person who is not seen is given up.
    """

    slack: float = 0.25
    speed: float = 1.2
    turn: float = 0.8
    growth: float = 1.5
    patience: float = 2.0

    def __post_init__(self) -> None:
        for name in ("slack", "speed", "turn", "patience"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if not self.growth >= 1:
            raise ValueError(f"growth must be 1 or more, not {self.growth}")


_LEAST_GROWTH = 1.25
_POSITIONS = 4
"""Of a track, from which its velocity is told."""


@dataclass
class _Track:
    number: int
    height: float
    seen: deque[tuple[float, float, float]] = field(default_factory=lambda: deque(maxlen=_POSITIONS))
    """Time and centre, in pixels."""

    def expected(self, time: float) -> tuple[float, float]:
        """Where its centre is at a time, if it goes on as it did."""
        last_time, x, y = self.seen[-1]
        velocity_x, velocity_y = self.velocity
        return x + velocity_x * (time - last_time), y + velocity_y * (time - last_time)

    @property
    def velocity(self) -> tuple[float, float]:
        """In pixels a second; none before it was seen twice."""
        (first, x0, y0), (last, x1, y1) = self.seen[0], self.seen[-1]
        if last <= first:
            return 0.0, 0.0
        return (x1 - x0) / (last - first), (y1 - y0) / (last - first)


class PersonTracker:
    """Gives the boxes of one person in successive frames one number.

    As in SORT (Bewley et al., "Simple Online and Realtime Tracking", 2016) each person is expected where a constant
    velocity takes it, and boxes are assigned to persons all at once, at the least total cost. Unlike there, the cost
    is the distance in heights of the person and not the overlap: at a frame a second, which is what a search needs,
    successive boxes of a person who walks do not overlap.

    Args:
        motion (`Motion`): what persons can do.
    """

    def __init__(self, motion: Motion | None = None):
        self.motion = motion or Motion()
        self._tracks: list[_Track] = []
        self._next = 0
        self._time = -math.inf

    def __call__(self, boxes: Sequence[PersonBox], time_seconds: float) -> list[int]:
        """The numbers of the tracks that the boxes of a frame belong to, from 0; new ones where none fits.

        Args:
            boxes (`Sequence[PersonBox]`): of the next frame, in pixels.
            time_seconds (`float`): of that frame.

        Raises:
            ValueError: if the frame is not later than the one before.
        """
        if not time_seconds > self._time:
            raise ValueError(
                f"Frames are to come in the order of time: one at {time_seconds} s follows one at {self._time} s"
            )
        self._time = time_seconds
        self._tracks = [track for track in self._tracks if time_seconds - track.seen[-1][0] <= self.motion.patience]
        assigned = self._assign(boxes, time_seconds)
        numbers = []
        for index, box in enumerate(boxes):
            track = assigned.get(index)
            if track is None:
                track = _Track(self._next, box.height)
                self._next += 1
                self._tracks.append(track)
            track.seen.append((time_seconds, *_centre(box)))
            track.height = box.height
            numbers.append(track.number)
        return numbers

    @property
    def live(self) -> set[int]:
        """Numbers of the tracks that may go on."""
        return {track.number for track in self._tracks}

    def _assign(self, boxes: Sequence[PersonBox], time: float) -> dict[int, _Track]:
        """By index of a box, the track that it continues."""
        from scipy.optimize import linear_sum_assignment

        if not boxes or not self._tracks:
            return {}
        too_far = 1e6
        costs = np.full((len(boxes), len(self._tracks)), too_far)
        for column, track in enumerate(self._tracks):
            for row, box in enumerate(boxes):
                costs[row, column] = min(self._cost(track, box, time), too_far)
        rows, columns = linear_sum_assignment(costs)
        pairs = zip(rows.tolist(), columns.tolist(), strict=True)
        return {row: self._tracks[column] for row, column in pairs if costs[row, column] < too_far}

    def _cost(self, track: _Track, box: PersonBox, time: float) -> float:
        """Infinite where it cannot be the same person; otherwise the distance from where it is expected, in heights,
        and how much the height has changed."""
        elapsed = time - track.seen[-1][0]
        known = len(track.seen) > 1
        x, y = _centre(box)
        expected_x, expected_y = track.expected(time)
        height = (track.height + box.height) / 2
        distance = math.hypot(x - expected_x, y - expected_y) / height
        change = abs(math.log(box.height / track.height))
        reach = self.motion.slack + (self.motion.turn if known else self.motion.speed) * elapsed
        if distance > reach or change > math.log(max(_LEAST_GROWTH, self.motion.growth**elapsed)):
            return math.inf
        return distance + change


def _centre(box: PersonBox) -> tuple[float, float]:
    return (box.left + box.right) / 2, (box.top + box.bottom) / 2
