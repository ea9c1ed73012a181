"""Stand-ins that cost next to nothing for the models of a run, by their import paths, and frames for them to see."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from dataset_scripts.construction.persons.pose import Pose
from modeling_gadms.media.detection import PersonBox


PERSON = (24, 72)
"""Width and height of a person in a frame; a frame of another height shows nobody."""


def write_frames(folder: Path, count: int) -> None:
    """Two frames of three show nobody; of the others some show two persons, or repeat an earlier one, or are torn."""
    folder.mkdir(parents=True)
    width, height = PERSON
    rng = np.random.default_rng(0)
    earlier = None
    for number in range(count):
        persons = 2 if number % 12 == 3 else 1
        # Blocks of random colours, blurred into each other: no two persons look alike.
        blocks = rng.integers(0, 256, (9, 3 * persons, 3), dtype=np.uint8)
        size = (width * persons, height if number % 3 == 0 else 40)
        frame = Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC)
        if number % 60 == 30 and earlier:
            frame = earlier
        elif number % 60 == 0:
            earlier = frame
        buffer = io.BytesIO()
        frame.save(buffer, "JPEG", quality=90)
        content = buffer.getvalue()
        (folder / f"{number:05d}.jpg").write_bytes(content[:200] if number % 50 == 9 else content)


class SideBySide:
    """A detector: persons stand side by side, and of some it is not sure."""

    def __call__(self, images: list[Image.Image]) -> list[list[PersonBox]]:
        width, height = PERSON
        found = []
        for image in images:
            boxes = []
            for left in range(0, image.width if image.height == height else 0, width):
                is_sure = image.getpixel((left + 12, 36))[0] >= 40
                boxes.append(PersonBox(left, 0, left + width, height, 0.95 if is_sure else 0.6))
            found.append(boxes)
        return found


class Upright:
    """A pose estimator: all keypoints lie in the middle of the box, and of some persons they are hardly seen."""

    def __call__(self, images: list[Image.Image], boxes: list[PersonBox]) -> list[Pose]:
        poses = []
        for image, box in zip(images, boxes, strict=True):
            score = 0.9 if image.getpixel((int(box.left) + 12, 10))[1] >= 30 else 0.1
            point = ((box.left + box.right) / 2, (box.top + box.bottom) / 2, score)
            poses.append(Pose((point,) * 17))
        return poses
