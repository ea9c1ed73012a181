"""`gadms inspect`: what it counts is what is there, and what leaks between splits is found."""

import io
import json

import datasets
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dataset_scripts.inspection.sample_sheet import draw_sample_sheet
from dataset_scripts.inspection.splits import Distribution, choose_columns, inspect_splits
from gadms_cli.app import app
from modeling_gadms.training.data import DatasetColumns


COLUMNS = DatasetColumns(captions=("captions",), person_id="person_id")


def file(seed: int, size: tuple[int, int] = (16, 48), form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def split(*rows: tuple[bytes, list[str], int, str]) -> datasets.Dataset:
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "captions": datasets.List(datasets.Value("string")),
            "person_id": datasets.Value("int64"),
            "image_path": datasets.Value("string"),
        }
    )
    columns = list(zip(*rows, strict=True)) or [[], [], [], []]
    images = [{"bytes": content, "path": None} for content in columns[0]]
    values = dict(zip(features, [images, *map(list, columns[1:])], strict=True))
    return datasets.Dataset.from_dict(values, features)


@pytest.fixture
def splits() -> datasets.DatasetDict:
    train = split(
        (file(0), ["a man in red", "a person who wears a red coat"], 0, "a/0.png"),
        (file(1, (20, 40)), ["a woman"], 0, "a/1.png"),
        (file(2), ["someone in blue jeans"], 1, "a/2.png"),
        (b"no image", ["a ghost"], 1, "a/3.png"),
    )
    test = split(
        (file(0), ["a man in red"], 2, "b/0.png"),  # the same file, and a caption of training
        (file(2, form="BMP"), ["nobody"], 3, "b/1.png"),  # the same pixels in another file
        (file(5), ["nobody else"], 1, "a/2.png"),  # a person of training, and a path
    )
    return datasets.DatasetDict(train=train, test=test)


def test_counts_are_those_of_the_rows(splits):
    train = inspect_splits(splits, COLUMNS, progress=False).splits["train"]
    assert (train.images, train.captions, train.identities) == (4, 5, 2)
    assert train.images_per_identity == Distribution(2, 2, 2, 2)
    assert train.captions_per_image == Distribution(1, 1, pytest.approx(1.85), 2)
    assert (train.words.minimum, train.words.median, train.words.maximum) == (2, 4, 7)
    assert (train.heights.minimum, train.heights.maximum) == (40, 48)
    assert train.aspects.maximum == 3
    assert (train.tokens, train.truncated) == (None, None)


def test_tokens_and_truncations_are_those_of_the_tokenizer(splits, tokenizer):
    found = inspect_splits(splits, COLUMNS, tokenizer, progress=False)
    captions = [caption for row in splits["train"]["captions"] for caption in row]
    lengths = [len(tokenizer(caption)["input_ids"]) for caption in captions]
    train = found.splits["train"]
    assert (train.tokens.minimum, train.tokens.maximum) == (min(lengths), max(lengths))
    assert found.token_limit == 24 and train.truncated == sum(length > 24 for length in lengths)
    long = datasets.DatasetDict(train=split((file(0), ["red " * 96, "blue"], 0, "a")))
    assert inspect_splits(long, COLUMNS, tokenizer, progress=False).splits["train"].truncated == 1


def test_images_that_cannot_be_used_are_named(splits):
    found = inspect_splits(splits, COLUMNS, progress=False)
    assert list(found.splits["train"].unreadable) == [3]
    assert "not an image" in found.splits["train"].unreadable[3]
    assert not found.splits["test"].unreadable
    assert "row 3: Cannot use" in found.to_text()


def test_rows_without_a_caption_are_counted_and_named():
    spoiled = datasets.DatasetDict(
        train=split((file(0), ["a"], 0, "a"), (file(1), [" "], 0, "b"), (file(2), [], 0, "c"))
    )
    found = inspect_splits(spoiled, COLUMNS, progress=False)
    assert list(found.splits["train"].without_caption) == [1, 2]
    assert (found.splits["train"].captions, found.splits["train"].images) == (1, 3)
    assert "row 1: `captions` is an empty caption" in found.to_text()


