"""Pose estimators, 17 keypoints per person: ViTPose, MoveNet for CPUs, and custom classes."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from modeling_gadms.media.detection import PersonBox

from .batches import in_batches, in_decoded_batches, noting_sizes, overlapped
from .pretrained import (
    GPU_BATCH,
    Imported,
    check_settings,
    device_and_batch_size,
    files_identity,
    load_pretrained,
    packaged_file,
)


KEYPOINT_NAMES = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear",
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
"""The COCO keypoints, in order. Left and right are the person's own."""
HEAD = (0, 1, 2, 3, 4)
HIPS = (11, 12)
DEFAULT_MODEL = "usyd-community/vitpose-base-simple"
"""The paper does not name its pose model. Chosen: the base model of ViTPose (Apache-2.0)."""
MOVENET_ENLARGEMENT = 1.25
"""Side of MoveNet's square input as a multiple of the longer side of the box. Not stated: chosen, as in ViTPose."""
_MOVENET_WEIGHTS = "models/movenet_lightning.tflite"
_COCO_EXPERT = 0
_KINDS: dict[str, set[str]] = {"vitpose": {"model", "revision"}, "movenet": {"weights"}}


@dataclass(frozen=True)
class Pose:
    """The keypoints of one person.

    Attributes:
        keypoints (`tuple` of 17 `tuple[float, float, float]`): x and y in pixels of the image, and a score in [0, 1],
            in the order of `KEYPOINT_NAMES`.

    Raises:
        ValueError: if there are not 17 keypoints, or a value is invalid.
    """

    keypoints: tuple[tuple[float, float, float], ...]

    def __post_init__(self) -> None:
        if len(self.keypoints) != len(KEYPOINT_NAMES):
            raise ValueError(f"A pose has {len(KEYPOINT_NAMES)} keypoints, not {len(self.keypoints)}")
        for name, (x, y, score) in zip(KEYPOINT_NAMES, self.keypoints, strict=True):
            if not (math.isfinite(x) and math.isfinite(y) and 0 <= score <= 1):
                raise ValueError(f"The keypoint {name} must be x, y and a score in [0, 1], not {(x, y, score)}")

    @classmethod
    def in_image(cls, points: Iterable[Iterable[float]], size: tuple[int, int]) -> "Pose":
        """Make a pose from the output of a network for an image of `size` (width, height).

        Scores are clamped to [0, 1]. Keypoints outside the image get score 0: they are guesses about parts of the body
        that are not visible.
        """
        width, height = size
        keypoints = []
        for x, y, score in points:
            if not (math.isfinite(x) and math.isfinite(y)):
                x = y = score = 0.0
            # The order of arguments matters: max() and min() return the first one if the other is NaN.
            inside = 0 <= x < width and 0 <= y < height
            keypoints.append((float(x), float(y), min(1.0, max(0.0, float(score))) if inside else 0.0))
        return cls(tuple(keypoints))

    def visible(self, threshold: float) -> list[bool]:
        """Whether the score of each keypoint reaches the threshold; a score of 0 never does."""
        return [0 < score >= threshold for _, _, score in self.keypoints]


class PoseEstimator(Protocol):
    """Returns the pose of the person in each box; `images[i]` is the image of `boxes[i]`."""

    def __call__(self, images: list[Image.Image], boxes: list[PersonBox]) -> list[Pose]: ...


@dataclass(frozen=True)
class PoseSettings:
    """Settings of the pose estimator.

    Attributes:
        kind (`str`): `"vitpose"`, `"movenet"` (small, for CPUs; its weights come with the extra `construction`), or
            the import path of a custom class, `"my_package.my_module:MyEstimator"`.
        model (`str`, *optional*): Hub name or folder of a ViTPose model; by default `DEFAULT_MODEL`.
        revision (`str`, *optional*): branch, tag or commit of the model on the Hub.
        dtype (`str`): of matrix products and convolutions of ViTPose: `"float32"`, `"bfloat16"` or `"float16"`. The
            last two are faster on a GPU and change keypoints a little.
        device (`str`): `"auto"` (a CUDA GPU if available), `"cpu"`, `"cuda:1"`, ... MoveNet always runs on the CPU.
        weights (`str`, *optional*): a `.tflite` file of a single-pose MoveNet; by default the packaged Lightning.
        options (`dict`): keyword arguments of a custom class.

    Raises:
        ValueError: names the field and its value.
    """

    kind: str = "vitpose"
    model: str | None = None
    revision: str | None = None
    dtype: str = "float32"
    device: str = "auto"
    weights: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_settings(self, _KINDS)


