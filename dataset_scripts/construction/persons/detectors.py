"""Person detectors: of transformers, of this project, of Ultralytics where the user names it, and of the user."""

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
    PersonDetector,
    SsdMobileNetDetector,
    intersection_area,
)

from .pretrained import (
    Imported,
    check_settings,
    choose_batch_size,
    choose_device,
    existing_file,
    files_identity,
    identity_of,
    in_batches,
    load_pretrained,
    packaged_file,
)


DEFAULT_MODEL = "PekingU/rtdetr_v2_r50vd"
"""The paper detects with YOLO11, of a size it does not state. RT-DETRv2 with a ResNet-50 has the 53.4 AP of YOLO11l on
COCO, under Apache-2.0; `PekingU/rtdetr_v2_r18vd` computes half as long for its 48.1 AP, the better choice where there
is no GPU. Captioning costs far more than detection, so the better boxes are the default."""
DUPLICATE_OVERLAP = 0.7
"""Two boxes whose intersection covers this share of their union are one person. Not stated: chosen, as Ultralytics has
it. Not `merge_boxes` of indexing, which also takes a box inside another for a part of it: among tiles it is, but in a
web photo it is a child in somebody's arms, and one of the two would be lost without a trace."""
MIN_BOX_SIDE = 1.0
"""Sides of a box, in pixels, below which it holds no picture at all."""
_PERSON = "person"
_KINDS: dict[str, set[str]] = {
    "transformers": {"model", "revision"},
    "ssd_mobilenet": {"weights", "graph"},
    "ultralytics": {"model"},
    "whole_image": set(),
}


@dataclass(frozen=True)
class DetectorSettings:
    """Which detector finds the persons.

    Attributes:
        kind (`str`): `"transformers"` (any model for object detection that knows persons), `"ssd_mobilenet"` (small,
            for CPUs; its weights come with the package), `"ultralytics"` (AGPL-3.0, never installed by this project),
            `"whole_image"` (each image is one person: for folders of crops), or the import path of a class of yours,
            `"my_package.my_module:MyDetector"`.
        model (`str`, *optional*): Hub name or folder; by default `DEFAULT_MODEL`. For Ultralytics such as
            `"yolo11l.pt"`, and required.
        revision (`str`, *optional*): branch, tag or commit of the model on the Hub.
        min_confidence (`float`): boxes below it are not even recorded as rejected. Not stated: chosen; the filter that
            the paper does state, above 0.85, is a block of its own.
        batch_size (`int`, *optional*): images the network sees at once; by default 1 on a CPU and 16 on a GPU. Of no
            effect on kinds that take images one by one.
        device (`str`): `"auto"` (a CUDA GPU if there is one), `"cpu"`, `"cuda:1"`, ...
        weights, graph (`str`, *optional*): files of SSD-MobileNetV2; by default those of the package.
        options (`dict`): keyword arguments for a class of yours.

    Raises:
        ValueError: names the field and its value.
    """

    kind: str = "transformers"
    model: str | None = None
    revision: str | None = None
    min_confidence: float = 0.5
    batch_size: int | None = None
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
    """A model for object detection of transformers, such as RT-DETR.

    Models of the DETR family have no suppression of duplicates, and hardly need it: of boxes that all but coincide
    (`DUPLICATE_OVERLAP`) the most confident is kept.

    Args:
        settings (`DetectorSettings`)

    Attributes:
        identity (`str`): the model and its commit.

    Raises:
        OSError: if there is no such model.
        ValueError: if it lacks weights or knows no persons.
    """

    def __init__(self, settings: DetectorSettings):
        from transformers import AutoModelForObjectDetection

        self._device = choose_device(settings.device)
        self._batch_size = choose_batch_size(settings.batch_size, self._device)
        self._min_confidence = settings.min_confidence
        self._model, self._processor, self.identity = load_pretrained(
            AutoModelForObjectDetection, settings.model or DEFAULT_MODEL, settings.revision, self._device
        )
        self._person_labels = _person_labels(self._model.config.id2label, self.identity)

    def __call__(self, images: list[Image.Image]) -> list[list[PersonBox]]:
        return [boxes for batch in in_batches(images, self._batch_size) for boxes in self._detect(batch)]

    def _detect(self, images: Sequence[Image.Image]) -> list[list[PersonBox]]:
        import torch

        inputs = self._processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
        with torch.inference_mode():
            outputs = self._model(**inputs.to(self._device))
        sizes = [(image.height, image.width) for image in images]
        # The processors compare strictly with their threshold; the setting says what is kept, itself included.
        found = self._processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)
        results = []
        for image, raw in zip(images, found, strict=True):
            boxes = _boxes_of(self._person_labels, raw["boxes"], raw["scores"], raw["labels"])
            results.append(_without_duplicates(_tidy(boxes, image.size, self._min_confidence)))
        return results


