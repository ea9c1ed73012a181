"""What a published data set is: Parquet that opens by itself, a card of what it holds, and what is refused."""

import io
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from huggingface_hub import DatasetCard
from miniature_releases import cuhk_pedes, write
from PIL import Image
from row_tables import GOOD, ScriptedChat, answer_with, build_config, write_persons
from typer.testing import CliRunner

from dataset_scripts.construction.captions.chat.types import ChatSettings
from dataset_scripts.construction.run.pipeline import build_webperson
from dataset_scripts.loading import load_splits
from dataset_scripts.publishing.dataset import publish_dataset
from dataset_scripts.publishing.dataset_card import DatasetCardSettings
from dataset_scripts.publishing.parquet_shards import check_shards, write_shards
from dataset_scripts.publishing.private_traces import refuse_private_traces
from gadms_cli.publishing import publish_dataset as command
from modeling_gadms.publishing.upload_folder import PublishReport
from modeling_gadms.training.data import DatasetColumns
from modeling_gadms.training.streaming import ParquetRows
from tests.hub_client import MINE
from tests.hub_server import HubServer
from tests.hub_state import FIRST_FILES


pytestmark = pytest.mark.slow


CARD = DatasetCardSettings(license="cc-by-4.0")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def jpeg(row: int, side: int = 12) -> bytes:
    pixels = np.random.default_rng(row).integers(0, 256, (side * 3, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def with_place(row: int) -> bytes:
    """The same with the metadata of a camera that knows where it is."""
    with Image.open(io.BytesIO(jpeg(row))) as picture:
        exif = picture.getexif()
        exif.get_ifd(0x8825)[1] = "N"
        file = io.BytesIO()
        picture.save(file, "JPEG", exif=exif)
    return file.getvalue()


def with_camera(row: int) -> bytes:
    """The same with metadata that tells no place."""
    with Image.open(io.BytesIO(jpeg(row))) as picture:
        exif = picture.getexif()
        exif[0x010F] = "A camera"
        file = io.BytesIO()
        picture.save(file, "JPEG", exif=exif)
    return file.getvalue()


def rows(count: int, first: int = 0) -> dict[str, list]:
    numbers = range(first, first + count)
    return {
        "image": [{"bytes": jpeg(row), "path": None} for row in numbers],
        "image_path": [f"images/{row}.jpg" for row in numbers],
        "caption1": [f"A man with {row} bags." for row in numbers],
        "caption2": [f"He wears coat number {row}, which is red." for row in numbers],
        "person_id": [row // 2 for row in numbers],
    }


def as_dataset(columns: dict[str, list]) -> datasets.Dataset:
    features = {name: datasets.Value("int64" if name == "person_id" else "string") for name in columns}
    return datasets.Dataset.from_dict(columns, datasets.Features(features | {"image": datasets.Image()}))


@pytest.fixture
def persons(tmp_path) -> Path:
    """A folder of `save_to_disk`: 150 rows of training, 10 of test."""
    folder = tmp_path / "persons"
    splits = {"train": as_dataset(rows(150)), "test": as_dataset(rows(10, first=150))}
    datasets.DatasetDict(splits).save_to_disk(folder)
    return folder


def dry(
    source: str | Path, tmp_path: Path, name: str = "out", card=CARD, repo_id: str = "me/persons", **options
) -> tuple[Path, DatasetCard, PublishReport]:
    out = tmp_path / name
    report = publish_dataset(str(source), repo_id, card=card, dry_run=out, progress=False, **options)
    return out, DatasetCard.load(out / "README.md"), report


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def raw(dataset: datasets.Dataset) -> list[dict]:
    """Rows with the images' content, as it is stored."""
    return dataset.cast_column("image", datasets.Image(decode=False)).to_list()


# ---------------------------------------------------------------------------------------------------------------------
# The files.
# ---------------------------------------------------------------------------------------------------------------------
def test_the_folder_opens_with_all_rows_and_images_as_they_were(persons, tmp_path):
    out, _, report = dry(persons, tmp_path)
    assert set(report.files) == {
        *("README.md", "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet")
    }
    opened, saved = datasets.load_dataset(str(out)), datasets.load_from_disk(str(persons))
    assert list(opened) == ["train", "test"] and opened["train"].features == saved["train"].features
    for split in saved:
        assert raw(opened[split]) == raw(saved[split])


def test_a_data_set_without_splits_is_training_data(tmp_path):
    as_dataset(rows(4)).save_to_disk(tmp_path / "persons")
    out, _, _ = dry(tmp_path / "persons", tmp_path)
    assert list(datasets.load_dataset(str(out))) == ["train"]


def test_images_that_are_paths_are_put_inside_and_their_places_forgotten(tmp_path):
    (tmp_path / "pictures").mkdir()
    columns = rows(3)
    for row, image in enumerate(columns["image"]):
        (tmp_path / "pictures" / f"{row}.jpg").write_bytes(image["bytes"])
    columns["image"] = [str(tmp_path / "pictures" / f"{row}.jpg") for row in range(3)]
    written = write_shards(as_dataset(columns), "train", tmp_path / "data", progress=False)
    stored = pq.read_table(written.files[0])["image"].to_pylist()
    assert stored == [{"bytes": jpeg(row), "path": f"{row}.jpg"} for row in range(3)]
    assert str(tmp_path).encode() not in written.files[0].read_bytes()


def test_shards_are_as_large_as_asked_and_in_order(tmp_path):
    split = as_dataset(rows(250))
    sizes = [split.data.slice(row, 1).nbytes for row in range(250)]
    limit = 30 * max(sizes)
    filled: list[list[int]] = [[]]
    for row, size in enumerate(sizes):
        if sum(sizes[other] for other in filled[-1]) + size > limit:
            filled.append([])
        filled[-1].append(row)
    written = write_shards(split, "train", tmp_path / "data", shard_bytes=limit, progress=False)
    count = len(filled)
    assert count > 3
    assert [file.name for file in written.files] == [f"train-{n:05d}-of-{count:05d}.parquet" for n in range(count)]
    paths = [pq.read_table(file)["image_path"].to_pylist() for file in written.files]
    assert paths == [[f"images/{row}.jpg" for row in own] for own in filled]
    assert written.rows == 250 and check_shards(list(written.files)) == 250
    assert written.num_bytes == pytest.approx(sum(sizes), rel=0.01)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [file.name for file in written.files]


def test_a_row_larger_than_a_shard_has_one_of_its_own(tmp_path):
    written = write_shards(as_dataset(rows(3)), "train", tmp_path, shard_bytes=1, progress=False)
    assert [pq.read_metadata(file).num_rows for file in written.files] == [1, 1, 1]


def test_row_groups_are_small_and_none_is_empty(persons, tmp_path):
    out, _, _ = dry(persons, tmp_path)
    file = out / "data" / "train-00000-of-00001.parquet"
    groups = [
        pq.read_metadata(file).row_group(number).num_rows for number in range(pq.read_metadata(file).num_row_groups)
    ]
    assert groups == [100, 50]
    assert ParquetRows([str(file)], DatasetColumns(), progress=False).num_rows == 150


def test_row_groups_of_large_images_have_few_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("dataset_scripts.publishing.parquet_shards._ROW_GROUP_BYTES", 3 * len(jpeg(0, side=60)))
    columns = rows(8) | {"image": [{"bytes": jpeg(0, side=60), "path": None}] * 8}
    written = write_shards(as_dataset(columns), "train", tmp_path, progress=False)
    footer = pq.read_metadata(written.files[0])
    assert max(footer.row_group(number).num_rows for number in range(footer.num_row_groups)) <= 3


@pytest.mark.parametrize("shard_bytes", [0, -1, 2**31])
def test_sizes_that_cannot_be_are_refused(tmp_path, shard_bytes):
    with pytest.raises(ValueError, match=f"shard_bytes = {shard_bytes} must be positive"):
        write_shards(as_dataset(rows(1)), "train", tmp_path, shard_bytes=shard_bytes, progress=False)


def test_two_dry_runs_are_the_same(persons, tmp_path):
    assert contents(dry(persons, tmp_path, "one")[0]) == contents(dry(persons, tmp_path, "two")[0])


# ---------------------------------------------------------------------------------------------------------------------
# The card.
# ---------------------------------------------------------------------------------------------------------------------
def test_the_metadata_is_what_load_dataset_and_the_hub_read(persons, tmp_path):
    out, card, _ = dry(persons, tmp_path)
    data = card.data.to_dict()
    assert (data["license"], data["language"], data["pretty_name"]) == ("cc-by-4.0", ["en"], "persons")
    assert data["size_categories"] == ["n<1K"]
    assert [entry["split"] for entry in data["configs"][0]["data_files"]] == ["train", "test"]
    info = data["dataset_info"]
    assert [(split["name"], split["num_examples"]) for split in info["splits"]] == [("train", 150), ("test", 10)]
    assert info["download_size"] == sum(file.stat().st_size for file in (out / "data").iterdir())
    builder = datasets.load_dataset_builder(str(out))
    assert builder.info.splits["test"].num_examples == 10 and builder.info.features["image"] == datasets.Image()


def test_the_text_counts_what_there_is(persons, tmp_path):
    _, card, _ = dry(persons, tmp_path)
    assert "160 images of persons with 320 captions" in card.text
    train = next(line for line in card.text.splitlines() if line.startswith("| train |"))
    assert train.startswith("| train | 150 | 300 | 75 |") and train.endswith("| 1 |")
    assert "| captions per image | 2 / 2 / 2 / 2 | 2 / 2 / 2 / 2 |" in card.text
    assert "| images per person | 2 / 2 / 2 / 2 | 2 / 2 / 2 / 2 |" in card.text
    for name in rows(1):
        assert f"| `{name}` | " in card.text
    assert 'load_dataset("me/persons", split="train")' in card.text


def test_what_splits_share_is_told(tmp_path):
    splits = {"train": as_dataset(rows(6)), "test": as_dataset(rows(4, first=4))}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "persons")
    _, card, _ = dry(tmp_path / "persons", tmp_path)
    assert "- the same person id: 1\n" in card.text and "- images of the same pixels: 2\n" in card.text


def test_what_only_the_publisher_knows_is_told(persons, tmp_path):
    card = DatasetCardSettings(
        "other", "Street persons", "Taken by us in 2024.", "With their written consent.", "me@example.org", "de"
    )
    _, card, _ = dry(persons, tmp_path, card=card)
    assert card.data.pretty_name == "Street persons" and card.data.language == ["de"]
    assert "Taken by us in 2024. Written from `persons` with" in card.text
    assert "`other`. With their written consent." in card.text
    assert "honour requests for\nremoval (to me@example.org)" in card.text


def test_privacy_and_misuse_stand_in_every_card(persons, tmp_path):
    _, card, _ = dry(persons, tmp_path)
    assert "The images may show real persons" in card.text and "Clothing is not identity" in card.text


def test_nothing_in_a_card_is_left_unfilled(persons, tmp_path):
    _, card, _ = dry(persons, tmp_path)
    assert not any(mark in card.text for mark in ("{{", "{%", "None", "\n\n\n")), card.text


def test_drawn_persons_have_a_licence_and_show_nobody(tmp_path):
    arguments = {"num_train_persons": 2, "num_validation_persons": 1, "num_test_persons": 1, "image_size": [48, 16]}
    arguments |= {"cache_dir": str(tmp_path / "drawn")}
    out, card, _ = dry("synthetic_persons", tmp_path, card=None, dataset_args=arguments)
    assert card.data.license == "apache-2.0" and "They show nobody" in card.text
    assert "num_train_persons=2" in card.text and str(tmp_path) not in str(card)
    opened, drawn = datasets.load_dataset(str(out)), load_splits("synthetic_persons", **arguments)
    assert opened["test"].features == drawn["test"].features
    for split in drawn:
        # Of an image's path the file's name is kept.
        expected = [
            row | {"image": row["image"] | {"path": Path(row["image"]["path"]).name}} for row in raw(drawn[split])
        ]
        assert raw(opened[split]) == expected


# ---------------------------------------------------------------------------------------------------------------------
# What is refused.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("card", "message"),
    [
        (None, "persons has no licence to be published under"),
        (DatasetCardSettings(license="other"), "the licence `other` needs an explanation"),
    ],
)
def test_a_licence_is_asked_for(persons, tmp_path, card, message):
    with pytest.raises(ValueError, match=message):
        dry(persons, tmp_path, card=card)
    assert not (tmp_path / "out").exists()


def change_rows(**columns: Any):
    def change() -> dict[str, list]:
        changed = rows(3)
        for name, value in columns.items():
            changed[name][1] = value
        return changed

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_rows(caption2=" "), r"split `train` of .* has 1 rows without a caption \(row 1: .*caption2"),
        (change_rows(caption1=None), r"has 1 rows without a caption \(row 1"),
        (change_rows(image={"bytes": jpeg(1)[:200], "path": None}), r"has 1 unreadable images \(row 1"),
        (change_rows(image=None), r"has 1 unreadable images \(row 1: there is no image"),
        (change_rows(image_path=__file__), rf"row 1 of split `train` of .*`image_path` is {__file__}, a path on this"),
        (change_rows(image={"bytes": with_place(1), "path": None}), "row 1 .*`image` is an image with the coord"),
        (change_rows(person_id=None), "row 1 has no `person_id`"),
        (lambda: {"image": rows(2)["image"], "image_path": ["a", "b"]}, "no caption column was found"),
    ],
)
def test_rows_that_nobody_can_use_are_not_published(tmp_path, change, message):
    as_dataset(change()).save_to_disk(tmp_path / "persons")
    with pytest.raises(ValueError, match=message):
        dry(tmp_path / "persons", tmp_path)
    assert not (tmp_path / "out").exists()