class VitPoseEstimator:
    """ViTPose and ViTPose+ (with the COCO expert) of transformers.

    Attributes:
        identity (`str`): the model and its commit.

    Raises:
        ImportError: if the extra `construction` is not installed.
        OSError: if the model does not exist.
        ValueError: if it lacks weights or does not have the COCO keypoints.
    """

    def __init__(self, settings: PoseSettings, batch_size: int | None = None, threads: int = 1):
        try:
            import scipy  # noqa: F401  the image processor needs it, but would fail only at the first image
        except ImportError as error:
            raise ImportError('Poses by ViTPose need SciPy: pip install "gadms[construction]"') from error
        from transformers import VitPoseForPoseEstimation

        device, self._batch_size = device_and_batch_size(settings.device, batch_size)
        self._threads = threads
        self._network, self.identity = load_pretrained(
            VitPoseForPoseEstimation, settings.model or DEFAULT_MODEL, settings.revision, device, settings.dtype
        )
        config = self._network.model.config
        if config.num_labels != len(KEYPOINT_NAMES):
            raise ValueError(
                f"{self.identity} has {config.num_labels} keypoints: "
                f"choose a model with the {len(KEYPOINT_NAMES)} of COCO"
            )
        self._has_experts = config.backbone_config.num_experts > 1

    def __call__(self, images: Sequence[Image.Image], boxes: Sequence[PersonBox]) -> list[Pose]:
        batches = zip(in_batches(images, self._batch_size), in_batches(boxes, self._batch_size), strict=True)
        return overlapped(batches, self._prepare, self._run, self._poses, self._threads)

    def _prepare(self, batch: tuple[Sequence[Image.Image], Sequence[PersonBox]]) -> "_Persons":
        images, boxes = batch
        places = [[[box.left, box.top, box.width, box.height]] for box in boxes]  # one person per image
        sizes: list[tuple[int, int]] = []
        return _Persons(self._network.prepare(noting_sizes(images, sizes), boxes=places), places, sizes)

    def _run(self, persons: "_Persons") -> "_Persons":
        import torch

        experts: dict[str, Any] = {}
        if self._has_experts:
            experts["dataset_index"] = torch.full((len(persons.boxes),), _COCO_EXPERT, device=self._network.device)
        return replace(persons, tensors=self._network.run(persons.tensors, **experts))

    def _poses(self, persons: "_Persons") -> list[Pose]:
        import torch

        outputs = persons.tensors
        with torch.inference_mode():
            outputs.heatmaps = outputs.heatmaps.float()
            found = self._network.processor.post_process_pose_estimation(outputs, boxes=persons.boxes)
        poses = []
        for size, (person,) in zip(persons.sizes, found, strict=True):
            points = torch.cat([person["keypoints"], person["scores"][:, None]], dim=1)  # (17, 3)
            poses.append(Pose.in_image(points.tolist(), size))
        return poses


@dataclass(frozen=True)
class _Persons:
    """Persons of a batch on their way through ViTPose: first its inputs, then its outputs."""

    tensors: Any
    boxes: list[list[list[float]]]
    sizes: list[tuple[int, int]]


