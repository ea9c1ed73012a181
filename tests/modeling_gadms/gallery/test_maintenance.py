"""Repeated additions, updates, removal, compaction, verification, export and copies of galleries."""

import csv
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from modeling_gadms.gallery import person_gallery as gallery
from modeling_gadms.gallery import storage
from modeling_gadms.gallery.errors import GalleryBusyError
from modeling_gadms.gallery.person_gallery import AddReport, PersonGallery, PersonRecord, Query
from modeling_gadms.media.detection import PersonBox


START = datetime(2026, 11, 25, 8, tzinfo=UTC)
COLUMNS = {"brand": "string", "price": "float", "sold": "integer", "in_stock": "boolean", "since": "time"}


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 16, 3), dtype=np.uint8))


def records(numbers, **fields) -> list[PersonRecord]:
    return [PersonRecord(picture(number), f"{number:02}.png", camera="gate-1", **fields) for number in numbers]


VALUES = {"brand": "Nordlys", "price": 20, "in_stock": True}


@pytest.fixture
def filled(tmp_path, model, processor) -> PersonGallery:
    made = PersonGallery.create(tmp_path / "gallery", model, processor, columns=COLUMNS)
    made.add(records(range(20), columns=VALUES))
    return made


def sources(made: PersonGallery, where: str | None = None) -> list[str]:
    return sorted(result.source for result in made.search("a coat", 1000, where=where))


def test_who_is_there_already_is_left_alone_and_not_embedded_again(filled, monkeypatch):
    embedded = []
    encode = gallery.encode_images

    def counted(model, processor, images, **options):
        return encode(model, processor, (embedded.append(image) or image for image in images), **options)

    monkeypatch.setattr(gallery, "encode_images", counted)
    assert filled.add(records(range(15, 25), columns=VALUES)) == AddReport(added=5, already_there=5)
    assert len(embedded) == 5
    assert filled.add(records([3, 30, 30, 3], columns=VALUES)) == AddReport(added=1, already_there=3)
    assert len(filled) == 26


def test_who_has_changed_is_replaced(filled, tmp_path):
    """By another image, camera, time or column; also within one addition, and in a table of an earlier version."""
    same, dearer = records([0], columns=VALUES), records([1], columns=VALUES | {"price": 25})
    elsewhere = [replace(records([2], columns=VALUES)[0], camera="gate-2")]
    redrawn = [replace(records([3], columns=VALUES)[0], image=picture(103))]
    assert filled.add(same + dearer + elsewhere + redrawn) == AddReport(added=0, already_there=1, updated=3)
    assert len(filled) == 20
    found = {result.source: result for result in filled.search(Query(image=picture(103)), 20)}
    assert list(found)[0] == "03.png"
    assert (found["01.png"].columns["price"], found["02.png"].camera) == (25.0, "gate-2")
    assert filled.add(same + dearer + elsewhere + redrawn) == AddReport(added=0, already_there=4)

    twice = [replace(record, image=picture(50)) for record in records([40, 40], columns=VALUES)]
    twice[1] = replace(twice[1], image=picture(60))  # the later one stays
    assert filled.add(twice) == AddReport(added=1, already_there=0, updated=1)
    assert filled.search(Query(image=picture(60)), 1)[0].source == "40.png"

    filled.update({"camera": "by hand"}, ids=[same[0].id])
    assert filled.add(same) == AddReport(
        added=0, already_there=1
    )  # the source is as it was, and the hand's work stays
    assert filled.get([same[0].id])[0].camera == "by hand"

    filled._table.drop_columns(["content"])
    old = PersonGallery.open(tmp_path / "gallery", *filled._encoders)
    assert len(old.search("a coat", 30)) == 21
    assert old.add(same) == AddReport(added=0, already_there=0, updated=1)  # nobody knows what it was
    assert old.add(same) == AddReport(added=0, already_there=1)
    assert old.verify().sound


def test_who_has_changed_is_there_once_in_a_gallery_with_indexes(tmp_path, model, processor, monkeypatch):
    monkeypatch.setattr(storage, "INDEX_FROM_ROWS", 300)
    made = PersonGallery.create(tmp_path / "gallery", model, processor)
    persons = records(range(400))
    made.add(persons)
    assert {"id_idx", "vector_idx"} <= {index.name for index in made._table.list_indices()}
    changed = [replace(person, image=picture(1000 + number)) for number, person in enumerate(persons[:100])]
    assert made.add(changed + persons[100:]) == AddReport(added=0, already_there=300, updated=100)
    assert made.verify().sound and len(made) == 400
    assert made.search(Query(image=picture(1003)), 1)[0].source == "03.png"


