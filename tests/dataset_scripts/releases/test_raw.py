"""The three benchmarks from copies as people have them: counts, identities and captions, and what is refused."""

import json
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniature_releases import colour, cuhk_pedes, icfg_pedes, rstpreid, write

import dataset_scripts  # noqa: F401, makes the names known
from dataset_scripts.icfg_pedes import choose_held_out
from dataset_scripts.releases.raw import SPLITS, Entry, SplitCounts, count_splits, number_persons
from tests.waiting import PATIENCE_SECONDS


def load(name: str, folder: Path, config: str | None = None, **options) -> datasets.DatasetDict:
    options = {"check_counts": False, **options}
    return datasets.load_dataset(name, config, data_dir=str(folder), cache_dir=str(folder.parent / "cache"), **options)


@pytest.fixture
def cuhk(tmp_path):
    """A function that writes CUHK-PEDES after a change of its entries."""

    def make(change=lambda entries: entries, **options) -> Path:
        entries = cuhk_pedes()
        return write(tmp_path / "copy", "reid_raw.json", change(entries) or entries, **options)

    return make


# ---------------------------------------------------------------------------------------------------------------------
# What comes out.
# ---------------------------------------------------------------------------------------------------------------------
def test_cuhk_pedes_comes_out_as_it_is(cuhk):
    splits = load("cuhk_pedes", cuhk())
    assert {name: split.num_rows for name, split in splits.items()} == {"train": 6, "validation": 2, "test": 4}
    rows = {row["image_path"]: row for split in splits.values() for row in split}
    for entry in cuhk_pedes():
        row = rows[entry["file_path"]]
        assert row["captions"] == entry["captions"]
        assert row["source_id"] == entry["id"]
        assert np.all(np.asarray(row["image"]) == colour(entry["file_path"]))
    assert splits["train"].column_names == ["image", "image_path", "captions", "person_id", "source_id"]
    assert sorted(set(splits["train"]["person_id"])) == [0, 1, 2], "the gap of 3 and 4 is closed"
    assert dict(zip(splits["train"]["source_id"], splits["train"]["person_id"], strict=True)) == {1: 0, 2: 1, 5: 2}
    assert (set(splits["validation"]["person_id"]), set(splits["test"]["person_id"])) == ({3}, {4, 5})


def test_nine_captions_and_a_caption_of_96_words_are_kept(cuhk):
    train = load("cuhk_pedes", cuhk())["train"]
    by_length = Counter(len(captions) for captions in train["captions"])
    assert by_length == {9: 1, 2: 5}
    assert max(len(caption.split()) for captions in train["captions"] for caption in captions) == 96


@pytest.mark.parametrize("annotations", ["ICFG-PEDES.json", "ICFG_PEDES.json", "icfg_pedes.JSON"])
def test_icfg_pedes_goes_by_its_entries_not_by_its_folders(tmp_path, annotations):
    splits = load("icfg_pedes", write(tmp_path / "copy", annotations, icfg_pedes()))
    assert {name: split.num_rows for name, split in splits.items()} == {"train": 8, "test": 4}
    assert sorted(set(splits["train"]["person_id"])) == [0, 1, 2, 3]
    assert {path.split("/")[0] for path in splits["train"]["image_path"]} == {"train", "test"}
    assert all(len(captions) == 1 for captions in splits["train"]["captions"])


def test_rstpreid_comes_out_as_it_is(tmp_path):
    splits = load("rstpreid", write(tmp_path / "copy", "data_captions.json", rstpreid()))
    assert {name: split.num_rows for name, split in splits.items()} == {"train": 10, "validation": 5, "test": 5}
    assert [set(splits[name]["person_id"]) for name in SPLITS] == [{0, 1}, {2}, {3}]


def test_the_data_root_is_as_good_as_the_folder_in_it(tmp_path):
    write(tmp_path / "root" / "RSTPReid", "data_captions.json", rstpreid())
    assert load("rstpreid", tmp_path / "root")["train"].num_rows == 10


