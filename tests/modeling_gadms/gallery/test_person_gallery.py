"""A gallery returns the results of an exhaustive comparison, and accepts only the model that built it."""

import io
import itertools
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from lancedb.index import BTree, IvfRq
from PIL import Image

from modeling_gadms import GADMSModel
from modeling_gadms.encoders.encoding import encode_captions, encode_images
from modeling_gadms.gallery import person_gallery as gallery
from modeling_gadms.gallery import storage
from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord, SearchResult, gallery_model
from modeling_gadms.gallery.schema import indexed_rows
from modeling_gadms.media.detection import PersonBox


QUERY = "a man in a red coat"


def persons(count: int, seed: int = 0) -> list[Image.Image]:
    """Images of two colours, all different."""
    images = []
    for colours in np.random.default_rng(seed).integers(0, 256, (count, 2, 3)):
        image = Image.new("RGB", (16, 32), tuple(colours[0].tolist()))
        image.paste(tuple(colours[1].tolist()), (0, 16, 16, 32))
        images.append(image)
    return images


def records(images: list[Image.Image]) -> list[PersonRecord]:
    return [PersonRecord(image, source=f"{number}.png") for number, image in enumerate(images)]


@pytest.fixture
def filled(tmp_path, model, processor) -> PersonGallery:
    made = PersonGallery.create(tmp_path / "gallery", model, processor)
    made.add(records(persons(40)))
    return made


def brute_force(model, processor, images, query) -> tuple[list[str], np.ndarray]:
    vectors = encode_images(model, processor, images, progress=False).numpy()
    scores = vectors @ encode_captions(model, processor, [query], progress=False).numpy()[0]
    order = np.argsort(-scores)
    return [f"{number}.png" for number in order], scores[order]


def test_the_ranking_and_scores_are_those_of_a_full_comparison(filled, model, processor):
    sources, scores = brute_force(model, processor, persons(40), QUERY)
    results = filled.search(QUERY, top_k=15)
    assert [result.source for result in results] == sources[:15]
    assert np.allclose([result.score for result in results], scores[:15], atol=1e-5)
    assert [result.rank for result in results] == list(range(1, 16))


def test_more_results_than_persons_gives_every_person_once(filled):
    assert len({result.source for result in filled.search(QUERY, top_k=1000)}) == len(filled) == 40


def test_a_reopened_gallery_answers_the_same(filled, tmp_path, model_folder, processor):
    reopened = PersonGallery.open(tmp_path / "gallery", GADMSModel.from_pretrained(model_folder), processor)
    assert reopened.search(QUERY) == filled.search(QUERY)


def test_persons_are_added_in_several_commits_and_calls(tmp_path, model, processor, monkeypatch):
    monkeypatch.setattr(gallery, "WRITE_ROWS", 7)
    made = PersonGallery.create(tmp_path / "gallery", model, processor)
    images = persons(40)
    assert made.add(iter(records(images)[:30]), batch_size=3).added == 30
    assert made.add(records(images)[30:]).added == 10
    assert made.add([]).added == 0
    assert [result.source for result in made.search(QUERY, 40)] == brute_force(model, processor, images, QUERY)[0]


def test_what_was_committed_survives_an_interruption(tmp_path, model, processor, monkeypatch):
    monkeypatch.setattr(gallery, "WRITE_ROWS", 10)

    def interrupted():
        yield from records(persons(25))
        raise KeyboardInterrupt

    made = PersonGallery.create(tmp_path / "gallery", model, processor)
    with pytest.raises(KeyboardInterrupt):
        made.add(interrupted())
    assert len(PersonGallery.open(tmp_path / "gallery", model, processor)) == 20


def test_a_result_tells_where_the_person_was_seen_and_shows_a_thumbnail(tmp_path, model, processor):
    box = PersonBox(10, 20, 50, 120, 0.75)
    image = Image.new("RGB", (400, 1000), (200, 30, 30))
    made = PersonGallery.create(tmp_path / "gallery", model, processor)
    made.add([PersonRecord(image, "cctv.mp4", frame=120, time_seconds=12.5, box=box)])
    (result,) = made.search(QUERY)
    assert isinstance(result, SearchResult)
    assert (result.source, result.frame, result.time_seconds, result.box) == ("cctv.mp4", 120, 12.5, box)
    thumbnail = Image.open(io.BytesIO(result.thumbnail))
    assert (thumbnail.format, thumbnail.size) == ("JPEG", (102, 256))
    assert np.allclose(thumbnail.getpixel((50, 100)), (200, 30, 30), atol=4)
    assert image.size == (400, 1000), "the caller's image was changed"


