"""One person keeps one track number: worked by hand, and on tracks with known persons."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_gadms.media import tracking
from modeling_gadms.media.detection import PersonBox
from modeling_gadms.media.tracking import PersonTracker


def person(x: float, y: float = 200, height: float = 100) -> PersonBox:
    return PersonBox(x - height / 5, y - height / 2, x + height / 5, y + height / 2, 0.9)


def numbers(frames: list[list[PersonBox]], every: float, tracker: PersonTracker | None = None) -> list[list[int]]:
    tracker = tracker or PersonTracker()
    return [tracker(boxes, index * every) for index, boxes in enumerate(frames)]


@pytest.mark.parametrize("every", [1 / 25, 0.2, 1.0])
def test_a_person_who_walks_keeps_a_number_at_any_rate_of_frames(every):
    steps = [person(50 + 80 * every * index) for index in range(round(5 / every))]  # 0.8 heights a second
    assert numbers([[box] for box in steps], every) == [[0]] * len(steps)


def test_boxes_of_a_second_apart_need_not_overlap():
    first, second = person(50), person(130)
    assert first.right < second.left
    assert numbers([[first], [second]], 1.0) == [[0], [0]]


def test_two_persons_who_pass_each_other_keep_their_tracks():
    frames = [[person(100 + 40 * step), person(400 - 40 * step, y=205)] for step in range(8)]
    assert numbers(frames, 0.5) == [[0, 1]] * 8


def test_the_order_of_the_boxes_does_not_matter():
    frames = [[person(100 + 40 * step), person(400 - 40 * step, y=205)][:: 1 if step % 2 else -1] for step in range(8)]
    assert numbers(frames, 0.5) == [[0, 1] if step % 2 == 0 else [1, 0] for step in range(8)]


def test_a_person_hidden_briefly_keeps_the_track_and_one_hidden_longer_gets_a_new_one():
    track = [[person(100 + 40 * step)] for step in range(12)]
    hidden = [*track[:4], [], [], *track[6:]]
    assert numbers(hidden, 0.5)[6:] == [[0]] * 6
    gone = [*track[:4], *([[]] * 5), *track[9:]]
    assert numbers(gone, 0.5)[9:] == [[1]] * 3


def test_another_person_at_the_other_end_of_the_frame_is_new():
    assert numbers([[person(50)], [person(600)]], 0.5) == [[0], [1]]


def test_a_box_of_another_size_in_the_same_place_is_another_person():
    assert numbers([[person(50, height=100)], [person(50, height=180)]], 0.2) == [[0], [1]]


def test_all_are_assigned_at_once_and_not_the_nearest_first(monkeypatch):
    """The nearest pair is box 0 and track 1; assigning it first would leave track 0 a box out of reach."""
    monkeypatch.setattr(tracking, "SPEED", 0.5)
    tracker = PersonTracker()
    assert tracker([person(100), person(160)], 0.0) == [0, 1]
    assert tracker([person(150), person(220)], 1.0) == [0, 1]


def test_a_number_is_given_to_one_box_of_a_frame_only():
    result = numbers([[person(100)], [person(101), person(104)]], 0.2)
    assert result == [[0], [0, 1]]


def test_an_ended_track_is_not_live():
    tracker = PersonTracker()
    tracker([person(100)], 0.0)
    tracker([], 1.9)
    assert tracker.live == {0}
    tracker([], 2.1)
    assert tracker.live == set()


def test_frames_that_come_out_of_order_are_refused():
    tracker = PersonTracker()
    tracker([], 1.0)
    with pytest.raises(ValueError, match=r"a frame at 1.0 s follows one at 1.0 s"):
        tracker([], 1.0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), every=st.sampled_from([0.1, 0.5, 1.0]))
def test_persons_on_lanes_of_their_own_are_never_exchanged(seed, every):
    """Up to five, two heights apart, who start, stop and turn at walking pace; some frames miss one of them."""
    chance = random.Random(seed)
    lanes = {lane: [chance.uniform(100, 600), chance.choice([-80, 0, 80])] for lane in range(chance.randint(1, 5))}
    tracker, numbers_of = PersonTracker(), {lane: set() for lane in lanes}
    for frame in range(12):
        boxes, owners = [], []
        for lane, (x, speed) in lanes.items():
            speed = chance.choice([-80, 0, 80]) if chance.random() < 0.1 else speed
            x += speed * every
            lanes[lane] = [x, speed]
            if chance.random() > 0.15 * every:
                boxes.append(person(x + chance.uniform(-4, 4), y=100 + 400 * lane))
                owners.append(lane)
        for lane, number in zip(owners, tracker(boxes, frame * every), strict=True):
            numbers_of[lane].add(number)
    assert not any(numbers_of[a] & numbers_of[b] for a in lanes for b in lanes if a < b)


def test_a_crowd_that_turns_and_stops_has_few_surplus_tracks():
    """Twenty persons anywhere on a square of 20 heights, five frames a second."""
    chance = random.Random(0)
    crowd = [[chance.uniform(0, 2000), chance.uniform(0, 2000), 0.0, 0.0] for _ in range(20)]
    tracker, owner_of, exchanged, broken = PersonTracker(), {}, 0, 0
    last = [None] * len(crowd)
    for frame in range(50):
        for one in crowd:
            if chance.random() < 0.05 or frame == 0:
                one[2:] = [chance.uniform(-80, 80), chance.uniform(-80, 80)]
            one[0] += one[2] * 0.2
            one[1] += one[3] * 0.2
        found = tracker([person(x, y) for x, y, *_ in crowd], frame * 0.2)
        for index, number in enumerate(found):
            exchanged += owner_of.setdefault(number, index) != index
            broken += last[index] not in (None, number)
            last[index] = number
    assert exchanged <= 0.01 * 50 * 20 and broken <= 10