class SsdDetector:
    """SSD-MobileNetV2 of `modeling_gadms.media.detection`, keeping boxes of every shape: a later block judges shapes.

    Args:
        settings (`DetectorSettings`)

    Attributes:
        identity (`str`): the name of the network and the first digits of its weights' sha256.

    Raises:
        ImportError: without the extra `construction`.
        FileNotFoundError: if a given file does not exist.
    """

    def __init__(self, settings: DetectorSettings):
        weights = existing_file(settings.weights or packaged_file(SSD_WEIGHTS))
        graph = existing_file(settings.graph or packaged_file(SSD_GRAPH))
        any_shape = PersonBoxFilter(settings.min_confidence, min_height=0, min_aspect=0, max_aspect=math.inf)
        self._detector = SsdMobileNetDetector(weights, graph, any_shape)
        self._min_confidence = settings.min_confidence
        self.identity = files_identity(graph.stem, [weights])

    def __call__(self, images: list[Image.Image]) -> list[list[PersonBox]]:
        found = self._detector(images)
        return [_tidy(boxes, image.size, self._min_confidence) for image, boxes in zip(images, found, strict=True)]


class UltralyticsDetector:
    """A detector of Ultralytics, such as the YOLO11 of the paper.

    Ultralytics is licensed under the AGPL-3.0, which asks those who build on it, also behind a network service, to
    publish their source under the same licence. So it is no dependency of this project, and used only where named.

    Args:
        settings (`DetectorSettings`)

    Attributes:
        identity (`str`): `ultralytics/` and the name of the weights, with the first digits of their sha256 where they
            are a file.

    Raises:
        ImportError: where Ultralytics is not installed.
        ValueError: if the model knows no persons or is no detector.
    """

    def __init__(self, settings: DetectorSettings):
        try:
            from ultralytics import YOLO
        except ImportError as error:
            raise ImportError(
                "The kind ultralytics needs the library of that name, which is licensed under the AGPL-3.0. If you "
                "can accept that: pip install ultralytics. If not, take the kind transformers (Apache-2.0)"
            ) from error
        self._device = choose_device(settings.device)
        self._batch_size = choose_batch_size(settings.batch_size, self._device)
        self._min_confidence = settings.min_confidence
        self._model = YOLO(settings.model)
        # Where Ultralytics has put what it downloaded by name.
        weights = Path(getattr(self._model, "ckpt_path", None) or str(settings.model))
        name = f"ultralytics/{weights.name}"
        self.identity = files_identity(name, [weights]) if weights.is_file() else name
        self._person_labels = _person_labels(self._model.names, self.identity)

    def __call__(self, images: list[Image.Image]) -> list[list[PersonBox]]:
        return [boxes for batch in in_batches(images, self._batch_size) for boxes in self._detect(batch)]

    def _detect(self, images: Sequence[Image.Image]) -> list[list[PersonBox]]:
        # Without rect=False an image is padded differently beside others of its own size than beside any other.
        found = self._model.predict(
            [image.convert("RGB") for image in images],
            conf=self._min_confidence,
            device=self._device,
            rect=False,
            verbose=False,
        )
        results = []
        for image, result in zip(images, found, strict=True):
            if result.boxes is None:
                raise ValueError(f"{self.identity} gives no boxes: it is a model for another task than detection")
            boxes = _boxes_of(self._person_labels, result.boxes.xyxy, result.boxes.conf, result.boxes.cls)
            results.append(_tidy(boxes, image.size, self._min_confidence))
        return results


