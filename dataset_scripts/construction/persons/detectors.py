"""Person detectors: models of transformers, SSD-MobileNetV2, Ultralytics on request, and custom classes."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from modeling_gadms.media.detection import (
    SSD_GRAPH,
    SSD_WEIGHTS,
    PersonBox,
    PersonBoxFilter,
    SsdMobileNetDetector,
    intersection_area,
)

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


DEFAULT_MODEL = "PekingU/rtdetr_v2_r50vd"
"""The paper uses YOLO11, of a size it does not state. RT-DETRv2 with a ResNet-50 (Apache-2.0) has the same 53.4 AP on
COCO as YOLO11l. `PekingU/rtdetr_v2_r18vd` takes half the time for 48.1 AP: the better choice without a GPU. Captioning
costs far more than detection, so accuracy is the default."""
DUPLICATE_OVERLAP = 0.7
"""Boxes with at least this intersection over union are one person. Not stated: chosen, as in Ultralytics.
`merge_boxes` is not used, because it also merges a box inside another, which may be a child in somebody's arms."""
MIN_BOX_SIDE = 1.0
"""Minimum side of a box in pixels."""
_PERSON = "person"
_KINDS: dict[str, set[str]] = {
    "transformers": {"model", "revision"},
    "ssd_mobilenet": {"weights", "graph"},
    "ultralytics": {"model"},
    "whole_image": set(),
}


@dataclass(frozen=True)
class DetectorSettings:
    """Settings of the person detector.

    Attributes:
        kind (`str`): `"transformers"` (any object detection model with a person label), `"ssd_mobilenet"` (small, for
            CPUs; its weights come with the extra `construction`), `"ultralytics"` (AGPL-3.0, never installed by this
            project), `"whole_image"` (each image is one person: for folders of crops), or the import path of a custom
            class, `"my_package.my_module:MyDetector"`.
        model (`str`, *optional*): Hub name or folder; by default `DEFAULT_MODEL`. Required for Ultralytics, such as
            `"yolo11l.pt"`.
        revision (`str`, *optional*): branch, tag or commit of the model on the Hub.
        min_confidence (`float`): boxes below it are discarded and not recorded as rejected. Not stated: chosen. The
            paper's threshold of 0.85 is applied by the block `box`.
        dtype (`str`): of matrix products and convolutions of a model of transformers: `"float32"`, `"bfloat16"` or
            `"float16"`. The last two are faster on a GPU and change boxes a little.
        device (`str`): `"auto"` (a CUDA GPU if available), `"cpu"`, `"cuda:1"`, ...
        weights, graph (`str`, *optional*): files of SSD-MobileNetV2; by default those of the extra `construction`.
        options (`dict`): keyword arguments of a custom class.

    Raises:
        ValueError: names the field and its value.
    """

    kind: str = "transformers"
    model: str | None = None
    revision: str | None = None
    min_confidence: float = 0.5
    dtype: str = "float32"
    device: str = "auto"
    weights: str | None = None
    graph: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_settings(self, _KINDS)
        if not isinstance(self.min_confidence, int | float) or not 0 <= self.min_confidence <= 1:
            raise ValueError(f"DetectorSettings.min_confidence must lie between 0 and 1, not {self.min_confidence!r}")
        if self.kind == "ultralytics" and not self.model:
            raise ValueError("DetectorSettings.model must name the weights for Ultralytics, such as yolo11l.pt")


class TransformersDetector:
    """An object detection model of transformers, such as RT-DETR.

    DETR models have no non-maximum suppression: of nearly equal boxes (`DUPLICATE_OVERLAP`) the most confident stays.

    Attributes:
        identity (`str`): the model and its commit.

    Raises:
        OSError: if the model does not exist.
        ValueError: if it lacks weights or has no person label.
    """

    def __init__(self, settings: DetectorSettings, batch_size: int | None = None, threads: int = 1):
        from transformers import AutoModelForObjectDetection

        device, self._batch_size = device_and_batch_size(settings.device, batch_size)
        self._threads = threads
        self._min_confidence = settings.min_confidence
        self._network, self.identity = load_pretrained(
            AutoModelForObjectDetection, settings.model or DEFAULT_MODEL, settings.revision, device, settings.dtype
        )
        self._person_labels = _person_labels(self._network.model.config.id2label, self.identity)

    def __call__(self, images: Sequence[Image.Image]) -> list[list[PersonBox]]:
        def prepare(batch: Sequence[Image.Image]) -> tuple[Any, list[tuple[int, int]]]:
            sizes: list[tuple[int, int]] = []
            return self._network.prepare(noting_sizes(batch, sizes)), sizes

        def run(prepared: tuple[Any, list[tuple[int, int]]]) -> tuple[Any, list[tuple[int, int]]]:
            inputs, sizes = prepared
            return self._network.run(inputs), sizes

        batches = in_batches(images, self._batch_size)
        return overlapped(batches, prepare, run, self._boxes, self._threads)

    def _boxes(self, outputs: tuple[Any, list[tuple[int, int]]]) -> list[list[PersonBox]]:
        import torch

        raw, sizes = outputs
        with torch.inference_mode():
            raw.logits, raw.pred_boxes = raw.logits.float(), raw.pred_boxes.float()
            # Processors drop scores equal to the threshold, but `min_confidence` is inclusive: `_tidy` applies it.
            found = self._network.processor.post_process_object_detection(
                raw, threshold=0.0, target_sizes=[(height, width) for width, height in sizes]
            )
        results = []
        for size, each in zip(sizes, found, strict=True):
            boxes = _boxes_of(self._person_labels, each["boxes"], each["scores"], each["labels"])
            results.append(_without_duplicates(_tidy(boxes, size, self._min_confidence)))
        return results