def test_persons_of_a_replaced_file_are_removed(filled):
    state = records([5])[0]
    filled.add(
        [replace(state, source="v.mp4", frame=number, content=f"{'new' if number else 'old'}-1") for number in (0, 1)]
    )
    assert filled.remove_outdated({"v.mp4": "new", "05.png": "new"}) == 2
    assert [result.frame for result in filled.search("a coat", 30, where="source IN ('v.mp4', '05.png')")] == [1]
    assert filled.remove_outdated({"v.mp4": "new"}) == 0


def test_a_second_gallery_object_adds_nobody_twice(filled, tmp_path, model, processor, monkeypatch):
    """As if both looked up the ids before either wrote: the primary key of the table excludes the second row."""
    other = PersonGallery.open(tmp_path / "gallery", model, processor)
    monkeypatch.setattr(PersonGallery, "_stored_states", lambda self, ids: {})
    assert other.add(records(range(18, 23))) == AddReport(added=3, already_there=2)
    assert len(PersonGallery.open(tmp_path / "gallery", model, processor)) == 23


def test_threads_that_add_the_same_persons_at_once_add_each_once(tmp_path, model, processor, monkeypatch):
    monkeypatch.setattr(gallery, "WRITE_ROWS", 10)
    monkeypatch.setattr(gallery, "encode_images", lambda m, p, images, **_: torch.eye(16)[[0 for _ in images]])
    PersonGallery.create(tmp_path / "gallery", model, processor)
    together = threading.Barrier(4)

    def add(_: int) -> AddReport:
        opened = PersonGallery.open(tmp_path / "gallery", model, processor)
        together.wait()
        return opened.add(records(range(50)))

    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(add, range(4)))
    assert sum(report.added for report in reports) == 50
    assert sum(report.already_there for report in reports) == 150
    found = PersonGallery.open(tmp_path / "gallery")
    assert len(found) == 50 and found.verify().sound


def test_columns_keep_their_types(filled):
    given = {"brand": None, "price": 7, "sold": 3, "in_stock": False, "since": "2026-11-25 09:00+01:00"}
    filled.add(records([50], columns=given))
    (person,) = filled.search("a coat", where="source = '50.png'")
    assert person.columns == given | {"price": 7.0, "since": START}
    assert filled.columns == COLUMNS


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"colour": "red"}, "no column 'colour' for the value 'red'; its columns: brand, price"),
        ({"price": "cheap"}, "'cheap' of the column 'price' is a str, but its type is float"),
        ({"price": True}, "is a bool"),
        ({"sold": 1.5}, "is a float, but its type is integer"),
        ({"brand": 5}, "is a int, but its type is string"),
        ({"since": "soon"}, "'soon' is not a time"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_before_anything_is_added(filled, columns, problem):
    with pytest.raises(ValueError, match=problem):
        filled.add(records([60], columns=columns))
    assert len(filled) == 20


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"source": "string"}, "'source' is reserved"),
        ({"score": "float"}, "'score' is reserved"),
        ({"Brand": "string"}, "'Brand' is invalid: use lower-case letters"),
        ({"a`b": "string"}, "is invalid"),
        ({"brand": "text"}, "unknown type, 'text': use string, integer"),
    ],
)
def test_a_column_that_cannot_be_is_refused(tmp_path, model, processor, columns, problem):
    with pytest.raises(ValueError, match=problem):
        PersonGallery.create(tmp_path / "new", model, processor, columns=columns)
    assert not (tmp_path / "new").exists()


def test_persons_are_removed_by_filter_and_by_id(filled):
    assert filled.remove(where="source < '05.png'") == 5
    ids = [record.id for record in records([7, 8, 90])]
    assert filled.remove(ids=ids) == 2
    assert filled.remove(ids=[]) == 0
    assert sources(filled) == [f"{number:02}.png" for number in (5, 6, *range(9, 20))]


def test_columns_are_changed_by_filter_and_by_id(filled):
    assert filled.update({"camera": "it's new", "time": START, "price": 5}, where="source >= '15.png'") == 5
    assert sources(filled, "camera = 'it''s new' and time = '2026-11-25 08:00' and price = 5") == [
        f"{number}.png" for number in range(15, 20)
    ]
    assert filled.update({"brand": None, "since": "2026-01-01"}, ids=[records([3])[0].id]) == 1
    assert sources(filled, "brand is null") == sources(filled, "since = '2026-01-01'") == ["03.png"]
    assert len(sources(filled, "camera = 'gate-1'")) == 15