@pytest.mark.parametrize("way", [{"streaming": True}, {"split": "train[:50%]"}])
def test_every_way_of_loading_gives_the_same_rows(cuhk, way):
    folder = cuhk()
    whole = load("cuhk_pedes", folder)
    loaded = load("cuhk_pedes", folder, **way)
    if "split" in way:
        assert loaded["image_path"][:] == whole["train"]["image_path"][:3]
        return
    for name, split in loaded.items():
        assert [row["image_path"] for row in split] == whole[name]["image_path"][:]


TWO_PROCESSES = """
import sys
import datasets
import dataset_scripts
from dataset_scripts.releases import raw as raw_releases

raw_releases._ROWS_PER_SHARD = 2
folder, cache, saved = sys.argv[1:]
shared = datasets.load_dataset("cuhk_pedes", cache_dir=cache, num_proc=2, data_dir=folder, check_counts=False)
assert len(shared["train"].cache_files) == 2, "each process writes a file"
shared.save_to_disk(saved)
"""


def test_two_processes_build_the_same_rows(cuhk, tmp_path):
    """From a process of its own: the threads that other tests have started may hang in a copy of this one."""
    folder = cuhk()
    whole = load("cuhk_pedes", folder)
    saved = tmp_path / "saved"
    program = [sys.executable, "-c", TWO_PROCESSES, str(folder), str(tmp_path / "shared"), str(saved)]
    subprocess.run(program, check=True, timeout=PATIENCE_SECONDS, cwd=Path(__file__).parents[3])
    for name, split in datasets.load_from_disk(saved).items():
        assert split.remove_columns("image").to_list() == whole[name].remove_columns("image").to_list()


def test_rows_hold_their_images_wherever_they_were_built(cuhk, tmp_path, monkeypatch):
    folder = cuhk()
    monkeypatch.chdir(folder / "imgs")
    train = load("cuhk_pedes", folder)["train"]
    monkeypatch.chdir(tmp_path)
    assert np.all(np.asarray(train[0]["image"]) == colour(train[0]["image_path"]))


def test_rows_outlive_the_folder(cuhk):
    folder = cuhk()
    train = load("cuhk_pedes", folder)["train"]
    shutil.rmtree(folder)
    assert np.all(np.asarray(train[0]["image"]) == colour(train[0]["image_path"]))


def test_a_byte_order_mark_and_windows_separators_change_nothing(cuhk):
    def windows(entries):
        for entry in entries:
            entry["file_path"] = entry["file_path"].replace("/", "\\")

    splits = load("cuhk_pedes", cuhk(windows, encoding="utf-8-sig"))
    assert sorted(splits["test"]["image_path"]) == [
        "cam_a/12004_0.png", "cam_a/12005_0.png", "cam_b/12004_1.png", "cam_b/12005_1.png"
    ]  # fmt: skip


def test_changed_annotations_are_not_taken_from_the_cache(cuhk):
    folder = cuhk()
    load("cuhk_pedes", folder)
    entries = cuhk_pedes()
    entries[1]["captions"] = ["Corrected."]
    (folder / "reid_raw.json").write_text(json.dumps(entries))
    assert ["Corrected."] in load("cuhk_pedes", folder)["train"]["captions"][:]


# ---------------------------------------------------------------------------------------------------------------------
# Duplicates, missing images, counts.
# ---------------------------------------------------------------------------------------------------------------------
def test_entries_of_one_image_are_merged_and_counted(cuhk):
    def repeat(entries):
        more = dict(entries[3], captions=["A third opinion.", entries[3]["captions"][0]])
        return [*entries, entries[1], more]

    with pytest.warns(UserWarning, match="1 entries repeat an earlier one and are skipped, 1 add captions"):
        train = load("cuhk_pedes", cuhk(repeat))["train"]
    assert train.num_rows == 6
    row = next(row for row in train if row["image_path"] == "cam_b/00002_1.png")
    assert row["captions"] == [*cuhk_pedes()[3]["captions"], "A third opinion."]


def test_missing_images_are_counted_and_named_before_anything_is_built(tmp_path):
    entries = icfg_pedes()
    missing = [entry["file_path"] for entry in entries[:11]]
    folder = write(tmp_path / "copy", "ICFG-PEDES.json", entries, missing=missing)
    with pytest.raises(FileNotFoundError, match=r"11 of 12 images .* on_missing_images='skip'") as caught:
        load("icfg_pedes", folder)
    assert all(path in str(caught.value) for path in missing[:10])
    assert missing[10] not in str(caught.value)


