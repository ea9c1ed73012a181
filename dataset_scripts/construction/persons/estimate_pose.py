"""Block `pose`: estimate the 17 COCO keypoints of each person."""

import pyarrow as pa

from ..blocks import Batch, Block, Outcome, rows_of
from .decode import load_in_groups
from .detect import stored_box
from .pose import Pose, PoseSettings, build_pose_estimator
from .pretrained import identity_of


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
        self._identity = identity_of(self._estimator)

    def __call__(self, batch: Batch) -> Outcome:
        contents = dict(zip(batch["image_id"], batch["image"], strict=True))  # each image once, in order
        rows: dict[str, list[int]] = {image_id: [] for image_id in contents}
        for row, image_id in enumerate(batch["image_id"]):
            rows[image_id].append(row)
        boxes = [stored_box(box, confidence) for box, confidence in rows_of(batch, ("box", "confidence"))]
        found: dict[int, Pose] = {}
        remaining = iter(contents)
        for images in load_in_groups(contents.values()):
            persons = [(image, row) for image in images for row in rows[next(remaining)]]
            poses = self._estimator([image for image, _ in persons], [boxes[row] for _, row in persons])
            found.update(zip((row for _, row in persons), poses, strict=True))
        keypoints = [
            [[round(x, 2), round(y, 2), round(score, 4)] for x, y, score in found[row].keypoints]
            for row in range(len(boxes))
        ]
        return Outcome({"keypoints": keypoints, "pose_estimator": [self._identity] * len(keypoints)})


def stored_pose(keypoints: list[list[float]]) -> Pose:
    """Convert the keypoints of a row."""
    return Pose(tuple((x, y, score) for x, y, score in keypoints))
