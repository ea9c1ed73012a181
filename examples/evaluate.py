r"""Measure a model on a data set: R@1, R@5, R@10, mAP and mINP, from captions to images and from images to captions.

    python examples/evaluate.py --model runs/demo/model --dataset synthetic_persons --split test \
        --dataset-args "image_size=[96, 32]" --output runs/demo/metrics.json
    python examples/evaluate.py --model my_model --dataset data/cuhk_pedes --split test --captions captions
    python examples/evaluate.py --model my_model --dataset data/persons --split train --captions text

Prints a table and writes JSON with the metrics, the counts behind them, and what it takes to repeat them: the model's
weights (SHA-256), the data set and its arguments, versions and the command. Every caption is a query and every image
gallery; a hit is the same person id.

Expected time: 15 seconds on one CPU core for the demo's model and 1,000 images. A synthetic set that is not cached is
drawn first, all its splits, at 10 ms an image; give the arguments of the training run to reuse its own.
"""

import argparse
import hashlib
import json
import os
import platform
import shlex
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import datasets
import yaml
from safetensors import SafetensorError

from dataset_scripts.opening import open_dataset
from modeling_gadms.data import DatasetColumns
from modeling_gadms.evaluation import evaluate_retrieval
from modeling_gadms.loading import load_model_and_processor


def main(arguments: argparse.Namespace) -> None:
    # 1. Where the result goes: better refused now than after an hour
    if arguments.output.is_dir():
        raise ValueError(f"--output {arguments.output} is a folder; name a file in it, such as metrics.json")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)

    # 2. The model and its processor
    if not arguments.model.is_dir():
        raise FileNotFoundError(
            f"there is no model folder {arguments.model}; train one with examples/train.py, or fetch one with "
            "`hf download <repository> --local-dir <folder>`"
        )
    model, processor = load_model_and_processor(arguments.model)

    # 3. The data
    dataset = load_split(arguments.dataset, arguments.split, dict(arguments.dataset_args))
    person_id = arguments.person_id or ("person_id" if "person_id" in dataset.column_names else None)
    columns = DatasetColumns(arguments.image, tuple(arguments.captions), person_id)

    # 4. The measurement
    report = evaluate_retrieval(model, processor, dataset, columns, batch_size=arguments.batch_size)
    print(f"\n{arguments.model} on {arguments.dataset}, split {arguments.split}")
    print(report.to_table())
    if person_id is None:
        print("No person ids: each image is its own person, found by its own captions alone.")

    # 5. The record
    record = report.to_dict() | {
        "model": {
            "folder": str(arguments.model),
            "class": type(model).__name__,
            "dtype": str(model.dtype).removeprefix("torch."),
            "weights_sha256": {file.name: sha256(file) for file in sorted(arguments.model.glob("*.safetensors"))},
        },
        "dataset": {
            "name": arguments.dataset,
            "arguments": dict(arguments.dataset_args),
            "config": dataset.info.config_name,
            "version": str(dataset.info.version) if dataset.info.version else None,
            "split": arguments.split,
            "rows": len(dataset),
            "columns": asdict(columns),
        },
        "device": model.device.type,
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in ("torch", "transformers", "datasets", "numpy")},
        "command": shlex.join(["python", *sys.argv]),
    }
    unfinished = arguments.output.with_name(f".{arguments.output.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")
    unfinished.replace(arguments.output)  # whoever reads the file finds all of it or none
    print(f"Written to {arguments.output}")


def load_split(name: str, split: str, builder_arguments: dict[str, Any]) -> datasets.Dataset:
    try:
        splits = open_dataset(name, **builder_arguments)
    except TypeError as error:  # an argument that the builder does not have
        raise ValueError(f"--dataset-args of {name}: {error}") from error
    if split not in splits:
        raise ValueError(f"{name} has no split `{split}`; it has {', '.join(map(str, splits))}")
    return splits[split]


def sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def key_value(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not (key and separator):
        raise argparse.ArgumentTypeError(f"{text!r} must read key=value")
    return key, yaml.safe_load(value)  # numbers become numbers


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--model", type=Path, required=True, help="folder of the model and its processor")
    option("--dataset", required=True, help="synthetic_persons, a save_to_disk folder, or a name load_dataset takes")
    option("--dataset-args", type=key_value, nargs="+", default=[], metavar="KEY=VALUE", help="such as seed=1")
    option("--split", default="test", help="default: test")
    option("--image", default="image", help="column of images (default: image)")
    option("--captions", nargs="+", default=["caption1", "caption2"], help="columns (default: caption1 caption2)")
    option("--person-id", help="column of person ids (default: person_id if it exists, else each row is a person)")
    option("--batch-size", type=int, default=64, help="images encoded at once (default: 64)")
    option("--output", type=Path, default=Path("runs/metrics.json"), help="default: runs/metrics.json")
    try:
        main(parser.parse_args())
    except (OSError, ValueError, TypeError, SafetensorError, yaml.YAMLError) as error:
        print(f"evaluate.py: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
