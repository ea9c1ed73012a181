"""Parts that were built apart and merged have the rows of one run over all sources, or are refused."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from row_tables import GOOD, ScriptedChat, answer_with, build_config, jpeg
from run_folders import contents, published_rows
from typer.testing import CliRunner

from dataset_scripts.construction.captions.chat.types import ChatProblem, ChatReply
from dataset_scripts.construction.captions.judge import JudgeSettings
from dataset_scripts.construction.captions.rules import CaptionRules
from dataset_scripts.construction.persons.duplicates import DuplicateSettings
from dataset_scripts.construction.pipeline_report import format_report
from dataset_scripts.construction.run.config import BuildConfig, RunSettings
from dataset_scripts.construction.run.merge import DifferentPartsError, merge_webperson
from dataset_scripts.construction.run.pipeline import build_webperson
from dataset_scripts.construction.shards import RunFolderError
from dataset_scripts.construction.sources.planning import SourceSettings
from dataset_scripts.publishing.dataset import publish_dataset
from dataset_scripts.publishing.dataset_card import DatasetCardSettings
from gadms_cli.app import app
from modeling_gadms.media.images import load_image, to_jpeg


pytestmark = pytest.mark.slow


def configured(root: Path, *sources: Path, **sections) -> BuildConfig:
    named = {source.name: SourceSettings("folder", str(source), source.name) for source in sources}
    return replace(
        build_config(root, root, sources=named, duplicates=DuplicateSettings()),
        **{"run": RunSettings(str(root), images_per_shard=3, thumbnail_height=0), **sections},
    )


def build(config: BuildConfig) -> Path:
    build_webperson(config, progress=False)
    return Path(config.run.output)


def answer(request, number):
    """Nobody describes the person of the seed 4, whoever asks."""
    return ChatReply(None, ChatProblem.REFUSED, "no") if request.image in REFUSED else GOOD


REFUSED: set[bytes] = set()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two sources. `b` repeats persons 1 and 4 of `a`, and one of its own: 4 is refused by the captioner in both."""
    home = tmp_path_factory.mktemp("home")
    for name, seeds in (("a", [0, 1, 2, 3, 4]), ("b", [10, 1, 11, 4, 12, 11, 13])):
        (home / name).mkdir()
        for number, seed in enumerate(seeds):
            (home / name / f"{number}.jpg").write_bytes(jpeg(seed, (60, 150)))
    with pytest.MonkeyPatch.context() as patch:
        answer_with(patch, ScriptedChat(answer))
        probe = build(configured(home / "probe", home / "a"))
        REFUSED.update(row["image"]["bytes"] for row in published_rows(probe)[4:])
        yield home


@pytest.fixture(scope="module")
def parts(home) -> list[Path]:
    return [build(configured(home / f"part_{name}", home / name)) for name in "ab"]


@pytest.fixture(scope="module")
def whole(home) -> Path:
    return build(configured(home / "whole" / "release", home / "a", home / "b"))


@pytest.fixture(scope="module")
def merged(home, parts):
    output = home / "merged" / "release"
    return merge_webperson(parts, output, progress=False)


def test_merged_parts_are_the_files_of_one_run(merged, whole, parts):
    assert contents(merged.root / "data") == contents(whole / "data")
    assert merged.persons == len(published_rows(whole)) == 8
    assert sum(len(published_rows(part)) for part in parts) == 9, "one person is in both parts, one is refused"


def test_the_report_adds_the_parts_up_and_names_what_they_have_in_common(merged, parts):
    by_name = {block.block: block for block in merged.counts}
    assert (by_name["read"].seen, by_name["merge"].seen, by_name["merge"].kept) == (12, 9, 8)
    assert by_name["merge"].dropped == {"duplicate": 1}
    for counts in merged.counts[:-1]:
        seen = [json.loads((part / "report.json").read_text()) for part in parts]
        assert counts.seen == sum(
            block["seen"] for report in seen for block in report if block["block"] == counts.block
        )


def test_a_release_has_one_card_and_loads(merged, whole, tmp_path):
    ours, theirs = ((root / "README.md").read_text() for root in (merged.root, whole))
    report = re.compile(r"Rows that each block.*?```\n.*?```", re.DOTALL)
    assert report.sub("", ours) == report.sub("", theirs) != ours
    assert yaml.safe_load(re.search(r"```yaml\n(.*?)```", ours, re.DOTALL)[1])["sources"] == {
        "a": "folder",
        "b": "folder",
    }
    loaded = datasets.load_dataset(str(merged.root), split="train", cache_dir=str(tmp_path))
    assert [row["row_id"] for row in loaded] == [row["row_id"] for row in published_rows(whole)]
    publish_dataset(str(merged.root), "me/persons", dry_run=tmp_path / "out", progress=False)
    assert contents(tmp_path / "out" / "data") == contents(whole / "data")


