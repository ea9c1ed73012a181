"""`gadms index` and `gadms gallery add`: sources, tracks, cameras, and additional columns."""

import json
import os

import pytest
from PIL import Image

from modeling_gadms.gallery.person_gallery import PersonGallery
from tests.command_line import refusal, run


@pytest.fixture
def shop(tmp_path):
    """A table of three products, one of them without an image."""
    for number, colour in enumerate(("red", "green")):
        Image.new("RGB", (32, 64), colour).save(tmp_path / f"{number}.png")
    rows = ["image_path,price,brand", "0.png,2.5,Acme", "1.png,4.0,Acme", "2.png,1.0,Other"]
    (tmp_path / "shop.csv").write_text("\n".join(rows))
    return tmp_path / "shop.csv"


def test_a_track_is_one_result_with_its_camera_and_time(tmp_path, video, model_folder, red_detector):
    common = ["--source", video, "--gallery", tmp_path / "g", "--model", model_folder]
    result = run("index", *common, "--per-second", 5, "--camera", "gate-2", "--start", "2026-11-25 08:00")
    assert result.exit_code == 0, result.output
    assert "1 person from 5 of 10 images" in result.stdout
    assert "1 track; 4 crops of lower quality skipped" in result.stdout
    out = ["--json", "--out", tmp_path / "r.png"]
    found = json.loads(run("search", "--gallery", tmp_path / "g", "a person", *out).stdout)
    assert [(row["camera"], row["track"]) for row in found] == [("gate-2", 10_000)]
    assert found[0]["time"].startswith("2026-11-25T08:00:01")


def test_a_table_with_columns_of_its_own(tmp_path, shop, model_folder):
    common = ["--source", shop, "--gallery", tmp_path / "g", "--model", model_folder]
    result = run("index", *common, "--column", "price:float", "--json")
    report = json.loads(result.stdout)
    assert (report["persons"], report["skipped"], report["unused_fields"]) == (2, {"missing": 1}, ["brand"])
    found = run(
        "search", "--gallery", tmp_path / "g", "red", "--where", "price > 3", "--json", "--out", tmp_path / "r.png"
    )
    assert [row["columns"] for row in json.loads(found.stdout)] == [{"price": 4.0, "image_path": "1.png"}]


@pytest.mark.parametrize(
    ("column", "said"), [("price", "has no type"), ("price:money", "'money'"), ("Price:float", "'Price'")]
)
def test_columns_that_cannot_be_are_refused_before_anything_is_made(tmp_path, shop, model_folder, column, said):
    message = refusal(
        "index", "--source", shop, "--gallery", tmp_path / "g", "--model", model_folder, "--column", column
    )
    assert said in message


def test_further_sources_are_added_with_the_model_of_the_gallery(
    tmp_path, person_folder, video, model_folder, red_detector
):
    run("index", "--source", person_folder, "--gallery", tmp_path / "g", "--model", model_folder)
    added = run("gallery", "add", tmp_path / "g", "--source", video, "--source", person_folder, "--camera", "gate-3")
    assert added.exit_code == 3, added.output  # six files cannot be read
    assert "Warning: could not be read: 6 images; the exit code is 3" in added.stderr.splitlines()
    lines = added.stdout.splitlines()
    assert f"{video}: 1 person from 10 of 20 images" in lines
    assert f"{person_folder}: 0 persons from 12 of 18 images" in lines
    assert "  12 persons were already in the gallery" in lines
    gallery = PersonGallery.open(tmp_path / "g")
    assert len(gallery) == 13
    assert gallery.info().cameras == {"gate-3": 1}


def test_adding_needs_a_gallery_and_sources_that_are_there(tmp_path, person_folder, model_folder):
    assert "There is no gallery in" in refusal("gallery", "add", tmp_path / "g", "--source", person_folder)
    run("index", "--source", person_folder, "--gallery", tmp_path / "g", "--model", model_folder)
    assert "nowhere.tar" in refusal("gallery", "add", tmp_path / "g", "--source", tmp_path / "nowhere.tar")
    message = refusal("gallery", "add", tmp_path / "g", "--source", person_folder, "--start", "2026-11-25")
    assert "is not a video" in message


def test_help_shows_a_line_to_type():
    assert "gadms gallery add my_gallery --source" in run("gallery", "add", "--help").stdout


def test_a_source_has_the_name_that_it_is_given_and_rows_their_key(tmp_path, shop, person_folder, model_folder):
    gallery = ["--gallery", tmp_path / "g", "--model", model_folder]
    result = run("index", "--source", shop, "--name", "shop", "--key", "price", "--column", "price:float", *gallery)
    assert result.exit_code == 3, result.output  # an image is missing
    moved = shop.rename(tmp_path / "moved.csv")
    again = run("gallery", "add", tmp_path / "g", "--source", moved, "--name", "shop", "--key", "price")
    assert "2 persons were already in the gallery" in again.stdout
    both = ["--source", moved, "--source", person_folder]
    assert "--name (x) is for one source, and 2 are given" in refusal("index", *both, "--name", "x", *gallery)


def test_a_source_whose_name_is_not_utf_8_is_reported(tmp_path, model_folder):
    folder = tmp_path / os.fsdecode(b"stra\xdfe")
    folder.mkdir()
    for number in range(2):
        Image.new("RGB", (16, 32), (90 * number, 0, 0)).save(folder / f"{number}.png")
    more = ["--source", folder / "1.png", "--gallery", tmp_path / "g", "--model", model_folder]
    result = run("index", "--source", folder, *more)
    assert result.exit_code == 0, result.output
    assert rf"{tmp_path}/stra\xdfe: 2 persons from 2 of 2 images" in result.stdout.splitlines()
