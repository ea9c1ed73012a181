"""The whole pipeline on real pixels: a street's pedestrians and scikit-image's photographs, real detector and pose
weights, a real multimodal server, and one whose replies are bad in every way there is. All must be accounted for.
"""

import importlib.util
import json
import shutil
from collections import Counter
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scripted_replies import by_hash
from scripted_server import MODEL, scripted_server
from tiny_llava import save_tiny_llava, transformers_server

from dataset_scripts.construction.captions.chat.types import ChatProblem
from dataset_scripts.construction.captions.rules import CaptionProblem
from dataset_scripts.construction.run.config import BuildConfig, load_build_config
from dataset_scripts.construction.run.pipeline import BuildReport, build_webperson
from tests.vtest import vtest_video


pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[4]
EVERY = 15
FRAMES = range(0, 795, EVERY)


def configured(output: Path, *overrides: str) -> BuildConfig:
    """The example's own configuration, with the video and the photographs where they are."""
    photographs = Path(importlib.util.find_spec("skimage").submodule_search_locations[0], "data")
    return load_build_config(
        ROOT / "examples/configs/build_vtest.yaml",
        [
            f"run.output={output}",
            f"sources.street.path={vtest_video()}",
            f"sources.street.every={EVERY}",
            f"sources.photographs.path={photographs}",
            *overrides,
        ],
    )


def captioner(column: str, model: str | Path, base_url: str) -> list[str]:
    settings = {"kind": "openai", "model": model, "base_url": base_url, "max_retries": 2, "timeout_seconds": 300}
    return [f"captioners.{column}.{name}={value}" for name, value in settings.items()]


@pytest.fixture(scope="module")
def persons(tmp_path_factory) -> tuple[Path, BuildReport]:
    """A run up to the persons, from which the others go on."""
    output = tmp_path_factory.mktemp("build") / "persons"
    return output, build_webperson(configured(output), progress=False)


def continued(persons: tuple[Path, BuildReport], output: Path, overrides: list[str]) -> BuildReport:
    shutil.copytree(persons[0], output)
    return build_webperson(configured(output, *overrides), progress=False)


def rejected(output: Path, stage: str) -> pa.Table:
    files = sorted((output / "work" / "rejects").glob(f"{stage}-*.parquet"))
    return pa.concat_tables([pq.read_table(file) for file in files])


def kept_persons(output: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(file) for file in sorted((output / "work" / "persons").glob("*.parquet"))])


def stage(report: BuildReport, name: str):
    return next(block for block in report.counts if block.block == name)


def test_every_frame_and_photograph_is_kept_or_rejected_with_a_reason(persons):
    output, report = persons
    kept, dropped = kept_persons(output), rejected(output, "persons")
    photographs = len(list(Path(configured(output).sources["photographs"].path).glob("*.[pjtg][pni]*")))
    assert stage(report, "read").seen == len(FRAMES) + photographs
    sources = set(kept["source"].to_pylist()) | set(dropped["source"].to_pylist())
    assert {f"street/frame {index}" for index in FRAMES} < sources
    assert len(sources) == len(FRAMES) + photographs
    assert None not in dropped["reason"].to_pylist()
    # The account is what the files hold.
    in_files = Counter(zip(dropped["rejected_by"].to_pylist(), dropped["reason"].to_pylist(), strict=True))
    counted = {
        (block.block, reason): count
        for block in report.counts
        for reason, count in block.dropped.items()
        if block.block != "duplicates"  # which are found here, and dropped before captioning
    }
    assert counted == in_files
    assert stage(report, "signature").kept == kept.num_rows


def test_most_pedestrians_are_kept_and_most_photographs_show_nobody(persons):
    """By eye: four to eight persons are in each frame, of whom some are hidden or small."""
    output, _ = persons
    names = kept_persons(output)["source"].to_pylist()
    street = [name for name in names if name.startswith("street/")]
    assert 2 < len(street) / len(FRAMES) < 8
    assert {name for name in names if name.startswith("photographs/")} <= {"photographs/astronaut.png"}


def test_rejected_persons_can_be_looked_at(persons):
    dropped = rejected(persons[0], "persons")
    boxed = dropped.filter(pa.compute.is_valid(dropped["box"]))
    assert boxed.num_rows and None not in boxed["thumbnail"].to_pylist()
    assert (persons[0] / "work" / "review.png").is_file()


def test_a_random_model_behind_a_real_server_has_all_its_captions_refused(persons, tmp_path):
    save_tiny_llava(tmp_path / "llava")
    output = tmp_path / "noise"
    with transformers_server(tmp_path / "llava") as base_url:
        settings = [*captioner("caption1", tmp_path / "llava", base_url), "captions.attempts=1"]
        # Noise needs no thousand persons: whoever looks a little like an earlier one counts as a duplicate.
        settings += ["duplicates.max_distance=15", "duplicates.max_colour_difference=255"]
        report = continued(persons, output, settings)
    asked = stage(report, "caption 1").seen
    refused = rejected(output, "captions").to_pylist()
    by_verify = [row for row in refused if row["rejected_by"] == "verify 1"]
    unanswered = [row for row in refused if row["rejected_by"] == "caption 1"]
    assert report.persons == 0
    assert asked == len(by_verify) + len(unanswered) and len(by_verify) > 0.9 * asked > 40
    assert {row["reason"] for row in unanswered} <= {
        ChatProblem.EMPTY_REPLY,
        ChatProblem.CUT_OFF,
    }  # noise may be nothing
    assert {row["reason"] for row in by_verify} <= {problem.value for problem in CaptionProblem}
    assert all(row["detail"] for row in by_verify)  # what the model said can be read
    table = pa.concat_tables([pq.read_table(file) for file in sorted((output / "data").glob("*.parquet"))])
    assert table.num_rows == 0 and table.column_names[:3] == ["image", "image_path", "caption1"]


