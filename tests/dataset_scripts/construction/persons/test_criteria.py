"""Blocks `box` and `keypoints`: each limit of the paper at, just under and just over it."""

import math

import pytest

from dataset_scripts.construction.persons.criteria import (
    BoxCriteria,
    BoxProblem,
    CriteriaSettings,
    PoseCriteria,
    PoseProblem,
)


NOSE, LEFT_EYE, RIGHT_EYE, LEFT_EAR, RIGHT_EAR = range(5)
LEFT_HIP, RIGHT_HIP = 11, 12
LIMBS = [5, 6, 7, 8, 9, 10, 13, 14, 15, 16]


def box(width: float, height: float, confidence: float = 0.99, left: float = 10, top: float = 20, **settings):
    """The reason for which a box of that size is dropped; None if it is kept."""
    row = {"box": [left, top, left + width, top + height], "confidence": confidence}
    verdict = BoxCriteria(CriteriaSettings(**settings)).judge(row)
    return None if verdict is True else verdict[1]


def pose(visible: list[int], score: float = 0.9, hidden: float = 0.1, **settings):
    keypoints = [[1.0, 2.0, score if index in visible else hidden] for index in range(17)]
    verdict = PoseCriteria(CriteriaSettings(**settings)).judge({"keypoints": keypoints})
    return None if verdict is True else verdict[1]


def test_the_defaults_are_those_of_the_paper():
    settings = CriteriaSettings()
    assert settings.min_confidence == 0.85
    assert settings.min_shorter_side == 90
    assert (settings.min_aspect, settings.max_aspect) == (2, 4)
    assert (settings.min_keypoints, settings.min_hips, settings.min_head) == (8, 1, 2)


@pytest.mark.parametrize(
    "confidence, reason", [(0.8499, "low confidence"), (0.85, "low confidence"), (0.8501, None), (1.0, None)]
)
def test_a_box_must_be_surer_than_0_85(confidence, reason):
    assert box(100, 300, confidence) == reason


@pytest.mark.parametrize("width, reason", [(89.99, "too small"), (90, None), (90.01, None)])
def test_the_shorter_side_has_90_pixels_at_least(width, reason):
    assert box(width, 270) == reason


def test_the_shorter_side_may_be_the_height():
    assert box(300, 89.99, min_aspect=0) == "too small"
    assert box(300, 90, min_aspect=0) is None


@pytest.mark.parametrize("height, reason", [(199.99, "too wide"), (200, None), (200.01, None)])
def test_the_height_is_twice_the_width_at_least(height, reason):
    assert box(100, height) == reason


@pytest.mark.parametrize("height, reason", [(399.99, None), (400, None), (400.01, "too tall")])
def test_the_height_is_four_times_the_width_at_most(height, reason):
    assert box(100, height) == reason


def test_differences_of_hundredths_are_taken_for_what_they_say():
    assert 128.2 - 38.2 < 90  # in binary
    assert 512.2 - 152.2 > 360
    judge = BoxCriteria(CriteriaSettings()).judge
    assert judge({"box": [38.2, 0, 128.2, 200], "confidence": 0.9}) is True
    assert judge({"box": [0, 152.2, 90, 512.2], "confidence": 0.9}) is True


@pytest.mark.parametrize("aspect", [1.1, 1.2, 2.3, 3.7])
def test_limits_that_are_no_whole_numbers_are_met_exactly(aspect):
    for hundredths in range(9_000, 9_200, 10):
        height = round(aspect * hundredths / 100, 2)
        assert box(hundredths / 100, height, left=0, top=0, min_aspect=aspect) is None
        assert box(hundredths / 100, height, left=0, top=0, min_aspect=0, max_aspect=aspect) is None
        assert box(hundredths / 100, height - 0.01, left=0, top=0, min_aspect=aspect) == "too wide"
        assert box(hundredths / 100, height + 0.01, left=0, top=0, min_aspect=0, max_aspect=aspect) == "too tall"


def test_a_box_has_the_first_reason_that_holds():
    assert box(50, 20, 0.1) == BoxProblem.LOW_CONFIDENCE
    assert box(50, 20) == BoxProblem.TOO_SMALL
    assert box(200, 100) == BoxProblem.TOO_WIDE
    assert box(50, 500) == BoxProblem.TOO_SMALL
    assert [problem.value for problem in BoxProblem] == ["low confidence", "too small", "too wide", "too tall"]


