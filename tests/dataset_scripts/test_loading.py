"""One name opens any data set: ours, a folder on disk, or what `load_dataset` knows."""

import datasets
import pytest

from dataset_scripts.loading import find_benchmarks, load_parquet_splits, load_splits, parquet_files


@pytest.fixture
def rows() -> datasets.Dataset:
    return datasets.Dataset.from_dict({"caption1": ["a man", "a woman"], "person_id": [0, 1]})


def test_the_synthetic_set_takes_its_fields(tmp_path):
    splits = load_splits(
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
        load_splits("synthetic_persons", **{field: value})


def test_a_saved_set_of_splits(rows, tmp_path):
    datasets.DatasetDict(train=rows, test=rows.select([1])).save_to_disk(tmp_path / "saved")
    splits = load_splits(str(tmp_path / "saved"))
    assert {name: split["caption1"][:] for name, split in splits.items()} == {
        "train": ["a man", "a woman"],
        "test": ["a woman"],
    }


def test_a_saved_set_without_splits_is_all_training(rows, tmp_path):
    rows.save_to_disk(tmp_path / "saved")
    splits = load_splits(str(tmp_path / "saved"))
    assert list(splits) == ["train"] and splits["train"]["person_id"][:] == [0, 1]


def test_a_saved_set_takes_no_arguments(rows, tmp_path):
    rows.save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="was written by save_to_disk and takes no arguments, such as .*seed"):
        load_splits(str(tmp_path / "saved"), seed=1)


def test_a_folder_of_parquet_files(rows, tmp_path):
    folder = tmp_path / "tables"
    folder.mkdir()
    rows.to_parquet(folder / "train.parquet")
    splits = load_splits(str(folder), cache_dir=str(tmp_path / "cache"))
    assert splits["train"]["caption1"][:] == ["a man", "a woman"]


def test_a_name_that_is_nothing_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_splits(str(tmp_path / "nowhere"))


def test_the_benchmarks_of_a_data_root_are_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="none of the folders CUHK-PEDES, ICFG-PEDES, RSTPReid"):
        find_benchmarks(tmp_path)
    (tmp_path / "RSTPReid").mkdir()
    (tmp_path / "CUHK-PEDES").mkdir()
    (tmp_path / "ICFG-PEDES").write_text("a file")
    assert find_benchmarks(tmp_path) == {"cuhk_pedes": tmp_path / "CUHK-PEDES", "rstpreid": tmp_path / "RSTPReid"}


def test_parquet_files_are_named_in_order(rows, tmp_path):
    for name in ("train-1", "train-0", "test-0"):
        rows.to_parquet(tmp_path / f"{name}.parquet")
    files = parquet_files(str(tmp_path), "train", cache_dir=str(tmp_path / "cache"))
    assert files == [str(tmp_path / f"train-{number}.parquet") for number in range(2)]
    with pytest.raises(ValueError, match="has no split `val`; it has train, test"):
        parquet_files(str(tmp_path), "val")


def test_what_is_not_parquet_is_not_streamed(rows, tmp_path):
    (tmp_path / "csv").mkdir()
    rows.to_csv(tmp_path / "csv" / "train.csv")
    datasets.DatasetDict(train=rows).save_to_disk(tmp_path / "saved")
    for name in ("synthetic_persons", str(tmp_path / "saved"), str(tmp_path / "csv")):
        with pytest.raises(ValueError, match="is not made of Parquet files, which streaming needs"):
            parquet_files(name, "train")


def test_one_split_is_opened_without_the_others(rows, tmp_path):
    rows.to_parquet(tmp_path / "validation.parquet")
    (tmp_path / "train.parquet").write_text("no Parquet: would be an error if it was read")
    validation = load_parquet_splits(str(tmp_path), ["validation"])["validation"]
    assert validation["caption1"][:] == ["a man", "a woman"]
