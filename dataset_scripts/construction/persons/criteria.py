"""Blocks `box` and `keypoints`: the criteria of the GA-DMS paper (arXiv 2509.09118) for a person worth
keeping."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Any

from ..blocks import Filter, Verdict
from .estimate_pose import stored_pose
from .pose import HEAD, HIPS, KEYPOINT_NAMES


class BoxProblem(StrEnum):
    """Why a box is dropped, in the order in which it is judged."""

    LOW_CONFIDENCE = "low confidence"
    TOO_SMALL = "too small"
    TOO_WIDE = "too wide"
    TOO_TALL = "too tall"


class PoseProblem(StrEnum):
    """Why a pose is dropped, in the order in which it is judged."""

    FEW_KEYPOINTS = "too few keypoints visible"
    NO_HIP = "hips not visible"
    NO_HEAD = "head not visible"


@dataclass(frozen=True)
class CriteriaSettings:
    """The paper's thresholds.

    Args:
        min_confidence (`float`, *optional*, defaults to 0.85): a box must be surer than this.
        min_shorter_side (`float`, *optional*, defaults to 90): least pixels of a box's shorter side.
        min_aspect, max_aspect (`float`, *optional*, default to 2 and 4): bounds, both allowed, of height over width.
        keypoint_score (`float`, *optional*, defaults to 0.3): a keypoint counts as visible from this score on; one
            with a score of 0 never does. Not stated: chosen, as is usual for heat maps of COCO.
        min_keypoints (`int`, *optional*, defaults to 8): least visible keypoints of 17.
        min_hips (`int`, *optional*, defaults to 1): least visible hips of 2.
        min_head (`int`, *optional*, defaults to 2): least visible keypoints of nose, eyes and ears.

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
    """Keeps a box that is sure enough, large enough, and upright."""

    name = "box"
    reads = ("box", "confidence")

    def __init__(self, settings: CriteriaSettings):
        self.settings = settings

    def judge(self, row: Mapping[str, Any]) -> Verdict:
        settings = self.settings
        left, top, right, bottom = row["box"]
        # Differences of hundredths are not exact in binary: 128.2 - 38.2 is less than 90.
        width, height = round(right - left, 2), round(bottom - top, 2)
        if not row["confidence"] > settings.min_confidence:
            return False, BoxProblem.LOW_CONFIDENCE, f"{row['confidence']:.4f}"
        if min(width, height) < settings.min_shorter_side:
            return False, BoxProblem.TOO_SMALL, f"{width:g}x{height:g}"
        # Nor are their products: 1.1 * 90 is more than 99.
        if height < round(settings.min_aspect * width, 6):
            return False, BoxProblem.TOO_WIDE, f"{width:g}x{height:g}"
        if height > round(settings.max_aspect * width, 6):
            return False, BoxProblem.TOO_TALL, f"{width:g}x{height:g}"
        return True


class PoseCriteria(Filter):
    """Keeps a person of whom enough is seen: body, hips and head."""

    name = "keypoints"
    reads = ("keypoints",)

    def __init__(self, settings: CriteriaSettings):
        self.settings = settings

    def judge(self, row: Mapping[str, Any]) -> Verdict:
        settings = self.settings
        pose = stored_pose(row["keypoints"])
        visible = pose.visible_count(settings.keypoint_score)
        hips, head = pose.visible_hips(settings.keypoint_score), pose.visible_head(settings.keypoint_score)
        if visible < settings.min_keypoints:
            return False, PoseProblem.FEW_KEYPOINTS, f"{visible} of {len(KEYPOINT_NAMES)}"
        if hips < settings.min_hips:
            return False, PoseProblem.NO_HIP, f"{hips} of {len(HIPS)}"
        if head < settings.min_head:
            return False, PoseProblem.NO_HEAD, f"{head} of {len(HEAD)}"
        return True