def test_what_says_who_it_is_cannot_be_changed(filled):
    for values in ({"source": "x"}, {"id": "x"}, {"vector": None}, {"nothing": 1}):
        with pytest.raises(ValueError, match="no column"):
            filled.update(values, where="price > 0")
    with pytest.raises(ValueError, match="No value is given"):
        filled.update({}, where="price > 0")
    with pytest.raises(ValueError, match="give one of the two"):
        filled.update({"price": 1})
    with pytest.raises(ValueError, match="give one of the two"):
        filled.remove(where="price > 0", ids=["x"])
    with pytest.raises(ValueError, match="not allowed"):
        filled.remove(where="1 = 1")
    with pytest.raises(TypeError, match="give a list"):
        filled.remove(ids="abc")
    assert len(filled) == 20


def test_compacting_takes_removed_persons_off_the_disk_and_changes_no_answer(filled, tmp_path):
    for number in range(20, 30):
        filled.add(records([number]))
    filled.remove(where="source < '10.png'")
    before = filled.search("a red coat", 30)
    files = list((tmp_path / "gallery").rglob("*.lance"))
    filled.compact(keep_versions=timedelta(0))
    assert filled.search("a red coat", 30) == before
    after = list((tmp_path / "gallery").rglob("*.lance"))
    assert len(after) < len(files) and filled.info().persons == 20


def test_a_reader_keeps_its_version_while_another_process_compacts(filled, tmp_path, model, processor):
    reader = PersonGallery.open(tmp_path / "gallery", model, processor)
    reader._table.checkout(reader._table.version)  # as a search that has begun
    filled.remove(where="source < '10.png'")
    filled.compact()
    assert len(reader.search("a coat", 100)) == 20


def test_info_says_what_is_there(filled, tmp_path, model_folder):
    filled.add([PersonRecord(picture(77), "a.mp4", 3, 0.5, camera="gate-2", track=1)])
    filled.add([PersonRecord(picture(78), "a.mp4", 4, 0.6, track=1)])
    info = filled.info()
    assert (info.persons, info.tracks, info.dimension, info.indexed_persons) == (22, 1, 16, 0)
    assert info.cameras == {"gate-1": 20, "gate-2": 1} and info.sources["a.mp4"] == 2
    assert info.columns == COLUMNS and info.model.name == str(model_folder.resolve())
    assert info.size_bytes > 22 * 64 and info.location == str(tmp_path / "gallery")
    assert timedelta(0) < datetime.now(UTC) - info.changed < timedelta(minutes=10)


def test_a_sound_gallery_is_verified_and_a_damaged_one_counted(filled):
    assert filled.verify().sound and filled.verify().persons == 20
    rows = filled._table.search().where("source < '03.png'").limit(3).to_arrow().to_pylist()
    rows.sort(key=lambda row: row["source"])
    rows[0]["vector"] = [0.0] * 16
    rows[1]["vector"] = [2 * value for value in rows[1]["vector"]]
    rows[2]["thumbnail"] = rows[2]["thumbnail"][:40]
    filled.remove(where="source < '03.png'")
    filled._table.add(rows)
    filled._table.add([{**rows[2], "id": rows[1]["id"]}])
    report = filled.verify()
    assert report.persons == 21 and not report.sound
    assert report.problems == {
        "the norm of the embedding is not 1": 2,
        "the thumbnail does not decode": 2,
        "duplicate id": 1,
    }
    assert report.examples["the norm of the embedding is not 1"] in [records([0])[0].id, records([1])[0].id]
    assert "2: the norm of the embedding is not 1 (e.g. " in str(report)


def files_of(made: PersonGallery) -> int:
    return made._table.stats()["fragment_stats"]["num_fragments"]


def test_the_files_of_many_small_additions_are_joined(filled, monkeypatch):
    monkeypatch.setattr(storage, "_MAX_SMALL_FILES", 5)
    counts = []
    for number in range(20, 40):
        assert filled.add(records([number])) == AddReport(1, 0)
        counts.append(files_of(filled))
    assert max(counts) == 5 and counts[:5] == [2, 3, 4, 5, 1]
    assert sources(filled) == [f"{number:02}.png" for number in range(40)] and filled.verify().sound