def test_an_empty_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="split `test` has no rows: remove it"):
        write_shards(as_dataset(rows(1)).select([]), "test", tmp_path, progress=False)


def test_paths_that_lead_nowhere_here_are_only_names(tmp_path):
    as_dataset(change_rows(image_path="/data/1.jpg", caption1="/ a slash")()).save_to_disk(tmp_path / "persons")
    dry(tmp_path / "persons", tmp_path)


def test_the_name_of_a_camera_is_no_place(tmp_path):
    as_dataset(change_rows(image={"bytes": with_camera(1), "path": None})()).save_to_disk(tmp_path / "persons")
    dry(tmp_path / "persons", tmp_path)


def test_a_file_on_disk_is_looked_into_for_its_place(tmp_path):
    (tmp_path / "1.jpg").write_bytes(with_place(1))
    columns = rows(2)
    columns["image"][1] = {"bytes": None, "path": str(tmp_path / "1.jpg")}
    with pytest.raises(ValueError, match="row 1 of split `train`: `image` is an image with the coordinates"):
        refuse_private_traces(as_dataset(columns), "image", "split `train`")


def test_benchmarks_are_not_passed_on(tmp_path):
    place = tmp_path / "root" / "CUHK-PEDES"
    write(place, "reid_raw.json", cuhk_pedes())
    arguments = {"data_dir": str(place), "check_counts": False}
    with pytest.raises(ValueError, match="cuhk_pedes is CUHK-PEDES, whose authors do not allow"):
        dry("cuhk_pedes", tmp_path, dataset_args=arguments)
    # Nor from a copy that still tells what it was read with.
    load_splits("cuhk_pedes", **arguments).save_to_disk(tmp_path / "copy")
    with pytest.raises(ValueError, match="copy is CUHK-PEDES, whose authors do not allow"):
        dry(tmp_path / "copy", tmp_path)
    _, card, _ = dry("cuhk_pedes", tmp_path, dataset_args=arguments, may_redistribute=True)
    assert "The publisher states that they have permission to redistribute this data set." in card.text
    assert str(tmp_path) not in str(card)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("no_such_data", {}, "no_such_data"),
        ("synthetic_persons", {"dataset_args": {"colour": 1}}, "synthetic_persons has no field 'colour'"),
        ("persons", {"captions": ["legend"]}, "no column `legend`"),
        ("persons", {"dataset_args": {"seed": 1}}, "takes no arguments"),
    ],
)
def test_a_mistake_is_told(persons, tmp_path, monkeypatch, source, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=message):
        dry(source, tmp_path, **options)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------------------------
