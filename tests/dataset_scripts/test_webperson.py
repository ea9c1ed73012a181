"""WebPerson from a Hub on the loopback interface, read by real clients in processes of their own, and from folders."""

import io
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import dataset_scripts  # noqa: F401, makes the name known
from dataset_scripts import webperson
from dataset_scripts.construction.run.stages import published_features
from tests.hub_server import HubServer
from tests.waiting import PATIENCE_SECONDS


pytestmark = pytest.mark.slow


ROOT = Path(__file__).parents[2]
CARD = b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*.parquet\n---\n"
FEATURES = datasets.Features(
    {"image": datasets.Image(), **dict.fromkeys(("image_path", "caption1", "caption2"), datasets.Value("string"))}
)


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 16), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def paths(start: int, stop: int, name: str = "web") -> list[str]:
    return [f"{name}/{number:03d}.jpg" for number in range(start, stop)]


def parquet(names: list[str], *, without: str = "", with_features: bool = True) -> bytes:
    """A shard in row groups of 3; each image is as red as its number."""
    schema = FEATURES.arrow_schema if with_features else FEATURES.arrow_schema.remove_metadata()
    rows = {
        "image": [{"bytes": png(int(name[-7:-4])), "path": name} for name in names],
        "image_path": names,
        "caption1": [f"first of {name}" for name in names],
        "caption2": [f"second of {name}" for name in names],
    }
    table = pa.table(rows, schema=schema)
    buffer = io.BytesIO()
    pq.write_table(table.drop_columns([without]) if without else table, buffer, row_group_size=3)
    return buffer.getvalue()


def shards(count: int, name: str = "web", rows: int = 6) -> dict[str, bytes]:
    return {
        f"data/train-{number:05d}-of-{count:05d}.parquet": parquet(paths(number * rows, (number + 1) * rows, name))
        for number in range(count)
    }


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


