"""Run the trainings and measurements of a table of the paper, and print ours beside the published numbers.

    python examples/reproduce.py --table 4 --data-root synthetic                          # drawn data, minutes a row
    python examples/reproduce.py --table 4 --data-root synthetic --size ci                # all of it in a minute
    python examples/reproduce.py --table 1 --data-root synthetic --seeds 0 1 2 --benchmarks cuhk_pedes
    python examples/reproduce.py --table 1 --data-root /data --checkpoints pretrain=runs/webperson/model
    python examples/reproduce.py --table 3 --data-root /data --launcher "accelerate launch" --dry-run

Tables: 1 fine-tuned, 2 direct transfer, 3 scale of the pre-training data, 4 ablation of token masking, with a row of
random scores that the paper lacks. `examples/reproduction.py` lists the rows. The paper's ablation uses half a million
pairs; on real data this one uses all of WebPerson, or a million pairs with `data.dataset_args.name=1m` after the
options. The data root contains `CUHK-PEDES`, `ICFG-PEDES`, `RSTPReid` and, for pre-training, `WebPerson`,
which is read from the Hub if it is missing, as is the smaller set of table 3. `synthetic` draws such a data root in
four renderings and trains a small model from random weights; these numbers say nothing about photographs.

Every training is a call of examples/train.py, printed before it runs, in a folder of its own. A finished training is
not run again, and an interrupted one is resumed. The table is written to <output>/table-N.md, and to
table-N.json with the seed, settings and counts of every cell. The numbers of tables 1 to 3 are not those of the paper.
"""

import argparse
import json
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

from reproduction import (
    SIZES,
    TITLES,
    command,
    format_cross_domain,
    format_table,
    part_of_webperson,
    table_rows,
    trainings_of,
)

from dataset_scripts.loading import BENCHMARKS, find_benchmarks
from dataset_scripts.synthetic_releases import write_synthetic_releases
from modeling_gadms.encoders.atomic_files import write_atomically, write_json
from modeling_gadms.evaluation.reports import aggregate_records, read_records
from modeling_gadms.training.run_config import RUN_RECORD


HERE = Path(__file__).parent


def main(arguments: argparse.Namespace) -> None:
    # 1. The data
    drawn = str(arguments.data_root) == "synthetic"
    checkpoints = dict(arguments.checkpoints)
    output = arguments.output / (f"synthetic-{arguments.size}" if drawn else "real")
    root = output / "data" if drawn else arguments.data_root
    found = {name: root / folder for name, folder in BENCHMARKS.items()} if drawn else find_benchmarks(root)
    for name in arguments.benchmarks or ():
        if name not in found:
            raise FileNotFoundError(f"{root} has no folder of {name}; it has {', '.join(found)}")
    benchmarks = [name for name in found if not arguments.benchmarks or name in arguments.benchmarks]

    # 2. The trainings, and the data for them
    rows = table_rows(arguments.table, benchmarks)
    trainings = trainings_of(rows)
    for name, folder in checkpoints.items():
        if name not in {training.name for training in trainings}:
            known = ", ".join(training.name for training in trainings)
            raise ValueError(
                f"table {arguments.table} has no training {name!r} to take from --checkpoints; it has {known}"
            )
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"--checkpoints {name}={folder} is not a model folder")
    if drawn and not arguments.dry_run:
        write_synthetic_releases(root, sizes=SIZES[arguments.size], num_proc=arguments.num_proc)
        if any(training.data == "part" for training in trainings):
            part_of_webperson(root / "WebPerson", output / "WebPerson-part")

    # 3. The trainings and measurements
    models: dict[tuple[str, int], Path] = {}
    metrics: dict[tuple[str, int], Path] = {}
    for seed in arguments.seeds:
        for training in trainings:
            folder = output / f"{training.name}-seed{seed}"
            models[training.name, seed] = checkpoints.get(training.name, folder / "model")
            if training.name not in checkpoints:
                after = models.get((training.after.name, seed)) if training.after else None
                size = arguments.size if drawn else None
                call = [*command(training, root, output, folder, after, seed, size), *arguments.overrides]
                keep_to_one_call(folder / "call.json", call, arguments.dry_run)
                if not (folder / "model" / RUN_RECORD).is_file():
                    run(call, arguments)
            elif seed != arguments.seeds[0]:
                continue  # a given checkpoint does not depend on the seed
            metrics[training.name, seed] = folder / "metrics.json"
            if not is_measured(metrics[training.name, seed], models[training.name, seed], found):
                call = ["evaluate.py", "--model", str(models[training.name, seed]), "--benchmarks", str(root)]
                call += ["--dataset-args", "check_counts=false"] if drawn else []
                run([*call, "--output", str(metrics[training.name, seed])], arguments)
    if arguments.dry_run:
        return

    # 4. The table
    cells: dict[tuple[str, str], list] = {}
    for (name, _), file in metrics.items():
        for record in read_records(file):
            cells.setdefault((name, record["dataset"]["name"]), []).append(record)
    ours = {cell: aggregate_records(records) for cell, records in cells.items()}
    note = (
        f"Ours: drawn persons in four renderings, size {arguments.size}, a small model from random weights; seeds "
        f"{', '.join(map(str, arguments.seeds))}. Published: photographs." if drawn else
        f"Ours: {root}, seeds {', '.join(map(str, arguments.seeds))}."
    )  # fmt: skip
    text = format_table(arguments.table, rows, ours, note)
    if arguments.table == 1:
        text += "\n\n" + format_cross_domain(rows, ours)
    print("\n" + text)
    write_atomically(output / f"table-{arguments.table}.md", text + "\n")
    content = [{"training": name, "benchmark": benchmark, "runs": runs} for (name, benchmark), runs in cells.items()]
    write_json(output / f"table-{arguments.table}.json", {"table": arguments.table, "cells": content})
    print(f"Written to {output / f'table-{arguments.table}.md'} and .json")


