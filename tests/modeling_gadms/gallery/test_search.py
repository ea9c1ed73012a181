"""All types of queries, filters and tracks, against an exhaustive comparison in NumPy."""

import hashlib
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_gadms.encoders.encoding import encode_captions, encode_images
from modeling_gadms.gallery import person_gallery as gallery
from modeling_gadms.gallery import search as gallery_search
from modeling_gadms.gallery import storage
from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord, Query
from modeling_gadms.gallery.records import WITHOUT_WEIGHT, TrackSummary
from modeling_gadms.media.detection import PersonBox


START = datetime(2026, 11, 25, 8, tzinfo=UTC)
COLUMNS = {"brand": "string", "price": "float", "in_stock": "boolean"}


def picture(seed: int) -> Image.Image:
    colours = np.random.default_rng(seed).integers(0, 256, (2, 3)).tolist()
    image = Image.new("RGB", (16, 32), tuple(colours[0]))
    image.paste(tuple(colours[1]), (0, 16, 16, 32))
    return image


def records(count: int = 60) -> list[PersonRecord]:
    """Persons of two videos; in one they are tracked, with five crops in each track."""
    return [
        PersonRecord(
            picture(number),
            source="tracked.mp4" if number % 2 else "plain.mp4",
            frame=number,
            time_seconds=number / 10,
            camera=f"gate-{number % 3}",
            time=START.replace(minute=number % 60),
            track=number // 10 if number % 2 else None,
            columns={"brand": "Nordlys", "price": number * 1.5, "in_stock": number % 4 == 0},
        )
        for number in range(count)
    ]


@pytest.fixture
def filled(tmp_path, model, processor) -> PersonGallery:
    made = PersonGallery.create(tmp_path / "gallery", model, processor, columns=COLUMNS)
    made.add(records())
    return made


@pytest.fixture
def vectors(model, processor) -> np.ndarray:
    return encode_images(model, processor, [record.image for record in records()], progress=False).numpy()


def text_vector(model, processor, text: str) -> np.ndarray:
    return encode_captions(model, processor, [text], progress=False)[0].numpy()


def frames(results) -> list[int]:
    return [result.frame for result in results]


def check(results, scores: np.ndarray, rows=range(60)) -> None:
    """Check that the results are the best of the given rows, with the given scores."""
    order = sorted(rows, key=lambda row: -scores[row])[: len(results)]
    assert frames(results) == order
    assert np.allclose([result.score for result in results], scores[order], atol=1e-5)


def test_a_picture_finds_those_like_it(filled, vectors):
    results = filled.search(picture(17), 8, group_tracks=False)
    check(results, vectors @ vectors[17])
    assert results[0].frame == 17 and results[0].score == pytest.approx(1, abs=1e-5)


def test_text_and_picture_count_the_same(filled, vectors, model, processor):
    query = Query(text="a red coat", image=picture(90))
    image = encode_images(model, processor, [picture(90)], progress=False)[0].numpy()
    expected = (vectors @ text_vector(model, processor, "a red coat") + vectors @ image) / 2
    check(filled.search(query, 10, group_tracks=False), expected)


def test_what_should_not_be_there_takes_from_the_score(filled, vectors, model, processor):
    unwanted = [text_vector(model, processor, text) for text in ("a hat", "a yellow bag")]
    expected = vectors @ text_vector(model, processor, "a red coat")
    expected = expected - WITHOUT_WEIGHT * np.mean([vectors @ vector for vector in unwanted], axis=0)
    query = Query(text="a red coat", without=["a hat", "a yellow bag"])
    check(filled.search(query, 10, group_tracks=False), expected)


def test_others_like_a_person_leave_the_person_out(filled, vectors):
    (person,) = filled.search(picture(20), 1)
    results = filled.search(Query(like=person.id), 7, group_tracks=False)
    check(results, vectors @ vectors[20], [row for row in range(60) if row != 20])