class Reader:
    """A process of `hub_reader.py`."""

    def __init__(self, environment: dict[str, str], directory: Path, *arguments: str):
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("hub_reader.py")), *arguments],
            env=os.environ | environment,
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, function: str, **arguments: Any) -> None:
        assert self.process.stdin is not None
        print(json.dumps({"function": function, "arguments": arguments}), file=self.process.stdin, flush=True)

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, function: str, **arguments: Any) -> Any:
        self.start(function, **arguments)
        answer = self.answer()
        assert "result" in answer, answer
        return answer["result"]

    def error(self, function: str, **arguments: Any) -> tuple[str, str]:
        self.start(function, **arguments)
        answer = self.answer()
        assert "error" in answer, answer
        return answer["error"], answer["message"]

    def stop(self) -> None:
        self.process.communicate(timeout=PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.commit("Kaichengalex/WebPerson-1M", {"README.md": CARD, **shards(4)})
        server.commit("Kaichengalex/WebPerson-5M", {"README.md": CARD, **shards(1, "five")})
        yield server


@pytest.fixture(scope="module")
def decoys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory full of what might be taken for data, and a folder of rows called `webperson`."""
    folder = tmp_path_factory.mktemp("decoys")
    arrow = io.BytesIO()
    with pa.ipc.new_stream(arrow, FEATURES.arrow_schema):
        pass
    wrong = b"no Parquet at all"
    write(
        folder,
        {
            "data/train-00000-of-00001.parquet": wrong,
            "train.parquet": wrong,
            "cache/dataset.arrow": arrow.getvalue(),
            "images/000.jpg": png(0),
            "webperson.json": b"[]",
        },
    )
    return write(folder / "webperson", {"README.md": CARD, **shards(1, "folder")}).parent


@pytest.fixture(scope="module")
def reader(hub: HubServer, decoys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    client = Reader(hub.environment(tmp_path_factory.mktemp("home")), decoys)
    yield client
    client.stop()


@pytest.fixture(scope="module")
def second_reader(hub: HubServer, decoys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    second = Reader(hub.environment(tmp_path_factory.mktemp("second")), decoys)
    yield second
    second.stop()


@pytest.fixture(scope="module")
def other_reader(hub: HubServer, decoys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A second process, which does not import our builders."""
    client = Reader(hub.environment(tmp_path_factory.mktemp("other_home")), decoys, "--plain")
    yield client
    client.stop()


# ---- From the Hub, by bare name


def test_the_bare_name_has_two_configurations_and_means_one_million(reader):
    assert reader.ask("config_names", path="webperson") == ["1m", "5m"]
    assert reader.ask("rows", path="webperson", split="train") == paths(0, 24)
    assert reader.ask("rows", path="webperson", name="5m", split="train") == paths(0, 6, "five")


def test_the_bare_name_says_once_that_it_means_one_million(tmp_path, monkeypatch):
    monkeypatch.setattr(webperson, "find_published_files", lambda *_: {"train": []})
    monkeypatch.setattr(webperson, "resolve_commit", lambda *_: "c0ffee")
    monkeypatch.setattr(webperson, "_is_announced", False)
    with pytest.warns(UserWarning, match=r"means its configuration `1m`.*name the configuration `5m`") as heard:
        assert datasets.load_dataset_builder("webperson", cache_dir=str(tmp_path)).config.name == "1m"
        datasets.load_dataset_builder("webperson", cache_dir=str(tmp_path))
    assert len(heard) == 1
    monkeypatch.setattr(webperson, "_is_announced", False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        datasets.load_dataset_builder("webperson", "5m", cache_dir=str(tmp_path))
        datasets.load_dataset_builder("webperson", repo_id="me/mirror", cache_dir=str(tmp_path))


def test_columns_are_as_published(reader):
    loaded = reader.ask("rows_and_columns", path="webperson", split="train")
    assert loaded["columns"] == ["image", "image_path", "caption1", "caption2"]
    assert loaded["features"]["image"] == "Image"
    assert loaded["image"] == ["RGB", [8, 16]]
    assert loaded["first"] == {
        "image_path": "web/000.jpg",
        "caption1": "first of web/000.jpg",
        "caption2": "second of web/000.jpg",
    }


def test_rows_are_accessed_at_random(reader):
    expected = [[f"web/{number:03d}.jpg", [number, 0, 0]] for number in (17, 3, 22)]
    assert reader.ask("random_rows", indices=[17, 3, 22], path="webperson", split="train") == expected


def test_two_processes_prepare_the_same_rows(reader, tmp_path):
    loaded = reader.ask("rows", path="webperson", split="train", num_proc=2, cache_dir=str(tmp_path))
    assert loaded == paths(0, 24)


def test_a_part_of_the_split_is_taken(reader):
    assert reader.ask("rows", path="webperson", split="train[:25%]") == paths(0, 6)


def test_columns_are_chosen(reader):
    loaded = reader.ask("rows_and_columns", path="webperson", split="train", columns=["image_path", "caption2"])
    assert loaded["columns"] == ["image_path", "caption2"]


def test_an_unknown_column_is_named(reader):
    kind, message = reader.error("rows", path="webperson", columns=["image_path", "caption3"])
    assert (kind, "has no column `caption3`; it has image, image_path, caption1" in message) == ("ValueError", True)


def test_a_stream_gives_every_row_and_stores_nothing(reader, tmp_path):
    assert reader.ask("stream", path="webperson", split="train", cache_dir=str(tmp_path)) == paths(0, 24)
    assert not list(tmp_path.rglob("*.arrow"))


def test_the_files_of_a_builder_are_addresses_of_one_commit(reader, hub):
    commit = hub.repositories["dataset", "Kaichengalex/WebPerson-1M"].refs["main"]
    made = reader.ask("builder", path="webperson")
    assert made["class"] == "WebPerson"
    place = f"hf://datasets/Kaichengalex/WebPerson-1M@{commit}/data"
    assert made["files"] == {"train": [f"{place}/train-{number:05d}-of-00004.parquet" for number in range(4)]}
    assert commit in made["cache"]


def test_a_mirror_is_read_by_its_name(reader, hub):
    hub.commit("me/mirror", {"part-b.parquet": parquet(paths(3, 6)), "part-a.parquet": parquet(paths(0, 3))})
    assert reader.ask("rows", path="webperson", split="train", repo_id="me/mirror") == paths(0, 6)


def test_a_pinned_revision_keeps_its_rows_after_main_moves(reader, hub):
    old = hub.commit("me/moving", shards(1, "old"))
    hub.tag("me/moving", "v1", old)
    arguments = {"path": "webperson", "split": "train", "repo_id": "me/moving"}
    assert reader.ask("rows", **arguments) == paths(0, 6, "old")
    hub.commit("me/moving", shards(1, "new"))
    assert reader.ask("rows", **arguments) == paths(0, 6, "new")
    for pinned in ("v1", old):
        assert reader.ask("rows", **arguments, revision=pinned) == paths(0, 6, "old")
        assert reader.ask("stream", **arguments, revision=pinned) == paths(0, 6, "old")


def test_two_processes_see_disjoint_rows_that_together_are_all(reader, other_reader, hub):
    for repo_id, count in (("me/even", 2), ("me/uneven", 3)):  # by shard, and row by row
        hub.commit(repo_id, {"README.md": CARD, **shards(count)})
        ours = {"path": "webperson", "repo_id": repo_id}
        for client, rank, place in ((reader, 0, ours), (other_reader, 1, {"path": repo_id})):
            client.start("stream", rank=rank, world_size=2, split="train", **place)
        first, second = reader.answer()["result"], other_reader.answer()["result"]
        assert len(first) == len(second) == 3 * count
        assert sorted(first + second) == paths(0, 6 * count)


@pytest.mark.parametrize("seen", [4, 6, 11])
def test_a_stream_goes_on_at_the_next_row(reader, seen):
    arguments = {"path": "webperson", "split": "train"}
    begun = reader.ask("stream_until", count=seen, **arguments)
    assert begun["paths"] == paths(0, seen)
    assert reader.ask("stream_from", state=begun["state"], **arguments) == paths(seen, 24)


@pytest.mark.parametrize("how", ["stream", "rows"])
def test_a_server_that_fails_twice_a_shard_is_survived_with_every_row_once(reader, hub, how):
    repo_id = f"me/failing-{how}"
    hub.commit(repo_id, shards(2))
    faults = [
        hub.fail_once(f"{repo_id}/data/train-0000{n}-of-00002.parquet", kind)
        for n in range(2)
        for kind in ("unavailable", "cut")
    ]
    assert reader.ask(how, path="webperson", split="train", repo_id=repo_id) == paths(0, 12)
    assert all(fault.struck for fault in faults)


# ---------------------------------------------------------------------------------------------------------------------
# A training stream over the Hub.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("workers", [0, 2])
def test_two_training_processes_see_disjoint_rows_that_together_are_all(reader, second_reader, hub, workers):
    hub.commit("me/stream", {"README.md": CARD, **shards(4, rows=8)})
    arguments = {"path": "webperson", "repo_id": "me/stream", "world_size": 2, "workers": workers}
    for rank, client in enumerate((reader, second_reader)):
        client.start("training_stream", rank=rank, **arguments)
    first, second = reader.answer()["result"], second_reader.answer()["result"]
    assert len(first) == len(second) == 8
    assert sorted(sum(first + second, [])) == list(range(32))
    for skip in (1, 5):
        rest = reader.ask("training_stream", rank=1, skip=skip, **arguments)
        assert rest == [[]] * skip + second[skip:], "a resumed run goes on at the next row"


@pytest.mark.parametrize("fault", ["unavailable", "cut"])
def test_a_training_stream_survives_a_server_that_fails_once_a_shard(reader, hub, fault):
    hub.commit("me/flaky-stream", {"README.md": CARD, **shards(3, rows=8)})
    whole = reader.ask("training_stream", path="webperson", repo_id="me/flaky-stream")
    hub.commit("me/flaky-stream", {"README.md": CARD + b"\n", **shards(3, rows=8)})
    hub.fail_once(".parquet", fault)
    before = len(hub.requests)
    again = reader.ask("training_stream", path="webperson", repo_id="me/flaky-stream")
    hub.faults.clear()
    assert again == whole
    assert sorted(sum(whole, [])) == list(range(24))
    if fault == "unavailable":
        assert sum(request.status == 503 for request in hub.requests[before:]) == 3


# ---------------------------------------------------------------------------------------------------------------------
# Copies on disk.
# ---------------------------------------------------------------------------------------------------------------------
def load_copy(folder: Path, tmp_path: Path, **options: Any) -> Any:
    return datasets.load_dataset(
        "webperson", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache"), **options
    )


@pytest.fixture
def authors_copy(tmp_path):
    """A function that writes the authors' JSON and images."""

    def make(missing: int = 0, encoding: str = "utf-8", separator: str = "/", entries: Any = None) -> Path:
        folder = tmp_path / "copy"
        names = paths(0, 12)
        write(folder / "images", {name: png(int(name[-7:-4])) for name in names[missing:]})
        rows = [
            {name.replace("/", separator): {"caption1": f"first of {name}", "caption2": f"second of {name}"}}
            for name in names
        ]
        text = json.dumps(rows if entries is None else entries(rows))
        (folder / "WebPerson.json").write_text(text, encoding=encoding)
        return folder

    return make


@pytest.mark.parametrize("layout", ["data/train-00000-of-00002.parquet data/train-00001-of-00002.parquet",
                                    "b.parquet c.parquet", "1m/x.parquet 1m/y.parquet"])  # fmt: skip
def test_a_copy_of_the_published_files_is_read_and_nothing_else(tmp_path, layout):
    contents = dict(zip(layout.split(), (parquet(paths(0, 5)), parquet(paths(5, 9))), strict=True))
    decoy = {"work/crops/rejected.parquet": parquet(["no/999.jpg"]), ".cache/x.parquet": parquet(["no/998.jpg"])}
    folder = write(tmp_path / "copy", contents | decoy)
    rows = load_copy(folder, tmp_path)
    assert rows["image_path"][:] == paths(0, 9)
    assert rows.column_names == ["image", "image_path", "caption1", "caption2"]
    assert rows[7]["image"].getpixel((0, 0)) == (7, 0, 0)
    assert [row["image_path"] for row in load_copy(folder, tmp_path, streaming=True)] == paths(0, 9)


def test_the_output_of_the_pipeline_keeps_its_columns(tmp_path):
    features = published_features(["caption_7b"])
    row = dict.fromkeys(features) | {"image": {"bytes": png(3), "path": "3.jpg"}, "row_id": "3",
                                               "image_path": "3.jpg", "caption_7b": "a person"}  # fmt: skip
    folder = tmp_path / "copy" / "data"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([row], features.arrow_schema), folder / "train-00000-of-00001.parquet")
    (loaded,) = load_copy(folder.parent, tmp_path)
    assert list(loaded) == list(features)
    assert (loaded["caption_7b"], loaded["image"].getpixel((0, 0))) == ("a person", (3, 0, 0))


def test_a_copy_that_lacks_shards_is_read_with_a_warning(tmp_path):
    folder = write(tmp_path / "copy", {"data/train-00001-of-00003.parquet": parquet(paths(0, 3))})
    with pytest.warns(UserWarning, match="2 shards are missing .*train-00000-of-00003.*train-00002-of-00003"):
        assert len(load_copy(folder, tmp_path)) == 3


@pytest.mark.parametrize("options", [{}, {"encoding": "utf-8-sig", "separator": "\\"}])
def test_the_authors_json_and_images_give_the_published_columns(authors_copy, tmp_path, options):
    folder = authors_copy(**options)
    rows = load_copy(folder, tmp_path)
    assert rows.column_names == ["image", "image_path", "caption1", "caption2"]
    assert rows["image_path"][:] == paths(0, 12)
    assert rows["caption2"][:] == [f"second of {name}" for name in paths(0, 12)]
    assert rows[5]["image"].getpixel((0, 0)) == (5, 0, 0)
    assert [row["image_path"] for row in load_copy(folder, tmp_path, streaming=True)] == paths(0, 12)
    assert load_copy(folder, tmp_path, columns=["caption1"]).column_names == ["caption1"]


def test_missing_images_of_the_authors_form_are_named_or_left_out(authors_copy, tmp_path):
    folder = authors_copy(missing=11)
    with pytest.raises(Exception, match="11 of 12 images") as caught:
        load_copy(folder, tmp_path)
    assert paths(9, 10)[0] in str(caught.value) and paths(10, 11)[0] not in str(caught.value)
    with pytest.warns(UserWarning, match="11 of 12 images .* skipped"):
        assert load_copy(folder, tmp_path, on_missing_images="skip")["image_path"][:] == paths(11, 12)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (lambda rows: {"train": rows}, "must contain a list"),
        (lambda rows: [*rows, {"x.jpg": {"caption1": "one"}}], "entry 12: .* does not fit"),
        (lambda rows: [*rows, {"../x.jpg": {"caption1": "one", "caption2": "two"}}], "leaves the folder"),
        (lambda rows: [*rows, {"web/000.jpg": {"caption1": "one", "caption2": "two"}}], "different captions in an"),
    ],
)
def test_an_authors_file_of_another_form_is_refused(authors_copy, tmp_path, entries, message):
    with pytest.raises(Exception, match=message):
        load_copy(authors_copy(entries=entries), tmp_path)


