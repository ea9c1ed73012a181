"""`pipeline("text-to-person-retrieval")` ranks images and galleries by the encoders' similarities."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from modeling_gadms.encoders.encoding import encode_captions, encode_images
from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord
from tests.dual_encoders import save_dual_encoder


TASK = "text-to-person-retrieval"
TEXTS = ["a man in a red coat", "a woman with a black backpack"]


@pytest.fixture
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 20, 3), dtype=np.uint8)) for _ in range(7)]


@pytest.fixture
def search(model_folder):
    return pipeline(TASK, model=str(model_folder))


def expected(model, processor, pictures, text: str) -> list[tuple[int, float]]:
    images = encode_images(model, processor, pictures, progress=False)
    scores = (images @ encode_captions(model, processor, [text], progress=False)[0]).tolist()
    return sorted(enumerate(scores), key=lambda pair: -pair[1])


def test_images_are_ranked_by_their_cosine_similarity(search, model, processor, pictures):
    found = search(TEXTS[0], images=pictures, top_k=3)
    known = expected(model, processor, pictures, TEXTS[0])[:3]
    assert [row["index"] for row in found] == [index for index, _ in known]
    assert [row["score"] for row in found] == pytest.approx([score for _, score in known], abs=1e-6)
    assert [row["rank"] for row in found] == [1, 2, 3]
    assert all(row["image"] is pictures[row["index"]] for row in found)


def test_several_texts_give_several_lists(search, pictures):
    assert search(TEXTS, images=pictures) == [search(text, images=pictures) for text in TEXTS]


def test_images_of_the_pipeline_are_encoded_once(model_folder, pictures, monkeypatch, tmp_path):
    files = []
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
        files.append(str(tmp_path / f"{number}.png"))
    search = pipeline(TASK, model=str(model_folder), images=files, batch_size=2)
    calls = []
    encode = type(search.model).get_image_features
    monkeypatch.setattr(type(search.model), "get_image_features", lambda *args: calls.append(1) or encode(*args))
    found = search(TEXTS[0])
    assert not calls
    assert [row["image"] for row in found] == [files[row["index"]] for row in found]
    again = search(TEXTS[0], images=pictures, batch_size=3)
    assert len(calls) == 3
    assert [row["score"] for row in again] == pytest.approx([row["score"] for row in found], abs=1e-6)


def test_equal_images_keep_their_order(search, pictures):
    found = search(TEXTS[0], images=[pictures[0]] * 5)
    assert [row["index"] for row in found] == [0, 1, 2, 3, 4]


def test_a_gallery_answers_as_it_does_itself(search, model, processor, pictures, tmp_path):
    gallery = PersonGallery.create(tmp_path / "g", model, processor)
    gallery.add(
        PersonRecord(picture, f"{number}.png", camera=f"gate-{number % 2}") for number, picture in enumerate(pictures)
    )
    where = "camera = 'gate-1'"
    found = search(TEXTS, gallery=gallery, top_k=2, where=where)
    assert found == [[row.to_dict() for row in rows] for rows in gallery.search(list(TEXTS), 2, where=where)]
    first = search(TEXTS[0], gallery=gallery, top_k=2, where=where)
    assert first == [row.to_dict() for row in gallery.search(TEXTS[0], 2, where=where)]


def test_half_precision_ranks_alike(model_folder, pictures):
    search = pipeline(TASK, model=str(model_folder), dtype=torch.bfloat16)
    found = search(TEXTS[0], images=pictures)
    assert search.model.dtype == torch.bfloat16
    assert all(-1.01 <= row["score"] <= 1.01 for row in found)


@pytest.mark.parametrize(
    ("texts", "options", "said"),
    [
        (" ", {"images": [Image.new("RGB", (9, 9))]}, "' ' is empty"),
        (["a", ""], {"images": [Image.new("RGB", (9, 9))]}, "'' is empty"),
        ("a", {}, "nothing to search in"),
        ("a", {"images": []}, "images is empty"),
        ("a", {"images": "a.jpg"}, "images is a str"),
        ("a", {"images": [Image.new("RGB", (9, 9))], "top_k": 0}, "top_k must be 1 or more, not 0"),
        ("a", {"images": [Image.new("RGB", (9, 9))], "gallery": object()}, "Both images and a gallery"),
        ("a", {"images": [Image.new("RGB", (9, 9))], "where": "x = 1"}, "no gallery is given"),
        ("a", {"images": [Image.new("RGB", (9, 9))], "colour": "red"}, "has no option colour"),
    ],
)
def test_invalid_arguments_are_refused(search, texts, options, said):
    with pytest.raises(ValueError, match=said):
        search(texts, **options)


def test_a_model_of_another_family_is_refused_with_the_pipeline_that_takes_it(tmp_path):
    folder = save_dual_encoder("CLIP", tmp_path / "clip")
    with pytest.raises(ValueError, match="of type 'clip', .*zero-shot-image-classification"):
        pipeline(TASK, model=str(folder))
