"""`gadms index` and `gadms gallery add`: sources, tracks, cameras, and additional columns."""

import io
import json
import os
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from gadms_cli import indexing
from modeling_gadms.gallery.person_gallery import PersonGallery
from modeling_gadms.media import detection
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


@pytest.fixture
def damaged_archive(tmp_path) -> Path:
    """An archive of two readable images that is cut in the third."""
    path = tmp_path / "damaged.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(3):
            content = io.BytesIO()
            Image.effect_noise((64, 128), 50 + number).save(content, "PNG")
            member = tarfile.TarInfo(f"{number}.png")
            member.size = content.tell()
            archive.addfile(member, io.BytesIO(content.getvalue()))
    path.write_bytes(path.read_bytes()[: 3 * member.size])
    return path


def test_a_bad_source_of_several_is_counted_and_the_next_one_is_read(tmp_path, shop, damaged_archive, model_folder):
    (tmp_path / "letter.avi").write_text("Dear Sir or Madam")
    names = [damaged_archive, tmp_path / "letter.avi", shop]
    sources = [part for name in names for part in ("--source", name)]
    common = ["index", *sources, "--gallery", tmp_path / "g", "--model", model_folder, "--column", "price:float"]
    result = run(*common)
    assert result.exit_code == 3, result.output
    assert f"{damaged_archive}: 2 persons from 2 of 2 images" in result.stdout
    assert f"{shop}: 2 persons from 2 of 3 images" in result.stdout
    left_out = [line for line in result.stderr.splitlines() if line.startswith("Left out: ")]
    assert f"{damaged_archive} cannot be read" in left_out[0]
    assert left_out[0].endswith("(after 2 images, with 2 persons in the gallery)")
    assert "letter.avi does not open as a video" in left_out[1] and len(left_out) == 2
    assert "Warning: could not be read: 2 of 3 sources and 1 image; the exit code is 3" in result.stderr
    assert len(PersonGallery.open(tmp_path / "g")) == 4

    replaced = run(*common, "--overwrite", "--json")
    assert replaced.exit_code == 3, replaced.output
    rows = [json.loads(line) for line in replaced.stdout.splitlines()]
    assert [(row["source"], row["seen"], row["persons"]) for row in rows] == [
        (str(damaged_archive), 2, 2),
        (str(tmp_path / "letter.avi"), 0, 0),
        (str(shop), 3, 2),
    ]
    assert [row["error"] is None for row in rows] == [False, False, True]


def test_a_row_or_frame_that_cannot_be_used_is_counted(tmp_path, shop, video, model_folder, red_detector, monkeypatch):
    shop.write_text(shop.read_text().replace("4.0", "cheap"))
    common = ["--gallery", tmp_path / "g", "--model", model_folder, "--overwrite"]
    result = run("index", "--source", shop, *common, "--column", "price:string", "--column", "brand:integer")
    assert result.exit_code == 2 and "No person was found" in result.stderr
    assert (
        "skipped 2: a value does not fit its column (row 1: brand: 'Acme' is not an integer, row 2: " in result.stdout
    )
    frames, detect = iter(range(20)), red_detector.__call__

    def failing(self, images):
        if next(frames) == 12:
            raise ZeroDivisionError("a box without area")
        return detect(self, images)

    monkeypatch.setattr(red_detector, "__call__", failing)
    result = run("index", "--source", video, *common, "--crops-per-track", 0)
    assert result.exit_code == 3, result.output
    assert "9 persons from 9 of 20 images" in result.stdout
    assert "skipped 1: an error while finding persons (" in result.stdout
    assert f"{video}" in result.stdout and "ZeroDivisionError: a box without area" in result.stdout


@pytest.mark.parametrize("trouble", ["type", "column", "rows", "workers", "source", "model", "detector", "disk"])
def test_whatever_goes_wrong_the_gallery_to_be_replaced_stays(
    tmp_path, person_folder, shop, video, model_folder, monkeypatch, trouble
):
    place = tmp_path / "g"
    run("index", "--source", person_folder, "--gallery", place, "--model", model_folder)
    before = PersonGallery.open(place).info()
    more = {
        "type": ["--column", "price:money"],
        "column": ["--column", "price"],
        "rows": ["--column", "brand:integer"],
        "workers": ["--workers", 2],
        "source": ["--source", tmp_path / "nowhere"],
        "model": ["--model", tmp_path / "nowhere"],
        "detector": ["--source", video],
    }.get(trouble, [])
    source = [] if trouble == "source" else ["--source", shop]
    model = [] if trouble == "model" else ["--model", model_folder]
    if trouble == "workers":
        monkeypatch.setitem(sys.modules, "ray", None)
    elif trouble == "detector":
        monkeypatch.setattr(detection, "SsdMobileNetDetector", lambda **_: fail(ImportError("needs a library")))
    elif trouble == "disk":
        monkeypatch.setattr(PersonGallery, "_insert", lambda *_: fail(OSError("No space left on device")))
    result = run("index", *source, "--gallery", place, *model, "--overwrite", *more)
    assert result.exit_code == 2, result.output
    errors = [line for line in result.stderr.splitlines() if "Error: " in line]
    assert len(errors) == 1 and errors[0].startswith("Error: ")  # on a line of its own after a progress bar
    assert PersonGallery.open(place).info() == before
    unfinished = [path.name for path in place.glob("unfinished-*")]
    if trouble == "detector":  # two persons of the table before the video
        assert (
            len(unfinished) == 1 and f"2 persons of the new one are kept in {place / unfinished[0]}" in result.stderr
        )
    else:
        assert not unfinished


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("command", [["index", "--model", "m", "--gallery"], ["gallery", "add"]])
def test_an_empty_path_of_a_gallery_is_refused(person_folder, model_folder, command):
    command = [model_folder if part == "m" else part for part in command]
    assert "The path of the gallery is empty" in refusal(*command, "", "--source", person_folder)


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


def test_the_command_that_goes_on_has_the_options_of_the_run(tmp_path, shop, model_folder, monkeypatch):
    reports = indexing._reports

    def failing(*arguments):
        next(reports(*arguments))  # both persons are in the gallery
        raise OSError("No space left on device")
        yield

    monkeypatch.setattr(indexing, "_reports", failing)
    options = ["--no-detect", "--key", "price", "--allow-address", "10.0.0.5:80", "--allow-address", "10.0.0.6:80"]
    result = run("index", "--source", shop, "--gallery", tmp_path / "g", "--model", model_folder, *options)
    assert result.exit_code == 2
    command = f"gadms gallery add {tmp_path / 'g'} --source {shop} --no-detect --key price"
    command += " --allow-address 10.0.0.5:80 --allow-address 10.0.0.6:80"
    line = next(line for line in result.stderr.splitlines() if line.startswith("Kept: 2 persons"))
    assert line.startswith(
        f"Kept: 2 persons of this run in the gallery {tmp_path / 'g'}; to go on: gadms gallery add "
    )
    assert sorted(line.split(" to go on: ")[1].split()) == sorted([*command.split(), "--model", str(model_folder)])
