"""A gallery is replaced whole at the end or not at all; persons are committed in time."""

import threading

import pytest
from PIL import Image

from modeling_gadms.gallery import person_gallery
from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord
from tests.modeling_gadms.gallery.gallery_worker import records
from tests.waiting import wait_for


@pytest.fixture
def place(tmp_path, model, processor):
    """A gallery of ten persons."""
    PersonGallery.create(tmp_path / "g", model, processor).add(records(range(10)))
    return tmp_path / "g"


def sources(gallery: PersonGallery) -> list[str]:
    return sorted(gallery.info().sources)


def unfinished(place) -> list:
    return list(place.glob("unfinished-*"))


OLD = [f"{number:04}.png" for number in range(10)]
NEW = [f"{number:04}.png" for number in range(100, 106)]


def test_a_gallery_is_the_old_one_until_the_new_one_is_complete(place, model, processor):
    reader = PersonGallery.open(place, model, processor)
    answer = [result.id for result in reader.search("a red coat", 20)]
    scan = reader._table.search().select(["source"]).to_batches(3)
    with PersonGallery.rebuild(place, model, processor, columns={"price": "float"}) as gallery:
        gallery.add(records(range(100, 106)))
        assert sources(gallery) == NEW
        assert sources(PersonGallery.open(place)) == OLD
        assert [result.id for result in reader.search("a red coat", 20)] == answer
    assert sources(gallery) == sources(PersonGallery.open(place)) == NEW
    assert gallery.location == str(place) and gallery.columns == {"price": "float"}
    assert gallery.verify().sound and len(gallery.search("a red coat", 20)) == 6
    assert sorted(row["source"] for batch in scan for row in batch.to_pylist()) == OLD  # a scan that was under way
    wait_for(lambda: len(reader.search("a red coat", 20)) == 6)
    assert not unfinished(place)
    # The key that keeps two writers from adding a person twice is there as before.
    assert gallery.add(records(range(100, 107))).already_there == 6


@pytest.mark.parametrize("error", [ValueError("bad column"), KeyboardInterrupt(), RuntimeError("bug")])
def test_a_gallery_whose_replacement_fails_is_as_it_was(place, model, processor, error):
    with pytest.raises(type(error)), PersonGallery.rebuild(place, model, processor) as gallery:
        gallery.add(records(range(100, 106)))
        raise error
    assert sources(PersonGallery.open(place)) == OLD
    assert not unfinished(place)


def test_an_empty_gallery_replaces_none(place, model, processor):
    with pytest.raises(ValueError, match="left as it was"), PersonGallery.rebuild(place, model, processor, resume="x"):
        pass
    assert sources(PersonGallery.open(place)) == OLD


def test_a_full_disk_at_the_last_step_leaves_the_old_gallery(place, model, processor, monkeypatch):
    def two_rows_of(table, *_):
        yield from table.search().select(table.schema.names).to_batches(2)
        raise OSError("No space left on device")

    monkeypatch.setattr(person_gallery.maintenance, "all_rows", two_rows_of)
    with (
        pytest.raises(OSError, match="could not be written"),
        PersonGallery.rebuild(place, model, processor) as gallery,
    ):
        gallery.add(records(range(100, 106)))
    assert sources(PersonGallery.open(place)) == OLD
    monkeypatch.undo()


@pytest.mark.parametrize("kind", ["csv", "parquet", "folder"])
def test_an_export_or_copy_that_fails_leaves_nothing_half_done(place, tmp_path, model, processor, monkeypatch, kind):
    gallery, batches = PersonGallery.open(place, model, processor), person_gallery.maintenance._batches

    def cut(table, columns):
        yield next(batches(table, columns))
        raise OSError("No space left on device")

    monkeypatch.setattr(person_gallery.maintenance, "_batches", cut)
    before = set(tmp_path.iterdir())
    with pytest.raises(OSError, match="No space left"):
        gallery.export(tmp_path / "out", kind)
    assert set(tmp_path.iterdir()) == before
    with pytest.raises(OSError, match="could not be written"):
        gallery.copy_to(tmp_path / "copy", model, processor)
    assert len(PersonGallery.open(tmp_path / "copy")) == 0