def test_an_image_file_has_neither_frame_nor_box(filled):
    result = filled.search(QUERY)[0]
    assert (result.frame, result.time_seconds, result.box) == (None, None, None)


def test_equal_scores_are_ordered_by_source_frame_and_left_side(tmp_path, model, processor):
    image = Image.new("RGB", (16, 32), "navy")
    made = PersonGallery.create(tmp_path / "gallery", model, processor)
    places = [("b", 2, 0), ("a", 9, 70), ("a", 9, 8), ("b", 1, 0), ("a", 9, 100), ("a", 3, 0)]
    made.add([PersonRecord(image, source, frame, box=PersonBox(x, 0, x + 9, 20, 0.5)) for source, frame, x in places])
    made.add([PersonRecord(image, "a", 9)])  # the whole picture
    found = [(result.source, result.frame, result.box and result.box.left) for result in made.search(QUERY)]
    assert found == [("a", 3, 0), ("a", 9, None), ("a", 9, 8), ("a", 9, 70), ("a", 9, 100), ("b", 1, 0), ("b", 2, 0)]


def directions(rows: int, dimension: int = 16) -> torch.Tensor:
    """Uniformly distributed unit vectors: harder for an index than embeddings of persons."""
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(rows, dimension, generator=generator), dim=-1)


@pytest.fixture
def embedded(monkeypatch):
    """Replaces the embeddings of added persons by given vectors, and returns the persons."""

    def prepare(vectors: torch.Tensor) -> list[PersonRecord]:
        remaining = iter(vectors)
        monkeypatch.setattr(
            gallery, "encode_images", lambda m, p, images, **_: torch.stack([next(remaining) for _ in images])
        )
        image = Image.new("RGB", (16, 32))
        return [PersonRecord(image, str(number)) for number in range(len(vectors))]

    return prepare


def vector_index(made: PersonGallery) -> list:
    return [index for index in made._table.list_indices() if index.columns == ["vector"]]


def found_of_40(made: PersonGallery, vectors: torch.Tensor, model, processor) -> int:
    """Number of the ten nearest persons that each of four searches finds."""
    hits = 0
    for query in ("a red coat", "a woman with a black bag", "blue jeans", "a green shirt and a hat"):
        expected = (vectors @ encode_captions(model, processor, [query], progress=False)[0]).topk(10).indices
        found = {int(result.source) for result in made.search(query, 10)}
        hits += len(found & set(expected.tolist()))
    return hits


def test_a_large_gallery_is_indexed_by_itself_with_high_recall(tmp_path, model, processor, monkeypatch, embedded):
    monkeypatch.setattr(storage, "INDEX_FROM_ROWS", 600)
    vectors = directions(900)
    rows = embedded(vectors)
    made = PersonGallery.create(tmp_path / "gallery", model, processor)
    made.add(rows[:599])
    assert not vector_index(made)
    made.add(rows[599:700])
    (index,) = vector_index(made)
    assert made._table.index_stats(index.name).num_indexed_rows == 700
    made.add(rows[700:])  # too few for a new index: found by scanning
    assert made._table.index_stats(index.name).num_unindexed_rows == 200
    assert found_of_40(made, vectors, model, processor) >= 39


def test_while_many_are_added_few_ids_are_outside_of_the_index(tmp_path, model, processor, monkeypatch, embedded):
    monkeypatch.setattr(storage, "INDEX_FROM_ROWS", 60)
    monkeypatch.setattr(gallery, "WRITE_ROWS", 20)
    made = PersonGallery.create(tmp_path / "gallery", model, processor)
    outside = []
    insert = made._insert

    def insert_and_count(rows):
        outside.append((len(made), len(made) - indexed_rows(made._table, "id")))
        return insert(rows)

    monkeypatch.setattr(made, "_insert", insert_and_count)
    made.add(embedded(directions(1_600)))
    assert len(outside) == 80
    assert all(rows < max(60, persons / 16 + 20) for persons, rows in outside)
    # Not after each commit either: a new index reads all ids.
    assert sum(later < earlier for (_, earlier), (_, later) in itertools.pairwise(outside)) < 30


