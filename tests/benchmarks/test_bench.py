"""`make bench` tells a regression from noise, from an improvement and from a benchmark that broke."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bench import BENCHMARKS, read_committed
from benchmarks.measuring import module_of
from tests.waiting import PATIENCE_SECONDS


ROOT = Path(__file__).parents[2]
# Hands out one set of ratios a run, the last one ever after.
STUB = """
import argparse, json, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--quick", action="store_true", required=True)
parser.add_argument("--output", type=pathlib.Path)
output = parser.parse_args().output
counter = pathlib.Path(__file__).with_suffix(".runs")
run = int(counter.read_text()) if counter.is_file() else 0
counter.write_text(str(run + 1))
runs = {runs!r}
(output / "results").mkdir(parents=True)
results = output / "results" / "{name}.json"
results.write_text(json.dumps({{"guarded": runs[min(run, len(runs) - 1)]}}))
"""


class Folder:
    """Stub benchmarks, and the ratios that are committed."""

    def __init__(self, path: Path):
        self.path = path
        self.quick = path / "benchmarks" / "results" / "quick.json"
        self.quick.parent.mkdir(parents=True)
        (path / "benchmarks" / "__init__.py").touch()

    def script(self, name: str) -> Path:
        return self.path / f"{module_of(name).replace('.', '/')}.py"

    def write(self, name: str, *runs: dict) -> None:
        self.write_script(name, STUB.format(runs=list(runs), name=name))

    def write_script(self, name: str, text: str) -> None:
        self.script(name).parent.mkdir(exist_ok=True)
        self.script(name).write_text(text)

    def commit(self, **guarded: dict) -> None:
        self.quick.write_text(json.dumps({"guarded": guarded}))

    def runs_of(self, name: str) -> int:
        return int(self.script(name).with_suffix(".runs").read_text())

    def bench(self, *arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "benchmarks.bench", "--root", str(self.path), *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS)


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


def lower(value: float) -> dict:
    return {"value": value, "better": "lower"}


def higher(value: float) -> dict:
    return {"value": value, "better": "higher"}


@pytest.mark.parametrize(
    ("committed", "now", "code", "verdict"),
    [
        (lower(1.0), lower(1.16), 1, "REGRESSION"),
        (lower(1.0), lower(1.14), 0, "worse"),
        (lower(1.0), lower(0.5), 0, "better"),
        (lower(2.0), lower(2.0), 0, "same"),
        (higher(1.0), higher(0.84), 1, "REGRESSION"),
        (higher(1.0), higher(0.86), 0, "worse"),
        (higher(1.0), higher(3.0), 0, "better"),
    ],
)
def test_more_than_15_percent_in_the_worse_direction_is_a_regression(folder, committed, now, code, verdict):
    folder.commit(ranking={"time_ratio": committed})
    folder.write("ranking", {"time_ratio": now})
    done = folder.bench("ranking")
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("ranking: time_ratio")]
    assert (done.returncode, row.split()[-1]) == (code, verdict), done.stdout + done.stderr
    assert folder.runs_of("ranking") == (3 if code else 1)


def test_a_ratio_that_looks_worse_is_measured_again_and_the_best_run_counts(folder):
    folder.commit(ranking={"time": lower(1.0), "speed": higher(1.0)})
    # Each ratio is bad in a run in which the other is good: only the best of each shows that nothing changed.
    folder.write("ranking", {"time": lower(2.0), "speed": higher(1.0)}, {"time": lower(1.0), "speed": higher(0.5)})
    done = folder.bench("ranking")
    assert done.returncode == 0, done.stdout
    assert folder.runs_of("ranking") == 2


def test_no_ratio_is_measured_more_than_three_times(folder):
    folder.commit(ranking={"time": lower(1.0)})
    folder.write("ranking", *({"time": lower(value)} for value in (3.0, 2.0, 1.5, 1.0)))
    done = folder.bench("ranking")
    assert done.returncode == 1
    assert folder.runs_of("ranking") == 3
    assert "1.5" in done.stdout and "+50.0%" in done.stdout


def test_a_ratio_that_vanished_fails_and_a_new_one_does_not(folder):
    folder.commit(ranking={"old": lower(1.0)})
    folder.write("ranking", {"old": lower(1.0), "other": lower(9.0)})
    done = folder.bench("ranking")
    assert done.returncode == 0 and "new" in done.stdout
    folder.commit(ranking={"old": lower(1.0), "gone": lower(1.0)})
    done = folder.bench("ranking")
    assert done.returncode == 1
    assert any(line.startswith("ranking: gone") and line.endswith("vanished") for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("raise SystemExit('the encoder is not equal')", "the encoder is not equal"),
        ("", "wrote no guarded ratios"),
        (STUB.format(runs=[{}], name="ranking"), "guards no ratio"),
        (STUB.format(runs=[{"time": {"value": 0.0, "better": "lower"}}], name="ranking"), "wrote no guarded ratios"),
        (STUB.format(runs=[{"time": {"value": 1.0, "better": "smaller"}}], name="ranking"), "wrote no guarded ratios"),
    ],
)
def test_a_benchmark_that_fails_ends_with_2_and_the_others_still_run(folder, script, said):
    folder.commit(ranking={"time": lower(1.0)}, encoding={"time": lower(1.0)})
    folder.write_script("ranking", script)
    folder.write("encoding", {"time": lower(1.5)})
    done = folder.bench("ranking", "encoding")
    assert done.returncode == 2
    assert said in done.stdout
    assert "encoding: time" in done.stdout and "REGRESSION" in done.stdout


def test_without_a_choice_all_run_and_a_benchmark_that_left_the_list_has_vanished(folder):
    for name in BENCHMARKS:
        folder.write(name, {"time": lower(1.0)})
    folder.commit(**{name: {"time": lower(1.0)} for name in BENCHMARKS})
    done = folder.bench()
    assert done.returncode == 0, done.stdout
    assert [folder.runs_of(name) for name in BENCHMARKS] == [1] * len(BENCHMARKS)
    assert "Skipped: " in done.stdout and "construction (" in done.stdout
    folder.commit(**{name: {"time": lower(1.0)} for name in (*BENCHMARKS, "training_of_yore")})
    done = folder.bench()
    assert done.returncode == 1
    assert "training_of_yore: time" in done.stdout


def test_an_update_is_what_the_next_run_compares_with(folder):
    folder.write("ranking", {"time": lower(1.0)})
    folder.write("encoding", {"speed": higher(2.0)})
    assert folder.bench("--update", "ranking", "encoding").returncode == 0
    assert json.loads(folder.quick.read_text())["guarded"] == {
        "ranking": {"time": lower(1.0)},
        "encoding": {"speed": higher(2.0)},
    }
    folder.write("ranking", {"time": lower(1.3)})
    assert folder.bench("ranking").returncode == 1
    assert folder.bench("--update", "ranking").returncode == 0  # and keeps what it did not run
    assert folder.bench("ranking", "encoding").returncode == 0


def test_an_update_with_a_failure_leaves_the_committed_ratios(folder):
    folder.commit(ranking={"time": lower(1.0)})
    folder.write("ranking", {"time": lower(5.0)})
    before = folder.quick.read_text()
    done = folder.bench("--update", "ranking", "not_there")
    assert done.returncode == 2
    assert folder.quick.read_text() == before


def test_every_benchmark_of_the_list_is_there_and_committed_names_are_of_the_list():
    assert all(importlib.util.find_spec(module_of(name)) for name in BENCHMARKS)
    assert set(read_committed(ROOT / "benchmarks" / "results" / "quick.json")) == set(BENCHMARKS)
