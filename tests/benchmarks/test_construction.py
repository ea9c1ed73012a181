"""The benchmark of the construction pipeline runs, and its numbers are what its runs say."""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.construction import run as construction
from benchmarks.construction.frames import FRAME_SIZE, FrameSampler
from benchmarks.construction.report import summary
from benchmarks.construction.run import read_events, watch_memory
from benchmarks.measuring import read_results, read_runs, write_section
from tests.waiting import PATIENCE_SECONDS


ROOT = Path(__file__).parents[2]
PARTS = ("workers", "memory", "captions")


def benchmark(output: Path, *arguments: str) -> dict[str, Any]:
    """The file of results after the program has run."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.construction.run", "--quick", "--output", str(output), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return parts_of(output)


def parts_of(output: Path) -> dict[str, Any]:
    """The results of each part, with its runs."""
    parts, runs = read_results("construction", output), read_runs("construction", output)
    return {name: part | {"runs": [run for run in runs if run["part"] == name]} for name, part in parts.items()}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    output = tmp_path_factory.mktemp("results") / "benchmarks"
    return output, benchmark(output, "--engine", "local")


def test_every_part_runs_and_is_told_of(results):
    output, parts = results
    assert tuple(parts) == PARTS
    section = (output / "RESULTS.md").read_text(encoding="utf-8")
    assert [section.count(f"### {name}") for name in ("Speed", "Memory", "Captions")] == [1, 1, 1]
    assert (output.parent / "docs/images/construction-memory.png").read_bytes().startswith(b"\x89PNG")


def test_a_part_run_alone_replaces_its_results_and_no_others(results, tmp_path, monkeypatch):
    output, parts = results
    shutil.copytree(output, tmp_path / "copy")
    fields = {name: value for name, value in parts["workers"]["runs"][0].items() if name != "part"}
    run = construction.Run(**fields | {"rows": 12, "seconds": 0.5})

    def run_workers(sampler, work: Path, sizes, engines) -> list:
        work.mkdir()
        return [run]

    monkeypatch.setattr(construction, "run_workers", run_workers)
    arguments = {"part": ["workers"], "engine": ["local"], "quick": True, "seed": 5, "output": tmp_path / "copy"}
    construction.main(argparse.Namespace(**arguments))
    renewed = parts_of(tmp_path / "copy")
    assert tuple(renewed) == PARTS
    assert renewed["workers"]["seed"] == 5
    assert renewed["workers"]["summary"]["whole_rows_per_second"]["local 1"]["median"] == 24
    assert {part: renewed[part] for part in PARTS[1:]} == {part: parts[part] for part in PARTS[1:]}


def test_results_tell_where_they_come_from(results):
    _, parts = results
    assert parts["workers"]["command"].startswith("python -m benchmarks.construction.run --quick --output ")
    assert str(ROOT) not in parts["workers"]["command"]
    assert parts["captions"]["seed"] == 0
    assert {"cpu", "cores", "python", "torch", "ray"} <= set(parts["memory"]["machine"])


def test_blocks_saw_the_rows_that_the_run_had(results):
    (run,) = results[1]["workers"]["runs"]
    rows = {name: block["rows"] for name, block in run["blocks"].items()}
    assert run["images"] == run["rows"] == 12
    assert rows["read"] == rows["decode"] == rows["detect"] == 12
    assert rows["finish"] >= 12  # an image with two persons has two rows
    assert rows["box"] >= rows["pose"] == rows["keypoints"] >= rows["crop"] == rows["quality"] >= rows["signature"]
    assert 0 < run["persons"] <= rows["signature"]
    busy = sum(block["seconds"] for block in run["blocks"].values())
    assert 0 < busy <= run["seconds"] + 0.01  # one worker does one thing at a time


def test_speeds_are_rows_over_seconds(results):
    (run,) = results[1]["workers"]["runs"]
    summary = results[1]["workers"]["summary"]
    assert run["steady_rows"] == 9  # all but the first shard of 3
    expected = run["steady_rows"] / run["steady_seconds"]
    assert summary["steady_rows_per_second"]["local 1"]["median"] == pytest.approx(expected, abs=1e-3)
    decode = run["blocks"]["decode"]
    milliseconds = summary["blocks"]["local 1"]["decode"]["ms_per_row"]["median"]
    assert milliseconds == pytest.approx(1000 * decode["seconds"] / 12, abs=1e-3)


def test_memory_is_compared_from_few_images_to_many(results):
    runs = results[1]["memory"]["runs"]
    peaks = results[1]["memory"]["summary"]["local"]
    assert [run["images"] for run in runs] == [6, 12]
    assert list(peaks["peak_mb"]) == ["6", "12"]
    assert peaks["peak_mb_ratio"] == pytest.approx(runs[1]["peak_mb"] / runs[0]["peak_mb"], abs=1e-3)
    assert all(100 < run["peak_unshared_mb"] <= run["peak_mb"] for run in runs)


def test_every_person_gets_the_servers_caption(results):
    (run,) = results[1]["captions"]["runs"]
    assert run["rows"] == run["persons"] > 0
    assert run["blocks"]["finish captions"]["rows"] == run["rows"]


@pytest.mark.slow
def test_ray_is_measured_in_the_same_way(tmp_path):
    (run,) = benchmark(tmp_path, "--engine", "ray", "--part", "workers")["workers"]["runs"]
    assert (run["engine"], run["images"]) == ("ray", 12)
    assert run["blocks"]["detect"]["rows"] == 12
    assert run["peak_mb"] > 500  # with the processes of Ray


def hand_made(engine: str, workers: int, repetition: int, steady_seconds: float) -> dict[str, Any]:
    return {
        "engine": engine, "workers": workers, "repetition": repetition, "images": 10, "persons": 5, "rows": 10,
        "seconds": 20.0, "steady_rows": 8, "steady_seconds": steady_seconds, "peak_mb": 100.0 * workers,
        "peak_unshared_mb": 50.0, "blocks": {"decode": {"rows": 10, "seconds": 0.1 * steady_seconds, "calls": 1}},
    }  # fmt: skip


def test_ratios_are_taken_within_a_repetition():
    runs = [hand_made("local", 1, number, seconds) for number, seconds in enumerate((8.0, 4.0, 2.0))]
    # Repetitions that go backwards come in another order.
    runs += [hand_made("local", 2, number, seconds) for number, seconds in ((2, 1.0), (1, 2.0), (0, 4.0))]
    numbers = summary("workers", runs)
    assert numbers["steady_rows_per_second"]["local 1"] == {"median": 2.0, "min": 1.0, "max": 4.0}
    assert numbers["steady_ratios"] == {"local 2 / local 1": {"median": 2.0, "min": 2.0, "max": 2.0}}
    assert numbers["whole_rows_per_second"]["local 2"]["median"] == 0.5
    assert numbers["blocks"]["local 1"]["decode"]["ms_per_row"] == {"median": 40.0, "min": 20.0, "max": 80.0}
    assert numbers["blocks"]["local 1"]["decode"]["rows_per_second"] == 25.0
    assert numbers["peak_mb"]["local 2"]["median"] == 200.0


def test_the_section_of_another_script_is_left_alone(tmp_path):
    path = tmp_path / "RESULTS.md"
    write_section(path, "other", "of another \\1 script")
    write_section(path, "construction", "old")
    write_section(path, "last", "the end")
    before = path.read_text(encoding="utf-8")
    write_section(path, "construction", "new \\1")
    assert path.read_text(encoding="utf-8") == before.replace("\nold\n", "\nnew \\1\n")


def test_the_steady_part_begins_when_every_worker_has_finished_a_shard(tmp_path):
    events = [{"name": "begin persons", "start": 100.0, "seconds": 0.0, "rows": 0}]
    for shard, (start, end) in enumerate(((101, 110), (101, 112), (110, 116), (112, 120))):
        events.append({"name": "read", "shard": shard, "rows": 5 + shard, "start": start, "seconds": 1})
        events.append({"name": "decode", "rows": 5 + shard, "start": start + 1, "seconds": 2})
        events.append({"name": "finish", "shard": shard, "rows": 9, "start": end - 1, "seconds": 1})
    events.append({"name": "run", "rows": 17, "start": 99.0, "seconds": 30})
    (tmp_path / "1.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events[::2]))
    (tmp_path / "2.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events[1::2]))
    run = read_events(tmp_path, workers=2)
    assert (run.images, run.persons, run.rows) == (26, 17, 26)
    assert run.seconds == 20.0
    assert (run.steady_rows, run.steady_seconds) == (7 + 8, 120 - 112)
    assert run.blocks["decode"] == {"rows": 26, "seconds": 8, "calls": 4}
    assert set(run.blocks) == {"read", "decode", "finish"}


def test_memory_of_a_childs_child_counts():
    hold = "import time; held = bytearray(150_000_000); time.sleep(1.5)"
    start = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[2:], sys.argv[1]])"
    peak, unshared = watch_memory(subprocess.Popen([sys.executable, "-c", start, hold, start]))
    assert 150e6 < unshared <= peak < 300e6


def test_frames_differ_and_come_again():
    sampler = FrameSampler(seed=3, persons=2)
    frames = [sampler.draw(number) for number in range(6)]
    assert all(frame.size == FRAME_SIZE for frame in frames)
    assert len({frame.tobytes() for frame in frames}) == 6
    assert np.array_equal(FrameSampler(seed=3, persons=2).draw(4), frames[4])
    sampler.seed = 4
    assert not np.array_equal(sampler.draw(4), frames[4])
