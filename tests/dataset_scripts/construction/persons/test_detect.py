"""Block `detect`: images in, a row for each person out."""

import io
import sys
from types import ModuleType

import pytest
from PIL import Image

from dataset_scripts.construction.blocks import ROW_SCHEMA, run_batch
from dataset_scripts.construction.persons.detect import NO_PERSON, DetectPersons
from dataset_scripts.construction.persons.detectors import DetectorSettings
from dataset_scripts.construction.sources.planning import SOURCE_SCHEMA
from modeling_gadms.media.detection import PersonBox


class StripeDetector:
    """As many persons side by side as an image's red value says; the green one says how sure the last is."""

    identity = "stripes"

    def __init__(self):
        self.calls: list[list[tuple[int, int]]] = []

    def __call__(self, images):
        self.calls.append([image.size for image in images])
        return [list(self._persons(image)) for image in images]

    def _persons(self, image):
        persons, sure, _ = image.getpixel((0, 0))
        for number in range(persons):
            left = image.width * number / max(persons, 1)
            # Ever surer: the block behind must bring them into order.
            yield PersonBox(left, 1 / 3, left + 2, image.height + 5, sure / 255 + number / 300)


@pytest.fixture
def block(monkeypatch) -> DetectPersons:
    module = ModuleType("stripe_detector")
    module.StripeDetector = StripeDetector
    monkeypatch.setitem(sys.modules, "stripe_detector", module)
    block = DetectPersons(DetectorSettings(kind="stripe_detector:StripeDetector", min_confidence=0.25))
    block.prepare()
    return block


def picture(persons: int, sure: int = 128, size: tuple[int, int] = (30, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (persons, sure, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def batch(*images: bytes) -> dict:
    return {"image": list(images), "image_id": [f"id{number}" for number in range(len(images))]}


def test_each_person_is_a_row_named_after_its_image(block):
    outcome = block(batch(picture(2), picture(1), picture(3)))
    assert outcome.origins == [0, 0, 1, 2, 2, 2]
    assert outcome.columns["row_id"] == ["id0-00", "id0-01", "id1-00", "id2-00", "id2-01", "id2-02"]
    assert outcome.columns["person"] == [0, 1, 0, 0, 1, 2]
    assert list(outcome.verdicts) == [True, True, True]
    assert set(outcome.columns["detector"]) == {"stripes"}


def test_an_image_without_a_person_is_rejected_among_others(block):
    outcome = block(batch(picture(0), picture(1), picture(0)))
    assert list(outcome.verdicts) == [(False, NO_PERSON), True, (False, NO_PERSON)]
    assert (outcome.origins, outcome.columns["row_id"]) == ([1], ["id1-00"])


def test_a_person_below_the_least_confidence_is_not_recorded(block):
    assert list(block(batch(picture(1, sure=63))).verdicts) == [(False, NO_PERSON)]
    assert block(batch(picture(1, sure=64))).columns["confidence"] == [0.251]


def test_persons_are_numbered_by_confidence(block):
    outcome = block(batch(picture(3)))
    assert outcome.columns["confidence"] == [round(128 / 255 + n / 300, 4) for n in (2, 1, 0)]
    assert [box[0] for box in outcome.columns["box"]] == [20, 10, 0]


def test_boxes_are_clipped_to_the_image_and_stored_in_hundredths(block):
    assert block(batch(picture(1))).columns["box"] == [[0.0, 0.33, 2.0, 40.0]]


def test_more_than_a_hundred_persons_have_names_of_their_own(block):
    names = block(batch(picture(120, size=(400, 40)))).columns["row_id"]
    assert (names[99], names[100], len(set(names))) == ("id0-99", "id0-100", 120)


def test_large_images_are_not_all_in_memory_at_once_and_boxes_stay_with_their_image(block, monkeypatch):
    monkeypatch.setattr("dataset_scripts.construction.persons.batches.MAX_PIXELS", 3000)
    outcome = block(batch(picture(1), picture(2), picture(3, size=(40, 70)), picture(0), picture(1)))
    assert block._detector._made.calls == [[(30, 40), (30, 40)], [(40, 70)], [(30, 40), (30, 40)]]
    assert outcome.origins == [0, 1, 1, 2, 2, 2, 4]


def test_rows_of_the_source_become_rows_of_persons(block):
    import pyarrow as pa

    rows = [
        {"row_id": f"id{n}", "image_id": f"id{n}", "trail": [], "image": picture(n), "position": n} for n in range(3)
    ]
    table = run_batch(block, pa.Table.from_pylist(rows, SOURCE_SCHEMA))
    kept = [(row["position"], row["person"], row["row_id"]) for row in table.to_pylist() if not row["reason"]]
    assert kept == [(1, 0, "id1-00"), (2, 0, "id2-00"), (2, 1, "id2-01")]
    assert [row["row_id"] for row in table.to_pylist() if row["reason"] == NO_PERSON] == ["id0"]
    assert set(ROW_SCHEMA.names) < set(table.column_names)