# A run of the construction pipeline.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run with five persons, in a folder named `street`."""
    home = tmp_path_factory.mktemp("home_of_somebody")
    chat = ChatSettings("openai", "qwen", "r1", base_url="http://vlm.internal:8000/v1")
    config = build_config(
        home / "street", write_persons(home / "pictures", 5), captioners={"caption1": chat, "caption2": chat}
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        model = answer_with(monkeypatch, ScriptedChat(lambda request, number: GOOD))
        model.name = chat.model
        build_webperson(config, progress=False)
    return config.root


def test_a_finished_run_goes_as_it_is(run, tmp_path):
    out, card, report = dry(run, tmp_path, card=None)
    published, source = contents(out), contents(run)
    for name in published.keys() - {"README.md"}:
        assert published[name] == source[name]
    assert {"README.md", "report.json", "report.png"} < published.keys()
    assert not any(name.startswith("work") for name in published)
    assert [entry.name for entry in report.excluded if entry.name.startswith("work")] == ["work/"]
    assert len(datasets.load_dataset(str(out), split="train")) == 5


def test_the_card_of_a_run_is_its_own_but_for_its_new_name(run, tmp_path):
    out, card, _ = dry(run, tmp_path, card=None)
    own = (run / "README.md").read_text(encoding="utf-8")
    assert 'load_dataset("street", split="train")' in own
    text = (out / "README.md").read_text(encoding="utf-8")
    assert text == own.replace('load_dataset("street"', 'load_dataset("me/persons"')


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("README.md", "README.md is missing"),
        ("report.json", "report.json is missing"),
        ("report.png", "report.png is missing"),
        ("data", "data is missing"),
    ],
)
def test_a_run_that_is_not_finished_is_refused(run, tmp_path, missing, told):
    root = tmp_path / "street"
    shutil.copytree(run, root)
    shutil.rmtree(root / missing) if missing == "data" else (root / missing).unlink()
    with pytest.raises(ValueError, match=f"street is not a finished run: {told}. Run the pipeline to its end"):
        dry(root, tmp_path, card=None)
    assert not (tmp_path / "out").exists()