def test_others_like_a_person_of_a_track_leave_the_track_out(filled):
    (person,) = filled.search(picture(23), 1, group_tracks=False)
    assert person.track == 2
    others = filled.search(Query(like=person.id), 60)
    assert others and not any((other.source, other.track) == ("tracked.mp4", 2) for other in others)
    crops = filled.search(Query(like=person.id), 60, group_tracks=False)
    assert {crop.frame for crop in crops if crop.track == 2} == {21, 25, 27, 29}


def test_several_queries_are_answered_as_each_alone(filled):
    (person,) = filled.search(picture(4), 1)
    queries = ["a red coat", picture(3), Query(like=person.id), Query(text="a hat", image=picture(9), without=["red"])]
    together = filled.search(queries, 5, where="price > 10")
    for query, results in zip(queries, together, strict=True):
        alone = filled.search(query, 5, where="price > 10")
        assert [result.id for result in results] == [result.id for result in alone]
        assert np.allclose([result.score for result in results], [result.score for result in alone], atol=1e-5)
    assert filled.search([], 5) == []


@pytest.mark.parametrize(
    ("where", "keeps"),
    [
        ("camera = 'gate-2'", lambda row: row % 3 == 2),
        ("price < 30 and in_stock", lambda row: row * 1.5 < 30 and row % 4 == 0),
        ("time >= '2026-11-25 08:30' and source = 'plain.mp4'", lambda row: row >= 30 and row % 2 == 0),
        ("track is not null", lambda row: row % 2),
    ],
)
def test_a_filter_applies_before_the_best_are_taken(filled, vectors, model, processor, where, keeps):
    scores = vectors @ text_vector(model, processor, "blue jeans")
    results = filled.search("blue jeans", 100, where=where, group_tracks=False)
    rows = [row for row in range(60) if keeps(row)]
    assert len(results) == len(rows)
    check(results, scores, rows)


def test_a_filter_that_nobody_meets_gives_nobody(filled):
    assert filled.search("a coat", where="camera = 'gate-9'") == []