def test_entries_that_repeat_themselves_are_counted(authors_copy, tmp_path):
    with pytest.warns(UserWarning, match="2 entries repeat an earlier one and are skipped"):
        assert len(load_copy(authors_copy(entries=lambda rows: [*rows, rows[0], rows[3]]), tmp_path)) == 12


def test_a_folder_without_webperson_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        load_copy(tmp_path / "nowhere", tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no WebPerson: neither Parquet files"):
        load_copy(write(tmp_path / "copy", {"notes.json": b"[]"}), tmp_path)
    with pytest.raises(ValueError, match="holds 2 JSON files"):
        load_copy(write(tmp_path / "copy", {"more.json": b"[]"}), tmp_path)


def test_options_that_exclude_one_another_are_refused(tmp_path):
    folder = write(tmp_path / "copy", {"a.parquet": parquet(paths(0, 1))})
    with pytest.raises(ValueError, match="a folder has no revisions"):
        load_copy(folder, tmp_path, revision="main")
    with pytest.raises(ValueError, match="not both"):
        load_copy(folder, tmp_path, repo_id="me/mirror")
    with pytest.raises(ValueError, match="on_missing_images = 'ignore'"):
        load_copy(folder, tmp_path, on_missing_images="ignore")


# ---------------------------------------------------------------------------------------------------------------------
# What is not there.
# ---------------------------------------------------------------------------------------------------------------------
def test_a_repository_that_is_not_there_is_told_with_the_way_out(reader):
    kind, message = reader.error("rows", path="webperson", repo_id="nobody/nothing")
    assert kind == "FileNotFoundError"
    assert "nobody/nothing, revision main, does not exist on the Hub" in message
    assert "`data_dir`" in message


def test_a_revision_that_is_not_there_is_told(reader):
    kind, message = reader.error("rows", path="webperson", revision="v9")
    assert (kind, "WebPerson-1M, revision v9, does not exist" in message) == ("FileNotFoundError", True)


def test_a_repository_without_parquet_is_told(reader, hub):
    hub.commit("me/empty", {"README.md": CARD})
    kind, message = reader.error("rows", path="webperson", repo_id="me/empty")
    assert (kind, "me/empty has no Parquet files" in message) == ("FileNotFoundError", True)


def test_a_missing_column_is_named_before_anything_is_downloaded(reader, hub):
    hub.commit("me/narrow", {"data/train-00000-of-00001.parquet": parquet(paths(0, 6), without="caption2")})
    kind, message = reader.error("rows", path="webperson", repo_id="me/narrow")
    assert (kind, "has no column `caption2`; it has image, image_path, caption1" in message) == ("ValueError", True)
    assert all(request.range for request in hub.contents_sent("me/narrow"))


# ---- Without our builders


def test_a_namespace_and_a_folder_need_no_import_of_ours(other_reader, hub):
    hub.commit("me/webperson", {"README.md": CARD, **shards(2)})
    assert other_reader.ask("rows", path="me/webperson", split="train") == paths(0, 12)
    assert other_reader.ask("stream", path="me/webperson", split="train") == paths(0, 12)
    assert other_reader.ask("rows", path="./webperson", split="train") == paths(0, 6, "folder")
    assert not other_reader.ask("imported", module="dataset_scripts")


def test_a_folder_is_named_by_its_path_where_the_bare_name_is_ours(reader):
    assert reader.ask("rows", path="./webperson", split="train") == paths(0, 6, "folder")