def test_a_tokenizer_without_a_limit_cuts_nothing(splits, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "model_max_length", int(1e30))
    found = inspect_splits(splits, COLUMNS, tokenizer, progress=False)
    captions = [caption for row in splits["train"]["captions"] for caption in row]
    assert found.splits["train"].tokens.maximum == max(len(tokenizer(caption)["input_ids"]) for caption in captions)
    assert found.token_limit is None and "  over " not in found.to_text()


def test_what_two_splits_share_is_counted_and_placed(splits):
    overlaps = inspect_splits(splits, COLUMNS, progress=False).overlaps
    assert {kind: overlap.count for kind, overlap in overlaps.items()} == {
        "path": 1, "file": 1, "pixels": 2, "caption": 1, "person": 1
    }  # fmt: skip
    assert overlaps["file"].examples == ("train row 0 and test row 0",)
    assert overlaps["pixels"].examples == ("train row 0 and test row 0", "train row 2 and test row 1")
    assert overlaps["person"].examples == ("train row 2 and test row 2",)
    apart = datasets.DatasetDict(train=split((file(0), ["a"], 0, "a"), (file(0), ["a"], 0, "a")))
    assert all(not overlap.count for overlap in inspect_splits(apart, COLUMNS, progress=False).overlaps.values())


def test_without_person_ids_nothing_is_said_of_persons(splits):
    found = inspect_splits(splits, DatasetColumns(captions=("captions",)), progress=False)
    assert found.splits["train"].identities is None
    assert "person" not in found.overlaps and "persons" not in found.to_text()


@pytest.mark.parametrize(
    ("names", "captions", "expected"),
    [
        (["image", "captions", "person_id"], (), (("captions",), "person_id")),
        (["image", "caption1", "caption2"], (), (("caption1", "caption2"), None)),
        (["image", "caption1"], (), (("caption1",), None)),
        (["image", "caption", "name"], ("name",), (("name",), None)),
    ],
)
def test_the_usual_columns_are_found(names, captions, expected):
    columns = choose_columns(names, "image", captions, None)
    assert (columns.captions, columns.person_id) == expected


def test_a_data_set_without_known_columns_says_so():
    with pytest.raises(ValueError, match="no caption column was found among image, label; name it"):
        choose_columns(["image", "label"], "image", (), None)
    with pytest.raises(ValueError, match="no column `photo`"):
        choose_columns(["image", "caption"], "photo", (), None)


def test_the_sheet_shows_the_rows(splits):
    found = inspect_splits(splits, COLUMNS, progress=False)
    assert [(sample.split, sample.row) for sample in found.samples] == [
        ("train", 0), ("train", 1), ("train", 2), ("test", 0), ("test", 1), ("test", 2)
    ]  # fmt: skip
    sheet = np.asarray(draw_sample_sheet("title", found.samples))
    blank = np.asarray(draw_sample_sheet("title", ()))
    assert sheet.shape[0] > blank.shape[0] and sheet.shape[1] > blank.shape[1]
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 1000, "the noise of the pictures is on it"


def test_the_command_prints_counts_and_writes_the_sheet(splits, tokenizer, tmp_path):
    splits.save_to_disk(tmp_path / "persons")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    arguments = ["inspect", "--dataset", tmp_path / "persons", "--tokenizer", tmp_path / "tokenizer",
                 "--out", tmp_path / "new" / "sheet.png", "--json-out", tmp_path / "numbers.json"]  # fmt: skip
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    assert "train: 4 images, 5 captions" in result.output
    assert "over 24 tokens" in result.output
    assert Image.open(tmp_path / "new" / "sheet.png").format == "PNG"
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["overlaps"]["pixels"]["count"] == 2
    for wrong, message in ((["--dataset-args", "seed"], "must read KEY=VALUE"), (["--captions", "text"], "`text`")):
        refused = CliRunner().invoke(app, ["inspect", "--dataset", str(tmp_path / "persons"), *wrong])
        assert refused.exit_code == 2 and message in refused.output
