"""Does pre-training on drawn WebPerson help fine-tuning on a drawn benchmark in another rendering?

    python -m benchmarks.finetuning.run           # three seeds, about 40 minutes on two cores

Runs table 1 of examples/reproduce.py on the drawn CUHK-PEDES: a model pre-trained on drawn WebPerson is fine-tuned,
and so is one of the same size with random weights, with the same settings and number of steps. Both are measured on
the test split; the checkpoint is chosen on the validation split. Finished runs are not repeated. Writes
results/finetuning.json and a section of RESULTS.md.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measuring import ROOT, command_of, machine, parser, provenance, save, table
from modeling_gadms.evaluation.reports import MeanAndDeviation


SEEDS = (0, 1, 2)
TABLE = ("--table", "1", "--data-root", "synthetic", "--size", "demo", "--benchmarks", "cuhk_pedes")
WAYS = {"finetune-cuhk_pedes": "pre-trained, fine-tuned", "finetune-only-cuhk_pedes": "fine-tuned from random weights"}
METRICS = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "map": "mAP"}


def summary(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of the section.

    Args:
        cells (`list[dict]`): cells of `table-1.json`, as examples/reproduce.py writes it.

    Returns:
        `dict`: means and deviations of the metrics by way; the gain in R@1 of each seed, their mean and deviation;
        and R@1 of the pre-trained models before fine-tuning.
    """
    runs = {cell["training"]: cell["runs"] for cell in cells if cell["benchmark"] == "cuhk_pedes"}
    metrics = {way: [run["text_to_image"] for run in runs[way]] for way in WAYS}
    first = runs["finetune-cuhk_pedes"][0]
    gains = [tuned["r1"] - random["r1"] for tuned, random in zip(*(metrics[way] for way in WAYS), strict=True)]
    return {
        "counts": first["counts"],
        "epochs": first["training"]["config"]["training"]["num_train_epochs"],
        "metrics": {
            way: {name: _stored([run[name] for run in of_way]) for name in METRICS} for way, of_way in metrics.items()
        },
        "r1_gains": gains,
        "r1_gain": _stored(gains),
        "r1_before_finetuning": [run["text_to_image"]["r1"] for run in runs["pretrain"]],
    }


def _stored(values: list[float]) -> dict[str, float | None]:
    return asdict(MeanAndDeviation.of(values))


def report(results: dict[str, Any]) -> str:
    """The section of RESULTS.md."""
    counts, gains = results["counts"], results["r1_gains"]
    rows = [
        [label, *(str(MeanAndDeviation(**results["metrics"][way][name])) for name in METRICS)]
        for way, label in WAYS.items()
    ]
    better = sum(value > 0 for value in gains)
    return "\n\n".join(
        [
            "## Fine-tuning with and without pre-training",
            "Claim: pre-training helps fine-tuning on another domain. Drawn persons: pre-trained on 8,000 images in "
            "WebPerson's rendering, fine-tuned on 300 persons in CUHK-PEDES's rendering for "
            f"{results['epochs']:g} epochs, measured on {counts['captions']:,} captions and {counts['images']:,} "
            f"images of {counts['identities']:,} other persons. Captions to images, in percent, mean and sample "
            f"deviation over seeds {', '.join(map(str, SEEDS))}.",
            table(["", *METRICS.values()], rows),
            f"The gain in R@1 by seed: {', '.join(f'{value:+.2f}' for value in gains)}; mean "
            f"{MeanAndDeviation(**results['r1_gain'])} points. Pre-training is better for {better} of {len(gains)} "
            "seeds. Before fine-tuning the pre-trained models had an R@1 of "
            f"{', '.join(f'{value:.2f}' for value in results['r1_before_finetuning'])}: the spread comes from "
            "pre-training.",
            "What falls short: the pre-trained model has seen 8,000 images eight times before, so it has seen much "
            "more data, and so few steps hardly train random weights. Nothing was measured on photographs.",
            provenance(results),
        ]
    )


def main(arguments: argparse.Namespace) -> None:
    command = [sys.executable, str(ROOT / "examples" / "reproduce.py"), *TABLE, "--seeds", *map(str, SEEDS)]
    command += ["--output", str(arguments.runs)]
    subprocess.run(command, check=True)
    content = json.loads((arguments.runs / "synthetic-demo" / "table-1.json").read_text(encoding="utf-8"))
    results = {"command": command_of("finetuning"), "machine": machine("transformers"), **summary(content["cells"])}
    save("finetuning", results, report, arguments.output)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--runs", type=Path, default=ROOT / "runs" / "reproduce", help="folder of the trainings")
    main(options.parse_args())
