"""Files in an object store: whole or absent, read again after errors that pass, and refused in one line."""

import importlib.util
import os
import pickle
import subprocess
import sys
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from object_store import KEYS, serving

from dataset_scripts.construction import shards
from dataset_scripts.construction.blocks import OutageError, SettingsError
from dataset_scripts.construction.failures import FailureLog
from dataset_scripts.construction.pipeline_report import BlockCounts
from dataset_scripts.construction.run.engines import portable
from dataset_scripts.construction.shards import RunFolderError, StageFolder, lock_folder, remove_leftovers
from dataset_scripts.construction.storage import (
    RemoteLock,
    RemotePath,
    atomic_file,
    file_digest,
    local_copies,
    location,
    matching,
    read_footer,
    read_table,
    write_atomically,
)
from modeling_gadms.training import retry
from tests.hub_server import HubServer


needs_s3fs = pytest.mark.skipif(importlib.util.find_spec("s3fs") is None, reason="the extra s3 is not installed")


@pytest.fixture(scope="module")
def store():
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def environment(store, monkeypatch):
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": store.url}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(retry, "sleep", lambda seconds: None)
    store.fault = lambda number, method, path: None
    store.asked.clear()


@pytest.fixture(params=["memory://run", pytest.param("s3://bucket", marks=needs_s3fs)])
def folder(request, tmp_path) -> RemotePath:
    return RemotePath(f"{request.param}/{tmp_path.name}")


@pytest.fixture
def bucket(tmp_path) -> RemotePath:
    pytest.importorskip("s3fs")
    return RemotePath(f"s3://bucket/{tmp_path.name}")


def test_a_folder_of_a_store_is_used_as_one_on_disk(folder, tmp_path):
    for root in (folder, tmp_path / "disk"):
        file = root / "data" / "a.parquet"
        assert not root.exists() and not file.exists() and not (root / "data").is_dir()
        table = pa.table({"number": range(3), "text": ["a", "b", "c"]})
        with atomic_file(file) as part:
            pq.write_table(table, part)
        write_atomically(root / "data" / "sub" / "b.txt", "b\n")
        assert (file.is_file(), file.is_dir(), (root / "data").is_dir(), root.exists()) == (True, False, True, True)
        assert read_table(file).equals(table) and read_table(file, ["text"]).column_names == ["text"]
        assert (read_footer(file).num_rows, file.stat().st_size) == (3, len(file.read_bytes()))
        assert [found.name for found in matching(root / "data", "*.parquet")] == ["a.parquet"]
        assert [found.name for found in root.iterdir()] == ["data"]
        assert (file.name, file.stem, file.suffix, file.with_name("b").name) == ("a.parquet", "a", ".parquet", "b")
        with local_copies(file, root / "data" / "sub" / "b.txt") as copies:
            assert [copy.read_bytes() for copy in copies] == [file.read_bytes(), b"b\n"]
        file.unlink()
        file.unlink(missing_ok=True)
        assert not file.exists() and matching(root / "data", "*") == [root / "data" / "sub"][: root != folder]
    assert pickle.loads(pickle.dumps(folder)) == folder
    assert folder.files() == {"data/sub/b.txt": 2} and folder.files(deep=False) == {}


def test_a_file_that_fails_to_be_written_is_not_put(folder):
    with pytest.raises(RuntimeError), atomic_file(folder / "a") as part:
        part.write_text("half")
        raise RuntimeError
    assert folder.files() == {}


def test_of_several_writers_one_creates_a_file(folder):
    assert (folder / "a").create(b"first")
    assert not (folder / "a").create(b"second")
    assert (folder / "a").create(b"first"), "the reply to an earlier attempt may have been lost"
    assert (folder / "a").read_bytes() == b"first"


def test_a_marker_is_put_once_and_files_are_compared_by_size(folder):
    tables, counts = {"data/a.parquet": pa.table({"number": [1]})}, (BlockCounts("box", "persons", 1, 1),)
    stage = StageFolder(folder, "persons", "f")
    assert stage.read_marker(0) is None
    stage.finish(0, tables, counts)
    marker = stage.read_marker(0)
    assert (marker.counts, marker.files) == (counts, {"data/a.parquet": file_digest(folder / "data/a.parquet")})
    stage.finish(0, tables, counts)  # by another machine, with the same rows
    with pytest.raises(RunFolderError, match=r"another run has finished shard 0 .* with other rows.*: remove \w+://"):
        stage.finish(0, {"data/a.parquet": pa.table({"number": [1, 2, 3]})}, counts)
    with pytest.raises(RunFolderError, match="data/a.parquet is missing or has changed"):
        stage.read_marker(0)
    remove_leftovers(folder)


def test_a_folder_is_locked_until_its_run_ends_or_is_dead(folder, monkeypatch):
    monkeypatch.setattr(shards, "RemoteLock", lambda path: RemoteLock(path, seconds=0.05))
    with lock_folder(folder):
        assert (folder / "work" / ".lock").is_file()
        with pytest.raises(RunFolderError, match=r"another run is using \w+://.*, process \d+"):
            lock_folder(folder)
    assert folder.files() == {}
    killed = RemoteLock(folder / "work" / ".lock")
    assert killed._path.create(killed._content())  # and renews it never
    with lock_folder(folder):
        pass
    with pytest.raises(OSError, match="another run has taken over"), lock_folder(folder) as mine:
        write_atomically(folder / "work" / ".lock", '{"owner": "another", "beat": 0}')
        mine._thread.join(30)
    assert (folder / "work" / ".lock").is_file(), "the lock of another is not removed"


