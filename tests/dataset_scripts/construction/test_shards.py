"""A shard is finished or not there; a folder holds one run, of one process."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_scripts.construction.pipeline_report import BlockCounts
from dataset_scripts.construction.shards import (
    ROW_GROUP,
    Marker,
    RunFolderError,
    StageFolder,
    fingerprint,
    lock_folder,
    remove_leftovers,
)
from modeling_gadms.encoders.atomic_files import file_digest, write_atomically


TABLES = {
    "work/persons/00003.parquet": pa.table({"row_id": ["a", "b"], "crop": [b"\xff\xd8", b"\x00"]}),
    "work/rejects/persons-00003.parquet": pa.table({"row_id": ["c"], "reason": ["too small"]}),
}
COUNTS = (BlockCounts("box", "persons", 3, 2, {"too small": 1}, {"seen twice": 1}),)


@pytest.fixture
def folder(tmp_path) -> StageFolder:
    return StageFolder(tmp_path / "run", "persons", "f1")


@pytest.fixture
def finished(folder) -> StageFolder:
    folder.finish(3, TABLES, COUNTS)
    return folder


def files_below(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_a_finished_shard_holds_its_tables_and_a_marker_with_digests_and_account(finished):
    for name, table in TABLES.items():
        assert pq.read_table(finished.root / name).equals(table)
    digests = {name: hashlib.sha256((finished.root / name).read_bytes()).hexdigest() for name in TABLES}
    sizes = {name: (finished.root / name).stat().st_size for name in TABLES}
    assert finished.read_marker(3) == Marker("f1", digests, COUNTS, sizes)
    assert files_below(finished.root) == sorted([*TABLES, "work/markers/persons/00003.json"])


def test_a_shard_that_was_not_finished_has_no_marker(finished):
    assert finished.read_marker(4) is None


def test_the_same_tables_give_the_same_bytes(finished, tmp_path):
    again = StageFolder(tmp_path / "again", "persons", "f1")
    again.finish(3, TABLES, COUNTS)
    for name in files_below(finished.root):
        assert (again.root / name).read_bytes() == (finished.root / name).read_bytes()


def test_tables_are_cut_into_row_groups_that_can_be_picked(folder):
    folder.finish(0, {"data/a.parquet": pa.table({"number": range(2 * ROW_GROUP + 1)})}, ())
    assert pq.read_metadata(folder.root / "data/a.parquet").num_row_groups == 3


@pytest.mark.parametrize("moves", range(3))
def test_a_failure_before_the_marker_is_in_place_leaves_no_marker(folder, monkeypatch, moves):
    """Broken off at the first file, between two files, and between the last file and the marker."""
    move, done = Path.replace, []

    def replace(self, target):
        if len(done) == moves:
            raise OSError("no space left on device")
        done.append(target)
        return move(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match="no space"):
        folder.finish(3, TABLES, COUNTS)
    assert done == [folder.root / name for name in list(TABLES)[:moves]]
    assert folder.read_marker(3) is None
    monkeypatch.undo()
    remove_leftovers(folder.root)
    folder.finish(3, TABLES, COUNTS)
    assert folder.read_marker(3) is not None
    assert not list(folder.root.rglob(".part-*"))


def test_a_file_is_on_the_disk_before_it_is_moved_to_its_place(folder, monkeypatch):
    events = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append("synced"))
    move = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: events.append("moved") or move(self, target))
    folder.finish(3, TABLES, COUNTS)
    assert events == ["synced", "moved"] * 3


def test_a_shard_of_other_settings_is_refused_with_what_to_do(finished):
    other = StageFolder(finished.root, "persons", "f2")
    with pytest.raises(RunFolderError, match="shard 3 of stage persons.*other settings.*another output folder"):
        other.read_marker(3)


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x")])
def test_a_missing_or_changed_file_is_refused_with_what_to_do(finished, harm):
    path = finished.root / "work/rejects/persons-00003.parquet"
    harm(path)
    with pytest.raises(
        RunFolderError, match="persons-00003.parquet is missing or has changed since it was written.*remove .*00003"
    ):
        finished.read_marker(3)


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"fingerprint": "f1", "files"',
        "[]",
        '{"fingerprint": "f1", "files": {}}',
        '{"fingerprint": "f1", "files": 3, "counts": []}',
        '{"fingerprint": "f1", "files": {}, "counts": [{"block": "box", "unit": "persons", "seen": 2, "kept": 1}]}',
        '{"fingerprint": "f1", "files": {}, "counts": [{"name": "box"}]}',
    ],
)
def test_a_damaged_marker_is_refused_with_what_to_do(finished, content):
    finished.marker_path(3).write_text(content)
    with pytest.raises(RunFolderError, match="00003.json is damaged .*remove it to process the shard again"):
        finished.read_marker(3)


def test_a_text_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "card.md"
    write_atomically(path, "old")

    def fail(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"


def test_texts_are_written_as_they_are(tmp_path):
    write_atomically(tmp_path / "a", "é\nb\n")
    assert (tmp_path / "a").read_bytes() == "é\nb\n".encode()


def test_what_killed_writers_left_is_removed_and_nothing_else(finished):
    root = finished.root
    (root / "work" / ".part-1a2b-duplicates").mkdir()
    (root / "work" / ".part-1a2b-duplicates" / ".part-inner").touch()
    (root / "data").mkdir()
    (root / "data" / ".part-1a2b3c4d-train-00000-of-00001.parquet").touch()
    (root / ".part-report.png").touch()
    users_own = root / "pictures" / ".part-of-a-book"
    users_own.parent.mkdir()
    users_own.touch()
    (root / "work" / ".part-link").symlink_to(users_own.parent, target_is_directory=True)
    remove_leftovers(root)
    assert list(root.rglob(".part-*")) == [users_own]
    assert finished.read_marker(3) is not None


def test_a_folder_without_leftovers_or_without_anything_stays_as_it_is(tmp_path):
    remove_leftovers(tmp_path / "not there")
    assert not (tmp_path / "not there").exists()


HOLD = """
import sys
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_that_another_process_works_in_is_refused_until_that_process_ends(tmp_path):
    with lock_folder(tmp_path):  # makes the folder
        pass
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "work" / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RunFolderError, match=f"another run is using {tmp_path}: wait"):
            lock_folder(tmp_path)
        other.kill()
    with lock_folder(tmp_path):
        pass


def test_a_lock_is_given_back_at_the_end_of_its_with(tmp_path):
    held = lock_folder(tmp_path)  # a name of its own, so that it is not given back by being forgotten
    with held:
        with pytest.raises(RunFolderError):
            lock_folder(tmp_path)
    with lock_folder(tmp_path):
        pass


def test_a_fingerprint_is_of_values_and_not_of_how_they_are_written():
    assert fingerprint({"a": 1, "b": (2, None)}) == fingerprint({"b": [2, None], "a": 1})
    assert len({fingerprint(*parts) for parts in ((1, 2), (2, 1), (12,), ("1", 2), ([1, 2],), (1.5, 2))}) == 6


def test_the_digest_of_a_file_is_its_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_marker_is_json_that_other_tools_can_read(finished):
    values = json.loads(finished.marker_path(3).read_text())
    assert values["counts"] == [
        {
            "block": "box",
            "unit": "persons",
            "seen": 3,
            "kept": 2,
            "dropped": {"too small": 1},
            "noted": {"seen twice": 1},
        }
    ]