def test_merging_again_writes_nothing_and_another_merge_is_refused(merged, parts):
    before = {file: file.stat().st_mtime_ns for file in (merged.root / "data").iterdir()}
    assert merge_webperson(parts, merged.root, progress=False) == merged
    assert {file: file.stat().st_mtime_ns for file in (merged.root / "data").iterdir()} == before
    with pytest.raises(RunFolderError, match="contains something else|other settings"):
        merge_webperson(parts[::-1], merged.root, progress=False)
    with pytest.raises(RunFolderError, match=r"contains something else \(a run\)|contains something else"):
        merge_webperson(parts, parts[0], progress=False)


def test_shards_are_joined_into_larger_files_by_the_command(parts, whole, tmp_path):
    arguments = ["merge-webperson", *map(str, parts), "--output", str(tmp_path / "release"), "--rows-per-file", "5"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0 and "8 captioned persons in" in result.output, result.output
    files = sorted((tmp_path / "release" / "data").iterdir())
    assert [pq.read_metadata(file).num_rows for file in files] == [6, 2]
    assert pa.concat_tables([pq.read_table(file) for file in files]).to_pylist() == published_rows(whole)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rules": CaptionRules(min_words=4)}, "rules.min_words is .* and 4"),
        ({"duplicates": DuplicateSettings(5)}, "duplicates.max_distance is 6 and 5"),
        ({"card": DatasetCardSettings("cc-by-4.0")}, "card.license is None and 'cc-by-4.0'"),
        ({"judge": JudgeSettings(enabled=True)}, "judge.colors_only is None and False"),
    ],
    ids=["rules", "duplicates", "card", "judge"],
)
def test_parts_of_different_settings_are_refused_by_the_setting(home, parts, tmp_path, change, message):
    other = build(configured(tmp_path / "other", home / "b", **change))
    with pytest.raises(DifferentPartsError, match=f"were built differently: {message}"):
        merge_webperson([parts[0], other], tmp_path / "release", progress=False)
    assert not (tmp_path / "release").exists()


def test_parts_of_another_version_are_refused(parts, tmp_path):
    other = shutil.copytree(parts[1], tmp_path / "other")
    facts = json.loads((other / "work" / "run.json").read_text())
    (other / "work" / "run.json").write_text(json.dumps(facts | {"version": "0.0.9"}))
    with pytest.raises(DifferentPartsError, match="version is .* and '0.0.9'"):
        merge_webperson([parts[0], other], tmp_path / "release", progress=False)


def test_overlapping_unfinished_and_damaged_parts_are_refused(parts, tmp_path):
    release = tmp_path / "release"
    with pytest.raises(DifferentPartsError, match="both have a source named 'a'"):
        merge_webperson([parts[0], parts[0]], release, progress=False)
    with pytest.raises(ValueError, match="at least two parts"):
        merge_webperson(parts[:1], release, progress=False)
    unfinished = shutil.copytree(parts[1], tmp_path / "unfinished")
    (unfinished / "work" / "markers" / "captions" / "00001.json").unlink()
    with pytest.raises(RunFolderError, match="1 of 3 shards of stage captions are missing"):
        merge_webperson([parts[0], unfinished], release, progress=False)
    (unfinished / "data" / "train-00000-of-00003.parquet").write_bytes(b"damaged")
    with pytest.raises(RunFolderError, match="train-00000-of-00003.parquet is missing or has changed"):
        merge_webperson([parts[0], unfinished], release, progress=False)
    (unfinished / "work" / "run.json").unlink()
    with pytest.raises(RunFolderError, match="is not a finished run with captions"):
        merge_webperson([parts[0], unfinished], release, progress=False)


def chain() -> tuple[bytes, bytes, bytes]:
    """Three pictures: neighbours are near-duplicates, the ends are not."""
    picture = load_image(jpeg(50, (60, 150)))
    lighter = [picture.point([min(255, value + step) for value in range(256)] * 3) for step in (0, 20, 40)]
    return tuple(to_jpeg(image, 95, full_colour=True) for image in lighter)


def test_persons_that_one_run_keeps_but_no_part_has_captioned_are_refused_or_left_out(home, tmp_path):
    first, second, third = chain()
    for name, files in (("x", [first]), ("y", [second, third])):
        (tmp_path / name).mkdir()
        for number, content in enumerate(files):
            (tmp_path / name / f"{number}.jpg").write_bytes(content)
    parts = [build(configured(tmp_path / f"part_{name}", tmp_path / name)) for name in "xy"]
    one_run = published_rows(build(configured(tmp_path / "whole", tmp_path / "x", tmp_path / "y")))
    assert [row["source"] for row in one_run] == ["x/0.jpg", "y/1.jpg"]
    with pytest.raises(DifferentPartsError, match=f"would keep 1 persons .* such as {one_run[1]['row_id']}:"):
        merge_webperson(parts, tmp_path / "release", progress=False)
    report = merge_webperson(parts, tmp_path / "release", leave_out_uncaptioned=True, progress=False)
    assert published_rows(tmp_path / "release") == one_run[:1]
    assert report.counts[-1].noted == {"left out, as no part has captioned them": 1}
    assert "left out, as no part has captioned them" in format_report(report.counts)