class SsdDetector:
    """SSD-MobileNetV2 of `modeling_gadms.media.detection`, with boxes of any shape: the block `box` filters shapes.

    Attributes:
        identity (`str`): name of the network and digest of its weights.

    Raises:
        ImportError: if the extra `construction` is not installed.
        FileNotFoundError: if a given file does not exist.
    """

    def __init__(self, settings: DetectorSettings):
        weights = Path(settings.weights or packaged_file(SSD_WEIGHTS))
        graph = Path(settings.graph or packaged_file(SSD_GRAPH))
        any_shape = PersonBoxFilter(settings.min_confidence, min_height=0, min_aspect=0, max_aspect=math.inf)
        self._detector = SsdMobileNetDetector(weights, graph, any_shape)
        self._min_confidence = settings.min_confidence
        self.identity = files_identity(graph.stem, [weights])

    def __call__(self, images: Iterable[Image.Image]) -> list[list[PersonBox]]:
        # One at a time, in one thread: so does the network.
        return [_tidy(self._detector([image])[0], image.size, self._min_confidence) for image in images]


class UltralyticsDetector:
    """A detector of Ultralytics, such as the YOLO11 of the paper.

    Ultralytics is licensed under the AGPL-3.0, which requires programs built on it, even behind a network service, to
    publish their source under that licence. So it is not a dependency of this project and is used only on request.

    Attributes:
        identity (`str`): `ultralytics/` and the name of the weights, with their digest if they are a file.

    Raises:
        ImportError: if Ultralytics is not installed.
        ValueError: if the model has no person label or is not a detector.
    """

    def __init__(self, settings: DetectorSettings, batch_size: int | None = None, threads: int = 1):
        try:
            from ultralytics import YOLO
        except ImportError as error:
            raise ImportError(
                "The kind ultralytics needs the library ultralytics, which is licensed under the AGPL-3.0. If you "
                "can accept that: pip install ultralytics. If not, use the kind transformers (Apache-2.0)"
            ) from error
        self._device, self._batch_size = device_and_batch_size(settings.device, batch_size)
        self._threads = threads
        self._min_confidence = settings.min_confidence
        self._model = YOLO(settings.model)
        # The path of weights that Ultralytics downloaded by name.
        weights = Path(getattr(self._model, "ckpt_path", None) or str(settings.model))
        name = f"ultralytics/{weights.name}"
        self.identity = files_identity(name, [weights]) if weights.is_file() else name
        self._person_labels = _person_labels(self._model.names, self.identity)

    def __call__(self, images: Sequence[Image.Image]) -> list[list[PersonBox]]:
        batches = (images[part] for part in in_decoded_batches(images, self._batch_size))
        return overlapped(batches, _decoded, self._predict, self._boxes, self._threads)

    def _predict(self, images: list[Image.Image]) -> list[tuple[Any, tuple[int, int]]]:
        # With rect=True the padding of an image would depend on the other images of the batch.
        found = self._model.predict(images, conf=self._min_confidence, device=self._device, rect=False, verbose=False)
        return [(result, image.size) for image, result in zip(images, found, strict=True)]

    def _boxes(self, found: list[tuple[Any, tuple[int, int]]]) -> list[list[PersonBox]]:
        results = []
        for result, size in found:
            if result.boxes is None:
                raise ValueError(f"{self.identity} returns no boxes: it is not a detection model")
            boxes = _boxes_of(self._person_labels, result.boxes.xyxy, result.boxes.conf, result.boxes.cls)
            results.append(_tidy(boxes, size, self._min_confidence))
        return results


class WholeImageDetector:
    """Each image is one person, for folders of existing crops."""

    identity = "whole_image"

    def __call__(self, images: Iterable[Image.Image]) -> list[list[PersonBox]]:
        return [[PersonBox(0.0, 0.0, float(image.width), float(image.height), 1.0)] for image in images]


