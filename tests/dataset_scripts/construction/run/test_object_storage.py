"""A run from a bucket to a bucket gives the rows of a run on disk, also if the store fails now and then."""

import importlib.util
import io
import re
import sys
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from object_store import KEYS, ObjectStore, serving
from row_tables import ScriptedChat, answer_with, build_config, jpeg, write_persons
from run_folders import contents
from typer.testing import CliRunner

import dataset_scripts  # noqa: F401, makes the name `webperson` known
from dataset_scripts.construction.blocks import OutageError, SettingsError
from dataset_scripts.construction.failures import FailureLog
from dataset_scripts.construction.run.config import BuildConfig
from dataset_scripts.construction.run.merge import merge_webperson
from dataset_scripts.construction.run.pipeline import build_webperson
from dataset_scripts.construction.run.stages import CaptionStage
from dataset_scripts.construction.shards import RunFolderError
from dataset_scripts.construction.sources.fetch import fetch_images
from dataset_scripts.construction.sources.fetch_settings import FetchSettings
from dataset_scripts.construction.sources.opt_out_list import OptOutList
from dataset_scripts.construction.sources.planning import SourceSettings
from dataset_scripts.publishing.dataset import publish_dataset
from gadms_cli.app import app
from modeling_gadms.training import retry


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("s3fs") is None, reason="the extra s3 is not installed"),
]


@pytest.fixture(scope="module")
def store():
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def environment(store, monkeypatch, tmp_path):
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": store.url, "XDG_CACHE_HOME": str(tmp_path / "cache")}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(retry, "sleep", lambda seconds: None)
    store.fault = lambda number, method, path: None


@pytest.fixture(scope="module")
def sources(tmp_path_factory, store) -> dict[str, SourceSettings]:
    """A folder with subfolders and a file that is not an image, and a folder of two tars; each also in the bucket."""
    root = tmp_path_factory.mktemp("sources")
    folder = write_persons(root / "street", 5)
    (folder / "b").mkdir()
    (folder / "b" / "person7.jpg").write_bytes(jpeg(7, (60, 150)))
    (folder / "a.jpg").write_bytes(b"no picture")
    (folder / "person3.jpg").write_bytes(jpeg(2, (60, 150)))  # a copy
    (folder / "notes.txt").write_text("no image")
    (root / "crawl").mkdir()
    for name in ("x", "y"):
        with tarfile.open(root / "crawl" / f"{name}.tar", "w") as tar:
            for number, letter in enumerate("pq"):
                content = jpeg(20 + number + 10 * (name == "y"), (60, 150))
                member = tarfile.TarInfo(f"{letter}.jpg")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    for file in (file for file in root.rglob("*") if file.is_file()):
        store.client.upload_file(str(file), "bucket", file.relative_to(root).as_posix())
    store.client.put_object(Bucket="bucket", Key="street/b/", Body=b"")  # as consoles write a folder
    return {
        "street": SourceSettings("folder", str(root / "street"), "street"),
        "crawl": SourceSettings("tars", str(root / "crawl"), "crawl"),
    }


@pytest.fixture
def chat(monkeypatch) -> ScriptedChat:
    return answer_with(monkeypatch, ScriptedChat())


def configured(output: str, sources: dict[str, SourceSettings]) -> BuildConfig:
    config = build_config(Path(output), Path("unused"), sources=sources)
    return replace(config, run=replace(config.run, output=output))


def in_bucket(sources: dict[str, SourceSettings]) -> dict[str, SourceSettings]:
    return {name: replace(source, path=f"s3://bucket/{name}") for name, source in sources.items()}


@pytest.fixture(scope="module")
def quiet(tmp_path_factory, sources) -> dict[str, str]:
    """Digests of the files of a run on disk."""
    with pytest.MonkeyPatch.context() as patch:
        answer_with(patch, ScriptedChat())
        # The card names the folder, so that all runs of this file have the same name.
        root = tmp_path_factory.mktemp("quiet") / "run"
        build_webperson(configured(str(root), sources), progress=False)
    return contents(root)


def stored(store: ObjectStore, tmp_path: Path, prefix: str) -> dict[str, str]:
    return contents(store.download("bucket", prefix, tmp_path / "stored"))


