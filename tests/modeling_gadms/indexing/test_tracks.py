"""The best crops of each track, on examples worked out by hand."""

from dataclasses import dataclass

from PIL import Image

from modeling_gadms.gallery.records import PersonRecord
from modeling_gadms.indexing.tracks import TrackCropSelector, crop_quality
from modeling_gadms.media.detection import PersonBox


def record(x: float, frame: int, *, confidence: float = 0.8, height: float = 100) -> PersonRecord:
    box = PersonBox(x - height / 5, 100 - height / 2, x + height / 5, 100 + height / 2, confidence)
    return PersonRecord(Image.new("RGB", (4, 8)), "v.avi", frame, frame / 10, box)


def test_quality_is_the_area_nobody_covers_times_the_confidence():
    box = PersonBox(0, 0, 10, 20, 0.5)
    assert crop_quality(box, []) == 100
    assert crop_quality(box, [PersonBox(5, 0, 30, 20, 0.9)]) == 50
    assert crop_quality(box, [PersonBox(100, 0, 130, 20, 0.9)]) == 100
    assert crop_quality(box, [PersonBox(-5, -5, 30, 30, 0.9)] * 2) == 0


@dataclass
class Standing:
    """A person standing at x = 100 in every fifth frame (10 frames per second), with the given confidences."""

    confidences: list[float]

    def crops(self, keep: int) -> list[tuple[int, float]]:
        crops = TrackCropSelector(keep)
        out: list[PersonRecord] = []
        for place, confidence in enumerate(self.confidences):
            out += crops.add([record(100, place * 5, confidence=confidence)], place * 5, place * 0.5)
        assert not out, "a track that goes on gives nothing yet"
        return [(person.frame, person.box.confidence) for person in crops.rest()]


def test_the_best_crop_of_each_second_and_the_best_seconds_in_their_order():
    #          second 0: 0.6 0.7 | second 1: 0.9 0.8 | second 2: 0.5 0.55 | second 3: 0.65 0.6
    standing = Standing([0.6, 0.7, 0.9, 0.8, 0.5, 0.55, 0.65, 0.6])
    assert standing.crops(1) == [(10, 0.9)]
    assert standing.crops(2) == [(5, 0.7), (10, 0.9)]
    assert standing.crops(3) == [(5, 0.7), (10, 0.9), (30, 0.65)]
    assert standing.crops(9) == [(5, 0.7), (10, 0.9), (25, 0.55), (30, 0.65)]


def test_of_seconds_that_are_equally_good_the_first_are_kept():
    assert Standing([0.7] * 8).crops(2) == [(0, 0.7), (10, 0.7)]


def test_a_track_is_given_out_when_it_is_over_and_is_numbered_by_where_it_began():
    crops = TrackCropSelector(3)
    assert not list(crops.add([], 0, 0.0))
    assert not list(crops.add([record(100, 10), record(500, 10)], 10, 1.0))
    out: list[PersonRecord] = []
    for frame in range(15, 60, 5):
        out += crops.add([record(500, frame)], frame, frame / 10)  # the first one has left
    assert [(person.frame, person.track) for person in out] == [(10, 10_000)]
    rest = list(crops.rest())
    assert {person.track for person in rest} == {10_001}
    assert len(rest) == 3
    assert crops.tracks == 2
    assert not list(crops.rest())


def test_the_number_of_a_track_does_not_depend_on_tracks_before_it():
    late = TrackCropSelector(1)
    list(late.add([record(100, 20)], 20, 2.0))
    early = TrackCropSelector(1)
    list(early.add([record(700, 0)], 0, 0.0))
    list(early.add([record(100, 20)], 20, 2.0))
    assert [person.track for person in late.rest()] == [20_000]
    assert {person.track for person in early.rest()} == {0, 20_000}