def test_a_run_that_lacks_a_shard_is_refused(run, tmp_path):
    broken = tmp_path / "street"
    shutil.copytree(run, broken)
    first, last = sorted((broken / "data").glob("*.parquet"))
    moved = first.rename(first.with_name("train-00000-of-00009.parquet"))
    with pytest.raises(ValueError, match="shards of split `train` are missing"):
        dry(broken, tmp_path, card=None)
    moved.unlink()
    with pytest.raises(ValueError, match="shards of split `train` are missing"):
        dry(broken, tmp_path, card=None)
    shutil.copy(run / "data" / first.name, first)
    last.write_bytes(b"PAR1 cut")
    with pytest.raises(ValueError, match="is not a Parquet file"):
        dry(broken, tmp_path, card=None)


def test_the_card_of_a_run_is_made_by_the_run(run, tmp_path):
    with pytest.raises(ValueError, match="section `card` of its configuration"):
        dry(run, tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# The command.
# ---------------------------------------------------------------------------------------------------------------------
def invoke(*arguments: object):
    app = typer.Typer()
    app.command("dataset")(command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_lists_what_would_be_pushed(persons, tmp_path):
    options = ["--license", "cc-by-4.0", "--shard-size", "0.1", "--dry-run", tmp_path / "out"]
    result = invoke(persons, "me/persons", *options)
    assert result.exit_code == 0, result.output
    names = contents(tmp_path / "out")
    assert len(names) > 3
    assert all(any(line.startswith(f"{name} ") for line in result.stdout.splitlines()) for name in names)
    assert "Nothing was pushed. What would go to me/persons is in" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["SOURCE", "me/persons", "--dry-run", "out"], "has no licence to be published under"),
        (["SOURCE", "persons", "--dry-run", "out"], "'persons' must be a name on the Hub, namespace/name"),
        (["SOURCE", "me/persons", "--dry-run", "out", "--dataset-args", "seed"], "'seed' must read KEY=VALUE"),
        (["rstpreid", "me/persons", "--dry-run", "out"], "is RSTPReid, whose authors do not allow"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(persons, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = invoke(*(persons if argument == "SOURCE" else argument for argument in arguments))
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert result.exit_code == 2 and len(errors) == 1 and message in errors[0], result.output
    assert not Path("out").exists()


# ---------------------------------------------------------------------------------------------------------------------
# On a Hub.
# ---------------------------------------------------------------------------------------------------------------------
STORIES = "tests.dataset_scripts.publishing.publishing_stories"
PUBLISH, READ, READ_AS_WEBPERSON = (f"{STORIES}.{name}" for name in ("publish", "read", "read_as_webperson"))


def held(hub: HubServer, repo_id: str, revision: str = "main") -> dict[str, bytes]:
    return {name: content for name, content in hub.files(repo_id, revision).items() if name not in FIRST_FILES}


def test_what_is_pushed_is_the_dry_run_and_opens_by_its_name(hub, client, tmp_path):
    source = tmp_path / "persons"
    datasets.DatasetDict(train=as_dataset(rows(5)), test=as_dataset(rows(3, 5))).save_to_disk(source)
    out, _, _ = dry(source, tmp_path, shard_bytes=2500)
    report = client.ask(PUBLISH, source, "me/persons", token=MINE, shard_bytes=2500, tag="v1")
    assert len(list((out / "data").glob("train-*"))) > 1
    assert held(hub, "me/persons") == held(hub, "me/persons", "v1") == contents(out)
    repository = hub.repositories["dataset", "me/persons"]
    assert len(repository.history("main")) == 2 and report["pushed"]["commit"] == repository.sha("main")

    saved = datasets.load_from_disk(str(source))
    expected = {
        name: [[row["image_path"], row["caption1"], np.asarray(row["image"]).tolist()] for row in split]
        for name, split in saved.items()
    }
    assert client.ask(READ, "me/persons") == expected
    assert client.ask(READ, "me/persons", streaming=True) == expected
    assert client.ask(READ_AS_WEBPERSON, "me/persons") == {"train": expected["train"]}


def test_a_run_is_pushed_as_its_dry_run_is_in_place_of_an_earlier_build(hub, client, run, tmp_path):
    root = tmp_path / "street"
    shutil.copytree(run, root)
    (root / "data" / ".part-0a1b2c3d-train-00000-of-00002.parquet").write_text("what a killed writer left")
    out, _, _ = dry(root, tmp_path, card=None, repo_id="me/street")
    by_hand = {"NOTES.md": b"by hand"}
    hub.commit("me/street", {"data/train-00007-of-00009.parquet": b"of more shards", **by_hand}, private=True)
    report = client.ask(PUBLISH, root, "me/street", token=MINE, license=None, private=True)
    history = hub.repositories["dataset", "me/street"].history("main")
    assert len(history) == 2
    assert report["pushed"]["url"].removeprefix(hub.endpoint) == f"/datasets/me/street/commit/{history[0]}"
    assert held(hub, "me/street") == contents(out) | by_hand
    assert len(client.ask(READ, "me/street", token=MINE)["train"]) == 5


def test_a_name_of_somebody_else_is_refused(hub, client, run):
    refusal = client.refusal(PUBLISH, run, "somebody_else/street", token=MINE, license=None)
    assert "somebody_else/street" in refusal.message and ("dataset", "somebody_else/street") not in hub.repositories


def test_a_private_data_set_is_private(hub, client, tmp_path):
    as_dataset(rows(2)).save_to_disk(tmp_path / "persons")
    client.ask(PUBLISH, tmp_path / "persons", "me/secret", token=MINE, private=True, revision="draft")
    assert hub.repositories["dataset", "me/secret"].private and held(hub, "me/secret") == {}
    assert client.refusal(READ, "me/secret", revision="draft").error
    assert len(client.ask(READ, "me/secret", revision="draft", token=MINE)["train"]) == 2


def test_a_refusal_pushes_nothing(hub, client, tmp_path):
    as_dataset(rows(2)).save_to_disk(tmp_path / "persons")
    refusal = client.refusal(PUBLISH, tmp_path / "persons", "me/refused", token=MINE, license=None)
    assert "ValueError" in refusal.error and "has no licence to be published under" in refusal.message
    assert hub.writes("me/refused") == [] and ("dataset", "me/refused") not in hub.repositories
    refusal = client.refusal(PUBLISH, tmp_path / "persons", "me/refused", token="hf_wrong")
    assert "OSError" in refusal.error and hub.writes("me/refused") == []