class ImportedDetector(Imported):
    """A custom detector; its boxes are checked, clipped to the image and sorted by confidence."""

    def __init__(self, settings: DetectorSettings, batch_size: int | None = None, threads: int = 1):
        super().__init__(settings.kind, settings.options)
        self._batch_size, self._threads = batch_size or GPU_BATCH, threads
        self._min_confidence = settings.min_confidence

    def __call__(self, images: Sequence[Image.Image]) -> list[list[PersonBox]]:
        batches = (images[part] for part in in_decoded_batches(images, self._batch_size))
        return overlapped(batches, _decoded, self._run, self._boxes, self._threads)

    def _run(self, images: list[Image.Image]) -> list[tuple[list[PersonBox], tuple[int, int]]]:
        found = self._made(images)
        if len(found) != len(images):
            raise ValueError(f"{self._path} returned {len(found)} lists of boxes for {len(images)} images")
        return [(boxes, image.size) for image, boxes in zip(images, found, strict=True)]

    def _boxes(self, found: list[tuple[list[PersonBox], tuple[int, int]]]) -> list[list[PersonBox]]:
        for boxes, _ in found:
            for box in boxes:
                if not isinstance(box, PersonBox):
                    raise TypeError(
                        f"{self._path} must return PersonBox of modeling_gadms.media.detection, not {box!r}"
                    )
        return [_tidy(boxes, size, self._min_confidence) for boxes, size in found]


def build_detector(
    settings: DetectorSettings, batch_size: int | None = None, threads: int = 1
) -> TransformersDetector | SsdDetector | UltralyticsDetector | WholeImageDetector | ImportedDetector:
    """Load the detector that the settings name.

    Args:
        settings (`DetectorSettings`): which detector.
        batch_size (`int`, *optional*): images per forward pass; by default 1 for a model on a CPU, else 16. Detectors
            that process images one at a time ignore it.
        threads (`int`, *optional*, defaults to 1): threads that decode and resize images beside the model.

    Returns:
        A `PersonDetector`: for each image the boxes of its persons, clipped to the image, most confident first. Its
        `identity` is recorded with them.

    Raises:
        ImportError, OSError, TypeError, ValueError: see the classes of this file.
    """
    if settings.kind == "whole_image":
        return WholeImageDetector()
    if settings.kind == "ssd_mobilenet":
        return SsdDetector(settings)
    built_in: dict[str, type[Any]] = {"transformers": TransformersDetector, "ultralytics": UltralyticsDetector}
    return built_in.get(settings.kind, ImportedDetector)(settings, batch_size, threads)


def _decoded(images: Iterable[Image.Image]) -> list[Image.Image]:
    return [image.convert("RGB") for image in images]


def _person_labels(names: dict[int, str], model: str) -> set[int]:
    labels = {int(label) for label, name in names.items() if name.casefold() == _PERSON}
    if not labels:
        known = sorted(names.values())
        shown = ", ".join(known[:10]) + (f" and {len(known) - 10} more" if len(known) > 10 else "")
        raise ValueError(f"{model} has no label {_PERSON!r}, only: {shown}. Choose a model that detects persons")
    return labels


def _boxes_of(wanted: set[int], corners: Any, scores: Any, labels: Any) -> list[PersonBox]:
    """The boxes with a wanted label, from tensors of shapes (boxes, 4), (boxes,) and (boxes,)."""
    rows = zip(corners.tolist(), scores.tolist(), labels.tolist(), strict=True)
    return [
        PersonBox(left, top, right, bottom, score)
        for (left, top, right, bottom), score, label in rows
        if int(label) in wanted
    ]


def _tidy(boxes: Iterable[PersonBox], size: tuple[int, int], min_confidence: float) -> list[PersonBox]:
    """Clip boxes to the image, drop small and uncertain ones, and sort by confidence, highest first."""
    width, height = size
    clipped = [
        PersonBox(max(box.left, 0), max(box.top, 0), min(box.right, width), min(box.bottom, height), box.confidence)
        for box in boxes
    ]
    # Written as `>=`, so that a NaN fails the comparison and drops the box.
    kept = [
        box
        for box in clipped
        if box.confidence >= min_confidence and box.width >= MIN_BOX_SIDE and box.height >= MIN_BOX_SIDE
    ]
    return sorted(kept, key=lambda box: -box.confidence)


def _without_duplicates(boxes: Iterable[PersonBox]) -> list[PersonBox]:
    """One box per person, from boxes sorted by confidence."""
    kept: list[PersonBox] = []
    for box in boxes:
        if all(_intersection_over_union(box, other) < DUPLICATE_OVERLAP for other in kept):
            kept.append(box)
    return kept


def _intersection_over_union(a: PersonBox, b: PersonBox) -> float:
    common = intersection_area(a, b)
    return common / (a.width * a.height + b.width * b.height - common)
