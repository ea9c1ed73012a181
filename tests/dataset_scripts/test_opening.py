"""One name opens any data set: ours, a folder on disk, or what `load_dataset` knows."""

import datasets
import pytest

from dataset_scripts.opening import open_dataset


@pytest.fixture
def rows() -> datasets.Dataset:
    return datasets.Dataset.from_dict({"caption1": ["a man", "a woman"], "person_id": [0, 1]})


def test_the_synthetic_set_takes_its_fields(tmp_path):
    splits = open_dataset(
        "synthetic_persons",
        num_train_persons=3,
        train_images_per_person=2,
        num_validation_persons=2,
        validation_images_per_person=1,
        num_test_persons=1,
        image_size=[48, 16],
        cache_dir=str(tmp_path),
    )
    assert {name: len(split) for name, split in splits.items()} == {"train": 6, "validation": 2, "test": 1}
    assert splits["train"][0]["image"].size == (16, 48)


@pytest.mark.parametrize(("field", "value"), [("sed", 1), ("num_train_persons", "many"), ("caption_noise", 2.0)])
def test_a_wrong_field_of_the_synthetic_set_is_an_error_of_value(field, value):
    with pytest.raises(ValueError, match=field):
        open_dataset("synthetic_persons", **{field: value})


def test_a_saved_set_of_splits(rows, tmp_path):
    datasets.DatasetDict(train=rows, test=rows.select([1])).save_to_disk(tmp_path / "saved")
    splits = open_dataset(str(tmp_path / "saved"))
    assert {name: split["caption1"][:] for name, split in splits.items()} == {
        "train": ["a man", "a woman"],
        "test": ["a woman"],
    }


def test_a_saved_set_without_splits_is_all_training(rows, tmp_path):
    rows.save_to_disk(tmp_path / "saved")
    splits = open_dataset(str(tmp_path / "saved"))
    assert list(splits) == ["train"] and splits["train"]["person_id"][:] == [0, 1]


def test_a_saved_set_takes_no_arguments(rows, tmp_path):
    rows.save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="was written by save_to_disk and takes no arguments, such as .*seed"):
        open_dataset(str(tmp_path / "saved"), seed=1)


def test_a_folder_of_parquet_files(rows, tmp_path):
    folder = tmp_path / "tables"
    folder.mkdir()
    rows.to_parquet(folder / "train.parquet")
    splits = open_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert splits["train"]["caption1"][:] == ["a man", "a woman"]


def test_a_name_that_is_nothing_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_dataset(str(tmp_path / "nowhere"))
