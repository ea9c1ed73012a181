"""Storage of the runs: a file each while the study works, then a row each of results/raw/robustness.parquet."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.measuring import read_runs, write_runs


CLAIM = "robustness"
TIME = "time"
"""Name of the row with the time of a training step."""
Branches = dict[tuple[str, float], dict[int, dict[str, Any]]]
"""Branches by (objective, rate), then by seed."""


def trunk_name(seed: int) -> str:
    return f"trunk-seed{seed}"


def work_file(work: Path, name: str) -> Path:
    """Where a process writes the result of a run, before [`collect_runs`] takes it."""
    return work / f"{name}.json"


def finished_runs(work: Path, output: Path) -> dict[str, dict[str, Any]]:
    """Results by name of the run: rows of the Parquet file, replaced by newer files of the work folder."""
    runs = {row["name"]: row for row in read_runs(CLAIM, output)}
    for path in work.glob("*.json"):
        runs[path.stem] = {"name": path.stem, **json.loads(path.read_text(encoding="utf-8"))}
    return dict(sorted(runs.items()))


def collect_runs(work: Path, output: Path) -> dict[str, dict[str, Any]]:
    """Move the files of the work folder into the Parquet file; all finished runs by name."""
    files = list(work.glob("*.json"))
    runs = finished_runs(work, output)
    if files:
        write_runs(CLAIM, list(runs.values()), output)
        for path in files:
            path.unlink()
    return runs


def branches_of(runs: dict[str, dict[str, Any]]) -> Branches:
    branches: Branches = defaultdict(dict)
    for run in runs.values():
        if "objective" in run:
            branches[run["objective"], run["rate"]][run["seed"]] = run
    return branches


def trunks_of(runs: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [run for name, run in runs.items() if name.startswith("trunk-")]