def keep_to_one_call(file: Path, call: list[str], dry_run: bool) -> None:
    """Refuse to reuse a training that was started with other settings."""
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")) != call:
        raise ValueError(f"{file.parent} was trained with other settings ({file}); choose another --output")
    if not dry_run:
        write_json(file, call)


def is_measured(file: Path, model: Path, benchmarks: dict[str, Path]) -> bool:
    """Return whether a file of examples/evaluate.py is of this model and of exactly these benchmarks."""
    if not file.is_file():
        return False
    found = {(r["model"]["folder"], r["dataset"]["arguments"]["data_dir"]) for r in read_records(file)}
    trained = max((weights.stat().st_mtime for weights in model.glob("*.safetensors")), default=0)
    return file.stat().st_mtime >= trained and found == {(str(model), str(place)) for place in benchmarks.values()}


def run(call: list[str], arguments: argparse.Namespace) -> None:
    """Print and run a program of this folder."""
    script, *rest = call
    launcher = shlex.split(arguments.launcher) if arguments.launcher and script != "evaluate.py" else []
    print(f"\n$ {shlex.join([*(launcher or ['python']), f'examples/{script}', *rest])}", flush=True)
    if arguments.dry_run:
        return
    if launcher or arguments.data_root != Path("synthetic"):
        subprocess.run([*(launcher or [sys.executable]), str(HERE / script), *rest], check=True)
        return
    # In-process: importing the libraries takes longer than a small training.
    before, sys.argv = sys.argv, [str(HERE / script), *rest]
    try:
        runpy.run_path(str(HERE / script), run_name="__main__")
    except SystemExit as error:
        if error.code:
            raise RuntimeError(f"examples/{script} ended with {error.code}") from error
    finally:
        sys.argv = before


def checkpoint(text: str) -> tuple[str, Path]:
    name, separator, folder = text.partition("=")
    if not (name and separator and folder):
        raise argparse.ArgumentTypeError(
            f"{text!r} must have the form NAME=FOLDER, such as pretrain=runs/webperson/model"
        )
    return name, Path(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--table", type=int, choices=sorted(TITLES), required=True, help="1 to 4, see above")
    option("--data-root", type=Path, required=True, help="folder of the releases, or `synthetic`")
    option("--output", type=Path, default=Path("runs/reproduce"), help="default: runs/reproduce")
    option("--benchmarks", nargs="+", choices=sorted(BENCHMARKS), help="default: those in the data root")
    option("--checkpoints", type=checkpoint, nargs="+", default=[], metavar="NAME=FOLDER", help="trained models")
    option("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    option("--size", choices=sorted(SIZES), default="demo", help="size of the drawn data (default: demo)")
    option("--num-proc", type=int, help="number of processes that draw data")
    option("--launcher", help='command before each training, such as "accelerate launch"')
    option("--dry-run", action="store_true", help="only print the calls")
    option("overrides", nargs="*", metavar="section.key=value", help="settings for every training")
    try:
        main(parser.parse_intermixed_args())
    except (ValueError, OSError, RuntimeError, subprocess.CalledProcessError) as error:
        sys.exit(f"reproduce.py: {error}")