SHARES = {
    "refused": 0.06,
    "hedging": 0.06,
    "empty": 0.05,
    "cut_off": 0.05,
    "content_filter": 0.03,
    "invalid_json": 0.05,
    "other_schema": 0.03,
    "html": 0.03,
    "rate_limited": 0.05,
    "server_error": 0.05,
    "dropped": 0.03,
    "slow": 0.03,
}
"""What the scripted server does to how many questions; the rest gets captions."""
PROBLEMS = {
    "refused": CaptionProblem.REFUSAL,
    "hedging": CaptionProblem.HEDGES,
    "empty": ChatProblem.EMPTY_REPLY,
    "cut_off": ChatProblem.CUT_OFF,
    "content_filter": ChatProblem.CONTENT_FILTER,
    "invalid_json": ChatProblem.INVALID_REPLY,
    "other_schema": ChatProblem.INVALID_REPLY,
    "html": ChatProblem.INVALID_REPLY,
}
"""How each that no retry heals must be counted."""


@pytest.fixture(scope="module")
def captioned(persons, tmp_path_factory) -> tuple[Path, BuildReport, list[dict]]:
    output = tmp_path_factory.mktemp("captioned") / "webperson"
    with scripted_server(by_hash(SHARES, of="question")) as server:
        settings = [*captioner("caption1", MODEL, server.base_url), *captioner("caption2", MODEL, server.base_url)]
        return output, continued(persons, output, settings), server.log


def test_the_account_names_every_reply_of_the_server(captioned):
    _, report, log = captioned
    asked = Counter(entry["behaviour"] for entry in log)
    assert set(SHARES) < set(asked)  # each kind of reply was met
    expected = Counter()
    for behaviour, problem in PROBLEMS.items():
        expected[problem.value] += asked[behaviour]
    counted: Counter[str] = Counter()
    for block in report.counts:
        if block.block.startswith(("caption", "verify")):
            counted.update(block.dropped)
            counted.update(block.noted)
    # The second captioner is asked while the first one is: once in vain for a person whom the first one fails.
    counts = {block.block: block for block in report.counts}
    in_vain = counts["caption 1"].seen - counts["template 2"].kept
    unused = expected - counted
    assert not counted - expected and sum(unused.values()) <= in_vain
    # What a retry heals, and what was right at once, is captions: two for each person kept, one for some dropped.
    healed = sum(asked[name] for name in ("rate_limited", "server_error", "dropped"))
    captions = len(log) - healed - sum(expected.values())
    assert captions == counts["template 2"].kept + report.persons + in_vain - sum(unused.values())


def test_the_published_folder_loads_in_every_way(captioned, tmp_path, monkeypatch):
    output, report, _ = captioned
    parquet = datasets.load_dataset(
        "parquet", data_files=str(output / "data" / "*.parquet"), split="train", cache_dir=str(tmp_path / "a")
    )
    monkeypatch.chdir(output.parent)
    folder = datasets.load_dataset("./webperson", split="train", cache_dir=str(tmp_path / "b"))
    streamed = datasets.load_dataset("./webperson", split="train", streaming=True, cache_dir=str(tmp_path / "c"))
    assert len(parquet) == len(folder) == report.persons > 40
    assert folder.column_names[:4] == ["image", "image_path", "caption1", "caption2"]
    for row in (folder[0], next(iter(streamed))):
        assert row["image"].mode == "RGB" and row["image"].height > row["image"].width
        assert row["image_path"] == parquet[0]["image_path"]
        assert row["caption1"] == parquet[0]["caption1"] != row["caption2"]
    assert parquet.remove_columns("image").to_list() == folder.remove_columns("image").to_list()


def test_no_row_is_there_twice_and_each_tells_where_it_comes_from(captioned):
    output, _, _ = captioned
    rows = datasets.load_dataset("parquet", data_files=str(output / "data" / "*.parquet"), split="train").to_list()
    assert len({row["row_id"] for row in rows}) == len({row["image_path"] for row in rows}) == len(rows)
    for row in rows:
        assert row["source"].startswith("street/frame ") or row["source"].startswith("photographs/")
        assert row["detector"].startswith("ssd_mobilenet_v2_coco_2018_03_29@")
        assert row["pose_estimator"].startswith("movenet")
        assert len(row["box"]) == 4 and len(row["keypoints"]) == 17
        assert row["captioner1"] == row["captioner2"] == MODEL
        assert row["template1"] and row["template2"] and len(row["prompt_hash1"]) == 16
        assert row["confidence"] > 0.6


def test_the_card_and_the_account_are_those_of_the_run(captioned):
    output, report, _ = captioned
    card = (output / "README.md").read_text(encoding="utf-8")
    assert f"{report.persons:,} images of persons" in card
    saved = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert [entry["block"] for entry in saved] == [block.block for block in report.counts]
    for entry in saved:
        assert entry["seen"] == entry["kept"] + sum(entry["dropped"].values())