def test_no_part_of_the_index_of_half_a_million_is_left_out_of_a_search(
    tmp_path, model, processor, monkeypatch, embedded
):
    monkeypatch.setattr(storage, "INDEX_FROM_ROWS", 600)
    monkeypatch.setattr(storage, "IvfRq", partial(IvfRq, num_partitions=120))  # as many as half a million has
    vectors = directions(2000)
    made = PersonGallery.create(tmp_path / "gallery", model, processor)
    made.add(embedded(vectors))
    assert found_of_40(made, vectors, model, processor) >= 39


def test_an_index_of_another_column_does_not_count(tmp_path, model, processor, monkeypatch, embedded):
    monkeypatch.setattr(storage, "INDEX_FROM_ROWS", 300)
    rows = embedded(directions(600))
    made = PersonGallery.create(tmp_path / "gallery", model, processor)
    made.add(rows[:299])
    made._table.create_index("source", config=BTree())
    made.add(rows[299:500])  # fewer than it takes, beyond the rows of that index
    (index,) = vector_index(made)
    assert made._table.index_stats(index.name).num_indexed_rows == 500


def test_a_large_gallery_of_a_width_that_cannot_be_indexed_is_scanned(
    tmp_path, tiny_model, processor, monkeypatch, embedded
):
    monkeypatch.setattr(storage, "INDEX_FROM_ROWS", 100)
    model = tiny_model(projection_dim=20).base_model.eval()
    vectors = directions(200, dimension=20)
    made = PersonGallery.create(tmp_path / "gallery", model, processor)
    made.add(embedded(vectors))
    assert not vector_index(made)
    assert found_of_40(made, vectors, model, processor) == 40


def test_another_model_is_refused_by_name(filled, tmp_path, tiny_model, processor):
    tiny_model(seed=1).save_pretrained(tmp_path / "other")
    other = GADMSModel.from_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="built by the model") as caught:
        PersonGallery.open(tmp_path / "gallery", other, processor)
    assert str(tmp_path / "model") in str(caught.value)
    assert str(tmp_path / "other") in str(caught.value)


def test_the_gallery_remembers_its_model(filled, tmp_path, model_folder):
    assert gallery_model(tmp_path / "gallery").name == str(model_folder.resolve())


def test_a_query_before_any_index_says_how_to_index(tmp_path, model, processor):
    missing = tmp_path / "nowhere"
    for ask in (lambda: PersonGallery.open(missing, model, processor), lambda: gallery_model(missing)):
        with pytest.raises(FileNotFoundError, match=f"no gallery in {missing}.*gadms index .*--gallery {missing}"):
            ask()
    assert not missing.exists(), "asking made the folder"
    missing.mkdir()
    with pytest.raises(FileNotFoundError, match="no gallery"):
        PersonGallery.open(missing, model, processor)
    empty = PersonGallery.create(missing, model, processor)
    with pytest.raises(ValueError, match="is empty.*gadms index"):
        empty.search(QUERY)


def test_a_filled_gallery_is_replaced_only_on_request(filled, tmp_path, model, processor):
    with pytest.raises(FileExistsError, match="already a gallery of 40 persons.*--overwrite"):
        PersonGallery.create(tmp_path / "gallery", model, processor)
    assert len(filled) == 40
    filled.remove(where="source IS NOT NULL")
    PersonGallery.create(tmp_path / "gallery", model, processor)  # an empty one is nobody's loss


def test_a_damaged_gallery_is_an_error_and_not_an_answer(filled, tmp_path, model, processor):
    shutil.rmtree(tmp_path / "gallery" / "persons.lance" / "data")
    with pytest.raises(Exception, match="data"):
        PersonGallery.open(tmp_path / "gallery", model, processor).search(QUERY)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_description_is_an_error(filled, text):
    with pytest.raises(ValueError, match="is empty: describe a person"):
        filled.search(text)


def test_a_description_too_long_is_answered_by_its_beginning_with_a_warning(filled, processor):
    words = ["red"] * 500
    limit = processor.tokenizer.model_max_length
    tokens = len(processor.tokenizer(" ".join(words))["input_ids"])
    with pytest.warns(UserWarning, match=f"last {tokens - limit} are ignored"):
        results = filled.search(" ".join(words))
    fitting = " ".join(words[: limit - 2])  # and the tokens of beginning and end
    assert results == filled.search(fitting)


@pytest.mark.parametrize("text", ["a 😀 person", "穿红色外套的人", "\u0000", "ö" * 5])
def test_any_script_is_answered(filled, text):
    assert len(filled.search(text, top_k=3)) == 3


def test_top_k_must_be_positive(filled):
    with pytest.raises(ValueError, match="top_k must be 1 or more, not 0"):
        filled.search(QUERY, top_k=0)
