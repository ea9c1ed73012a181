"""The data set as `datasets` gives it: rows, splits, cache and configuration."""

import hashlib
from pathlib import Path

import datasets
import numpy as np
import pytest

import dataset_scripts  # noqa: F401, makes the name known
from dataset_scripts.synthetic_persons import (
    PersonSampler,
    SyntheticPersons,
    SyntheticPersonsConfig,
    load_synthetic_persons,
)
from tests.dataset_scripts.drawn_in_processes import load_with_two_processes


# 70 training persons are two shards, so that two processes have something to share.
SMALL = {
    "num_train_persons": 70,
    "num_validation_persons": 3,
    "num_test_persons": 8,
    "train_images_per_person": 2,
    "validation_images_per_person": 2,
    "test_images_per_person": 1,
    "image_size": (48, 16),
    "seed": 3,
}


@pytest.fixture(scope="module")
def persons(tmp_path_factory: pytest.TempPathFactory) -> datasets.DatasetDict:
    return load_synthetic_persons(cache_dir=str(tmp_path_factory.mktemp("cache")), caption_noise=0.3, **SMALL)


def rows(split: datasets.Dataset) -> list[dict]:
    """The rows with the stored bytes of each image."""
    return list(split.cast_column("image", datasets.Image(decode=False)))


def digest(dataset: datasets.DatasetDict) -> str:
    return hashlib.sha256(repr([rows(dataset[split]) for split in dataset]).encode()).hexdigest()


def test_the_splits_have_the_columns_and_sizes_asked_for(persons):
    assert {split: len(dataset) for split, dataset in persons.items()} == {"train": 140, "validation": 6, "test": 8}
    assert set(persons["test"].column_names) == {
        "image", "image_path", "caption1", "caption2", "person_id", "caption1_noise", "caption2_noise",
        "caption1_attributes", "caption2_attributes", "attributes",
    }  # fmt: skip
    assert persons["train"].features["person_id"] == datasets.Value("int64")
    assert all(value == datasets.Value("string") for value in persons["train"].features["attributes"].values())


def test_load_dataset_draws_the_same_rows_by_bare_name(persons, tmp_path):
    loaded = datasets.load_dataset("synthetic_persons", cache_dir=str(tmp_path), caption_noise=0.3, **SMALL)
    assert digest(loaded) == digest(persons)
    with pytest.raises(TypeError, match="num_persons"):
        datasets.load_dataset("synthetic_persons", cache_dir=str(tmp_path), num_persons=3)


def test_images_are_rgb_of_the_stated_size(persons):
    for row in persons["test"]:
        assert (row["image"].mode, row["image"].size) == ("RGB", (16, 48))


def test_identities_are_disjoint_across_splits_and_have_all_their_images(persons):
    ids = {split: dataset["person_id"] for split, dataset in persons.items()}
    assert sorted({*ids["train"], *ids["validation"], *ids["test"]}) == list(range(81))
    assert len(set(ids["train"])) + len(set(ids["validation"])) + len(set(ids["test"])) == 81
    assert all(list(ids["train"]).count(person) == 2 for person in set(ids["train"]))


def test_each_split_draws_persons_of_its_own():
    looks = {
        split: {
            (person.style_seed, *person.attributes().values())
            for person in map(PersonSampler(0, split).person, range(99))
        }
        for split in ("train", "validation", "test")
    }
    assert not looks["train"] & looks["test"] and not looks["train"] & looks["validation"]
    assert not looks["validation"] & looks["test"]


def test_image_paths_are_unique(persons):
    paths = [path for dataset in persons.values() for path in dataset["image_path"]]
    assert len(set(paths)) == len(paths)


def test_images_of_one_identity_differ_and_its_clothes_do_not(persons):
    first, second = persons["train"][0], persons["train"][1]
    assert first["person_id"] == second["person_id"]
    assert np.asarray(first["image"]).tobytes() != np.asarray(second["image"]).tobytes()
    worn = [{k: v for k, v in row["attributes"].items() if k not in ("view", "pose")} for row in (first, second)]
    assert worn[0] == worn[1]


@pytest.mark.slow
def test_rows_do_not_depend_on_the_number_of_processes(persons, tmp_path):
    parallel = load_with_two_processes("synthetic_persons", tmp_path, caption_noise=0.3, **SMALL)
    assert digest(parallel) == digest(persons)


def test_another_seed_gives_other_persons(persons, tmp_path):
    other = load_synthetic_persons(cache_dir=str(tmp_path), **{**SMALL, "num_train_persons": 2, "seed": 4})
    assert rows(other["train"])[0]["image"]["bytes"] != rows(persons["train"])[0]["image"]["bytes"]
    assert other["test"]["attributes"] != persons["test"]["attributes"]