def test_an_interrupted_replacement_is_gone_on_with_only_by_the_same_run(tmp_path, model, processor):
    place = tmp_path / "g"

    def interrupted(resume: str) -> None:
        with (
            pytest.raises(KeyboardInterrupt),
            PersonGallery.rebuild(place, model, processor, resume=resume) as gallery,
        ):
            gallery.add(records(range(100, 103)))
            raise KeyboardInterrupt

    interrupted("a/")
    with pytest.raises(FileNotFoundError, match="is not finished: repeat the `gadms index --overwrite`"):
        PersonGallery.open(place)
    with PersonGallery.rebuild(place, model, processor, resume="b/") as gallery:
        assert len(gallery) == 0
        gallery.add(records(range(5)))
    assert sources(gallery) == OLD[:5]
    with PersonGallery.rebuild(place, model, processor, resume="a/") as gallery:
        assert len(gallery) == 3
        gallery.add(records(range(100, 106)))
    assert sources(PersonGallery.open(place)) == NEW
    interrupted("a/")
    with PersonGallery.rebuild(place, model, processor) as gallery:
        PersonGallery.open(place).purge()  # also what was left, but not what is being built
        assert [str(path) for path in place.glob("unfinished-*")] == [gallery.location]
        gallery.add(records(range(3)))
    assert not unfinished(place)


def test_persons_are_committed_by_time_as_well_as_by_number(place, model, processor, monkeypatch):
    now = 0.0
    monkeypatch.setattr(person_gallery, "monotonic", lambda: now)

    def slow():
        nonlocal now
        for record in records(range(100, 120)):
            now += 10
            yield record

    gallery = PersonGallery.open(place, model, processor)
    assert gallery.add(slow()).added == 20
    rows = [int(version["metadata"]["total_rows"]) for version in gallery._table.list_versions()]
    assert rows[-8:] == [10, 12, 15, 18, 21, 24, 27, 30]  # at the latest after 25 seconds


def test_persons_found_are_committed_while_the_next_one_is_looked_for(place, model, processor, monkeypatch):
    monkeypatch.setattr(person_gallery, "COMMIT_SECONDS", 0.01)
    gallery = PersonGallery.open(place, model, processor)
    committed = threading.Event()

    def blocked():
        yield from records(range(100, 103))
        assert committed.wait(600)

    def wait_for_commit():
        wait_for(lambda: len(PersonGallery.open(place)) == 13)
        committed.set()

    watcher = threading.Thread(target=wait_for_commit)
    watcher.start()
    assert gallery.add(blocked()).added == 3
    watcher.join()


def test_persons_before_an_error_of_their_source_are_kept(place, model, processor):
    gallery = PersonGallery.open(place, model, processor)

    def broken():
        yield from records(range(100, 103))
        raise ValueError("The archive is damaged")

    with pytest.raises(ValueError, match="The archive is damaged"):
        gallery.add(broken())
    assert len(gallery) == 13
    wrong = PersonRecord(Image.new("RGB", (16, 32)), "x", columns={"colour": "red"})
    with pytest.raises(ValueError, match="no column 'colour'"):
        gallery.add([*records(range(103, 106)), wrong])
    assert len(gallery) == 16


@pytest.mark.parametrize("location", ["", "  "])
def test_an_empty_path_is_an_error(location, model, processor):
    for action in (PersonGallery.open, lambda place: PersonGallery.create(place, model, processor)):
        with pytest.raises(ValueError, match="The path of the gallery is empty"):
            action(location)


def test_the_home_folder_may_be_written_short(tmp_path, model, processor, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    PersonGallery.create("~/g", model, processor).add(records(range(3)))
    for location in ("~/g", tmp_path / "g"):
        assert len(PersonGallery.open(location)) == 3
    assert PersonGallery.open("~/g").location == str(tmp_path / "g")