def test_a_run_from_s3_to_s3_writes_the_bytes_of_a_run_on_disk(store, sources, quiet, chat, tmp_path):
    config = configured("s3://bucket/plain/run", in_bucket(sources))
    report = build_webperson(config, progress=False)
    assert stored(store, tmp_path, "plain/run") == quiet
    assert not [grant for key in ("plain/run/README.md", "plain/run/data/train-00000-of-00004.parquet")
                for grant in store.client.get_object_acl(Bucket="bucket", Key=key)["Grants"]
                if "URI" in grant["Grantee"]], "something is public"  # fmt: skip
    # Resumed: nothing is asked or written again, and a removed shard is written with the same bytes.
    asked = len(chat.asked)
    assert build_webperson(config, progress=False) == report
    assert len(chat.asked) == asked
    store.client.delete_object(Bucket="bucket", Key="plain/run/work/markers/persons/00001.json")
    assert build_webperson(config, progress=False) == report
    assert stored(store, tmp_path, "plain/run") == quiet
    # A changed file is found by its size.
    store.client.put_object(Bucket="bucket", Key="plain/run/work/persons/00001.parquet", Body=b"other")
    with pytest.raises(
        RunFolderError, match=r"s3://bucket/plain/run/work/persons/00001.parquet is missing or has cha"
    ):
        build_webperson(config, progress=False)


def test_a_store_that_fails_now_and_then_changes_nothing(store, sources, quiet, chat, tmp_path):
    rng = np.random.default_rng(0)
    faults = ["503", "reset", "lost", 0.02]
    lock = threading.Lock()

    def fault(number: int, method: str, path: str) -> str | float | None:
        with lock:
            return faults[int(rng.integers(len(faults)))] if rng.random() < 0.1 else None

    store.fault = fault
    build_webperson(configured("s3://bucket/flaky/run", in_bucket(sources)), progress=False)
    store.fault = lambda number, method, path: None
    assert stored(store, tmp_path, "flaky/run") == quiet


def test_a_run_that_the_store_ended_goes_on_and_shows_only_finished_shards(store, sources, quiet, chat, tmp_path):
    config = configured("s3://bucket/ended/run", in_bucket(sources))
    store.fault = lambda number, method, path: "503" if "rejects/persons-00002" in path else None
    with pytest.raises(
        OSError, match=r"cannot write s3://bucket/ended/run/work/rejects/persons-00002.parquet \(OSErr"
    ):
        build_webperson(config, progress=False)
    assert sorted(store.objects("bucket", "ended/run/work/markers/")) == ["persons/00000.json", "persons/00001.json"]
    # Also if it is a source that cannot be read, or a file of the run: no shard is to blame, and none is set aside.
    for fault, name in (("503", "crawl/x.tar"), ("reset", "work/persons/00001.parquet")):
        store.fault = lambda number, method, path, fault=fault, name=name: (
            fault if method == "GET" and path.endswith(name) else None
        )
        with pytest.raises(OutageError, match=f"cannot read s3://bucket/.*{name}"):
            build_webperson(config, progress=False)
    store.fault = lambda number, method, path: "403" if "rejects/captions-00001" in path else None
    with pytest.raises(SettingsError, match="no permission to write s3://.*/rejects/captions-00001.parquet"):
        build_webperson(config, progress=False)
    assert store.objects("bucket", "ended/run/work/failures/") == {}
    store.fault = lambda number, method, path: None
    build_webperson(config, progress=False)
    assert stored(store, tmp_path, "ended/run") == quiet


def test_a_shard_that_is_set_aside_is_noted_in_the_bucket(store, sources, quiet, chat, tmp_path, monkeypatch):
    config = configured("s3://bucket/aside/run", in_bucket(sources))
    read = CaptionStage.read

    def read_or_fail(stage: CaptionStage, number: int) -> pa.Table:
        if number == 1:
            raise ValueError("a bad sector")
        return read(stage, number)

    monkeypatch.setattr(CaptionStage, "read", read_or_fail)
    (failure,) = build_webperson(config, progress=False).set_aside
    assert (failure.number, failure.attempts) == (1, 3)
    assert list(store.objects("bucket", "aside/run/work/failures/")) == ["captions/00001.json"]
    with pytest.raises(RunFolderError, match="is not a finished run"):
        merge_webperson([config.root, config.root], tmp_path / "merged", progress=False)
    monkeypatch.setattr(CaptionStage, "read", read)
    FailureLog(config.root, "captions").forget(1)
    assert build_webperson(config, progress=False).set_aside == ()
    assert stored(store, tmp_path, "aside/run") == quiet