def test_rows_do_not_depend_on_the_number_of_identities_or_the_noise_rate(persons, tmp_path):
    fields = {**SMALL, "num_train_persons": 5, "train_images_per_person": 1, "caption_noise": 0.0}
    clean = load_synthetic_persons(cache_dir=str(tmp_path), **fields)
    noisy = rows(persons["train"])[:10:2]
    for clean_row, noisy_row in zip(rows(clean["train"]), noisy, strict=True):
        assert clean_row["image"]["bytes"] == noisy_row["image"]["bytes"]
        assert clean_row["caption1_noise"] == clean_row["caption2_noise"] == []
        words, others = clean_row["caption1"].split(), noisy_row["caption1"].split()
        changed = {index for index, pair in enumerate(zip(words, others, strict=True)) if pair[0] != pair[1]}
        articles = {index for index in changed if words[index].lower() in ("a", "an")}
        assert changed - articles <= set(noisy_row["caption1_noise"])


def test_training_noise_stays_out_of_evaluation_captions(persons):
    assert any(persons["train"]["caption1_noise"])
    assert not any([*persons["test"]["caption1_noise"], *persons["validation"]["caption2_noise"]])


def test_evaluation_captions_have_a_noise_rate_of_their_own(tmp_path):
    fields = {**SMALL, "num_train_persons": 2, "num_test_persons": 20}
    noisy = load_synthetic_persons(cache_dir=str(tmp_path), evaluation_caption_noise=0.5, **fields)
    assert any(noisy["test"]["caption1_noise"]) and not any(noisy["train"]["caption1_noise"])


def test_every_field_changes_the_name_of_the_cache(tmp_path):
    changes = {
        "num_train_persons": 9, "num_validation_persons": 9, "num_test_persons": 9, "train_images_per_person": 9,
        "validation_images_per_person": 9, "test_images_per_person": 9, "image_size": (64, 32), "caption_noise": 0.5,
        "evaluation_caption_noise": 0.5, "seed": 9,
    }  # fmt: skip
    inherited = datasets.BuilderConfig.__dataclass_fields__
    assert set(changes) == set(SyntheticPersonsConfig.__dataclass_fields__) - set(inherited)
    folders = {SyntheticPersons(cache_dir=str(tmp_path), **{name: value}).cache_dir for name, value in changes.items()}
    folders.add(SyntheticPersons(cache_dir=str(tmp_path)).cache_dir)
    folders.add(SyntheticPersons(cache_dir=str(tmp_path), version="9.9.9").cache_dir)
    assert len(folders) == len(changes) + 2


def test_spelling_out_a_default_finds_the_same_cache(tmp_path):
    spelled = SyntheticPersons(cache_dir=str(tmp_path), image_size=[192, 64], seed=0)
    assert spelled.cache_dir == SyntheticPersons(cache_dir=str(tmp_path)).cache_dir


def test_a_second_load_reads_the_cache(tmp_path, monkeypatch):
    fields = {**SMALL, "num_train_persons": 2, "num_test_persons": 2}
    load_synthetic_persons(cache_dir=str(tmp_path), **fields)
    monkeypatch.setattr(PersonSampler, "draw", None)
    assert len(load_synthetic_persons(cache_dir=str(tmp_path), **fields)["train"]) == 4
    assert any(Path(tmp_path).rglob("synthetic_persons-train.arrow"))


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("num_train_persons", 0, "num_train_persons must be 1 or more, got 0"),
        ("num_test_persons", 2.5, "num_test_persons must be a whole number, got 2.5"),
        ("test_images_per_person", True, "test_images_per_person must be a whole number, got True"),
        ("seed", -1, "seed must be 0 or more, got -1"),
        ("caption_noise", 1.5, "caption_noise is a probability.*got 1.5"),
        ("evaluation_caption_noise", float("nan"), "evaluation_caption_noise is a probability.*nan"),
        ("caption_noise", "0.2", "caption_noise is a probability: it must be a number from 0 to 1, got '0.2'"),
        ("image_size", 128, r"image_size must be a pair \(height, width\), got 128"),
        ("image_size", (64, 192), "1.5 to 5 times the width.*64, 192"),
        ("image_size", (16, 8), "height must be 32 to 1024 pixels"),
        ("image_szie", (96, 32), "no field 'image_szie'; its fields are .*image_size"),
    ],
)
def test_a_bad_field_is_refused_by_name_and_value(tmp_path, field, value, says):
    with pytest.raises(ValueError, match=says):
        load_synthetic_persons(cache_dir=str(tmp_path), **{field: value})


def test_the_identities_of_a_gallery_are_confusable_but_captions_tell_most_apart():
    """A reader who makes no mistake finds most of 1,000 persons by caption, and no small number ties."""
    sampler = PersonSampler(0, "test")
    people = [sampler.person(index).attributes() for index in range(1000)]
    same_as = {"hair_length": "hair_style", "hair_knot": "hair_style", "haired": "hair_style"}
    unique, expected, captions = 0, 0.0, 0
    for index in range(0, 1000, 5):
        for caption in sampler.captions(index, 0, noise=0.0):
            told = [(same_as.get(m.field, m.field), m.truth) for m in caption.mentions if m.field != "inner"]
            fits = [number for number, person in enumerate(people) if all(person[f] == v for f, v in told)]
            assert index in fits
            unique += len(fits) == 1
            expected += 1 / len(fits)
            captions += 1
    assert 0.90 < unique / captions < 0.99
    assert 0.95 < expected / captions < 0.999
