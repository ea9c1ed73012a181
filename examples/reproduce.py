"""Run what a table of the paper takes, and print it with ours beside the published numbers.

    python examples/reproduce.py --table 4 --data-root synthetic                          # drawn data, minutes a row
    python examples/reproduce.py --table 4 --data-root synthetic --size ci                # all of it in a minute
    python examples/reproduce.py --table 1 --data-root synthetic --seeds 0 1 2 --benchmarks cuhk_pedes
    python examples/reproduce.py --table 1 --data-root /data --checkpoints pretrain=runs/webperson/model
    python examples/reproduce.py --table 3 --data-root /data --launcher "accelerate launch" --dry-run

Tables: 1 fine-tuned, 2 direct transfer, 3 scale of the pre-training data, 4 ablation of token masking, with the row of
random scores that the paper lacks (`examples/reproduction.py` has the rows). The data root holds `CUHK-PEDES`,
`ICFG-PEDES`, `RSTPReid` and, for pre-training, `WebPerson`; `synthetic` draws such a root, in four renderings, and
trains a small model from random weights, so that its numbers say nothing of photographs.

Every training is a call of examples/train.py or examples/finetune.py, printed before it runs, in a folder of its own;
one that is finished is not run again, and one that was cut off goes on. The table is written to <output>/table-N.md,
and to table-N.json with the seed, settings and counts of every cell. The numbering of the first three is ours.
"""

import argparse
import json
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import yaml
from reproduction import TITLES, Training, format_table, part_of_webperson, table_rows, trainings_of

from dataset_scripts.opening import BENCHMARKS, find_benchmarks
from dataset_scripts.synthetic_releases import ReleaseSizes, write_synthetic_releases
from modeling_gadms.reports import aggregate_records, read_records, write_json
from modeling_gadms.run_config import RUN_RECORD


HERE = Path(__file__).parent
SIZES = {
    "ci": ReleaseSizes(webperson_images=80, webperson_shards=5),
    "demo": ReleaseSizes(
        webperson_images=8000,
        webperson_shards=5,
        cuhk_pedes_train=300,
        cuhk_pedes_validation=100,
        cuhk_pedes_test=300,
        icfg_pedes_train=300,
        icfg_pedes_test=300,
        rstpreid_train=250,
        rstpreid_validation=60,
        rstpreid_test=200,
    ),
}
TINY = ("model.text_config={hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2}",
        "model.vision_config={image_size: [96, 32], patch_size: 16, hidden_size: 32, intermediate_size: 64, "
        "num_hidden_layers: 1, num_attention_heads: 2}", "model.projection_dim=32", "model.vocab_size=600",
        "model.fusion_num_attention_heads=2", "model.fusion_intermediate_size=32")  # fmt: skip
STEPS = ("training.per_device_train_batch_size=8", "training.max_steps=6", "training.save_strategy=no",
         "training.eval_strategy=no", "training.load_best_model_at_end=false", "training.warmup_steps=1")  # fmt: skip


def main(arguments: argparse.Namespace) -> None:
    # 1. The data
    drawn = str(arguments.data_root) == "synthetic"
    checkpoints = dict(arguments.checkpoints)
    output = arguments.output / (f"synthetic-{arguments.size}" if drawn else "real")
    root = output / "data" if drawn else arguments.data_root
    if drawn:
        write_synthetic_releases(root, sizes=SIZES[arguments.size], num_proc=arguments.num_proc)
    found = find_benchmarks(root)
    for name in arguments.benchmarks or ():
        if name not in found:
            raise FileNotFoundError(f"{root} has no folder of {name}; it has {', '.join(found)}")
    benchmarks = [name for name in found if not arguments.benchmarks or name in arguments.benchmarks]

    # 2. What is to be trained, and what it needs
    rows = table_rows(arguments.table, benchmarks)
    trainings = trainings_of(rows)
    for name, folder in checkpoints.items():
        if name not in {training.name for training in trainings}:
            known = ", ".join(training.name for training in trainings)
            raise ValueError(
                f"table {arguments.table} has no training {name!r} to take from --checkpoints; it has {known}"
            )
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"--checkpoints {name}={folder} is no folder of a model")

    # 3. The trainings and measurements
    models: dict[tuple[str, int], Path] = {}
    metrics: dict[tuple[str, int], Path] = {}
    for seed in arguments.seeds:
        for training in trainings:
            folder = output / f"{training.name}-seed{seed}"
            models[training.name, seed] = checkpoints.get(training.name, folder / "model")
            if training.name not in checkpoints and not (folder / "model" / RUN_RECORD).is_file():
                after = models.get((training.after.name, seed)) if training.after else None
                run(command(training, root, output, folder, after, seed, arguments), arguments)
            metrics[training.name, seed] = folder / "metrics.json"
            if not metrics[training.name, seed].is_file():
                call = ["evaluate.py", "--model", models[training.name, seed], "--benchmarks", root]
                call += ["--dataset-args", "check_counts=false"] if drawn else []
                run([*map(str, call), "--output", str(metrics[training.name, seed])], arguments)
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
    print("\n" + text)
    (output / f"table-{arguments.table}.md").write_text(text + "\n", encoding="utf-8")
    content = [{"training": name, "benchmark": benchmark, "runs": runs} for (name, benchmark), runs in cells.items()]
    write_json(output / f"table-{arguments.table}.json", {"table": arguments.table, "cells": content})
    print(f"Written to {output / f'table-{arguments.table}.md'} and .json")