def test_missing_images_can_be_left_out(cuhk):
    folder = cuhk(missing=["cam_a/00005_0.png", "cam_b/00005_1.png"])
    with pytest.warns(UserWarning, match="2 of 12 images .*cam_a/00005_0.png, cam_b/00005_1.png.* skipped"):
        splits = load("cuhk_pedes", folder, on_missing_images="skip")
    assert splits["train"].num_rows == 4
    assert set(splits["validation"]["person_id"]) == {2}, "a person without images is none"
    with pytest.raises(ValueError, match="on_missing_images = 'ignore' must be 'error' or 'skip'"):
        load("cuhk_pedes", folder, on_missing_images="ignore")


def test_other_counts_than_the_published_ones_are_told_once(cuhk):
    folder = cuhk()
    with pytest.warns(UserWarning, match="is not the published CUHK-PEDES") as caught:
        load("cuhk_pedes", folder, check_counts=True)
    (message,) = [str(warning.message) for warning in caught if "published" in str(warning.message)]
    assert "train: 6 images, 19 captions, 3 identities; published: 34,054 images, 68,126 captions" in message
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        datasets.load_dataset("cuhk_pedes", data_dir=str(folder), cache_dir=str(folder / "c2"), check_counts=False)


@pytest.mark.parametrize(
    ("name", "images"),
    [("cuhk_pedes", 34_054 + 3_078 + 3_074), ("icfg_pedes", 34_674 + 19_848), ("rstpreid", 18_505 + 1_000 + 1_000)],
)
def test_published_counts_are_those_of_the_papers(name, images):
    import importlib

    module = importlib.import_module(f"dataset_scripts.{name}")
    builder = next(
        value for value in vars(module).values() if hasattr(value, "RELEASE") and hasattr(value.RELEASE, "title")
    )
    published = builder.RELEASE.published
    assert sum(counts.images for counts in published.values()) == images  # 40,206, 54,522 and 20,505 in the papers
    totals = {"cuhk_pedes": (80_440, 13_003), "icfg_pedes": (54_522, 4_102), "rstpreid": (41_010, 4_101)}[name]
    assert totals == tuple(sum(getattr(counts, what) for counts in published.values())
                           for what in ("captions", "identities"))  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# What is refused.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("number", "changes", "message"),
    [
        (4, {"split": "training"}, r"entry 4: split = 'training' is none of train, val"),
        (0, {"captions": []}, "entry 0 has no captions"),
        (1, {"captions": ["fine", "  "]}, "entry 1 has the empty caption"),
        (1, {"captions": "a string"}, "entry 1 has no captions, but 'a string'"),
        (2, {"id": "two"}, "entry 2: id = 'two' is not a whole number"),
        (2, {"id": True}, "entry 2: id = True is not a whole number"),
        (2, {"file_path": "../../etc/passwd"}, "entry 2: the path .* leaves"),
        (2, {"file_path": "C:\\imgs\\1.png"}, "entry 2: the path .* leaves"),
        (2, {"file_path": "/imgs/1.png"}, "entry 2: the path .* leaves"),
        (2, {"file_path": ""}, "entry 2: file_path = '' is not an image path"),
        (
            3,
            {"file_path": "cam_a/00001_0.png"},
            "entry 3: cam_a/00001_0.png is of person 2 in train, and in an earlier",
        ),
        (6, {"split": "test"}, "person 11004 is in test and, with cam_b/11004_1.png, in validation"),
    ],
)
def test_an_entry_at_fault_is_named(cuhk, number, changes, message):
    folder = cuhk()
    entries = cuhk_pedes()
    entries[number] |= changes
    (folder / "reid_raw.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=message):
        load("cuhk_pedes", folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"train": []}', "must contain a list of entries"),
        ("[]", "must contain a list of entries"),
        ("[7]", "entry 0 is not an object"),
        ('[{"id": 1, "captions": ["a"], "split": "train"}]', "entry 0 lacks the key `file_path`"),
        ("[", "is not JSON in UTF-8"),
    ],
)
def test_a_file_of_another_form_is_refused(cuhk, text, message):
    folder = cuhk()
    (folder / "reid_raw.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load("cuhk_pedes", folder)


def test_a_folder_without_a_release_says_what_was_looked_for(tmp_path):
    with pytest.raises(ValueError, match="is not on the Hub: give data_dir"):
        datasets.load_dataset("cuhk_pedes")
    with pytest.raises(ValueError, match="CUHK-PEDES has no option 'data_dri'; it has .*check_counts.*data_dir"):
        datasets.load_dataset("cuhk_pedes", data_dri=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="looked for ICFG-PEDES.json or ICFG_PEDES.json .*is no folder"):
        load("icfg_pedes", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="looked for data_captions.json there and in its folder RSTPReid$"):
        load("rstpreid", tmp_path)
    (tmp_path / "reid_raw.json").write_text("[]")
    with pytest.raises(FileNotFoundError, match="holds reid_raw.json but no folder `imgs`"):
        load("cuhk_pedes", tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Identities.
# ---------------------------------------------------------------------------------------------------------------------
@given(st.dictionaries(st.integers(-5, 50), st.sampled_from(SPLITS), min_size=1))
def test_persons_are_numbered_without_gaps_training_first(splits):
    numbers = number_persons(Entry(f"{source}", ("a",), source, split) for source, split in splits.items())
    counter = 0
    for split in SPLITS:  # counted by hand
        for source in sorted(source for source, own in splits.items() if own == split):
            assert numbers[source] == counter
            counter += 1
    assert len(numbers) == counter


def test_counts_are_counts():
    entries = [Entry("a", ("x", "y"), 1, "train"), Entry("b", ("x",), 1, "train"), Entry("c", ("x",), 2, "test")]
    assert count_splits(entries) == {"train": SplitCounts(2, 3, 1), "test": SplitCounts(1, 1, 1)}


def test_icfg_pedes_can_hold_out_training_persons(tmp_path):
    folder = write(tmp_path / "copy", "ICFG-PEDES.json", icfg_pedes(train_persons=32))
    released, held_out = load("icfg_pedes", folder), load("icfg_pedes", folder, "holdout")
    train, validation = (set(held_out[name]["source_id"]) for name in ("train", "validation"))
    assert len(validation) == 2 and not train & validation
    assert train | validation == set(released["train"]["source_id"])
    assert held_out["validation"].num_rows == 4
    assert held_out["test"]["image_path"][:] == released["test"]["image_path"][:]
    assert sorted(set(held_out["train"]["person_id"])) == list(range(30))


def test_missing_images_of_others_do_not_change_who_is_held_out(tmp_path):
    entries = icfg_pedes(train_persons=64)
    complete = load("icfg_pedes", write(tmp_path / "copy", "ICFG-PEDES.json", entries), "holdout")
    held_out = set(complete["validation"]["source_id"])
    others = [entry["file_path"] for entry in entries if entry["id"] < 24 and entry["id"] not in held_out]
    folder = write(tmp_path / "poorer" / "copy", "ICFG-PEDES.json", entries, missing=others)
    with pytest.warns(UserWarning, match="skipped"):
        poorer = load("icfg_pedes", folder, "holdout", on_missing_images="skip")
    assert set(poorer["validation"]["source_id"]) == held_out


def test_two_annotation_files_are_not_chosen_between(tmp_path):
    folder = write(tmp_path / "copy", "ICFG-PEDES.json", icfg_pedes())
    shutil.copy(folder / "ICFG-PEDES.json", folder / "ICFG_PEDES.json")
    with pytest.raises(ValueError, match="holds both ICFG-PEDES.json and ICFG_PEDES.json"):
        load("icfg_pedes", folder)


def test_200_persons_of_the_whole_release_are_held_out():
    held_out = choose_held_out(set(range(3_102)))
    assert len(held_out) == 200
    assert sorted(held_out)[:5] == [39, 49, 51, 55, 109], "for ever the same ones"
    assert len(choose_held_out(set(range(3_102)) - {5}) & held_out) >= 199
    with pytest.raises(ValueError, match="needs 2 or more training persons, found 1"):
        choose_held_out({3})
