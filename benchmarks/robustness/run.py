r"""The robustness study: does masking by GASS help where captions are noisy, and which of its parts matter?

    python -m benchmarks.robustness.run                  # about 5 hours on two cores: all runs that are not finished
    python -m benchmarks.robustness.run --part grid      # objectives by noise rate: 3 hours
    python -m benchmarks.robustness.run --part ablations # one thing changed at a time: 2 hours
    python -m benchmarks.robustness.run --part time      # time of a step by objective: 2 minutes
    python -m benchmarks.robustness.run --part report    # tables and figures from the finished runs
    python -m benchmarks.robustness.run --quick          # all of it in small, for tests

The data are drawn persons, whose captions are exact except for attributes that are wrong at a known rate. A small
model is first trained with alignment only (the trunk, three seeds), because the scores of an untrained model mean
nothing; the paper starts from CLIP instead. From each trunk every objective is trained at every noise rate, on the
same batches in the same order, and tested on true captions of unseen persons.

A finished run is a file in `<folder>/finished/` and, once the command ends, a row of results/raw/robustness.parquet.
It is not repeated. To repeat runs, give another `--folder` and `--output`. Runs are processes with one thread each,
as many at a time as there are cores.
"""

import argparse
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import datasets
import torch
from tqdm.auto import tqdm

from benchmarks.measuring import ROOT, command_of, figure_path, in_turn, machine, parser, save
from benchmarks.robustness.figures import draw_captions, draw_rates, draw_scores
from benchmarks.robustness.laboratory import Laboratory
from benchmarks.robustness.report import report
from benchmarks.robustness.runs import CLAIM, TIME, branches_of, collect_runs, finished_runs, trunk_name, work_file
from benchmarks.robustness.study import FULL, OBJECTIVES, QUICK, QUICK_RUNS, SEEDS, Run, Scale, ablations, grid
from benchmarks.robustness.summary import summarise
from modeling_gadms.encoders.atomic_files import write_json


PARTS = ("grid", "ablations", "time", "report")
TIMED_STEPS = {False: 15, True: 1}
_laboratory: Laboratory


def prepare(folder: Path, scale: Scale) -> None:
    """Set up a training process: one thread, and the persons in memory."""
    global _laboratory
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    _laboratory = Laboratory(folder, scale)


def work(task: tuple[int | Run, Path]) -> None:
    """Train a trunk, given by its seed, or a branch, and write the result to its file."""
    what, path = task
    if isinstance(what, int):
        result = _laboratory.train_trunk(what)
    else:
        # Trunks are begun first, perhaps by other processes.
        while _laboratory.needs_trunk(what) and not _laboratory.has_trunk(what.seed):
            time.sleep(1)
        result = _laboratory.train_branch(what)
    write_json(path, result)


def time_steps(folder: Path, scale: Scale, repetitions: int) -> dict[str, Any]:
    """Seconds of a training step by objective, all in turn in each repetition, with one thread."""
    prepare(folder, scale)
    calls = _laboratory.step_calls(list(OBJECTIVES), seed=0)
    return {"seconds": in_turn(calls, repetitions), "machine": machine("transformers")}


def chosen_runs(arguments: argparse.Namespace) -> list[Run]:
    """The branches that the options ask for, in the order in which they are trained."""
    seeds = tuple(arguments.seeds)
    runs = [
        *(grid(seeds) if "grid" in arguments.part else []),
        *(ablations(seeds) if "ablations" in arguments.part else []),
    ]
    if arguments.quick:
        runs = [run for run in runs if run in QUICK_RUNS]
    runs = [run for run in runs if not arguments.only or run.objective in arguments.only]
    return sorted(runs, key=lambda run: run.seed)  # an interrupted study has its first seeds complete


def train_missing(arguments: argparse.Namespace, scale: Scale, work_folder: Path) -> None:
    """Train the chosen branches that are not finished, and the trunks that they need."""
    finished = finished_runs(work_folder, arguments.output)
    missing = [run for run in chosen_runs(arguments) if run.name not in finished]
    if not missing:
        return
    tasks: list[tuple[int | Run, Path]] = [(run, work_file(work_folder, run.name)) for run in missing]
    laboratory = Laboratory(arguments.folder, scale)  # draws the persons
    for seed in sorted({run.seed for run in missing if laboratory.needs_trunk(run)}, reverse=True):
        if not (trunk_name(seed) in finished and laboratory.has_trunk(seed)):
            tasks.insert(0, (seed, work_file(work_folder, trunk_name(seed))))
    del laboratory
    context = multiprocessing.get_context("spawn")
    with context.Pool(arguments.processes, prepare, (arguments.folder, scale)) as pool:
        for _ in tqdm(pool.imap_unordered(work, tasks), total=len(tasks), desc="Training", unit="run"):
            pass


def write_report(runs: dict[str, Any], scale: Scale, command: str, output: Path) -> None:
    """Write results/robustness.json, the section of RESULTS.md, and the figures."""
    results = summarise(runs, scale, command)
    save(CLAIM, results, report, output)
    branches = branches_of(runs)
    draw_rates(results["runs"], figure_path("robustness-r1.png", output))
    draw_scores(branches, figure_path("robustness-scores.png", output))
    draw_captions(branches, figure_path("robustness-captions.png", output))


def main(arguments: argparse.Namespace) -> None:
    scale = QUICK if arguments.quick else FULL
    work_folder = arguments.folder / ("finished-quick" if arguments.quick else "finished")
    train_missing(arguments, scale, work_folder)
    if "time" in arguments.part:
        timed = time_steps(arguments.folder, scale, TIMED_STEPS[arguments.quick])
        write_json(work_file(work_folder, TIME), timed)
    runs = collect_runs(work_folder, arguments.output)
    if "report" in arguments.part:
        write_report(runs, scale, command_of(CLAIM, *["--quick"] * arguments.quick), arguments.output)


if __name__ == "__main__":
    options = parser(__doc__, quick="a few steps on a few persons")
    option = options.add_argument
    option("--part", nargs="+", choices=PARTS, default=PARTS, help="default: all of them")
    option("--seeds", type=int, nargs="+", default=SEEDS, help="default: 0 1 2")
    option("--only", nargs="+", metavar="OBJECTIVE", help="only these objectives")
    option("--processes", type=int, default=os.cpu_count(), help="trainings at a time (default: one a core)")
    option(
        "--folder", type=Path, default=ROOT / "runs" / "robustness", help="folder of persons, trunks, finished runs"
    )
    main(options.parse_args())
