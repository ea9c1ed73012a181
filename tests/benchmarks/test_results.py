"""The committed results are small, and RESULTS.md shows what they hold."""

import importlib
import json
import re
from pathlib import Path

import pytest

from benchmarks.bench import BENCHMARKS
from benchmarks.measuring import LINE, OUTPUT, module_of, read_results, read_runs, runs_file, to_json, write_runs


ROOT = Path(__file__).parents[2]
REPORTS = {
    name: f"benchmarks.{name.partition('_')[0]}.report" for name in ("construction", "cost_model", "robustness")
}
CLAIMS = sorted(path.stem for path in (OUTPUT / "results").glob("*.json") if path.stem != "quick")


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_section_of_a_claim_is_made_from_its_results(claim):
    module = importlib.import_module(REPORTS.get(claim, module_of(claim)))
    sections = dict(
        re.findall(r"<!-- (\w+): begin -->\n(.*?)\n<!-- \1: end -->", (OUTPUT / "RESULTS.md").read_text(), re.DOTALL)
    )
    assert sections[claim] == module.report(read_results(claim)).rstrip()


def test_every_claim_has_results_and_its_command_is_a_module():
    claims = {path.parent.name for path in OUTPUT.glob("*/run.py")} - {"scaling"}
    assert claims | {"cost_model", "cost_growth"} == set(CLAIMS)
    assert set(BENCHMARKS) <= set(CLAIMS)
    commands = re.findall(r"python -m (benchmarks\.[\w.]+)", (OUTPUT / "RESULTS.md").read_text())
    assert len(commands) >= len(CLAIMS)
    assert all(importlib.util.find_spec(command) for command in commands)


@pytest.mark.parametrize("path", sorted((OUTPUT / "results").glob("*.json")), ids=lambda path: path.name)
def test_a_file_of_results_is_short_and_written_as_the_benchmarks_write_it(path):
    text = path.read_text()
    lines = text.splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= LINE
    assert text == to_json(json.loads(text)) + "\n"


def test_lines_are_filled_with_numbers_and_hold_one_entry_each():
    numbers = {"seconds": [1.123456789123] * 40, "few": {"median": 1, "min": 0.5}, "more": {"all": list(range(90))}}
    text = to_json(numbers)
    assert json.loads(text) == {**numbers, "seconds": [1.1234568] * 40}
    assert ' "few": {"median": 1, "min": 0.5},\n' in text
    assert len(text.splitlines()) < 15 and max(map(len, text.splitlines())) <= LINE


def test_runs_come_back_as_they_were_written(tmp_path):
    runs = [{"name": "a", "metrics": {"r1": 1.5}}, {"name": "b", "scores": [{"x": 1}, {"x": 2, "y": 0.5}]}]
    assert read_runs("claim", tmp_path) == []
    write_runs("claim", runs, tmp_path)
    assert read_runs("claim", tmp_path) == runs
    assert [path.name for path in runs_file("claim", tmp_path).parent.iterdir()] == ["claim.parquet"]
