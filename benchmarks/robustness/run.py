r"""The robustness study: does masking by GASS help where captions are noisy, and which of its parts matter?

    python benchmarks/robustness/run.py                  # about 5 hours on two cores: all runs that are not there yet
    python benchmarks/robustness/run.py --part grid      # objectives by noise rate: 3 hours
    python benchmarks/robustness/run.py --part ablations # one thing changed at a time: 2 hours
    python benchmarks/robustness/run.py --part time      # time of a step by objective: 2 minutes
    python benchmarks/robustness/run.py --part report    # tables and pictures from what is there
    python benchmarks/robustness/run.py --quick          # all of it in small, for tests

Drawn persons, whose captions are exact but for attributes that are told wrong at a known rate. A small model is first
trained by alignment alone (the trunk, three seeds), because the scores of a model that knows nothing mean nothing, as
they would not with CLIP's. From each trunk every objective goes on at every noise rate, over the same batches in the
same order; it is tested on true captions of unseen persons.

What is finished has a file in `results/robustness/` and is not repeated; delete it to run it again. Runs are
processes with a thread each, as many at a time as there are cores.
"""

import argparse
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import torch
from tqdm.auto import tqdm


HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from laboratory import Laboratory  # noqa: E402
from measuring import in_turn, machine  # noqa: E402
from report import write_report  # noqa: E402
from study import FULL, OBJECTIVES, QUICK, QUICK_RUNS, SEEDS, Run, Scale, ablations, grid  # noqa: E402

from modeling_gadms.encoders.atomic_files import write_json  # noqa: E402


PARTS = ("grid", "ablations", "time", "report")
TIMED_STEPS = {False: 15, True: 1}
_laboratory: Laboratory


def prepare(folder: Path, scale: Scale) -> None:
    """In a process that is to train: one thread, and the persons in memory."""
    global _laboratory
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    _laboratory = Laboratory(folder, scale)


def work(task: tuple[int | Run, Path]) -> None:
    """Train a trunk, which is told by its seed, or a branch."""
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
    """Seconds of a training step by objective, all in turn in each repetition, one thread."""
    prepare(folder, scale)
    calls = _laboratory.step_calls(list(OBJECTIVES), seed=0)
    return {"seconds": in_turn(calls, repetitions), "machine": machine("transformers")}


def main(arguments: argparse.Namespace) -> None:
    scale = QUICK if arguments.quick else FULL
    results = arguments.output / "results" / "robustness"
    seeds = tuple(arguments.seeds)
    runs = [
        *(grid(seeds) if "grid" in arguments.part else []),
        *(ablations(seeds) if "ablations" in arguments.part else []),
    ]
    if arguments.quick:
        runs = [run for run in runs if run in QUICK_RUNS]
    runs = [run for run in runs if not arguments.only or run.objective in arguments.only]
    runs.sort(key=lambda run: run.seed)  # what is cut short has its first seeds complete
    branches = [(run, results / f"{run.name}.json") for run in runs]
    tasks: list[tuple[int | Run, Path]] = [(run, path) for run, path in branches if not path.is_file()]
    if tasks:
        laboratory = Laboratory(arguments.folder, scale)  # draws the persons
        growing = [run for run, path in branches if not path.is_file() and laboratory.needs_trunk(run)]
        for seed in sorted({run.seed for run in growing}, reverse=True):
            path = results / f"trunk-seed{seed}.json"
            if not (path.is_file() and laboratory.has_trunk(seed)):
                tasks.insert(0, (seed, path))
        del laboratory
        context = multiprocessing.get_context("spawn")
        with context.Pool(arguments.processes, prepare, (arguments.folder, scale)) as pool:
            for _ in tqdm(pool.imap_unordered(work, tasks), total=len(tasks), desc="Training", unit="run"):
                pass
    if "time" in arguments.part:
        timed = time_steps(arguments.folder, scale, TIMED_STEPS[arguments.quick])
        write_json(results / "time.json", timed)
    if "report" in arguments.part:
        inside = arguments.output == HERE.parent
        pictures = (HERE.parents[1] / "docs" if inside else arguments.output) / "images"
        write_report(results, arguments.output, pictures, scale, _command(arguments))


def _command(arguments: argparse.Namespace) -> str:
    return "python benchmarks/robustness/run.py" + " --quick" * arguments.quick


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--part", nargs="+", choices=PARTS, default=PARTS, help="default: all of them")
    option("--seeds", type=int, nargs="+", default=SEEDS, help="default: 0 1 2")
    option("--only", nargs="+", metavar="OBJECTIVE", help="these objectives alone")
    option("--processes", type=int, default=os.cpu_count(), help="trainings at a time (default: one a core)")
    option("--folder", type=Path, default=HERE.parents[1] / "runs" / "robustness", help="of persons and trunks")
    option("--output", type=Path, default=HERE.parent, help="the folder `benchmarks`, or another one")
    option("--quick", action="store_true", help="a few steps on a few persons")
    main(parser.parse_args())