class MoveNetEstimator:
    """A single-pose MoveNet (Lightning or Thunder) through LiteRT, on one CPU core.

    The input is a square around the box, black outside the image.

    Attributes:
        identity (`str`): name and digest of the file.

    Raises:
        ImportError: if the extra `construction` is not installed.
        FileNotFoundError: if a given file does not exist.
        ValueError: if the file is not a single-pose MoveNet.
    """

    def __init__(self, settings: PoseSettings):
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise ImportError('Poses by MoveNet need LiteRT: pip install "gadms[construction]"') from error
        weights = Path(settings.weights or packaged_file(_MOVENET_WEIGHTS))
        if not weights.is_file():
            raise FileNotFoundError(f"The weights file {weights} does not exist")
        # More threads change the order of summation, and so the last bits.
        self._network = Interpreter(model_path=str(weights), num_threads=1)
        self._network.allocate_tensors()
        (self._input, *_), (self._output, *_) = self._network.get_input_details(), self._network.get_output_details()
        shapes = tuple(self._input["shape"]), tuple(self._output["shape"])
        self._side = int(shapes[0][1])
        if shapes != ((1, self._side, self._side, 3), (1, 1, len(KEYPOINT_NAMES), 3)):
            raise ValueError(f"{weights} is not a single-pose MoveNet: its input and output have the shapes {shapes}")
        self.identity = files_identity(weights.stem, [weights])

    def __call__(self, images: Iterable[Image.Image], boxes: Iterable[PersonBox]) -> list[Pose]:
        return [self._estimate(image, box) for image, box in zip(images, boxes, strict=True)]

    def _estimate(self, image: Image.Image, box: PersonBox) -> Pose:
        side = max(1, round(MOVENET_ENLARGEMENT * max(box.width, box.height)))
        left, top = round((box.left + box.right - side) / 2), round((box.top + box.bottom - side) / 2)
        window = image.convert("RGB").crop((left, top, left + side, top + side))  # black outside of the image
        pixels = np.asarray(window.resize((self._side, self._side), Image.Resampling.BILINEAR))
        found = self._run(pixels[np.newaxis].astype(self._input["dtype"]))
        points = [(left + x * side, top + y * side, score) for y, x, score in found.tolist()]
        return Pose.in_image(points, image.size)

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        self._network.set_tensor(self._input["index"], pixels)
        self._network.invoke()
        return self._network.get_tensor(self._output["index"])[0, 0]  # (17, 3): y, x in [0, 1] of the square, score


class ImportedPoseEstimator(Imported):
    """A custom estimator; it must return one pose per box."""

    def __init__(self, settings: PoseSettings, batch_size: int | None = None, threads: int = 1):
        super().__init__(settings.kind, settings.options)
        self._batch_size, self._threads = batch_size or GPU_BATCH, threads

    def __call__(self, images: Sequence[Image.Image], boxes: Sequence[PersonBox]) -> list[Pose]:
        batches = ((images[part], boxes[part]) for part in in_decoded_batches(images, self._batch_size))
        return overlapped(batches, _decoded, self._run, self._poses, self._threads)

    def _run(self, batch: tuple[list[Image.Image], list[PersonBox]]) -> list[tuple[Pose, tuple[int, int]]]:
        images, boxes = batch
        found = self._made(images, boxes)
        if len(found) != len(boxes):
            raise ValueError(f"{self._path} returned {len(found)} poses for {len(boxes)} boxes")
        return [(pose, image.size) for image, pose in zip(images, found, strict=True)]

    def _poses(self, found: list[tuple[Pose, tuple[int, int]]]) -> list[Pose]:
        for pose, _ in found:
            if not isinstance(pose, Pose):
                raise TypeError(
                    f"{self._path} must return Pose of dataset_scripts.construction.persons.pose, not {pose!r}"
                )
        # A custom estimator may not have set the score of keypoints outside the image to 0.
        return [Pose.in_image(pose.keypoints, size) for pose, size in found]


def _decoded(batch: tuple[Iterable[Image.Image], Sequence[PersonBox]]) -> tuple[list[Image.Image], list[PersonBox]]:
    images, boxes = batch
    return list(images), list(boxes)


def build_pose_estimator(
    settings: PoseSettings, batch_size: int | None = None, threads: int = 1
) -> VitPoseEstimator | MoveNetEstimator | ImportedPoseEstimator:
    """Load the estimator that the settings name: a `PoseEstimator` whose `identity` is recorded with its poses.

    Args:
        settings (`PoseSettings`): which estimator.
        batch_size (`int`, *optional*): persons per forward pass; by default 1 for a model on a CPU, else 16. MoveNet
            ignores it.
        threads (`int`, *optional*, defaults to 1): threads that decode and resize images beside the model.

    Raises:
        ImportError, OSError, TypeError, ValueError: see the classes of this file.
    """
    if settings.kind == "movenet":
        return MoveNetEstimator(settings)
    estimator: type[Any] = VitPoseEstimator if settings.kind == "vitpose" else ImportedPoseEstimator
    return estimator(settings, batch_size, threads)