@pytest.mark.parametrize("fault", ["503", "reset", "lost"])
def test_calls_are_repeated_a_bounded_number_of_times(store, bucket, fault):
    (bucket / "a").create(b"a")
    started = len(store.asked)
    store.fault = lambda number, method, path: fault if number <= started + 2 else None
    assert (bucket / "a").read_bytes() == b"a"
    started = len(store.asked)
    assert (bucket / "b").create(b"b") and (bucket / "b").read_bytes() == b"b"
    if fault != "503":
        return
    store.fault = lambda number, method, path: fault
    store.asked.clear()
    with pytest.raises(ConnectionError, match=rf"^cannot read {bucket}/a \(OSError: .*\)$"):
        (bucket / "a").read_bytes()
    assert len(store.asked) == retry.ATTEMPTS


def test_a_slow_store_is_waited_for(store, bucket):
    store.fault = lambda number, method, path: 0.2
    write_atomically(bucket / "a", "slow")
    assert (bucket / "a").read_text() == "slow"


def test_large_files_are_put_in_parts(store, bucket, tmp_path, monkeypatch):
    import s3fs

    monkeypatch.setattr(s3fs.core, "calculate_chunksize", lambda size, chunksize=None: 5 * 2**20)
    content = bytes(range(256)) * 2**16  # 16 MiB
    with atomic_file(bucket / "large") as part:
        part.write_bytes(content)
    assert (bucket / "large").read_bytes() == content
    assert sum(method == "PUT" for method, _ in store.asked) == 4


def test_failures_of_shards_are_counted_and_forgotten(folder, tmp_path):
    for root in (folder, tmp_path / "disk"):
        log = FailureLog(root, "persons")
        assert list(log.all()) == [] and log.read(3) is None
        assert [log.record(3, reason).attempts for reason in ("first", "second")] == [1, 2]
        log.record(12, "third")
        assert [(failure.number, failure.attempts, failure.reason) for failure in log.all()] == [
            (3, 2, "second"),
            (12, 1, "third"),
        ]
        for number in (3, 4, 12):
            log.forget(number)
        assert list(log.all()) == []
    assert folder.files() == {} and not (tmp_path / "disk" / "work" / "failures").exists()


def test_errors_of_a_store_reach_other_processes(bucket, store):
    for fault, kinds in (("503", (OutageError, ConnectionError)), ("403", (SettingsError, PermissionError))):
        store.fault = lambda number, method, path, fault=fault: fault
        with pytest.raises(OSError) as raised:
            (bucket / "a").read_bytes()
        error = portable(raised.value)
        assert all(isinstance(error, kind) for kind in kinds) and str(bucket / "a") in str(error)


@needs_s3fs
def test_what_cannot_be_reached_is_refused_in_one_line_with_its_url(store, monkeypatch):
    absent = RemotePath("s3://nobucket/run/a")
    assert not absent.exists() and not absent.is_dir()
    for call in (absent.read_bytes, absent.stat, lambda: write_atomically(absent, "a"), lambda: absent.create(b"a")):
        with pytest.raises(FileNotFoundError, match=r"^cannot \w+ s3://nobucket/run/a: there is no such bucket.*$"):
            call()
    store.fault = lambda number, method, path: "403"
    with pytest.raises(PermissionError, match=r"^no permission to read s3://bucket/a \(.*\): check the cr.*$"):
        RemotePath("s3://bucket/a").read_bytes()
    assert len([asked for asked in store.asked if asked[1] == "/bucket/a"]) == 1, "a refusal is not repeated"
    for name in KEYS:
        monkeypatch.delenv(name)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(PermissionError, match="no permission to write s3://bucket/a .*credentials"):
        RemotePath("s3://bucket/a").create(b"a")
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_urls_that_cannot_work_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="s3:// names no bucket"):
        location("s3://")
    with pytest.raises(ValueError, match="simplecache::s3://bucket/a is a chain"):
        RemotePath("simplecache::s3://bucket/a")
    with pytest.raises(ValueError, match="nope://bucket/a cannot be opened: Protocol not known: nope"):
        location("nope://bucket/a").exists()
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(ImportError, match=r"^s3://bucket/a needs a package for s3://: pip install s3fs$"):
        location("s3://bucket/a").exists()


def test_paths_stay_paths():
    assert location("runs/a") == Path("runs/a") and location(Path("a")) == Path("a")
    assert location("file:///data/a") == Path("/data/a")
    assert location("s3://bucket/a/") == RemotePath("s3://bucket/a") == RemotePath("s3://bucket") / "a"


HUB_READER = """
from dataset_scripts.construction.storage import local_copies, location, matching

root = location("hf://datasets/me/images")
assert root.files() == {"a/1.jpg": 3, "a/b/2.jpg": 3, "README.md": 1}, root.files()
assert (root / "a").is_dir() and (root / "a" / "1.jpg").read_bytes() == b"one"
with local_copies(root / "a" / "b" / "2.jpg") as (copy,):
    assert copy.read_bytes() == b"two"
assert [found.name for found in matching(root / "a", "*.jpg")] == ["1.jpg"]
assert not location("hf://datasets/me/nothing").exists()
try:
    location("hf://datasets/me/nothing/a").read_bytes()
except FileNotFoundError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_repository_on_the_hub_is_read(tmp_path):
    """In a process of its own, because the Hub's client reads the address of the Hub when it is imported."""
    with HubServer() as hub:
        hub.commit("me/images", {"a/1.jpg": b"one", "a/b/2.jpg": b"two", "README.md": b"#"})
        command, environment = [sys.executable, "-c", HUB_READER], os.environ | hub.environment(tmp_path)
        read = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    expected = "cannot read hf://datasets/me/nothing/a: there is no such bucket, folder or file"
    assert (read.stdout.strip(), read.returncode) == (expected, 0), read.stderr