def test_a_table_of_urls_in_a_bucket_is_fetched_into_a_bucket(store, tmp_path):
    """Of URLs that are not requested, so that nothing is downloaded."""
    table, opted_out = tmp_path / "table.parquet", tmp_path / "opt_out.txt"
    pq.write_table(pa.table({"id": range(3), "url": ["ftp://a.example/1", "", "http://b.example/2"]}), table)
    opted_out.write_text("b.example\n")
    for file in (table, opted_out):
        store.client.upload_file(str(file), "bucket", f"fetch/{file.name}")
    settings = FetchSettings(python=sys.executable, rows_per_tar=2)
    quiet = fetch_images(table, tmp_path / "fetched", settings, OptOutList.load(opted_out))
    listed = OptOutList.load("s3://bucket/fetch/opt_out.txt")
    assert fetch_images("s3://bucket/fetch/table.parquet", "s3://bucket/fetch/tars", settings, listed) == quiet
    assert (quiet.seen, sum(quiet.failed.values())) == (3, 3)
    assert stored(store, tmp_path, "fetch/tars") == contents(tmp_path / "fetched")
    store.asked.clear()
    assert fetch_images("s3://bucket/fetch/table.parquet", "s3://bucket/fetch/tars", settings, listed) == quiet
    assert {path for method, path in store.asked if method == "PUT"} == {"/bucket/fetch/tars/work/.lock"}
    with pytest.raises(RunFolderError, match="s3://bucket/fetch/tars was started with another rows_per_tar"):
        fetch_images(table, "s3://bucket/fetch/tars", replace(settings, rows_per_tar=3), listed)


def test_the_command_refuses_what_it_cannot_reach_in_one_line(store, sources, tmp_path):
    settings = {
        "run": {"output": "s3://bucket/refused"},
        "sources": {"street": {"kind": "folder", "path": "s3://bucket/street"}},
        "detector": {"kind": "whole_image"},
    }
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(settings))

    def refusal(*overrides: str, code: int = 2) -> str:
        result = CliRunner().invoke(app, ["build-webperson", "--config", str(tmp_path / "build.yaml"), *overrides])
        assert result.exit_code == code, result.output
        return result.stderr.strip()

    nobucket = "cannot write s3://nobucket/run/work/.lock: there is no such bucket, folder or file"
    assert refusal("run.output=s3://nobucket/run") == f"Error: {nobucket}"
    missing = refusal("sources.street.path=s3://bucket/nothing")
    assert missing == "Error: the source s3://bucket/nothing does not exist"
    assert refusal("sources.street.path=s3://bucket/crawl").endswith("is empty: it contains no image file")
    assert "s3://bucket/street/a.jpg is not a folder" in refusal("sources.street.path=s3://bucket/street/a.jpg")
    assert "nope://a/b/work/.lock cannot be opened: Protocol not known: nope" in refusal("run.output=nope://a/b")
    store.fault = lambda number, method, path: "403"
    assert re.match(r"Error: no permission to write s3://bucket/refused/work/.lock \(.*\): check [^\n]*$", refusal())
    store.fault = lambda number, method, path: "503"
    assert re.match(r"Error: cannot write s3://bucket/refused/work/.lock \([^\n]*\)$", refusal(code=75))


def test_a_finished_run_in_a_bucket_is_loaded_and_streamed(store, sources, chat, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)  # `datasets` then reads no bucket, either
    build_webperson(configured("s3://bucket/loaded/run", sources), progress=False)
    arguments = {"data_dir": "s3://bucket/loaded/run", "split": "train", "cache_dir": str(tmp_path / "cache")}
    loaded = datasets.load_dataset("webperson", **arguments)
    streamed = list(datasets.load_dataset("webperson", streaming=True, **arguments))
    files = store.objects("bucket", "loaded/run/data/")
    tables = [pq.read_table(io.BytesIO(files[name])) for name in sorted(files)]
    expected = [path for table in tables for path in table["image_path"].to_pylist()]
    assert loaded["image_path"][:] == [row["image_path"] for row in streamed] == expected
    publish_dataset("s3://bucket/loaded/run", "me/persons", dry_run=tmp_path / "out", progress=False)
    assert {file.name: file.read_bytes() for file in (tmp_path / "out" / "data").iterdir()} == files
    assert 'load_dataset("me/persons", split="train")' in (tmp_path / "out" / "README.md").read_text()
    assert len(expected) == 10 and loaded[0]["image"].size == streamed[0]["image"].size
