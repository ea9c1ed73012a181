"""Block `detect`: find the persons in images; one row per person."""

import pyarrow as pa

from modeling_gadms.media.detection import PersonBox

from ..blocks import Batch, Block, Outcome
from .batches import ROWS_PER_CALL, StoredImages
from .detectors import DetectorSettings, build_detector


NO_PERSON = "no person found"
BOX = pa.list_(pa.float64(), 4)
"""(left, top, right, bottom) in pixels of the upright source image, rounded to hundredths. Later blocks use the stored
box, so that their verdicts can be verified from the row."""


class DetectPersons(Block):
    """Makes one row per person, in the order of the detector. An image without persons is rejected.

    `batch_size` and `threads` are those of `build_detector`.
    """

    name = "detect"
    reads = ("image", "image_id")
    adds = {
        "row_id": pa.string(),
        "person": pa.int32(),
        "box": BOX,
        "confidence": pa.float64(),
        "detector": pa.string(),
    }
    has_model = True
    batch_size = ROWS_PER_CALL

    def __init__(self, settings: DetectorSettings, batch_size: int | None = None, threads: int = 1):
        self.settings, self.model_batch_size, self.threads = settings, batch_size, threads

    def prepare(self) -> None:
        self._detector = build_detector(self.settings, self.model_batch_size, self.threads)

    def __call__(self, batch: Batch) -> Outcome:
        found = self._detector(StoredImages(batch["image"]))
        persons = [(origin, number, box) for origin, boxes in enumerate(found) for number, box in enumerate(boxes)]
        return Outcome(
            columns={
                "row_id": [f"{batch['image_id'][origin]}-{number:02d}" for origin, number, _ in persons],
                "person": [number for _, number, _ in persons],
                "box": [
                    [round(side, 2) for side in (box.left, box.top, box.right, box.bottom)] for *_, box in persons
                ],
                "confidence": [round(box.confidence, 4) for *_, box in persons],
                "detector": [self._detector.identity] * len(persons),
            },
            verdicts=[True if boxes else (False, NO_PERSON) for boxes in found],
            origins=[origin for origin, *_ in persons],
        )


def stored_box(box: list[float], confidence: float) -> PersonBox:
    """Convert the box of a row."""
    left, top, right, bottom = box
    return PersonBox(left, top, right, bottom, confidence)
