"""A run from images to captions in one folder: what it refuses, what it does again, and what it reports."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from row_tables import GOOD, MeetingChat, ScriptedChat, answer_with, build_config, jpeg, write_persons
from run_folders import contents, published_rows, rejected_rows

from dataset_scripts.construction.blocks import BlockError, OutageError
from dataset_scripts.construction.captions.caption import CaptionSettings
from dataset_scripts.construction.captions.chat.types import (
    ChatConfigurationError,
    ChatOutageError,
    ChatProblem,
    ChatReply,
)
from dataset_scripts.construction.captions.judge import JudgeSettings
from dataset_scripts.construction.captions.match import MatchSettings
from dataset_scripts.construction.captions.rules import CaptionRules
from dataset_scripts.construction.captions.templates import SHIPPED
from dataset_scripts.construction.failures import FailureLog
from dataset_scripts.construction.persons.criteria import CriteriaSettings
from dataset_scripts.construction.persons.crop import CropSettings
from dataset_scripts.construction.persons.detectors import DetectorSettings
from dataset_scripts.construction.persons.duplicates import DuplicateSettings
from dataset_scripts.construction.persons.pose import PoseSettings
from dataset_scripts.construction.persons.quality import QualitySettings
from dataset_scripts.construction.pipeline_report import BlockCounts
from dataset_scripts.construction.run import pipeline
from dataset_scripts.construction.run.config import BuildConfig
from dataset_scripts.construction.run.engines import Resources
from dataset_scripts.construction.run.pipeline import BuildReport, build_webperson, caption_blocks, person_blocks
from dataset_scripts.construction.run.stages import CaptionStage, LostRowsError, PersonStage
from dataset_scripts.construction.shards import RunFolderError, lock_folder
from dataset_scripts.construction.sources.planning import SourceSettings
from dataset_scripts.publishing.dataset_card import DatasetCardSettings


pytestmark = pytest.mark.slow


PERSONS = 10


@pytest.fixture
def config(tmp_path) -> BuildConfig:
    """Ten persons in shards of four."""
    return build_config(tmp_path / "run", write_persons(tmp_path / "source", PERSONS))


@pytest.fixture(autouse=True)
def chat(monkeypatch) -> ScriptedChat:
    return answer_with(monkeypatch, ScriptedChat())


def build(config: BuildConfig) -> BuildReport:
    return build_webperson(config, progress=False)


def with_run(config: BuildConfig, **settings) -> BuildConfig:
    return replace(config, run=replace(config.run, **settings))


# ---------------------------------------------------------------------------------------------------------------------
# What a run makes.
# ---------------------------------------------------------------------------------------------------------------------
def test_a_run_captions_every_person_and_reports_what_each_block_did(config, chat):
    report = build(config)
    assert (report.root, report.persons) == (config.root, PERSONS)
    assert [row["caption1"] for row in published_rows(config.root)] == [GOOD] * PERSONS
    assert [row["source"] for row in published_rows(config.root)] == [f"street/person{n}.jpg" for n in range(PERSONS)]
    assert len(chat.asked) == PERSONS
    assert [block.block for block in report.counts] == [
        *("fetch", "read", "decode", "detect", "box", "pose", "keypoints", "crop", "quality", "signature"),
        *("duplicates", "template 1", "caption 1", "verify 1"),
        *("template 1, attempt 2", "caption 1, attempt 2", "verify 1, attempt 2"),
    ]
    assert {block.seen for block in report.counts[1:14]} == {PERSONS}
    assert {block.seen for block in report.counts[14:]} == {0}


def test_a_caption_that_failed_is_asked_for_once_more(config, chat):
    chat.answer = lambda request, number: ChatReply(None, ChatProblem.CUT_OFF, "...") if number < 2 else GOOD
    report = build(replace(config, duplicates=DuplicateSettings(-1)))
    assert (report.persons, len(chat.asked)) == (PERSONS, PERSONS + 2)
    noted = {block.block: block.noted for block in report.counts if block.noted}
    assert noted == {"caption 1": {"cut off": 2}}


def test_both_captioners_of_a_shard_are_asked_at_a_time(config, monkeypatch):
    chat = answer_with(monkeypatch, MeetingChat())
    captioner = config.captioners["caption1"]
    build(replace(config, captioners={"caption1": captioner, "caption2": replace(captioner, model="other")}))
    assert len(chat.asked) == 2 * PERSONS and len(chat.threads) == 2 * 3  # shards
    assert len({request.seed for request in chat.asked}) == 2 * PERSONS
    assert [row["caption2"] for row in published_rows(config.root)] == [GOOD] * PERSONS


def test_persons_that_repeat_an_earlier_one_of_any_shard_are_not_captioned(config, chat):
    (Path(config.sources["street"].path) / "person9.jpg").write_bytes(jpeg(0, (60, 150)))
    report = build(replace(config, duplicates=DuplicateSettings()))
    (dropped,) = rejected_rows(config.root, "captions")
    assert (dropped["source"], dropped["rejected_by"]) == ("street/person9.jpg", "duplicates")
    assert (report.persons, len(chat.asked)) == (PERSONS - 1, PERSONS - 1)


def test_every_image_without_a_person_leaves_an_empty_data_set(config, chat):
    report = build(replace(config, criteria=CriteriaSettings(min_shorter_side=1000)))
    assert (report.persons, published_rows(config.root), chat.asked) == (0, [], [])
    assert len(rejected_rows(config.root, "persons")) == PERSONS


def test_without_captioners_a_run_ends_with_the_persons_and_goes_on_when_they_are_named(config, chat):
    report = build(replace(config, captioners={}))
    assert (report.persons, chat.asked, (config.root / "data").exists()) == (PERSONS, [], False)
    assert report.counts[-1].block == "duplicates"
    persons = contents(config.root / "work" / "persons")
    assert build(config).persons == PERSONS
    assert contents(config.root / "work" / "persons") == persons


def test_persons_without_captioners_are_counted_without_duplicates(config):
    (Path(config.sources["street"].path) / "person9.jpg").write_bytes(jpeg(0, (60, 150)))
    report = build(replace(config, captioners={}, duplicates=DuplicateSettings()))
    assert (report.persons, report.counts[-1].kept) == (PERSONS - 1, PERSONS - 1)
    assert report.counts[-1].dropped == {"duplicate": 1}


def test_an_account_that_the_published_files_belie_is_an_error(config):
    counts = build(config).counts
    captions = next(place for place, block in enumerate(counts) if block.block == "duplicates")
    with pytest.raises(LostRowsError, match=f"{PERSONS} persons remain by the counts, but {PERSONS - 1} rows"):
        pipeline._check_rows(counts[:captions], counts[captions:], PERSONS - 1, config, [])


# ---------------------------------------------------------------------------------------------------------------------
# Once more.
# ---------------------------------------------------------------------------------------------------------------------
def test_a_second_call_asks_nothing_changes_no_file_and_reports_the_same(config, chat):
    report = build(config)
    files, asked = contents(config.root), len(chat.asked)
    shards = {path: path.stat().st_mtime_ns for path in config.root.rglob("*.parquet")}
    review = (config.root / "work" / "review.png").stat().st_mtime_ns
    assert build(config) == report
    assert (contents(config.root), len(chat.asked)) == (files, asked)
    assert {path: path.stat().st_mtime_ns for path in config.root.rglob("*.parquet")} == shards
    assert (config.root / "work" / "review.png").stat().st_mtime_ns == review


@pytest.mark.parametrize("settings", [{"engine": "ray"}, {"workers": 3}], ids=str)
def test_a_finished_run_takes_another_engine_as_it_is(config, settings):
    report = build(config)
    assert build(with_run(config, **settings)) == report


@pytest.mark.parametrize(
    "change",
    [
        {"base_url": "http://elsewhere.example/v1"},
        {"api_key_env": "KEY"},
        {"concurrency": 2},
        {"requests_per_minute": 5.0},
        {"timeout_seconds": 9.0},
        {"max_retries": 0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_way_to_a_captioner_may_change(config, chat, change):
    report = build(config)
    changed = {name: replace(captioner, **change) for name, captioner in config.captioners.items()}
    assert build(replace(config, captioners=changed)) == report
    assert len(chat.asked) == PERSONS


def test_the_card_may_change(config):
    build(config)
    build(replace(config, card=DatasetCardSettings(title="Pedestrians")))
    assert "Pedestrians" in (config.root / "README.md").read_text()


def test_batch_sizes_may_change(config):
    report = build(config)
    assert build(replace(config, resources={"crop": Resources(batch_size=1)})) == report


@pytest.mark.parametrize("lost", ["work/duplicates.parquet", "work/duplicates.json", "work/review.png", "README.md"])
def test_what_a_crash_kept_from_being_written_is_written(config, chat, lost):
    build(config)
    files = contents(config.root)
    (config.root / lost).unlink()
    build(config)
    assert contents(config.root) == files
    assert len(chat.asked) == PERSONS


def test_the_review_is_drawn_again_when_a_crash_came_before_the_captions_ones(config):
    build(config)
    review = (config.root / "work" / "review.png").read_bytes()
    (config.root / "work" / "review.png").write_bytes(b"as it was before the captions")
    (config.root / "README.md").unlink()  # it is written last
    build(config)
    assert (config.root / "work" / "review.png").read_bytes() == review


@pytest.mark.parametrize("marker", ["persons/00001.json", "captions/00001.json"])
def test_a_shard_without_marker_is_done_again_and_no_other(config, chat, marker):
    build(config)
    files, asked = contents(config.root), len(chat.asked)
    (config.root / "work" / "markers" / marker).unlink()
    build(config)
    assert contents(config.root) == files
    assert len(chat.asked) == asked + (4 if "captions" in marker else 0)


def test_what_a_killed_run_left_behind_is_removed(config):
    build(config)
    files = contents(config.root)
    (config.root / "data" / ".part-1234-train-00000-of-00003.parquet").write_bytes(b"half")
    journal = config.root / "work" / "journal" / "00000-caption1.jsonl"
    journal.parent.mkdir(exist_ok=True)
    journal.write_text("")
    build(config)
    assert contents(config.root) == files


# ---------------------------------------------------------------------------------------------------------------------
# What is refused.
# ---------------------------------------------------------------------------------------------------------------------
def test_a_folder_in_use_is_refused_and_free_again_afterwards(config, chat):
    with lock_folder(config.root), pytest.raises(RunFolderError, match="another run is using .*wait for it"):
        build(config)
    assert not chat.asked
    assert build(config).persons == PERSONS


def test_a_run_that_failed_leaves_the_folder_free(config, chat):
    chat.answer = lambda request, number: 1 / 0
    with pytest.raises(BlockError, match="ZeroDivisionError"):
        build(config)
    chat.answer = lambda request, number: GOOD
    assert build(config).persons == PERSONS


def add_picture(source: Path) -> None:
    (source / "another.jpg").write_bytes(jpeg(99))


def change_picture(source: Path) -> None:
    (source / "person3.jpg").write_bytes(jpeg(99))


def rename_picture(source: Path) -> None:
    (source / "person3.jpg").rename(source / "someone.jpg")


def remove_picture(source: Path) -> None:
    (source / "person3.jpg").unlink()


@pytest.mark.parametrize("change", [add_picture, change_picture, rename_picture, remove_picture])
def test_a_changed_source_is_refused_with_what_to_do(config, change: Callable[[Path], None]):
    build(config)
    files = contents(config.root)
    change(Path(config.sources["street"].path))
    with pytest.raises(
        RunFolderError, match=f"{config.root} contains a run over other sources.*Name another output folder"
    ):
        build(config)
    assert contents(config.root) == files


def test_another_name_of_a_source_or_other_shards_are_refused(config):
    build(config)
    source = config.sources["street"].path
    for changed in (
        replace(config, sources={"road": SourceSettings("folder", source, "road")}),
        with_run(config, images_per_shard=5),
    ):
        with pytest.raises(RunFolderError, match="contains a run over other sources"):
            build(changed)


def test_a_source_may_lie_elsewhere(config, tmp_path):
    report = build(config)
    (tmp_path / "source").rename(tmp_path / "moved")
    moved = {"street": SourceSettings("folder", str(tmp_path / "moved"), "street")}
    assert build(replace(config, sources=moved)) == report


PERSON_SETTINGS = {
    "criteria": CriteriaSettings(min_shorter_side=49),
    "crop": CropSettings(padding=0.2),
    "detector": DetectorSettings("whole_image", min_confidence=0.2),
    "pose": PoseSettings("movenet"),
    "quality": QualitySettings(0, 1),
}
CAPTION_SETTINGS = {
    "captions": CaptionSettings(seed=1),
    "rules": CaptionRules(min_words=6),
    "match": MatchSettings(min_similarity=0.1),
    "judge": JudgeSettings(enabled=True),
}


@pytest.mark.parametrize("section", PERSON_SETTINGS | CAPTION_SETTINGS)
def test_other_settings_are_refused_with_what_to_do(config, section):
    build(config)
    files = contents(config.root)
    stage = "persons" if section in PERSON_SETTINGS else "captions"
    expected = f"shard 0 of stage {stage} in {config.root} was made with other settings.*name another output folder"
    with pytest.raises(RunFolderError, match=expected):
        build(replace(config, **{section: (PERSON_SETTINGS | CAPTION_SETTINGS)[section]}))
    assert contents(config.root) == files


def test_other_templates_are_refused_whatever_their_file_is_called(config, tmp_path):
    shipped = json.loads(SHIPPED.read_text())
    path = tmp_path / "templates.json"
    path.write_text(json.dumps(shipped))
    config = replace(config, captions=CaptionSettings(templates=str(path)))
    build(config)
    shipped["templates"] = shipped["templates"][:-1]
    path.write_text(json.dumps(shipped))
    with pytest.raises(RunFolderError, match="stage captions .* was made with other settings"):
        build(config)


def test_other_thumbnails_or_another_opt_out_list_are_refused(config, tmp_path):
    opt_out = tmp_path / "opt_out.txt"
    opt_out.write_text("one.example\n")
    config = with_run(config, opt_out=str(opt_out))
    build(config)
    opt_out.write_text("one.example\ntwo.example\n")
    for changed in (config, with_run(config, thumbnail_height=99)):
        with pytest.raises(RunFolderError, match="stage persons .* was made with other settings"):
            build(changed)


def test_captions_of_persons_that_were_made_again_with_other_settings_are_refused(config):
    build(config)
    shutil.rmtree(config.root / "work" / "markers" / "persons")
    with pytest.raises(RunFolderError, match="stage captions .* was made with other settings"):
        build(replace(config, crop=CropSettings(padding=0.2)))


@pytest.mark.parametrize("change", [{"model": "other"}, {"revision": "r2"}, {"temperature": 0.5}], ids=str)
def test_another_captioner_is_refused(config, change):
    build(config)
    other = {"caption1": replace(config.captioners["caption1"], **change)}
    with pytest.raises(RunFolderError, match="stage captions .* was made with other settings"):
        build(replace(config, captioners=other))


def test_a_further_captioner_is_refused(config):
    build(config)
    both = dict.fromkeys(("caption1", "caption2"), config.captioners["caption1"])
    with pytest.raises(RunFolderError, match="stage captions .* was made with other settings"):
        build(replace(config, captioners=both))


def test_persons_are_compared_again_with_other_settings_until_they_are_captioned(config, chat):
    (Path(config.sources["street"].path) / "person9.jpg").write_bytes(jpeg(0, (60, 150)))
    strict = replace(config, duplicates=DuplicateSettings())
    assert build(replace(config, captioners={})).persons == PERSONS
    assert build(strict).persons == len(chat.asked) == PERSONS - 1
    files = contents(config.root)
    with pytest.raises(RunFolderError, match="stage captions .* was made with other settings"):
        build(config)
    build(strict)
    assert (contents(config.root), len(chat.asked)) == (files, PERSONS - 1)


# ---------------------------------------------------------------------------------------------------------------------
# Resources.
# ---------------------------------------------------------------------------------------------------------------------
def test_batch_sizes_reach_the_blocks(config):
    sizes = {"decode": 3, "crop": 2, "signature": 1, "verify 1, attempt 2": 4}
    of_models = {"detect": Resources(batch_size=5, num_cpus=0.5), "pose": Resources(batch_size=7, num_cpus=3)}
    resources = {name: Resources(batch_size=size) for name, size in sizes.items()} | of_models
    config = replace(config, resources=resources)
    blocks = [*person_blocks(config), *caption_blocks(config)]
    models = {block.name: (block.model_batch_size, block.threads) for block in blocks if block.name in of_models}
    assert models == {"detect": (5, 1), "pose": (7, 3)}
    assert {block.name: block.batch_size for block in blocks if block.name in sizes} == sizes
    untouched = [*person_blocks(replace(config, resources={})), *caption_blocks(replace(config, resources={}))]
    for block, other in zip(blocks, untouched, strict=True):
        assert block.name in sizes or block.batch_size == other.batch_size


def test_batch_sizes_change_no_row(config, tmp_path):
    build(config)
    small = {block.name: Resources(batch_size=1) for block in [*person_blocks(config), *caption_blocks(config)]}
    other = with_run(replace(config, resources=small), output=str(tmp_path / "small" / "run"))
    build(other)
    assert contents(other.root) == contents(config.root)


@pytest.mark.parametrize(
    ("name", "resources", "message"),
    [
        ("detects", Resources(num_gpus=1), "names 'detects', which is not a block; blocks are .*'detect'"),
        ("caption2", Resources(), "names 'caption2', which is not a block"),
        ("caption1", Resources(batch_size=4), "`caption1` .* has no batch_size: name one of its blocks"),
        ("read", Resources(batch_size=4), "`read` .* has no batch_size"),
        ("verify 1", Resources(num_gpus=1), "`verify 1` .* accepts only batch_size, .* of `caption1`"),
        ("caption 1", Resources(batch_size=2, concurrency=2), "`caption 1` .* accepts only batch_size"),
    ],
)
def test_resources_without_an_effect_are_refused_before_anything_is_done(config, name, resources, message):
    with pytest.raises(ValueError, match=f"section `resources` {message}|{message}"):
        build(replace(config, resources={name: resources}))
    assert not config.root.exists()


@pytest.mark.parametrize("name", ["read", "write", "decode", "detect", "caption1", "verify 1"])
def test_resources_of_blocks_groups_reading_and_writing_are_taken(config, name):
    resources = Resources(batch_size=2) if name == "verify 1" else Resources(num_cpus=1)
    assert build(replace(config, resources={name: resources})).persons == PERSONS


# ---------------------------------------------------------------------------------------------------------------------
# What goes wrong.
# ---------------------------------------------------------------------------------------------------------------------
def test_a_missing_source_is_named(config, tmp_path):
    missing = {"street": SourceSettings("folder", str(tmp_path / "nowhere"), "street")}
    with pytest.raises(FileNotFoundError, match="the source .*nowhere does not exist"):
        build(replace(config, sources=missing))


def test_a_detector_that_cannot_be_imported_is_named(config):
    with pytest.raises(ImportError, match="Cannot import nowhere:Detector"):
        build(replace(config, detector=DetectorSettings("nowhere:Detector")))


def test_a_captioner_without_its_key_is_named_and_the_persons_are_kept(config, monkeypatch):
    monkeypatch.undo()
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    other = {"caption1": replace(config.captioners["caption1"], api_key_env="NO_SUCH_KEY")}
    with pytest.raises(ChatConfigurationError, match="NO_SUCH_KEY"):
        build(replace(config, captioners=other))
    assert len(os.listdir(config.root / "work" / "persons")) == 3


def test_an_outage_of_the_captioner_is_an_error_and_keeps_what_was_answered(config, monkeypatch, chat):
    def answer(request, number):
        if number == 6:
            raise ChatOutageError("the server is gone")
        return GOOD

    chat.answer = answer
    with pytest.raises(OutageError, match="block `caption 1` failed on rows .*the server is gone"):
        build(config)
    assert len(chat.asked) == 7
    assert build(config).persons == PERSONS
    assert len(chat.asked) == 7 + PERSONS - 6


@pytest.fixture
def poisoned(monkeypatch):
    """A function that makes a shard of a stage unreadable."""

    def poison(stage: type, *numbers: int) -> None:
        read = stage.read

        def read_or_fail(self, number):
            if number in numbers:
                raise OSError("a bad sector")
            return read(self, number)

        monkeypatch.setattr(stage, "read", read_or_fail)

    return poison


def test_a_run_goes_on_without_a_shard_of_persons_and_tells(config, poisoned):
    poisoned(PersonStage, 1)
    report = build(config)
    (failure,) = report.set_aside
    assert (failure.stage, failure.number, failure.attempts) == ("persons", 1, 3)
    assert failure.reason == "shard 1 cannot be read: OSError: a bad sector"
    counts = {block.block: block for block in report.counts}
    assert counts["shards of persons"] == BlockCounts("shards of persons", "shards", 3, 2, {"set aside": 1})
    assert 0 < report.persons < PERSONS
    assert report.persons == len(published_rows(config.root))
    files = [file.name for file in sorted((config.root / "data").iterdir())]
    assert files == ["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"]  # one sees that one is missing
    assert "shards of persons" in (config.root / "README.md").read_text(encoding="utf-8")
    before = contents(config.root)
    assert build(config) == report and contents(config.root) == before


def test_a_shard_of_persons_that_comes_after_captions_have_begun_is_refused(config, poisoned, monkeypatch, chat):
    """Persons of other shards may be duplicates of its persons, and have captions: a run never mixes the two."""
    poisoned(PersonStage, 1)
    build(config)
    monkeypatch.undo()
    answer_with(monkeypatch, chat)
    FailureLog(config.root, "persons").forget(1)
    with pytest.raises(RunFolderError, match="stage captions .* was made with other settings"):
        build(config)


def test_a_run_goes_on_without_a_shard_of_captions_and_takes_it_later(config, chat, poisoned, tmp_path, monkeypatch):
    poisoned(CaptionStage, 2)
    report = build(config)
    assert [(failure.stage, failure.number) for failure in report.set_aside] == [("captions", 2)]
    assert report.persons == len(published_rows(config.root)) < PERSONS
    assert BlockCounts("shards of captions", "shards", 3, 2, {"set aside": 1}) in report.counts
    assert not (config.root / "work" / "run.json").exists(), "it could be merged"
    monkeypatch.undo()
    answer_with(monkeypatch, chat)
    FailureLog(config.root, "captions").forget(2)
    assert build(config).persons == PERSONS
    whole = with_run(config, output=str(tmp_path / "whole" / "run"))
    build(whole)
    assert contents(config.root) == contents(whole.root)


def test_a_run_without_any_finished_shard_stops(config, poisoned):
    poisoned(PersonStage, 0, 1, 2)
    with pytest.raises(BlockError, match="3 shards of stage persons failed, and none was finished.*a bad sector"):
        build(config)
    assert not (config.root / "work" / "failures").exists()
