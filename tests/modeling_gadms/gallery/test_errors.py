"""Damage and failures of the storage are told in words of the gallery, without places in LanceDB's source code."""

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from modeling_gadms.gallery.errors import GalleryFilesMissingError, GalleryStorageError, clear_errors
from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord
from tests.command_line import refusal


INSIDE = re.compile(r"\.rs\b|cargo|rustc|/root|lance error|LanceError|Traceback|RuntimeError|Invalid input")
"""What users must not see."""


@pytest.fixture
def place(tmp_path, model, processor) -> Path:
    made = PersonGallery.create(tmp_path / "gallery", model, processor)
    made.add(PersonRecord(Image.new("RGB", (16, 32)), f"{number}.png") for number in range(5))
    return tmp_path / "gallery"


def cut(files: list[Path], size: int) -> None:
    for file in files:
        file.write_bytes(file.read_bytes()[:size])


def overwrite_end(files: list[Path]) -> None:
    for file in files:
        file.write_bytes(file.read_bytes()[:-200] + b"\xff" * 200)


DAMAGE = {
    "no data": (lambda place: shutil.rmtree(place / "data"), "its file persons.lance/data/.* is missing"),
    "no versions": (lambda place: shutil.rmtree(place / "_versions"), "its file list is missing"),
    "cut versions": (lambda place: cut(list(place.rglob("*.manifest")), 40), "files are damaged"),
    "cut data": (lambda place: cut(list(place.rglob("data/*")), 200), "files are damaged"),
    "overwritten data": (lambda place: overwrite_end(list(place.rglob("data/*"))), "files are damaged"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_gallery_is_called_that_by_every_command(place, tmp_path, kind):
    damage, problem = DAMAGE[kind]
    damage(place / "persons.lance")
    commands = [
        ["gallery", "verify", place],
        ["gallery", "export", place, tmp_path / "all.parquet"],
        ["gallery", "remove", place, "--where", "source = '1.png'", "--now"],
        ["search", "a coat", "--gallery", place, "--out", tmp_path / "r.png"],
    ]
    for command in commands:
        message = refusal(*command)
        assert re.search(f"The gallery in {place} could not be (read|written|purged): .*{problem}", message), message
        assert "restore it from a backup" in message and not INSIDE.search(message), message


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("foo://bucket/gallery", "no object store of the kind foo://"),
        ("s3://bucket/gallery", "object store does not answer, or refuses access; check the address and the keys"),
    ],
)
def test_a_store_that_is_not_there_is_called_that(location, problem):
    options = {"endpoint": "http://127.0.0.1:9", "allow_http": "true", "region": "us-east-1",
               "aws_access_key_id": "a", "aws_secret_access_key": "b"}  # fmt: skip
    with pytest.raises(GalleryStorageError, match=problem) as caught:
        PersonGallery.open(location, storage_options=options)
    assert not INSIDE.search(str(caught.value))


def test_what_is_unknown_is_told_without_places_and_other_errors_pass(place):
    table = PersonGallery.open(place)._table
    with pytest.raises(GalleryStorageError, match="in here could not be read: .*could not convert") as caught:
        with clear_errors("here", "read"):
            table.count_rows("frame > 99999999999999999999999")
    assert not re.search(r"\.rs\b|cargo", str(caught.value))
    for error in (ValueError("mine"), KeyError("x"), KeyboardInterrupt(), OSError(28, "No space left on device")):
        with pytest.raises(type(error)) as same, clear_errors("here", "read"):
            raise error
        assert same.value is error


def test_a_removed_gallery_is_a_missing_one_for_who_has_it_open(place, model, processor):
    opened = PersonGallery.open(place, model, processor)
    shutil.rmtree(place)
    for use in (lambda: opened.search("a coat"), opened.verify, lambda: opened.remove(ids=["x"]), opened.purge):
        with pytest.raises(GalleryFilesMissingError, match="missing"):
            use()


@pytest.mark.parametrize("location", ["", "  "])
def test_an_empty_path_is_refused(location, model, processor):
    with pytest.raises(ValueError, match="path of the gallery is empty"):
        PersonGallery.open(location)
    with pytest.raises(ValueError, match="path of the gallery is empty"):
        PersonGallery.create(location, model, processor)


def test_a_path_from_the_home_folder_or_a_relative_one_names_one_gallery(place, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(place)
    for location in ("~/gallery", ".", "../gallery", str(place)):
        assert PersonGallery.open(location).location == str(place)
