"""Both engines do the same to the same rows, and what goes wrong in them reaches the user as it is."""

import io
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
import torch
from engine_stages import (
    CountingStage,
    Device,
    Failing,
    Loading,
    SlowButForOne,
    Twins,
    Watcher,
    alive,
    pids,
    run,
    with_environment,
)
from run_folders import contents, published_rows, rejected_rows
from scripted_replies import by_hash
from scripted_server import MODEL, scripted_server

from dataset_scripts.construction.blocks import BlockError, OutageError, SettingsError
from dataset_scripts.construction.captions.chat.types import ChatSettings
from dataset_scripts.construction.failures import FailureLog
from dataset_scripts.construction.persons.criteria import CriteriaSettings
from dataset_scripts.construction.persons.detectors import DetectorSettings
from dataset_scripts.construction.persons.pose import PoseSettings
from dataset_scripts.construction.persons.quality import QualitySettings
from dataset_scripts.construction.run import ray_engine
from dataset_scripts.construction.run.config import BuildConfig, RunSettings
from dataset_scripts.construction.run.engines import Resources, run_local
from dataset_scripts.construction.run.pipeline import build_webperson
from dataset_scripts.construction.run.ray_engine import (
    FAILURE,
    FINISHED,
    Demand,
    _RayBlocks,
    _read,
    _start_ray,
    _write,
    find_lacking,
    process_groups,
    run_ray,
)
from dataset_scripts.construction.sources.planning import SourceSettings
from dataset_scripts.synthetic_persons import PersonSampler
from tests.waiting import PATIENCE_SECONDS, wait_for


# One worker of several runs them all, so that Ray is started once.
pytestmark = pytest.mark.slow
HERE = Path(__file__).parents[1]
PATHS = [str(HERE), str(HERE.parents[2])]  # the helpers, and this checkout
IMAGES = 48


