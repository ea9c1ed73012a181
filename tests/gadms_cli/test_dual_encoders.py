"""`gadms index`, `gadms gallery add` and `gadms search` with a model of each family, on drawn persons."""

import json
from pathlib import Path

import pytest

from dataset_scripts.synthetic_persons import PersonSampler
from modeling_gadms.encoders.encoding import encode_captions, encode_images
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.encoders.processors import family_of
from modeling_gadms.gallery.person_gallery import GalleryModelError, PersonGallery, PersonRecord
from modeling_gadms.media.images import load_image
from tests.command_line import refusal, run
from tests.dual_encoders import NAMES, save_dual_encoder


QUERY = "A woman in a red coat"


@pytest.fixture(scope="module")
def persons(tmp_path_factory) -> Path:
    folder, sampler = tmp_path_factory.mktemp("persons"), PersonSampler(0, "test")
    for index in range(4):
        sampler.draw(index, 0, (96, 32))[0].save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_indexed_searched_and_added_to(name, persons, tmp_path):
    model, gallery = save_dual_encoder(name, tmp_path / "model"), tmp_path / "gallery"
    fit = family_of(load_model_and_processor(model)[1]).image_fits[-1]
    indexed = run("index", "--source", persons, "--gallery", gallery, "--model", model, "--image-fit", fit)
    assert indexed.exit_code == 0 and "4 persons from 4 of 4 images" in indexed.output
    found = run("search", "--gallery", gallery, QUERY, "--top-k", 4, "--json")
    assert found.exit_code == 0, found.output
    results = json.loads(found.stdout)
    # by hand, with the same fit
    loaded = load_model_and_processor(model, image_fit=fit)
    images = [load_image(path) for path in sorted(persons.iterdir())]
    scores = encode_images(*loaded, images, progress=False) @ encode_captions(*loaded, [QUERY], progress=False)[0]
    by_hand = sorted(
        ((score, str(path)) for score, path in zip(scores.tolist(), sorted(persons.iterdir()), strict=True)),
        reverse=True,
    )
    assert [result["source"] for result in results] == [path for _, path in by_hand]
    assert [result["score"] for result in results] == pytest.approx([score for score, _ in by_hand], abs=1e-5)
    added = run("gallery", "add", gallery, "--source", persons, "--name", "again")
    assert added.exit_code == 0, added.output
    opened = PersonGallery.open(gallery, *load_model_and_processor(model))  # with the default fit
    assert opened.model.image_fit == fit
    assert opened.search(images[2], top_k=1)[0].score == pytest.approx(1, abs=1e-5)
    stored = {tuple(row) for row in opened._table.to_arrow()["vector"].to_pylist()}
    assert len(stored) == 4  # those that were added later are the same vectors


def test_a_gallery_knows_how_its_images_were_fitted(tmp_path, persons):
    pair = load_model_and_processor(save_dual_encoder("CLIP", tmp_path / "model"))
    fingerprints = set()
    for fit in ("squash", "pad", "crop"):
        gallery = PersonGallery.create(tmp_path / fit, *pair, image_fit=fit)
        fingerprints |= {(gallery.model.fingerprint, gallery.model.images)}
        gallery.add([PersonRecord(load_image(persons / "0.png"), "0.png")])
        copy = gallery.copy_to(tmp_path / f"copy-{fit}", *pair)
        assert copy.model.image_fit == fit
        with PersonGallery.rebuild(tmp_path / f"new-{fit}", *pair, image_fit=fit) as new:
            new.add([PersonRecord(load_image(persons / "0.png"), "0.png")])
        assert new.model == gallery.model
    assert len({fingerprint for fingerprint, _ in fingerprints}) == len({images for _, images in fingerprints}) == 3
    other = load_model_and_processor(save_dual_encoder("GA-DMS", tmp_path / "other"))
    with pytest.raises(GalleryModelError):
        PersonGallery.open(tmp_path / "pad", *other)
    message = refusal("index", "--source", persons, "--gallery", tmp_path / "x", "--model", tmp_path / "model",
                      "--image-fit", "stretch")  # fmt: skip
    assert "image_fit = 'stretch' is not possible with CLIP: choose from squash, pad, crop" in message
