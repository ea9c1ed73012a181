"""Does pre-training on drawn WebPerson help fine-tuning on a drawn benchmark in another rendering?

    python benchmarks/finetuning.py           # three seeds, about 40 minutes on two cores

Runs table 1 of examples/reproduce.py on the drawn CUHK-PEDES: fine-tuned from a model pre-trained on drawn WebPerson,
and from random weights of the same size, with the same settings and number of steps; both measured on the test split,
chosen on validation. Runs that are finished are not repeated. Writes the section `fine-tuning` of RESULTS.md, whatever
it says.
"""

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from measuring import write_section

from modeling_gadms.evaluation.reports import MeanAndDeviation


ROOT = Path(__file__).parents[1]
SEEDS = ("0", "1", "2")
TABLE = ("--table", "1", "--data-root", "synthetic", "--size", "demo", "--benchmarks", "cuhk_pedes")
WAYS = {"finetune-cuhk_pedes": "pre-trained, fine-tuned", "finetune-only-cuhk_pedes": "fine-tuned from random weights"}


def report(cells: list[dict[str, Any]], machine: str) -> str:
    """The section of RESULTS.md.

    Args:
        cells (`list[dict]`): those of `table-1.json`.
        machine (`str`): what they were measured on.
    """
    runs = {cell["training"]: cell["runs"] for cell in cells if cell["benchmark"] == "cuhk_pedes"}
    metrics = {way: [run["text_to_image"] for run in runs[way]] for way in WAYS}
    counts, training = runs["finetune-cuhk_pedes"][0]["counts"], runs["finetune-cuhk_pedes"][0]["training"]["config"]
    lines = [
        "## Fine-tuning with and without pre-training",
        "",
        "Drawn persons: pre-trained on 8,000 images of WebPerson's rendering, fine-tuned on 300 persons of "
        f"CUHK-PEDES's for {training['training']['num_train_epochs']:g} epochs, measured on {counts['captions']:,} "
        f"captions and {counts['images']:,} images of {counts['identities']:,} others. Mean and sample deviation over "
        f"seeds {', '.join(SEEDS)}, captions to images, in percent.",
        "",
        "| | R@1 | R@5 | R@10 | mAP |",
        "| :-- | --: | --: | --: | --: |",
    ]
    for way, label in WAYS.items():
        values = [str(MeanAndDeviation.of([run[name] for run in metrics[way]])) for name in ("r1", "r5", "r10", "map")]
        lines.append(f"| {label} | {' | '.join(values)} |")
    gains = [a["r1"] - b["r1"] for a, b in zip(*(metrics[way] for way in WAYS), strict=True)]
    gain = MeanAndDeviation.of(gains)
    transfer = [run["text_to_image"]["r1"] for run in runs["pretrain"]]
    better = sum(value > 0 for value in gains)
    lines += [
        "",
        f"The gain in R@1 by seed: {', '.join(f'{value:+.2f}' for value in gains)}; mean {gain} points. Pre-training "
        f"is better for {better} of {len(gains)} seeds. Before fine-tuning the pre-trained models had "
        f"{', '.join(f'{value:.2f}' for value in transfer)}: the spread is that of pre-training.",
        "",
        "What it does not show: the pre-trained model has gone over 8,000 images eight times before, so it has seen "
        "far more, and from random weights so few steps hardly start. On photographs nothing was measured.",
        "",
        f"`python benchmarks/finetuning.py`; {machine}.",
    ]
    return "\n".join(lines)


def main(arguments: argparse.Namespace) -> None:
    command = [sys.executable, str(ROOT / "examples" / "reproduce.py"), *TABLE, "--seeds", *SEEDS]
    command += ["--output", str(arguments.runs)]
    subprocess.run(command, check=True)
    content = json.loads((arguments.runs / "synthetic-demo" / "table-1.json").read_text(encoding="utf-8"))
    text = report(content["cells"], f"two cores of a shared {platform.machine()} server, no GPU")
    write_section(arguments.output / "benchmarks" / "RESULTS.md", "fine-tuning", text)
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "reproduce", help="folder of the trainings")
    parser.add_argument("--output", type=Path, default=ROOT, help="the repository, or another folder")
    main(parser.parse_args())