class WholeImageDetector:
    """Each image is one person, for folders of crops that somebody has made already.

    Attributes:
        identity (`str`): `"whole_image"`.
    """

    identity = "whole_image"

    def __call__(self, images: list[Image.Image]) -> list[list[PersonBox]]:
        return [[PersonBox(0.0, 0.0, float(image.width), float(image.height), 1.0)] for image in images]


class ImportedDetector(Imported):
    """A detector of the user, held to what every detector promises: boxes inside the image, most confident first.

    Args:
        settings (`DetectorSettings`): `kind` is the import path, `options` the keyword arguments.

    Raises:
        ImportError, TypeError: see `Imported`.
    """

    def __init__(self, settings: DetectorSettings):
        super().__init__(settings.kind, settings.options)
        self._min_confidence = settings.min_confidence

    def __call__(self, images: list[Image.Image]) -> list[list[PersonBox]]:
        found = self._made(images)
        if len(found) != len(images):
            raise ValueError(f"{self._path} gave {len(found)} lists of boxes for {len(images)} images")
        for boxes in found:
            for box in boxes:
                if not isinstance(box, PersonBox):
                    raise TypeError(f"{self._path} must give PersonBox of modeling_gadms.media.detection, not {box!r}")
        return [_tidy(boxes, image.size, self._min_confidence) for image, boxes in zip(images, found, strict=True)]


_DETECTORS: dict[str, type[Any]] = {
    "transformers": TransformersDetector,
    "ssd_mobilenet": SsdDetector,
    "ultralytics": UltralyticsDetector,
}


def build_detector(settings: DetectorSettings) -> PersonDetector:
    """The detector that the settings describe, with its weights loaded.

    Args:
        settings (`DetectorSettings`)

    Returns:
        `PersonDetector`: for each image the boxes of its persons, clipped to it, most confident first.

    Raises:
        ImportError, OSError, TypeError, ValueError: as the classes of this file do; each says what to do.
    """
    if settings.kind == "whole_image":
        return WholeImageDetector()
    return _DETECTORS.get(settings.kind, ImportedDetector)(settings)


def detector_identity(detector: PersonDetector) -> str:
    """What found a box, for provenance: the detector's `identity` where it has one, else its import path."""
    return identity_of(detector)


def _person_labels(names: dict[int, str], model: str) -> set[int]:
    labels = {int(label) for label, name in names.items() if name.casefold() == _PERSON}
    if not labels:
        known = sorted(names.values())
        shown = ", ".join(known[:10]) + (f" and {len(known) - 10} more" if len(known) > 10 else "")
        raise ValueError(f"{model} has no label {_PERSON!r}, only: {shown}. Take a model that detects persons")
    return labels


def _boxes_of(wanted: set[int], corners: Any, scores: Any, labels: Any) -> list[PersonBox]:
    """The boxes with a wanted label, from tensors of shape (boxes, 4), (boxes,) and (boxes,)."""
    rows = zip(corners.tolist(), scores.tolist(), labels.tolist(), strict=True)
    return [
        PersonBox(left, top, right, bottom, score)
        for (left, top, right, bottom), score, label in rows
        if int(label) in wanted
    ]


def _tidy(boxes: Iterable[PersonBox], size: tuple[int, int], min_confidence: float) -> list[PersonBox]:
    """The boxes worth recording, clipped to the image, most confident first."""
    width, height = size
    clipped = [
        PersonBox(max(box.left, 0), max(box.top, 0), min(box.right, width), min(box.bottom, height), box.confidence)
        for box in boxes
    ]
    # In this sense, so that a box that is not a number anywhere fails a comparison.
    kept = [
        box
        for box in clipped
        if box.confidence >= min_confidence and box.width >= MIN_BOX_SIDE and box.height >= MIN_BOX_SIDE
    ]
    return sorted(kept, key=lambda box: -box.confidence)


def _without_duplicates(boxes: Iterable[PersonBox]) -> list[PersonBox]:
    """One box a person, of boxes that come most confident first."""
    kept: list[PersonBox] = []
    for box in boxes:
        if all(_intersection_over_union(box, other) < DUPLICATE_OVERLAP for other in kept):
            kept.append(box)
    return kept


def _intersection_over_union(a: PersonBox, b: PersonBox) -> float:
    common = intersection_area(a, b)
    return common / (a.width * a.height + b.width * b.height - common)