def test_files_that_cannot_be_joined_now_cost_no_addition(filled, monkeypatch, caplog):
    monkeypatch.setattr(storage, "_MAX_SMALL_FILES", 1)
    table = filled._table

    def busy(**options):
        raise GalleryBusyError("other processes change it at the same time")

    monkeypatch.setattr(table, "optimize", busy)
    assert filled.add(records([20])) == AddReport(1, 0) and filled.add(records([21])) == AddReport(1, 0)
    assert "could not be joined now. other processes change it" in caplog.text
    monkeypatch.undo()
    assert len(filled) == 22 and files_of(filled) == 3


def test_exports_hold_every_person(filled, tmp_path):
    assert filled.export(tmp_path / "persons.csv", "csv") == 20
    with (tmp_path / "persons.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["source"] for row in rows) == sources(filled)
    assert rows[0]["brand"] == "Nordlys" and "vector" not in rows[0]

    assert filled.export(tmp_path / "persons.parquet", "parquet") == 20
    table = pq.read_table(tmp_path / "persons.parquet")
    assert table.num_rows == 20 and len(table["vector"][0]) == 16 and table["thumbnail"][0].as_py()[:2] == b"\xff\xd8"

    assert filled.export(tmp_path / "folder", "folder") == 20
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "folder"), split="train")
    assert len(loaded) == 20 and sorted(loaded["source"]) == sources(filled)
    assert loaded[0]["image"].size == (16, 32)


def test_an_exported_csv_has_a_column_for_each_side_of_a_box(tmp_path, model, processor):
    made = PersonGallery.create(tmp_path / "gallery", model, processor)
    made.add([*records([0], box=PersonBox(1.5, 2, 30, 40.25, 0.5)), *records([1])])
    made.export(tmp_path / "persons.csv", "csv")
    with (tmp_path / "persons.csv").open(newline="") as file:
        boxed, whole = sorted(csv.DictReader(file), key=lambda row: row["source"])
    sides = ("left", "top", "right", "bottom", "confidence")
    assert [boxed[side] for side in sides] == ["1.5", "2.0", "30.0", "40.25", "0.5"]
    assert [whole[side] for side in sides] == [""] * 5 and "box" not in boxed


def test_an_export_replaces_nothing_and_knows_its_kinds(filled, tmp_path):
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(FileExistsError, match="there.csv already exists"):
        filled.export(tmp_path / "there.csv", "csv")
    with pytest.raises(ValueError, match="Unknown export format 'xlsx': give one of csv, parquet, folder"):
        filled.export(tmp_path / "new.xlsx", "xlsx")


def test_an_empty_gallery_is_sound_and_exports_nothing(tmp_path, model, processor):
    empty = PersonGallery.create(tmp_path / "gallery", model, processor)
    assert empty.verify().persons == 0 and empty.info().persons == 0
    assert empty.export(tmp_path / "none.csv", "csv") == 0


def test_another_preprocessing_is_told_from_other_weights(filled, tmp_path, model, processor):
    processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    with pytest.raises(ValueError, match="differs in its preprocessing"):
        PersonGallery.open(tmp_path / "gallery", model, processor)


def test_a_gallery_of_an_earlier_version_says_how_to_make_it_anew(filled, tmp_path, model, processor):
    filled._table.drop_columns(["box"])
    with pytest.raises(ValueError, match="earlier version.*gadms index .*--overwrite"):
        PersonGallery.open(tmp_path / "gallery", model, processor)


def test_a_copy_answers_alike_and_holds_nothing_of_who_was_removed(filled, tmp_path, model, processor, tiny_model):
    gone = next(result for result in filled.search("a coat", 20) if result.source == "07.png")
    filled.remove(ids=[gone.id])
    filled.update({"camera": "gate-2"}, where="source < '05.png'")
    place = tmp_path / "copy"
    copy = filled.copy_to(place, model, processor)
    assert copy.columns == filled.columns and copy.verify().sound
    assert copy.search("a coat", 20) == filled.search("a coat", 20)
    content = {where: b"".join(file.read_bytes() for file in where.rglob("*") if file.is_file())
               for where in (tmp_path / "gallery", place)}  # fmt: skip
    assert gone.thumbnail in content[tmp_path / "gallery"] and gone.thumbnail not in content[place]
    copy.add(records(range(18, 22)))
    assert (len(copy), len(filled)) == (21, 19)

    with pytest.raises(FileExistsError, match="There is already a gallery of 21 persons"):
        filled.copy_to(place, model, processor)
    with pytest.raises(ValueError, match="differs in its weights"):
        filled.copy_to(tmp_path / "other", tiny_model(seed=5).base_model.eval(), processor)
    assert not (tmp_path / "other").exists()
