"""Blocks `box` and `keypoints`: the filters of the GA-DMS paper (arXiv 2509.09118) for boxes and poses."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Any

from ..blocks import Filter, Verdict
from .estimate_pose import stored_pose
from .pose import HEAD, HIPS, KEYPOINT_NAMES


class BoxProblem(StrEnum):
    """Why a box is rejected, in the order of the checks."""

    LOW_CONFIDENCE = "low confidence"
    TOO_SMALL = "too small"
    TOO_WIDE = "too wide"
    TOO_TALL = "too tall"


class PoseProblem(StrEnum):
    """Why a pose is rejected, in the order of the checks."""

    FEW_KEYPOINTS = "too few keypoints visible"
    NO_HIP = "hips not visible"
    NO_HEAD = "head not visible"


@dataclass(frozen=True)
class CriteriaSettings:
    """The paper's thresholds.

    Args:
        min_confidence (`float`, *optional*, defaults to 0.85): exclusive minimum confidence of a box.
        min_shorter_side (`float`, *optional*, defaults to 90): minimum of the shorter side of a box, in pixels.
        min_aspect, max_aspect (`float`, *optional*, default to 2 and 4): inclusive bounds of height over width.
        keypoint_score (`float`, *optional*, defaults to 0.3): minimum score of a visible keypoint; a score of 0 is
            never visible. Not stated: chosen, as usual for COCO heat maps.
        min_keypoints (`int`, *optional*, defaults to 8): minimum number of visible keypoints, of 17.
        min_hips (`int`, *optional*, defaults to 1): minimum number of visible hips, of 2.
        min_head (`int`, *optional*, defaults to 2): minimum number of visible keypoints among nose, eyes and ears.

    Raises:
        ValueError: for a value out of its range.
    """

    min_confidence: float = 0.85
    min_shorter_side: float = 90
    min_aspect: float = 2
    max_aspect: float = 4
    keypoint_score: float = 0.3
    min_keypoints: int = 8
    min_hips: int = 1
    min_head: int = 2

    def __post_init__(self) -> None:
        limits = {
            "min_confidence": 1, "min_shorter_side": inf, "min_aspect": self.max_aspect, "max_aspect": inf,
            "keypoint_score": 1, "min_keypoints": len(KEYPOINT_NAMES), "min_hips": len(HIPS), "min_head": len(HEAD),
        }  # fmt: skip
        for name, most in limits.items():
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"`{name}` must lie between 0 and {most}, not {getattr(self, name)}")


class BoxCriteria(Filter):
    """Keeps boxes that are confident, large and upright."""

    name = "box"
    reads = ("box", "confidence")

    def __init__(self, settings: CriteriaSettings):
        self.settings = settings

    def judge(self, row: Mapping[str, Any]) -> Verdict:
        settings = self.settings
        left, top, right, bottom = row["box"]
        # Rounded because of floating point: 128.2 - 38.2 is less than 90.
        width, height = round(right - left, 2), round(bottom - top, 2)
        if not row["confidence"] > settings.min_confidence:
            return False, BoxProblem.LOW_CONFIDENCE, f"{row['confidence']:.4f}"
        if min(width, height) < settings.min_shorter_side:
            return False, BoxProblem.TOO_SMALL, f"{width:g}x{height:g}"
        # Rounded for the same reason: 1.1 * 90 is more than 99.
        if height < round(settings.min_aspect * width, 6):
            return False, BoxProblem.TOO_WIDE, f"{width:g}x{height:g}"
        if height > round(settings.max_aspect * width, 6):
            return False, BoxProblem.TOO_TALL, f"{width:g}x{height:g}"
        return True


class PoseCriteria(Filter):
    """Keeps persons with enough visible keypoints, hips and head keypoints."""

    name = "keypoints"
    reads = ("keypoints",)

    def __init__(self, settings: CriteriaSettings):
        self.settings = settings

    def judge(self, row: Mapping[str, Any]) -> Verdict:
        settings = self.settings
        visible = stored_pose(row["keypoints"]).visible(settings.keypoint_score)
        hips, head = (sum(visible[index] for index in group) for group in (HIPS, HEAD))
        if sum(visible) < settings.min_keypoints:
            return False, PoseProblem.FEW_KEYPOINTS, f"{sum(visible)} of {len(KEYPOINT_NAMES)}"
        if hips < settings.min_hips:
            return False, PoseProblem.NO_HIP, f"{hips} of {len(HIPS)}"
        if head < settings.min_head:
            return False, PoseProblem.NO_HEAD, f"{head} of {len(HEAD)}"
        return True
