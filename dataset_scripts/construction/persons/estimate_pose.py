"""Block `pose`: estimate the 17 COCO keypoints of each person."""

from itertools import groupby
from operator import itemgetter

import pyarrow as pa

from ..blocks import Batch, Block, Outcome, rows_of
from .decode import load_in_groups
from .detect import stored_box
from .pose import Pose, PoseSettings, build_pose_estimator


KEYPOINTS = pa.list_(pa.list_(pa.float64(), 3), 17)
"""17 times (x, y, score): x and y in pixels, rounded to hundredths; score in [0, 1], rounded to four decimals."""


class EstimatePose(Block):
    """Adds the keypoints, in pixels of the upright source image."""

    name = "pose"
    reads = ("image", "image_id", "box", "confidence")
    adds = {"keypoints": KEYPOINTS, "pose_estimator": pa.string()}
    has_model = True

    def __init__(self, settings: PoseSettings):
        self.settings = settings
        self.batch_size = settings.batch_size or 16

    def prepare(self) -> None:
        self._estimator = build_pose_estimator(self.settings)

    def __call__(self, batch: Batch) -> Outcome:
        boxes = [stored_box(box, confidence) for box, confidence in rows_of(batch, ("box", "confidence"))]
        # The rows of one image are consecutive, so that each is decoded once.
        rows = [list(rows) for _, rows in groupby(rows_of(batch, ("image_id", "image")), key=itemgetter(0))]
        remaining = iter(rows)
        poses: list[Pose] = []
        for images in load_in_groups(content for (_, content), *_ in rows):
            persons = [image for image in images for _ in next(remaining)]
            poses += self._estimator(persons, boxes[len(poses) :][: len(persons)])
        keypoints = [[[round(x, 2), round(y, 2), round(score, 4)] for x, y, score in pose.keypoints] for pose in poses]
        return Outcome({"keypoints": keypoints, "pose_estimator": [self._estimator.identity] * len(keypoints)})


def stored_pose(keypoints: list[list[float]]) -> Pose:
    """Convert the keypoints of a row."""
    return Pose(tuple((x, y, score) for x, y, score in keypoints))
