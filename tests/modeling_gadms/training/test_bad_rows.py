"""Rows that cannot be trained on are found before training, all at once, each with its reason."""

import io

import datasets
import numpy as np
import pytest
from PIL import Image

from modeling_gadms.training.bad_rows import BadRow, drop_bad_rows, find_bad_rows
from modeling_gadms.training.data import DatasetColumns
from modeling_gadms.training.run_config import load_run_config
from modeling_gadms.training.run_data import load_run_data


COLUMNS = DatasetColumns(captions=("captions", "title"), person_id="person_id")
# Row number: what is wrong, as a replacement of one value; the reason.
FAULTS = {
    1: ("captions", [], "`title` is an empty caption (None)"),
    3: ("captions", ["a man", " \t"], "`captions` is an empty caption (' \\t')"),
    4: ("person_id", None, "`person_id` is missing"),
    6: ("image", None, "the image in `image` cannot be read: it is missing"),
    7: ("image", "half of a PNG", "the image in `image` cannot be read: "),
    8: ("captions", None, "`captions` is an empty caption (None)"),
    10: ("image", b"Dear Sir or Madam", "the image in `image` cannot be read: its format is unknown"),
}


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 20, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def spoiled() -> datasets.Dataset:
    """Twelve rows, with a fault of each kind."""
    rows = [
        {"image": png(row), "captions": ["a man", "red coat"], "title": f"{row}", "person_id": row}
        for row in range(12)
    ]
    for row, (column, value, _) in FAULTS.items():
        rows[row][column] = png(row)[:900] if value == "half of a PNG" else value
    rows[1]["title"] = None
    for row in rows:
        row["image"] = row["image"] and {"bytes": row["image"], "path": None}
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "captions": datasets.List(datasets.Value("string")),
            "title": datasets.Value("string"),
            "person_id": datasets.Value("int64"),
        }
    )
    return datasets.Dataset.from_list(rows, features=features)


def test_every_fault_is_found_with_its_row_and_reason():
    found = find_bad_rows(spoiled(), COLUMNS)
    assert [fault.row for fault in found] == list(FAULTS)
    for fault, (_, _, reason) in zip(found, FAULTS.values(), strict=True):
        assert fault.reason.startswith(reason)


def test_the_processes_share_the_images():
    shares = [find_bad_rows(spoiled(), COLUMNS, process_index=index, num_processes=3) for index in range(3)]
    assert all(fault in share for share in shares for fault in shares[0] if "image" not in fault.reason)
    assert set().union(*shares) == set(find_bad_rows(spoiled(), COLUMNS))
    assert [[fault.row for fault in share if "image" in fault.reason] for share in shares] == [[6], [7, 10], []]


def test_bad_rows_are_refused_or_left_out(caplog):
    dataset = spoiled()
    bad = find_bad_rows(dataset, COLUMNS)
    with pytest.raises(ValueError, match=r"7 of 12 rows of the split `train` .* row 1: `title` .*; and 2 more.*=skip"):
        drop_bad_rows(dataset, bad, "train", skip=False)
    left = drop_bad_rows(dataset, bad, "train", skip=True)
    assert left["title"][:] == [str(row) for row in range(12) if row not in FAULTS]
    assert "7 of 12 rows of the split `train` cannot be used: row 1" in caplog.text
    assert drop_bad_rows(dataset, [], "train", skip=False) is dataset
    with pytest.raises(ValueError, match="2 of 2 rows .* No row is left"):
        drop_bad_rows(dataset.select(range(2)), [BadRow(0), BadRow(1)], "train", skip=True)


@pytest.fixture
def load(tmp_path):
    """A function that loads the data of a run on the spoiled rows; `loaded` lists what was asked for."""

    def load_splits(name, splits, **options):
        loaded.append(splits)
        return {"train": spoiled(), "validation": spoiled().select([0, 1, 2])}

    loaded: list[list[str]] = []
    file = tmp_path / "run.yaml"
    file.write_text(
        "data: {dataset: persons, caption_columns: [captions, title], person_id_column: person_id}\n"
        f"training: {{output_dir: {tmp_path}/out, use_cpu: true, eval_strategy: epoch}}\n"
    )

    def make(*overrides):
        return load_run_data(load_run_config(file, overrides), load_splits=load_splits, parquet_files=None)

    make.loaded = loaded
    return make


def test_a_run_ends_before_training_or_trains_on_the_other_rows(load):
    with pytest.raises(ValueError, match="7 of 12 rows of the split `train`"):
        load()
    data = load("data.bad_rows=skip")
    assert load.loaded == [["train", "validation"]] * 2, "both at once"
    assert (len(data.train), len(data.validation)) == (5, 2)
    assert {split: [fault.row for fault in rows] for split, rows in data.skipped.items()} == {
        "train": list(FAULTS),
        "validation": [1],
    }
    assert data.count_identities() == 5 and len(list(data.captions())) == 15
    assert load("data.bad_rows=skip", "training.eval_strategy=no").validation is None


def test_another_word_is_refused(load):
    with pytest.raises(ValueError, match="`bad_rows` .* is 'drop'; it must be error | skip"):
        load("data.bad_rows=drop")