@pytest.fixture(scope="module")
def ray_cluster():
    """Ray with two processors, whatever the machine has: it starts a process for each. It has two GPUs by its word."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HERE))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "2")
        ray.init("local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()


@dataclass(frozen=True)
class Way:
    """A way to run a stage; Ray knows two, one for blocks with a model."""

    name: str
    run: Callable[..., None]
    has_model: bool = True

    def __str__(self) -> str:
        return self.name


with_ray = partial(run, partial(run_ray, resources={}))
in_process = partial(run, partial(run_local, progress=False))
in_workers = partial(run, partial(run_local, workers=2, progress=False))
WAYS = [
    Way("local", in_process),
    Way("workers", in_workers),
    Way("ray actors", with_ray),
    Way("ray tasks", with_ray, has_model=False),
]


def ways(*names: str):
    """Run a test in each of these ways, by default in all of them."""
    chosen = [way for way in WAYS if not names or way.name in names]
    return pytest.mark.parametrize("way", chosen, indirect=True, ids=lambda way: way.name)


@pytest.fixture(scope="module")
def way(request) -> Way:
    if "ray" in request.param.name:
        request.getfixturevalue("ray_cluster")
    return request.param


# ---------------------------------------------------------------------------------------------------------------------
# The same bytes.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Drawn persons, among them one twice and some that MoveNet cannot find; the last quarter is good for nothing."""
    folder = tmp_path_factory.mktemp("pictures") / "crops"
    folder.mkdir()
    sampler = PersonSampler(0, "train")
    for number in range(IMAGES):
        buffer = io.BytesIO()
        picture, quality = sampler.draw(9 if number == 20 else number, 0, (192, 64))
        if number % 12 == 5:
            picture = picture.resize((64, 60))  # too wide
        picture.save(buffer, "JPEG", quality=quality)
        content = buffer.getvalue() if number < 3 * IMAGES // 4 else buffer.getvalue()[: 100 + number]
        (folder / f"{number:02d}.jpg").write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def build(pictures, tmp_path_factory):
    """A function that gives the folder of a run over the pictures; each is made once."""
    made: dict[tuple, Path] = {}
    fates = {
        "refused": 0.1,
        "hedging": 0.1,
        "cut_off": 0.05,
        "invalid_json": 0.05,
        "empty": 0.05,
        "rate_limited": 0.05,
    }
    with scripted_server(by_hash(fates, of="question")) as server:

        def run_once(shards: int, engine: str, workers: int = 1) -> Path:
            if (key := (shards, engine, workers)) not in made:
                made[key] = tmp_path_factory.mktemp("build") / "webperson"
                settings = RunSettings(str(made[key]), engine, workers, IMAGES // shards, thumbnail_height=64)
                config = BuildConfig(
                    run=settings,
                    sources={"crops": SourceSettings("folder", str(pictures), "crops")},
                    captioners={"caption1": ChatSettings("openai", MODEL, base_url=server.base_url, concurrency=4)},
                    detector=DetectorSettings("whole_image"),
                    pose=PoseSettings("movenet"),
                    criteria=CriteriaSettings(min_shorter_side=60, keypoint_score=0.4),
                    quality=QualitySettings(0, 0),
                )
                build_webperson(config, progress=False)
            return made[key]

        yield run_once


def test_the_pictures_try_every_kind_of_fate(build):
    root = build(4, "local")
    blocks = {row["rejected_by"] for stage in ("persons", "captions") for row in rejected_rows(root, stage)}
    assert {"decode", "box", "keypoints", "duplicates"} <= blocks
    assert blocks & {"caption 1, attempt 2", "verify 1, attempt 2"}
    assert len(published_rows(root)) > 10
    # The last shard has no person for the captioner.
    assert [marker.name for marker in sorted((root / "work/markers/captions").iterdir())][-1] == "00003.json"
    assert not {row["source"] for row in published_rows(root)} & {f"crops/{number}.jpg" for number in range(36, 48)}


@pytest.mark.timeout(1500)  # the first that starts workers of Ray: beside other tests that takes minutes
def test_local_and_ray_leave_the_same_files_to_the_byte(build, ray_cluster):
    local = contents(build(4, "local"))
    assert len([name for name in local if name.startswith("data/")]) == 4
    assert contents(build(4, "ray")) == local


def test_worker_processes_leave_the_same_files_to_the_byte(build):
    assert contents(build(4, "local", workers=2)) == contents(build(4, "local"))


def card_without_sizes(run: Path) -> str:
    """The data set card without the sizes and the number of its files, which alone depend on the shards."""
    card = (run / "README.md").read_text(encoding="utf-8")
    card = re.sub(r"(num_bytes|download_size|dataset_size): \d+", r"\1", card)
    return re.sub(r"(\| train \|.*?)\| [\d.,]+ k?M?B \| \d+ \|", r"\1", card)


def test_rows_do_not_depend_on_how_the_source_is_cut(build):
    cut, whole = build(4, "local"), build(1, "local")
    assert published_rows(cut) == published_rows(whole)
    for stage in ("persons", "captions"):
        assert rejected_rows(cut, stage) == rejected_rows(whole, stage)
    for name in ("report.json", "work/duplicates.parquet", "work/review.png"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    assert card_without_sizes(cut) == card_without_sizes(whole)


# ---------------------------------------------------------------------------------------------------------------------
# The same batches of the same rows.
# ---------------------------------------------------------------------------------------------------------------------
def in_batches(values: list[str], size: int) -> list[list[str]]:
    """For each value the batch that it is in."""
    return [values[place // size * size :][:size] for place in range(len(values))]


@pytest.fixture(scope="module")
def counted(way, tmp_path_factory) -> CountingStage:
    """A stage of four shards, one of them without rows, of which all but the third were asked for."""
    watchers = [Watcher("of three", 3, has_model=way.has_model), Watcher("of all", None, has_model=way.has_model)]
    stage = CountingStage(tmp_path_factory.mktemp("counted"), (2, 5, 4, 0), (Twins(), *watchers))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "3")
        way.run(stage, [0, 1, 3])
    torch.set_num_threads(before)
    return stage


@ways()
def test_blocks_see_batches_of_their_own_size(counted):
    for number in (0, 1):
        rows = [row for row in counted.rows(number) if not row["rejected_by"]]
        row_ids = [row["row_id"] for row in rows]
        assert [row["of three"] for row in rows] == in_batches(row_ids, 3)
        assert [row["of all"] for row in rows] == in_batches(row_ids, 100)


@ways()
def test_models_have_one_thread(counted):
    assert {tuple(row["threads"]) for row in counted.rows(1)} == {(1, 1)}


@ways()
def test_rows_that_became_several_follow_each_other_and_rejected_ones_stay(counted):
    rows = counted.rows(0)
    assert [(row["position"], row["person"]) for row in rows] == [(0, 0), (0, 1), (1, None)]
    assert [row["rejected_by"] for row in rows] == [None, None, "twins"]
    assert rows[2]["of all"] is None  # it was not shown to the later blocks
    assert [row["position"] for row in counted.rows(1)] == [2, 2, 3, 3, 4, 4, 5, 5, 6, 6]


@ways()
def test_the_shards_that_are_asked_for_are_finished_also_without_rows(counted):
    assert counted.finished() == [0, 1, 3]
    assert counted.rows(3) == []


@ways("local", "ray actors")
def test_a_stage_without_any_row_is_finished(way, tmp_path):
    stage = CountingStage(tmp_path, (0, 0), (Twins(), Watcher("of three", 3, has_model=True)))
    way.run(stage, range(2))
    assert stage.finished() == [0, 1]


@ways("local", "ray actors")
def test_without_shards_nothing_is_loaded(way, tmp_path):
    way.run(CountingStage(tmp_path, (), (Failing("prepare", tmp_path / "log"),)), [])
    assert not (tmp_path / "log").exists()


def test_the_local_engine_leaves_threads_and_progress_bars_as_it_found_them(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        in_process(CountingStage(tmp_path, (1,), (Twins(),)), [0])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert not datasets.are_progress_bars_disabled()


def test_rays_own_settings_stay_as_they_are(ray_cluster, tmp_path):
    import ray

    context = ray.data.DataContext.get_current()
    before = (context.target_max_block_size, context.enable_progress_bars)
    with_ray(CountingStage(tmp_path, (1,), (Twins(),)), [0])
    assert (context.target_max_block_size, context.enable_progress_bars) == before


# ---------------------------------------------------------------------------------------------------------------------
# What goes wrong.
# ---------------------------------------------------------------------------------------------------------------------
FAILED = "block `failing` failed on rows r0 to r2"


@ways("local", "ray actors")
def test_a_shard_that_fails_is_tried_three_times_and_set_aside_and_the_others_are_finished(way, tmp_path):
    block = Failing("call", tmp_path / "log", has_model=way.has_model, shards=(1, 2))
    stage = CountingStage(tmp_path, (3, 1, 2, 2), (block,))
    (first, second) = way.run(stage, range(4))
    assert (first.number, first.attempts) == (1, 3)
    assert first.reason == "block `failing` failed on rows r3 to r3: KeyError: 'colour'"
    assert second.reason == "block `failing` failed on rows r4 to r5: KeyError: 'colour'"
    assert stage.finished() == [0, 3]
    assert sorted(block.failures()) == [1, 1, 1, 2, 2, 2]
    assert way.run(stage, [1, 2]) == [first, second]  # as long as the record is there
    assert len(block.failures()) == 6
    with pytest.raises(BlockError, match=r"2 shards .* are set aside, more than .* \(1\): remove .*counting to try"):
        way.run(stage, [1, 2], max_failed=1)
    for failure in (first, second):
        FailureLog(tmp_path, stage.name).forget(failure.number)
    assert not (tmp_path / "work" / "failures").exists()


def test_a_shard_that_passes_at_last_leaves_no_trace_of_its_failures(tmp_path):
    block = Failing("call", tmp_path / "log", shards=(1,), times=2)
    stage = CountingStage(tmp_path, (3, 1), (block,))
    assert in_process(stage, range(2)) == []
    assert (block.failures(), stage.finished()) == ([1, 1], [0, 1])
    assert not (tmp_path / "work" / "failures").exists()


@ways("workers", "ray actors", "ray tasks")
def test_a_shard_that_kills_its_process_is_set_aside_alone(way, tmp_path):
    """The first dies while others wait for the same process. Only it is tried to the end."""
    block = Failing("die", tmp_path / "log", has_model=way.has_model, shards=(1,))
    stage = CountingStage(tmp_path, (1, 1, 1, 1, 1), (block,))
    (failure,) = way.run(stage, range(5))
    assert (failure.number, failure.attempts) == (1, 3)
    assert "its process died, perhaps for lack of memory" in failure.reason and "\n" not in failure.reason
    assert stage.finished() == [0, 2, 3, 4]
    assert block.failures() == [1, 1, 1]


def test_attempts_are_counted_over_runs(tmp_path):
    """A run that ends for another reason does not start the count again."""
    failing = Failing("call", tmp_path / "log", shards=(0,), times=2)
    away = Failing("outage", tmp_path / "outages", shards=(1,), times=2)
    stage = CountingStage(tmp_path, (1, 1, 1), (failing, away))
    for attempts in (1, 2):
        with pytest.raises(OutageError):
            in_process(stage, range(3))
        assert [failure.attempts for failure in FailureLog(tmp_path, stage.name).all()] == [attempts]
    assert in_process(stage, range(3)) == []
    assert stage.finished() == [0, 1, 2]


@pytest.mark.parametrize(
    ("sizes", "shards", "max_failed", "tried", "told"),
    [
        ((1, 1), None, 10, 6, r"2 shards of stage counting failed, and none was finished\. Shard 1: block `failing`"),
        ((1,) * 5, None, 2, 3, r"3 shards .* failed, more than `run.max_failed_shards` \(2\)"),
        ((1,) * 5, (1, 2, 3), 2, 9, r"3 shards .* failed, more than `run.max_failed_shards` \(2\)"),
        ((1, 1), (1,), 0, 3, r"1 shards .* failed, more than `run.max_failed_shards` \(0\)"),
    ],
    ids=["all", "all of many", "too many", "one too many"],
)
def test_too_many_failures_end_the_run_and_are_forgotten(tmp_path, sizes, shards, max_failed, tried, told):
    block = Failing("call", tmp_path / "log", shards=shards)
    stage = CountingStage(tmp_path, sizes, (block,))
    with pytest.raises(BlockError, match=told):
        in_process(stage, range(len(sizes)), max_failed=max_failed)
    assert len(block.failures()) == tried
    assert not (tmp_path / "work" / "failures").exists()
    assert stage.finished() == [number for number in range(len(sizes)) if shards and number not in shards]


@pytest.mark.parametrize(
    ("way", "how", "error", "told"),
    [
        (WAYS[0], "prepare", ImportError, "no model called nothing"),
        (WAYS[0], "settings", SettingsError, f"{FAILED}: ChatConfigurationError: no such model"),
        (WAYS[1], "prepare oddly", SettingsError, "TwoWordsError: heads and tails"),
        (WAYS[2], "prepare", ImportError, "no model called nothing"),
        (WAYS[2], "prepare oddly", SettingsError, "TwoWordsError: heads and tails"),
        (WAYS[2], "outage", OutageError, f"{FAILED}: ChatOutageError: the server is gone"),
    ],
    indirect=["way"],
    ids=str,
)
def test_what_every_shard_would_meet_ends_the_run_at_once(way, tmp_path, how, error, told):
    block = Failing(how, tmp_path / "log")
    stage = CountingStage(tmp_path, (3,), (block,))
    with pytest.raises(error) as raised:
        way.run(stage, [0])
    assert (type(raised.value), str(raised.value)) == (error, told)
    assert len(block.failures()) == 1
    assert not (tmp_path / "work" / "failures").exists()


# ---------------------------------------------------------------------------------------------------------------------
# GPUs, of which Ray has two by its word.
# ---------------------------------------------------------------------------------------------------------------------
def test_every_kind_of_block_gets_the_gpus_that_it_asks_for(ray_cluster, tmp_path):
    blocks = (Device("half"), Device("other half"), Device("whole"), Device("task", has_model=False), Device("none"))
    resources = {
        "half": Resources(num_gpus=0.5, num_cpus=0.5),
        "other half": Resources(num_gpus=0.3, concurrency=1),
        "whole": Resources(num_gpus=1),
        "task": Resources(num_gpus=0.2),
        "write": Resources(num_cpus=0.5),
    }
    stage = CountingStage(tmp_path, (2, 3, 1, 0), blocks)
    assert run(partial(run_ray, resources=resources), stage, range(4)) == []
    assert stage.finished() == [0, 1, 2, 3]
    rows = [row for number in range(3) for row in stage.rows(number)]
    assert len(rows) == 6
    for row in rows:
        for name in ("half", "other half", "whole", "task"):
            (gpu,) = row[f"{name} gpus"]
            assert row[f"{name} visible"] == gpu, name
        assert row["whole gpus"] != row["half gpus"]
        assert (row["none gpus"], row["none visible"] or "") == ([], "")


def test_a_network_is_not_put_on_the_cpu_in_place_of_a_reserved_gpu(ray_cluster, tmp_path):
    block = Loading()
    stage = CountingStage(tmp_path, (1,), (block,))
    engine = partial(run_ray, resources={"loading": Resources(num_gpus=1)})
    with pytest.raises(ValueError, match="GPU [01] is reserved for this process .* finds no GPU"):
        run(engine, stage, [0])
    assert with_ray(stage, [0]) == []  # without a GPU the CPU is what one gets
    assert stage.rows(0)[0]["device"] == "cpu"


def test_more_than_the_cluster_has_is_refused_before_anything_waits(ray_cluster, tmp_path):
    stage = CountingStage(tmp_path, (1,), (Device("detect"), Device("pose")))
    for resources, told in [
        ({"detect": Resources(num_gpus=1, concurrency=3)}, "2 GPUs on 1 nodes, and no room for copy 3 of 3"),
        ({"detect": Resources(num_gpus=4)}, "no room for copy 1 of 1 of `detect`, which needs 0 CPUs and 4 GPUs"),
        ({"detect": Resources(num_gpus=2), "pose": Resources(num_gpus=0.1)}, "copy 1 of 1 of `pose`"),
        ({"detect": Resources(num_cpus=1, concurrency=2)}, "copy 1 of 1 of `(read|write)`, which needs 1 CPUs"),
        ({"read": Resources(num_cpus=3)}, "copy 1 of 1 of `read`, which needs 3 CPUs"),
    ]:
        with pytest.raises(ValueError, match=told):
            run(partial(run_ray, resources=resources), stage, [0])


@pytest.mark.parametrize(
    ("wanted", "gpus", "fits"),
    [
        ({"a": (2, 0.4), "b": (1, 0.2)}, [1], True),
        ({"a": (2, 0.6)}, [1], False),
        ({"a": (2, 0.6)}, [2], True),
        ({"a": (3, 0.6)}, [2], False),  # 1.8 in all, but no two on one
        ({"a": (10, 0.1)}, [1], True),
        ({"a": (1, 2)}, [1, 1], False),  # of one node
        ({"a": (1, 2), "b": (1, 1)}, [1, 2], True),
        ({"a": (2, 0.5), "b": (1, 1)}, [1, 1], True),
    ],
)
def test_parts_of_gpus_must_lie_on_one(wanted, gpus, fits):
    demands = [Demand(name, copies, 0, share, True) for name, (copies, share) in wanted.items()]
    assert (find_lacking(demands, [{"CPU": 4, "GPU": count} for count in gpus]) is None) == fits


def test_an_error_ends_the_work_of_the_other_workers(tmp_path):
    log = tmp_path / "pids"
    stage = CountingStage(tmp_path, (1, 1), (SlowButForOne(60, log),))
    with pytest.raises(BlockError, match="KeyError: 'colour'"):
        in_workers(stage, [0, 1], max_failed=0)
    assert pids(log) and not alive(pids(log))
    assert stage.finished() == []


@pytest.fixture
def process(tmp_path):
    """A function that starts an engine in a process of its own, and what it prints; all of it is gone at the end."""
    mark = uuid.uuid4().hex

    def start(engine: str, seconds: float) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, HERE / "engine_stages.py", engine, tmp_path, str(seconds)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(PATHS), "GADMS_TEST": mark, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    start.family = partial(with_environment, "GADMS_TEST", mark)
    yield start
    for left in start.family().values():
        left.kill()


def test_workers_end_with_a_parent_that_is_killed(process, tmp_path):
    log = tmp_path / "pids"
    parent = process("workers", 500)
    wait_for(lambda: len(pids(log)) == 2)
    parent.kill()
    wait_for(lambda: not alive(pids(log)))
    written = log.read_bytes()
    time.sleep(0.3)
    assert log.read_bytes() == written


@pytest.mark.parametrize("when", ["starting", "at work"])
def test_ctrl_c_ends_parent_and_workers_with_one_message(process, tmp_path, when):
    log = tmp_path / "pids"
    parent = process("workers", 500)

    def starting() -> bool:
        return sum("spawn_main" in str(member.cmdline()) for member in process.family().values()) == 2

    wait_for(starting if when == "starting" else lambda: len(pids(log)) == 2)
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does: to all of them
    output, _ = parent.communicate(timeout=PATIENCE_SECONDS)
    assert parent.returncode == -signal.SIGINT
    assert not process.family()
    assert output.count("Traceback") == 1 and output.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.usefixtures("ray_cluster")  # a cluster of another user's that it might join
def test_ray_is_quiet_keeps_to_itself_and_leaves_no_process_behind(process, tmp_path):
    driver = process("ray", 1)
    wait_for(lambda: pids(tmp_path / "pids"))
    rays = [member for member in process.family().values() if "ray" in member.name() or "ray" in str(member.cmdline())]
    assert "raylet" in {member.name() for member in rays}
    assert {member.environ()["RAY_USAGE_STATS_ENABLED"] for member in rays} == {"0"}
    output, _ = driver.communicate(timeout=PATIENCE_SECONDS)
    assert (output, driver.returncode) == ("", 0)
    assert (tmp_path / "1.json").is_file()
    wait_for(lambda: not process.family())


@pytest.mark.parametrize("named", [None, "ray://head:10001"])
def test_ray_joins_no_cluster_but_the_one_that_is_named(monkeypatch, named):
    import ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if named:
        monkeypatch.setenv("RAY_ADDRESS", named)
    addresses = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda address, **_: addresses.append(address))
    _start_ray()
    assert addresses == [named or "local"]


# ---------------------------------------------------------------------------------------------------------------------
# What Ray may do to the tables, without Ray.
# ---------------------------------------------------------------------------------------------------------------------
def test_shards_that_ray_puts_together_are_taken_apart(tmp_path):
    stage = CountingStage(tmp_path, (3, 0, 2), (Twins(), Watcher("of all", None, has_model=True)))
    table = _read(stage, pa.table({"shard": [0, 1, 2]}))
    for block in stage.blocks:
        table = _RayBlocks([block])(table)
    finished = {row["shard"] for row in _write(stage, table).to_pylist() if row[FINISHED]}
    assert finished == {0, 1, 2}
    apart = replace(stage, folder=tmp_path / "apart")
    apart.folder.mkdir()
    in_process(apart, range(3))
    assert [stage.rows(number) for number in range(3)] == [apart.rows(number) for number in range(3)]
    assert stage.rows(2)[0]["of all"] == ["r3-0", "r3-1", "r4-2", "r4-3"]


def test_a_failure_passes_the_later_blocks_beside_rows_that_ray_puts_with_it(tmp_path):
    stage = CountingStage(tmp_path, (1, 1), (Failing("call", tmp_path / "log", shards=(0,)), Twins()))
    table = _read(stage, pa.table({"shard": [0, 1]}))
    for block in stage.blocks:
        table = _RayBlocks([block])(table)
    first, second = sorted(_write(stage, table).to_pylist(), key=lambda row: row["shard"])
    assert "KeyError: 'colour'" in str(pickle.loads(first[FAILURE])) and not first[FINISHED]
    assert (second[FINISHED], second[FAILURE]) == (True, None)
    assert stage.finished() == [1]


def test_an_error_in_reading_or_writing_travels_too(tmp_path):
    stage = CountingStage(tmp_path / "missing", (1,), (Twins(),))
    (unread,) = _read(stage, pa.table({"shard": [7]})).to_pylist()
    assert "shard 7 cannot be read: IndexError" in str(pickle.loads(unread[FAILURE]))
    (unwritten,) = _write(stage, stage.read(0)).to_pylist()
    assert "shard 0 cannot be finished: FileNotFoundError" in str(pickle.loads(unwritten[FAILURE]))


class StuckPlan:
    """A data set of Ray that gives no row, after Ray has told of so many lost processes."""

    def __init__(self, losses: int):
        self.losses, self.released = losses, threading.Event()

    def iter_rows(self):
        logger = logging.getLogger("ray.data._internal.execution.streaming_executor_state")
        for _ in range(self.losses):
            logger.error("An exception was raised from a task.", exc_info=MemoryError("too little\nof it"))
        self.released.wait(PATIENCE_SECONDS)
        return iter(())


@pytest.mark.parametrize(
    ("losses", "remaining", "error", "told"),
    [
        (0, [{"CPU": 2.0}], OutageError, "has 2 CPUs and 0 GPUs .* no room for .*, because nodes were lost: run"),
        (101, [{"CPU": 2.0, "GPU": 1.0}], SettingsError, "101 processes died before .*: MemoryError: too little$"),
    ],
)
def test_nothing_waits_for_ever_for_nodes_or_processes_that_die(
    monkeypatch, tmp_path, capfd, losses, remaining, error, told
):
    plan, nodes = StuckPlan(losses), [[{"CPU": 2.0, "GPU": 1.0}], remaining]
    monkeypatch.setattr(ray_engine, "_start_ray", lambda: None)
    monkeypatch.setattr(ray_engine, "_plan", lambda *_: plan)
    monkeypatch.setattr(ray_engine, "_nodes", lambda: nodes.pop(0) if len(nodes) > 1 else nodes[0])
    monkeypatch.setattr(ray_engine, "_LOOK_SECONDS", 0.01)
    stage = CountingStage(tmp_path, (1,), (Device("detect"),))
    with pytest.raises(error, match=told):
        run(partial(run_ray, resources={"detect": Resources(num_gpus=1)}), stage, [0])
    plan.released.set()
    assert capfd.readouterr() == ("", "")  # no traceback of each


class Grouped(Twins):
    def __init__(self, name: str, group: str | None):
        self.name, self.group = name, group


@pytest.mark.parametrize(
    ("blocks", "groups"),
    [
        ([], []),
        (["a", "b"], ["a", "b"]),
        (["a1/a", "a2/a", "b", "c1/c", "d1/d", "d2/d"], ["a: a1 a2", "b", "c: c1", "d: d1 d2"]),
        (["a1/a", "b", "a2/a"], ["a: a1", "b", "a: a2"]),
    ],
)
def test_blocks_of_a_group_that_follow_each_other_share_a_process(blocks, groups):
    named = [Grouped(name, group or None) for name, _, group in (text.partition("/") for text in blocks)]
    expected = [(name, members.split() or [name]) for name, _, members in (text.partition(":") for text in groups)]
    assert [(name, [block.name for block in members]) for name, members in process_groups(named)] == expected


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"num_cpus": -1}, {"num_gpus": -0.5}, {"num_gpus": 1.5}, {"concurrency": 0}], ids=str
)
def test_resources_out_of_range_are_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"`{name}` must be .*, not {value}"):
        Resources(**wrong)
