"""Block `pose`: the keypoints of each person, from the image that it is in."""

import io
import sys
from types import ModuleType

import pytest
from PIL import Image

from dataset_scripts.construction.persons import batches
from dataset_scripts.construction.persons.estimate_pose import EstimatePose, stored_pose
from dataset_scripts.construction.persons.pose import Pose, PoseSettings
from modeling_gadms.media.images import load_image


class TellingEstimator:
    """Keypoints that tell the box and the image's colour."""

    identity = "telling"

    def __init__(self):
        self.calls: list[list[tuple[int, float]]] = []

    def __call__(self, images, boxes):
        self.calls.append([(image.width, box.left) for image, box in zip(images, boxes, strict=True)])
        return [
            Pose(tuple((box.left + n / 3, box.top, image.getpixel((0, 0))[0] / 255) for n in range(17)))
            for image, box in zip(images, boxes, strict=True)
        ]


@pytest.fixture
def block(monkeypatch) -> EstimatePose:
    module = ModuleType("telling_estimator")
    module.TellingEstimator = TellingEstimator
    monkeypatch.setitem(sys.modules, "telling_estimator", module)
    block = EstimatePose(PoseSettings(kind="telling_estimator:TellingEstimator"))
    block.prepare()
    return block


def picture(red: int, width: int = 50) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, 40), (red, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = {"a": picture(100), "b": picture(200, 60), "c": picture(50, 70)}


def batch(*persons: tuple[str, float]) -> dict:
    return {
        "image": [PICTURES[name] for name, _ in persons],
        "image_id": [name for name, _ in persons],
        "box": [[left, 5.0, left + 20, 35.0] for _, left in persons],
        "confidence": [0.9] * len(persons),
    }


def test_each_person_has_the_keypoints_of_its_own_box_and_image(block):
    outcome = block(batch(("a", 1), ("a", 2), ("b", 3)))
    assert outcome.columns["pose_estimator"] == ["telling"] * 3
    assert [keypoints[0] for keypoints in outcome.columns["keypoints"]] == [
        [1, 5, round(100 / 255, 4)],
        [2, 5, round(100 / 255, 4)],
        [3, 5, round(200 / 255, 4)],
    ]
    assert (outcome.verdicts, outcome.origins) == (None, None)


def test_keypoints_are_stored_in_hundredths_and_scores_in_ten_thousandths(block):
    (keypoints,) = block(batch(("a", 1))).columns["keypoints"]
    assert len(keypoints) == 17
    assert keypoints[1] == [1.33, 5, 0.3922]


def test_an_image_is_decoded_once_for_all_its_persons(block, monkeypatch):
    decoded = []
    monkeypatch.setattr(batches, "load_image", lambda content: decoded.append(content) or load_image(content))
    block(batch(("a", 1), ("a", 2), ("a", 3), ("b", 1)))
    assert decoded == [PICTURES["a"], PICTURES["b"]]


def test_large_images_are_not_all_in_memory_at_once(block, monkeypatch):
    persons = [("a", 1), ("a", 2), ("b", 3), ("c", 4), ("c", 5)]
    expected = block(batch(*persons)).columns
    block._estimator._made.calls.clear()
    monkeypatch.setattr(batches, "MAX_PIXELS", 50 * 40 + 60 * 40)
    assert block(batch(*persons)).columns == expected
    assert block._estimator._made.calls == [[(50, 1), (50, 2), (60, 3)], [(70, 4), (70, 5)]]


def test_poses_stay_with_their_person_where_an_image_comes_twice(block):
    outcome = block(batch(("a", 1), ("b", 2), ("a", 3)))
    assert [keypoints[0][0] for keypoints in outcome.columns["keypoints"]] == [1, 2, 3]


def test_a_stored_pose_is_read_as_it_was_stored():
    keypoints = [[float(n), n / 2, n / 20] for n in range(17)]
    pose = stored_pose(keypoints)
    assert [list(point) for point in pose.keypoints] == keypoints
    assert sum(pose.visible(0.5)) == 7