@pytest.mark.parametrize("size", [(0, 0), (0, 300), (-100, 300)])
def test_a_box_without_size_is_dropped(size):
    assert box(*size) is not None


def test_the_detail_says_what_was_measured():
    judge = BoxCriteria(CriteriaSettings()).judge
    assert judge({"box": [0, 0, 100, 300], "confidence": 0.8}) == (False, "low confidence", "0.8000")
    assert judge({"box": [0.5, 0, 80, 300], "confidence": 0.9}) == (False, "too small", "79.5x300")
    keypoints = [[0.0, 0.0, 0.9]] * 4 + [[0.0, 0.0, 0.0]] * 13
    assert PoseCriteria(CriteriaSettings()).judge({"keypoints": keypoints}) == (
        False,
        "too few keypoints visible",
        "4 of 17",
    )


@pytest.mark.parametrize("limbs, reason", [(4, "too few keypoints visible"), (5, None), (6, None)])
def test_eight_keypoints_are_visible_at_least(limbs, reason):
    assert pose([NOSE, LEFT_EYE, LEFT_HIP, *LIMBS[:limbs]]) == reason


@pytest.mark.parametrize(
    "hips, reason", [([], "hips not visible"), ([LEFT_HIP], None), ([RIGHT_HIP], None), ([LEFT_HIP, RIGHT_HIP], None)]
)
def test_one_hip_is_visible_at_least(hips, reason):
    assert pose([NOSE, LEFT_EYE, *LIMBS, *hips]) == reason


@pytest.mark.parametrize(
    "head, reason",
    [
        ([], "head not visible"),
        ([NOSE], "head not visible"),
        ([RIGHT_EAR], "head not visible"),
        ([LEFT_EAR, RIGHT_EAR], None),
        ([NOSE, RIGHT_EYE], None),
        ([NOSE, LEFT_EYE, RIGHT_EYE, LEFT_EAR, RIGHT_EAR], None),
    ],
)
def test_two_keypoints_of_the_head_are_visible_at_least(head, reason):
    assert pose([LEFT_HIP, *LIMBS, *head]) == reason


@pytest.mark.parametrize("score, reason", [(0.2999, "too few keypoints visible"), (0.3, None), (0.3001, None)])
def test_a_keypoint_is_visible_from_a_score_of_0_3_on(score, reason):
    assert pose(list(range(17)), score) == reason


def test_a_score_of_0_is_never_visible():
    # Outside of the image; the threshold 0 asks for any guess within it.
    assert pose([], hidden=0.0, keypoint_score=0) == PoseProblem.FEW_KEYPOINTS
    assert pose([], hidden=0.0001, keypoint_score=0) is None


def test_a_pose_has_the_first_reason_that_holds():
    assert pose([]) == PoseProblem.FEW_KEYPOINTS
    assert pose(LIMBS) == PoseProblem.NO_HIP
    assert pose([*LIMBS, LEFT_HIP]) == PoseProblem.NO_HEAD


@pytest.mark.parametrize("field, limit, under", [("min_keypoints", 12, 13), ("min_hips", 1, 2), ("min_head", 1, 2)])
def test_other_limits_can_be_set(field, limit, under):
    visible = [*LIMBS, LEFT_HIP, NOSE]
    open_settings = {"min_keypoints": 0, "min_hips": 0, "min_head": 0}
    assert pose(visible, **open_settings | {field: limit}) is None
    assert pose(visible, **open_settings | {field: under}) is not None


@pytest.mark.parametrize(
    "field, bad, good",
    [
        ("min_confidence", [-0.1, 1.1, math.nan], [0, 1]),
        ("min_shorter_side", [-1], [0, 10_000]),
        ("min_aspect", [-1, 4.1], [0, 4]),
        ("max_aspect", [1.9], [2, math.inf]),
        ("keypoint_score", [-0.1, 1.1], [0, 1]),
        ("min_keypoints", [-1, 18], [0, 17]),
        ("min_hips", [-1, 3], [0, 2]),
        ("min_head", [-1, 6], [0, 5]),
    ],
)
def test_a_limit_out_of_its_range_is_named(field, bad, good):
    for value in good:
        assert getattr(CriteriaSettings(**{field: value}), field) == value
    for value in bad:
        # A `max_aspect` under `min_aspect` is told as the latter being above the former.
        with pytest.raises(ValueError, match=r"_aspect`" if "aspect" in field else f"`{field}` must lie between 0"):
            CriteriaSettings(**{field: value})