@pytest.mark.parametrize("top_k", [1, 5, 20, 36, 100])
def test_a_track_is_one_result_by_its_best_crop(filled, vectors, model, processor, top_k, monkeypatch):
    monkeypatch.setattr(gallery_search, "_FETCH_GROWTH", 2)  # so that one fetch is not enough
    scores = vectors @ text_vector(model, processor, "a green shirt")
    tracks: dict = {}
    for row in sorted(range(60), key=lambda row: -scores[row]):
        tracks.setdefault(("track", row // 10) if row % 2 else row, row)
    assert len(tracks) == 36
    results = filled.search("a green shirt", top_k)
    assert frames(results) == list(tracks.values())[:top_k]
    assert [result.rank for result in results] == list(range(1, min(top_k, 36) + 1))


def test_a_track_tells_how_long_it_was_seen_and_lists_its_crops(filled):
    (result,) = filled.search(picture(23), 1)
    assert result.track_summary == TrackSummary(persons=5, start_seconds=2.1, end_seconds=2.9)
    assert frames(filled.crops("tracked.mp4", 2)) == [21, 23, 25, 27, 29]
    (plain,) = filled.search(picture(20), 1)
    assert plain.track_summary is None


def test_a_result_carries_what_its_record_said(filled):
    (result,) = filled.search(picture(31), 1)
    record = records()[31]
    assert (result.camera, result.time, result.track) == ("gate-1", record.time, 3)
    assert result.columns == record.columns
    assert result.id == record.id
    plain = result.to_dict()
    assert plain["time"] == "2026-11-25T08:31:00+00:00" and plain["track_summary"]["persons"] == 5
    assert "thumbnail" not in plain and plain["box"] is None


def test_persons_are_read_by_their_ids_in_the_order_asked(filled):
    ids = [records()[number].id for number in (7, 2, 41)]
    found = filled.get([*ids, "nobody"])
    assert frames(found) == [7, 2, 41] and [person.rank for person in found] == [1, 2, 3]
    assert filled.get([]) == []


def test_ids_tell_boxes_of_a_frame_apart_and_name_the_same_box_alike():
    image = Image.new("RGB", (8, 16))

    def record(left: float, frame: int = 3, source: str = "a.mp4") -> str:
        return PersonRecord(image, source, frame, box=PersonBox(left, 2, 30, 40, 0.9)).id

    assert record(10) == record(10.01) != record(11)
    assert len({record(10), record(10, frame=4), record(10, source="b.mp4")}) == 3
    without_box = hashlib.blake2b(b'["a.png", null, null]', digest_size=12).hexdigest()
    assert PersonRecord(image, "a.png").id == without_box
    assert PersonRecord(image, "lone \udce9.png").id  # names of files need not be text


def test_a_gallery_opened_without_a_model_finds_others_like_a_person_and_no_more(filled, tmp_path):
    alone = PersonGallery.open(tmp_path / "gallery")
    (person,) = filled.search(picture(20), 1)
    assert alone.search(Query(like=person.id), 5) == filled.search(Query(like=person.id), 5)
    for ask in (lambda: alone.search("a coat"), lambda: alone.search(picture(1)), lambda: alone.add(records(61))):
        with pytest.raises(ValueError, match="opened without a model: give the one that built it"):
            ask()
    assert alone.remove(where="frame < 10") == 10 and alone.verify().sound


def test_a_query_reads_as_what_it_asks():
    assert str(Query("a red coat")) == "a red coat"
    assert str(Query("a coat", picture(1), "0f3c", ["a hat"])) == "a coat; like the image; like 0f3c; without a hat"


def test_an_empty_query_and_what_is_none_are_errors(filled):
    with pytest.raises(ValueError, match="query is empty"):
        Query(without=["a hat"])
    with pytest.raises(TypeError, match="without is a single string"):
        Query(text="a coat", without="a hat")
    with pytest.raises(TypeError, match="A query must be a text.*not a int"):
        filled.search(["a coat", 5])
    with pytest.raises(ValueError, match="No person in the gallery has the id"):
        filled.search(Query(like="x'y"))
    with pytest.raises(ValueError, match="no such column"):
        filled.search("a coat", where="colour = 'red'")


@pytest.mark.parametrize("text", ["a man not wearing a hat", "a woman without a bag", "a person with no coat"])
def test_a_description_that_says_what_is_missing_is_answered_with_a_warning(filled, text):
    with pytest.warns(UserWarning, match="does not understand .*without"):
        assert filled.search(text, 3)


def test_an_indexed_gallery_answers_filters_and_tracks_too(tmp_path, model, processor, monkeypatch):
    monkeypatch.setattr(storage, "INDEX_FROM_ROWS", 500)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.nn.functional.normalize(torch.randn(900, 16, generator=generator), dim=-1)
    remaining = iter(drawn)
    monkeypatch.setattr(
        gallery, "encode_images", lambda m, p, images, **_: torch.stack([next(remaining) for _ in images])
    )
    image = Image.new("RGB", (16, 32))
    made = PersonGallery.create(tmp_path / "gallery", model, processor)
    made.add(
        PersonRecord(image, "a.mp4", row, camera=f"gate-{row % 10}", track=row // 3 if row < 450 else None)
        for row in range(900)
    )
    scores = drawn.numpy() @ text_vector(model, processor, "a white hat")
    rows = [row for row in range(900) if row % 10 == 3]
    best = sorted(rows, key=lambda row: -scores[row])
    found = frames(made.search("a white hat", 10, where="camera = 'gate-3'"))
    tracks: dict = {}
    for row in best:
        tracks.setdefault(("track", row // 3) if row < 450 else row, row)
    assert len(set(found) & set(list(tracks.values())[:10])) >= 9


def test_a_crowded_track_leaves_room_for_others(tmp_path, model, processor, monkeypatch):
    monkeypatch.setattr(gallery_search, "_FETCH_GROWTH", 2)
    made = PersonGallery.create(tmp_path / "gallery", model, processor)
    made.add(PersonRecord(picture(1), "a.mp4", frame, track=0) for frame in range(40))
    made.add(PersonRecord(picture(number), f"{number}.png") for number in (2, 3, 4))
    results = made.search(picture(1), 3)
    assert [result.source == "a.mp4" for result in results] == [True, False, False]
    assert results[0].track_summary.persons == 40
