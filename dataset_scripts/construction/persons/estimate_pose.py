"""Block `pose`: estimate the 17 COCO keypoints of each person."""

import pyarrow as pa

from ..blocks import Batch, Block, Outcome, rows_of
from .batches import ROWS_PER_CALL, StoredImages
from .detect import stored_box
from .pose import Pose, PoseSettings, build_pose_estimator


KEYPOINTS = pa.list_(pa.list_(pa.float64(), 3), 17)
"""17 times (x, y, score): x and y in pixels, rounded to hundredths; score in [0, 1], rounded to four decimals."""


class EstimatePose(Block):
    """Adds the keypoints, in pixels of the upright source image.

    `batch_size` and `threads` are those of `build_pose_estimator`.
    """

    name = "pose"
    reads = ("image", "box", "confidence")
    adds = {"keypoints": KEYPOINTS, "pose_estimator": pa.string()}
    has_model = True
    batch_size = ROWS_PER_CALL

    def __init__(self, settings: PoseSettings, batch_size: int | None = None, threads: int = 1):
        self.settings, self.model_batch_size, self.threads = settings, batch_size, threads

    def prepare(self) -> None:
        self._estimator = build_pose_estimator(self.settings, self.model_batch_size, self.threads)

    def __call__(self, batch: Batch) -> Outcome:
        boxes = [stored_box(box, confidence) for box, confidence in rows_of(batch, ("box", "confidence"))]
        # The rows of one image are consecutive, so that each is decoded once in a batch.
        poses = self._estimator(StoredImages(batch["image"]), boxes)
        keypoints = [[[round(x, 2), round(y, 2), round(score, 4)] for x, y, score in pose.keypoints] for pose in poses]
        return Outcome({"keypoints": keypoints, "pose_estimator": [self._estimator.identity] * len(keypoints)})


def stored_pose(keypoints: list[list[float]]) -> Pose:
    """Convert the keypoints of a row."""
    return Pose(tuple((x, y, score) for x, y, score in keypoints))