def command(
    training: Training, root: Path, output: Path, folder: Path, after: Path | None, seed: int,
    arguments: argparse.Namespace,
) -> list[str]:  # fmt: skip
    """The call that makes a training, as its user would type it."""
    drawn, stage = str(arguments.data_root) == "synthetic", training.stage
    if stage == "pretrain":
        config = "reproduce_synthetic" if drawn else "webperson"
        webperson = root / "WebPerson"
        if training.data == "part" and drawn:
            webperson = part_of_webperson(webperson, output / "WebPerson-part")
        overrides = [f"data.dataset_args.data_dir={webperson}"] if drawn or webperson.is_dir() else []
        if training.data == "part" and not drawn:
            overrides = ["data.dataset_args.name=1m"]
    else:
        config = "reproduce_synthetic_finetune" if drawn else f"finetune_{training.benchmark}"
        overrides = [f"data.dataset={training.benchmark}", f"data.dataset_args.data_dir={root}"]
        if training.benchmark == "icfg_pedes":
            overrides.append("data.dataset_args.name=holdout")
        if after:
            overrides.append(f"model.from_pretrained={after}")
        elif not drawn:
            overrides += ["model.from_clip=openai/clip-vit-base-patch16", "model.image_size=[384,128]"]
    if drawn and not after:
        overrides += [*(architecture() if stage == "finetune" else ()), *(TINY if arguments.size == "ci" else ())]
    if drawn and arguments.size == "ci":
        overrides += STEPS
    settings = [*overrides, *training.overrides, f"training.seed={seed}", f"training.output_dir={folder}"]
    script = "train.py" if stage == "pretrain" else "finetune.py"
    return [script, "--config", str(HERE / "configs" / f"{config}.yaml"), "--resume", *settings, *arguments.overrides]


def architecture() -> list[str]:
    """The model of the drawn pre-training, to be fine-tuned from random weights."""
    model = yaml.safe_load((HERE / "configs" / "reproduce_synthetic.yaml").read_text(encoding="utf-8"))["model"]
    return [f"model.{key}={json.dumps(value)}" for key, value in model.items()]


def run(call: list[str], arguments: argparse.Namespace) -> None:
    """Print a call of a program of this folder, and make it."""
    script, *rest = call
    launcher = shlex.split(arguments.launcher) if arguments.launcher and script != "evaluate.py" else []
    print(f"\n$ {shlex.join([*(launcher or ['python']), f'examples/{script}', *rest])}", flush=True)
    if arguments.dry_run:
        return
    if launcher or arguments.data_root != Path("synthetic"):
        subprocess.run([*(launcher or [sys.executable]), str(HERE / script), *rest], check=True)
        return
    # In this process: to load the libraries anew takes longer than a small training.
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
        raise argparse.ArgumentTypeError(f"{text!r} must read NAME=FOLDER, such as pretrain=runs/webperson/model")
    return name, Path(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--table", type=int, choices=sorted(TITLES), required=True, help="1 to 4, see above")
    option("--data-root", type=Path, required=True, help="folder of the releases, or `synthetic`")
    option("--output", type=Path, default=Path("runs/reproduce"), help="default: runs/reproduce")
    option("--benchmarks", nargs="+", choices=sorted(BENCHMARKS), help="default: those in the data root")
    option("--checkpoints", type=checkpoint, nargs="+", default=[], metavar="NAME=FOLDER", help="trained before")
    option("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    option("--size", choices=sorted(SIZES), default="demo", help="of drawn data (default: demo)")
    option("--num-proc", type=int, help="processes that draw")
    option("--launcher", help='before each training, such as "accelerate launch"')
    option("--dry-run", action="store_true", help="print the calls only")
    option("overrides", nargs="*", metavar="section.key=value", help="settings for every training")
    try:
        main(parser.parse_intermixed_args())
    except (ValueError, OSError, RuntimeError, subprocess.CalledProcessError) as error:
        sys.exit(f"reproduce.py: {error}")
