"""Adapters against training all weights: accuracy on another rendering, parameters, memory and time of a step.

    python -m benchmarks.adapters.run                # 45 minutes on two cores, 20 more to train the bases
    python -m benchmarks.adapters.run --part cost    # only memory and time of a step: 7 minutes

Accuracy: models pre-trained on drawn WebPerson are fine-tuned on drawn CUHK-PEDES with examples/train.py, by LoRA,
by DoRA or with all weights, over the same steps, in processes of their own, two at a time with one thread each. The
learning rate of each method is chosen by R@1 on the validation persons with the first seed, and so is the best
checkpoint of each training; the table is of the test persons. The bases without fine-tuning are the floor: with frozen
encoders no training changes an embedding.

Cost: peak resident memory of a process of its own and the time of a step, at the size of those models and at that of
ViT-B/16 with random weights. All methods run in turn within a repetition.

Finished runs in `--runs` are not repeated. Writes results/adapters.json and a section of RESULTS.md.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measuring import (
    ROOT,
    command_of,
    machine,
    parser,
    provenance,
    ratio,
    read_results,
    save,
    spread,
    table,
)


EXAMPLES = ROOT / "examples"
WAYS = {"full": "all weights", "lora": "LoRA", "dora": "DoRA"}
RATES = {
    "full": ("2e-4", "5e-4", "1e-3", "2e-3"),
    "lora": ("1e-3", "2e-3", "4e-3", "8e-3"),
    "dora": ("1e-3", "2e-3", "4e-3", "8e-3"),
}
NEW_MODULE_RATE = 1e-3
"""Learning rate of fusion encoder, token head and classifier with every method."""
RANK = {"demo": 8, "vit-b-16": 16}
COST_WAYS = {"frozen": "frozen encoders", "lora": "LoRA", "dora": "DoRA", "full": "all weights"}
COST_STEPS = {"demo": 8, "vit-b-16": 2}
REPETITIONS = 3
# Trainings of a minute: four steps, evaluated on the validation persons every two.
CI = ("training.max_steps=4", "training.eval_strategy=steps", "training.eval_steps=2", "training.save_strategy=steps",
      "training.save_steps=2", "training.load_best_model_at_end=true")  # fmt: skip
Results = dict[str, Any]


@dataclass(frozen=True)
class Tuning:
    """One fine-tuning.

    Attributes:
        way (`str`): one of `WAYS`.
        seed (`int`): seed of this training and of its base.
        rate (`str`): learning rate of the encoders, as on the command line.
    """

    way: str
    seed: int
    rate: str

    @property
    def name(self) -> str:
        return f"{self.way}-rate{self.rate}-seed{self.seed}"

    @property
    def overrides(self) -> list[str]:
        settings = [f"training.learning_rate={self.rate}"]
        settings.append(f"training.new_module_lr_multiplier={NEW_MODULE_RATE / float(self.rate):g}")
        if self.way != "full":
            settings += [f"adapter.method={self.way}", f"adapter.rank={RANK['demo']}"]
        return settings


class Bench:
    """Runs what is not finished yet.

    Args:
        runs (`Path`): folder of all runs.
        size (`str`): size of the drawn data, `demo` or `ci`.
    """

    def __init__(self, runs: Path, size: str):
        self.size, self.drawn = size, runs / f"synthetic-{size}"
        self.folder = self.drawn / "adapters"
        self.folder.mkdir(parents=True, exist_ok=True)

    def prepare(self, seeds: list[int]) -> None:
        """Draw the data and pre-train the bases if they are missing, as examples/reproduce.py does."""
        call = ["--table", "2", "--data-root", "synthetic", "--size", self.size, "--benchmarks", "cuhk_pedes"]
        call += ["--output", str(self.drawn.parent), "--seeds", *map(str, seeds)]
        _run([sys.executable, str(EXAMPLES / "reproduce.py"), *call], threads=None)

    def base(self, seed: int) -> Path:
        return self.drawn / f"pretrain-seed{seed}" / "model"

    def tune(self, tuning: Tuning) -> Results:
        """Train unless it is finished, and return the results in its files.

        Raises:
            ValueError: if the folder holds a training with other settings.
        """
        folder = self.folder / tuning.name
        call = ["--config", str(EXAMPLES / "configs" / "reproduce_synthetic_finetune.yaml"), "--resume"]
        call += [
            f"data.dataset_args.data_dir={self.drawn / 'data'}",
            f"model.from_pretrained={self.base(tuning.seed)}",
        ]
        call += [*tuning.overrides, f"training.seed={tuning.seed}", f"training.output_dir={folder}"]
        call += CI if self.size == "ci" else ()
        begun = folder / "call.json"
        if begun.is_file() and json.loads(begun.read_text(encoding="utf-8")) != call:
            raise ValueError(f"{folder} was trained with other settings ({begun}); name another folder with --runs")
        folder.mkdir(exist_ok=True)
        begun.write_text(json.dumps(call), encoding="utf-8")
        if not (folder / "model" / "run.json").is_file():
            _run([sys.executable, str(EXAMPLES / "train.py"), *call], threads=1)
        record = json.loads((folder / "model" / "run.json").read_text(encoding="utf-8"))
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        weights = next(iter((folder / "model").glob("*.safetensors")))
        return {
            "steps": state["global_step"],
            "validation_r1": state["best_metric"],
            "saved_bytes": weights.stat().st_size,
            **record["footprint"],
        }

    def measure(self, model: Path, file: Path) -> Results:
        """Caption-to-image metrics and counts on the test persons, measured unless the file exists."""
        if not file.is_file():
            call = [sys.executable, str(EXAMPLES / "evaluate.py"), "--model", str(model), "--dataset", "cuhk_pedes"]
            call += ["--captions", "captions", "--output", str(file), "--dataset-args", "check_counts=false"]
            _run([*call, f"data_dir={self.drawn / 'data'}"], threads=1)
        record = json.loads(file.read_text(encoding="utf-8"))
        return {"text_to_image": record["text_to_image"], "counts": record["counts"]}

    def quality(self, seeds: list[int]) -> Results:
        """Choose the learning rates, train with each seed, measure."""
        self.prepare(seeds)
        search = [Tuning(way, seeds[0], rate) for way, rates in RATES.items() for rate in rates]
        validation = {tuning.name: result for tuning, result in _two_at_a_time(self.tune, search)}
        chosen = {
            way: max(rates, key=lambda rate: validation[Tuning(way, seeds[0], rate).name]["validation_r1"])
            for way, rates in RATES.items()
        }
        final = [Tuning(way, seed, chosen[way]) for seed in seeds for way in WAYS]

        def tune_and_measure(tuning: Tuning) -> Results:
            trained = self.tune(tuning)
            folder = self.folder / tuning.name
            return trained | self.measure(folder / "model", folder / "metrics.json")

        runs: dict[str, list[Results]] = {way: [] for way in WAYS}
        for tuning, result in _two_at_a_time(tune_and_measure, final):
            runs[tuning.way].append(result)
        bases = [self.measure(self.base(seed), self.folder / f"base-seed{seed}.json") for seed in seeds]
        return {
            "size": self.size,
            "seeds": seeds,
            "rank": RANK["demo"],
            "new_module_rate": NEW_MODULE_RATE,
            "validation_r1_by_rate": {
                way: {rate: validation[Tuning(way, seeds[0], rate).name]["validation_r1"] for rate in rates}
                for way, rates in RATES.items()
            },
            "chosen_rate": chosen,
            "bases": bases,
            "runs": runs,
        }

    def cost(self, steps_of: dict[str, int], repetitions: int, threads: int) -> Results:
        """Time steps in turn, each method in a process of its own.

        Args:
            steps_of (`dict[str, int]`): number of steps by size of the model.
            repetitions (`int`): number of runs of each method.
            threads (`int`): threads of each process.
        """
        results: Results = {}
        for size, steps in steps_of.items():
            ways: dict[str, list[Results]] = {way: [] for way in COST_WAYS}
            for repetition in range(repetitions):
                for way, done in ways.items():
                    file = self.folder / f"cost-{size}-{way}-steps{steps}-threads{threads}-{repetition}.json"
                    if not file.is_file():
                        worker = [sys.executable, "-m", "benchmarks.adapters.worker", size, way]
                        worker += [str(steps), "--rank", str(RANK[size])]
                        worker += ["--batch", "2"] if self.size == "ci" else []
                        output = _run(worker, threads=threads, capture=True).splitlines()[-1]
                        json.loads(output)
                        file.write_text(output, encoding="utf-8")
                    done.append(json.loads(file.read_text(encoding="utf-8")))
                    print(f"{size}, repetition {repetition}, {way}: {done[-1]['seconds']}", flush=True)
            results[size] = ways
        return results


def _run(command: list[str], *, threads: int | None, capture: bool = False) -> str:
    print(f"$ {' '.join(command)}", flush=True)
    environment = dict(os.environ) | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    done = subprocess.run(command, check=True, env=environment, text=True, stdout=subprocess.PIPE if capture else None)
    return done.stdout or ""


def _two_at_a_time(work: Callable[[Tuning], Results], tunings: list[Tuning]) -> list[tuple[Tuning, Results]]:
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(zip(tunings, pool.map(work, tunings), strict=True))


def report(results: Results) -> str:
    """The section of RESULTS.md.

    Args:
        results (`dict`): content of results/adapters.json; missing parts are skipped.
    """
    lines = ["## Adapters"]
    if "quality" in results:
        lines += ["", *_quality_text(results["quality"])]
    for size, ways in results.get("cost", {}).items():
        lines += ["", *_cost_text(size, ways)]
    if "cost" in results:
        lines += [
            "",
            "Resident memory of a process with its libraries; ratios are within a repetition. An adapter needs no "
            "gradients and optimizer states of the encoders' weights, but keeps more activations. Fusion encoder, "
            "token head and classifier are trained in every row; with an adapter their original weights are kept as "
            "well. What falls short: on a CPU adapters save no memory, and at the size of these models no time.",
        ]
    return "\n".join([*lines, "", provenance(results)])


def _quality_text(part: Results) -> list[str]:
    from modeling_gadms.evaluation.reports import MeanAndDeviation

    counts, runs = part["bases"][0]["counts"], part["runs"]
    rows = [["frozen encoders: the base without fine-tuning", "", *_metrics(part["bases"]), "0", "", ""]]
    for way, label in WAYS.items():
        first = runs[way][0]
        peaks = spread([run["peak_memory_bytes"] / 1e6 for run in runs[way]])
        cells = [f"{first['trained_parameters']:,}", f"{first['saved_bytes'] / 1e6:.1f}", f"{peaks['median']:,.0f}"]
        rows.append([label, part["chosen_rate"][way], *_metrics(runs[way]), *cells])
    r1 = {way: [run["text_to_image"]["r1"] for run in runs[way]] for way in WAYS}
    gains = {way: [a - b for a, b in zip(r1[way], r1["full"], strict=True)] for way in ("lora", "dora")}
    differences = "; ".join(
        f"{WAYS[way]} {', '.join(f'{value:+.2f}' for value in values)} (mean {MeanAndDeviation.of(values)})"
        for way, values in gains.items()
    )
    candidates = "; ".join(
        f"{WAYS[way]} {', '.join(f'{rate}: {value:.2f}' for rate, value in by_rate.items())}"
        for way, by_rate in part["validation_r1_by_rate"].items()
    )
    seeds = ", ".join(map(str, part["seeds"]))
    return [
        "### On the drawn target domain",
        "",
        "Question: what does an adapter cost in accuracy, and what does it save? Models pre-trained on drawn "
        f"WebPerson, fine-tuned on drawn CUHK-PEDES for {runs['full'][0]['steps']:,} steps, rank {part['rank']}; "
        f"measured on {counts['captions']:,} captions and {counts['images']:,} images of {counts['identities']:,} "
        f"other persons, captions to images, in percent. "
        + (
            f"Seed {seeds}."
            if len(part["seeds"]) == 1
            else f"Mean and sample deviation over seeds {seeds}, each with a base of its own."
        ),
        "",
        table(["", "learning rate", "R@1", "mAP", "trained parameters", "saved MB", "peak MB"], rows),
        "",
        f"R@1 minus that of training all weights, by seed: {differences}.",
        "",
        f"The learning rates are those with the best R@1 on the validation persons, seed {part['seeds'][0]} "
        f"({candidates}); new modules learn at {part['new_module_rate']:g} throughout. Where the best rate is the "
        "highest that was tried, a higher one may be better. Peak memory is resident memory with libraries and the "
        "cached images. What falls short: both adapters are below all weights, by 2 to 12 points of R@1.",
    ]


def _metrics(runs: list[Results]) -> list[str]:
    from modeling_gadms.evaluation.reports import MeanAndDeviation

    return [str(MeanAndDeviation.of([run["text_to_image"][name] for run in runs])) for name in ("r1", "map")]


def cost_summary(runs: list[Results]) -> Results:
    """The repetitions of a method as one record: median seconds of a step and peak memory of each."""
    first = runs[0]
    same = ("trained_parameters", "parameters", "libraries_bytes", "batch", "threads")
    return {
        **{name: first[name] for name in same},
        "steps": len(first["seconds"]),
        "seconds": [median(run["seconds"]) for run in runs],
        "peak_bytes": [run["peak_bytes"] for run in runs],
    }


def _cost_text(size: str, ways: dict[str, Results]) -> list[str]:
    first = ways["full"]
    label = {"demo": "Size of these models", "vit-b-16": "Size of ViT-B/16"}[size] + f", batch {first['batch']}"
    rows = []
    for way, name in COST_WAYS.items():
        measured = ways[way]
        trained = measured["trained_parameters"]
        rows.append(
            [
                name,
                f"{trained:,} ({trained / measured['parameters']:.1%})",
                f"{median(measured['peak_bytes']) / 1e6:,.0f}",
                f"{ratio(measured['peak_bytes'], over=first['peak_bytes'])['median']:.2f}",
                f"{median(measured['seconds']):.2f}",
                "{median:.2f} ({min:.2f} to {max:.2f})".format(**ratio(measured["seconds"], over=first["seconds"])),
            ]
        )
    return [
        f"### {label}",
        "",
        f"Random weights, rank {RANK[size]}, float32, {first['threads']} threads; medians of "
        f"{len(first['seconds'])} repetitions of {first['steps']} steps, all methods in turn; the libraries alone "
        f"take {first['libraries_bytes'] / 1e6:,.0f} MB.",
        "",
        table(["", "trained parameters", "peak MB", "over all weights", "s/step", "over all weights"], rows),
    ]


def main(arguments: argparse.Namespace) -> None:
    results = read_results("adapters", arguments.output)
    bench = Bench(arguments.runs.resolve(), arguments.size)
    if arguments.part in ("quality", "all"):
        results["quality"] = bench.quality(arguments.seeds)
    if arguments.part in ("cost", "all"):
        steps, repetitions = ({"demo": 1}, 1) if arguments.size == "ci" else (COST_STEPS, REPETITIONS)
        costs = bench.cost(steps, repetitions, os.cpu_count() or 1)
        results["cost"] = {
            size: {way: cost_summary(runs) for way, runs in ways.items()} for size, ways in costs.items()
        }
    seeds = [str(seed) for seed in results.get("quality", {}).get("seeds", [])]
    options = [*["--size", "ci"] * (arguments.size == "ci"), *["--seeds", *seeds] * bool(seeds)]
    results["command"] = command_of("adapters", *options)
    results["machine"] = machine("transformers", "peft")
    save("adapters", results, report, arguments.output)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--part", choices=["quality", "cost", "all"], default="all", help="default: all")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    options.add_argument("--size", choices=["demo", "ci"], default="demo", help="of the drawn data (default: demo)")
    options.add_argument("--runs", type=Path, default=ROOT / "runs" / "reproduce", help="folder of the trainings")
    main(options.parse_args())
