"""What is left of removed persons on the disk, and who was added when."""

import shutil
import threading
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_gadms.gallery import person_gallery as gallery
from modeling_gadms.gallery import storage
from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord, SearchResult


PERSONS = 120
GONE = (3, 40, 77)
"""So few that LanceDB's own compaction leaves their files as they are."""


def record(number: int) -> PersonRecord:
    pixels = np.random.default_rng(number).integers(0, 256, (32, 16, 3), dtype=np.uint8)
    return PersonRecord(Image.fromarray(pixels), f"{number:03}.png", camera="gate-1")


@pytest.fixture
def filled(tmp_path, model, processor, monkeypatch) -> PersonGallery:
    """With random embeddings, all three indexes, and two files of data."""
    monkeypatch.setattr(storage, "INDEX_FROM_ROWS", 100)
    drawn = iter(torch.nn.functional.normalize(torch.randn(1000, 16, generator=torch.Generator().manual_seed(0))))
    monkeypatch.setattr(gallery, "encode_images", lambda m, p, images, **_: torch.stack([next(drawn) for _ in images]))
    made = PersonGallery.create(tmp_path / "gallery", model, processor)
    made.add(record(number) for number in range(PERSONS // 2))
    made.add(record(number) for number in range(PERSONS // 2, PERSONS))
    assert {index.columns[0] for index in made._table.list_indices()} == {"id", "added", "vector"}
    return made


def persons(made: PersonGallery, numbers=GONE) -> list[tuple[SearchResult, bytes]]:
    """Persons with the bytes of their embeddings."""
    found = made.get([record(number).id for number in numbers])
    rows = made._table.search().select(["id", "vector"]).limit(1000).to_list()
    vectors = {row["id"]: np.array(row["vector"], np.float32).tobytes() for row in rows}
    return [(person, vectors[person.id]) for person in found]


def traces(made: PersonGallery, of: list[tuple[SearchResult, bytes]]) -> set[str]:
    """What the files of a gallery contain of persons."""
    content = [path.read_bytes() for path in Path(made.location).rglob("*") if path.is_file()]
    names = [str(path) for path in Path(made.location).rglob("*")]
    found = set()
    for person, vector in of:
        kinds = {"thumbnail": person.thumbnail, "embedding": vector, "id": person.id.encode()}
        found |= {kind for kind, part in kinds.items() if any(part in one for one in content)}
        found |= {"id" for name in names if person.id in name}
    return found


def test_no_byte_of_removed_persons_is_left_after_a_purge(filled):
    gone, kept = persons(filled), persons(filled, [0, 119])
    data = Path(filled.location, "persons.lance", "data")
    for number, file in enumerate(list(data.iterdir())):  # as writes that were killed, or lost a race
        shutil.copy(file, data / f"interrupted{number}.lance")
    filled.update({"camera": "gate-2"}, where="source < '050.png'")
    assert filled.remove(ids=[person.id for person, _ in gone]) == len(GONE)
    assert traces(filled, gone) == {"thumbnail", "embedding", "id"}

    report = filled.purge()
    assert traces(filled, gone) == set() and traces(filled, kept) == {"thumbnail", "embedding", "id"}
    assert report.earlier_versions == 0 and report.versions_until is None and report.unfinished_until is None
    assert report.disk_bytes == sum(p.stat().st_size for p in Path(filled.location).rglob("*") if p.is_file())
    assert report.current_bytes < report.disk_bytes < report.before_bytes
    assert filled.verify().persons == PERSONS - len(GONE) and filled.verify().sound
    assert {index.columns[0] for index in filled._table.list_indices()} == {"id", "added", "vector"}
    found = filled.search(Image.new("RGB", (16, 32)), 200, where="camera = 'gate-2'")
    assert {result.source for result in found} == {f"{n:03}.png" for n in range(50) if n not in GONE}

    filled.remove(where="source is not null")
    last = filled.purge()
    assert traces(filled, kept) == set() and len(filled) == 0 and last.current_bytes == 0
    assert filled.add([record(0)]).added == 1


def test_compacting_says_until_when_removed_persons_stay_and_then_leaves_none(filled):
    gone = persons(filled)
    filled.remove(ids=[person.id for person, _ in gone])
    report = filled.compact(keep_versions=timedelta(hours=2))
    assert traces(filled, gone) == {"thumbnail", "embedding", "id"}
    assert report.earlier_versions > 0
    assert timedelta(minutes=119) < report.versions_until - datetime.now(UTC) <= timedelta(hours=2)
    assert f"compact deletes them from {report.versions_until:%Y-%m-%d}" in str(report)
    filled.compact(keep_versions=timedelta(0))  # as two hours later
    assert traces(filled, gone) == set()


def test_a_purge_waits_for_writers_and_searches_go_on(filled, tmp_path, model, processor):
    reader = PersonGallery.open(tmp_path / "gallery", model, processor)
    everybody = reader.search(record(1).image, 5)
    filled.remove(where="source > '100.png'")
    purge = threading.Thread(target=filled.purge)
    with storage.writing(filled.location) as locked:
        assert locked
        purge.start()
        purge.join(2)
        assert purge.is_alive() and len(filled._table.list_versions()) > 1
    purge.join(60)
    assert not purge.is_alive() and len(filled._table.list_versions()) == 1
    # Its version is gone, and it has not looked for another yet.
    assert len(reader.search(record(1).image, 200, group_tracks=False)) == 101
    assert len(everybody) == 5
    assert reader.remove(where="source > '099.png'") == 1


def test_everybody_has_a_time_of_adding_that_filters_take(filled):
    before = datetime.now(UTC)
    filled.add([record(500)])
    (new,) = filled.get([record(500).id])
    assert before <= new.added <= datetime.now(UTC) and new.to_dict()["added"] == new.added.isoformat()
    assert filled.remove(where=f"added < '{before.isoformat()}'") == PERSONS
    assert [person.source for person in filled.get([record(n).id for n in (0, 500)])] == ["500.png"]


def test_a_gallery_of_an_earlier_version_gets_times_of_adding_when_written_to(filled, tmp_path, model, processor):
    filled._table.drop_columns(["added"])
    changed = filled._table.list_versions()[-1]["timestamp"].astimezone(UTC)
    old = PersonGallery.open(tmp_path / "gallery", model, processor)
    assert old.get([record(0).id])[0].added is None
    copy = old.copy_to(tmp_path / "copy", model, processor)
    assert copy.get([record(0).id])[0].added == changed
    assert len(old.search(record(0).image, 3)) == 3 and "added" not in old._table.schema.names
    assert old.add([record(300)]).added == 1
    first, last = old.get([record(number).id for number in (0, 300)])
    assert first.added == changed < last.added
    assert old._table.schema.field("added") == copy._table.schema.field("added")
    assert filled.add([record(300)]).already_there == 1  # a handle that was open before
    assert old.verify().persons == PERSONS + 1


@pytest.mark.parametrize(
    ("where", "passed_over", "names"),
    [
        ("time < '2026-11-25 08:30'", 20, ["time"]),
        ("camera <> 'gate-1'", 30, ["camera"]),
        ("NOT camera = 'gate-1'", 30, ["camera"]),
        ("camera NOT IN ('gate-1', 'x')", 30, ["camera"]),
        ("camera NOT LIKE 'gate%'", 30, ["camera"]),
        ("camera <> 'gate-1' AND time < '2026-11-25 08:30'", 30, ["camera", "time"]),
        ("camera <> 'gate-1' AND source = '00.png'", 1, ["camera"]),
        ("left BETWEEN 1 AND 2", 60, ["left"]),
        # Who has no camera or time is expected not to be among these.
        ("camera = 'gate-1'", 0, []),
        ("camera IN ('gate-1', 'x') OR camera LIKE 'y%'", 0, []),
        ("camera = 'gate-1' AND NOT source = 'x'", 0, []),
        ("camera <> 'gate-1' OR camera IS NULL", 0, []),
        ("time IS NOT NULL", 0, []),
    ],
)
def test_whom_a_filter_passes_over_for_lack_of_a_value_is_told(tmp_path, model, processor, where, passed_over, names):
    start = datetime(2026, 11, 25, 8, tzinfo=UTC)
    made = PersonGallery.create(tmp_path / "gallery", model, processor)
    image = Image.new("RGB", (16, 32))
    made.add(
        PersonRecord(
            image,
            f"{number:02}.png",
            camera=f"gate-{number % 3}" if number % 2 else None,
            time=start + timedelta(minutes=number) if number % 3 else None,
        )
        for number in range(60)
    )
    remarks = made.filter_remarks(where)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made.remove(where=where)
    assert [str(warning.message) for warning in caught if warning.category is UserWarning] == remarks
    if passed_over:
        (remark,) = remarks
        assert f"passes over {passed_over} of 60 persons, who have no {' or no '.join(names)};" in remark
        assert ("added" in remark) == ("time" in names)
    else:
        assert not remarks
