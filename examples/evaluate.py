r"""Measure a model on a data set: R@1, R@5, R@10, mAP and mINP, from captions to images and from images to captions.

The model is GA-DMS or any other dual encoder, such as CLIP or SigLIP: see docs/guides/models.md.

    python examples/evaluate.py --model runs/demo/model --dataset synthetic_persons --split test \
        --dataset-args "image_size=[96, 32]" --output runs/demo/metrics.json
    python examples/evaluate.py --model my_model --dataset cuhk_pedes --dataset-args data_dir=data/CUHK-PEDES \
        --captions captions
    python examples/evaluate.py --model my_model --dataset data/persons --split train --captions text
    python examples/evaluate.py --model runs/cuhk_pedes/model runs/rstpreid/model --benchmarks data

Prints a table and writes JSON with the metrics, their counts, and everything needed to repeat them: the digests of the
model's weights, its training seed and settings, the data set and its arguments, versions and the command. Every
caption is a query against all images, and the other way round. A hit has the same person id. Nothing is re-ranked.

`--benchmarks` takes a folder with CUHK-PEDES, ICFG-PEDES and RSTPReid, or some of them, and measures every model on
every test split. This covers fine-tuned, direct-transfer and cross-domain results: they differ only in the data set
that a model was trained on.

`--short-queries` also asks for things that the drawn persons of `synthetic_persons` wear, as a user would type it ("a
person wearing a red coat"): 300 queries each of one, two and three things. R-precision is the share of the first R
results that fit, where R is how many persons do, at most ten.

Expected time: 15 seconds on one CPU core for the demo's model and 1,000 images. A synthetic data set that is not
cached is drawn first, at 10 ms an image for all its splits; pass the arguments of the training run to reuse its cache.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import datasets
from safetensors import SafetensorError

from dataset_scripts.drawn.persons.queries import short_queries
from dataset_scripts.loading import BENCHMARKS, dataset_arguments, find_benchmarks, load_split
from modeling_gadms.encoders.atomic_files import write_json
from modeling_gadms.encoders.encoding import encode_captions, encode_images
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.encoders.onnx_model import RetrievalModel
from modeling_gadms.encoders.processors import RetrievalProcessor
from modeling_gadms.evaluation.reports import Record, make_record
from modeling_gadms.evaluation.retrieval import evaluate_retrieval
from modeling_gadms.evaluation.short_queries import short_query_metrics
from modeling_gadms.training.data import DatasetColumns


def main(arguments: argparse.Namespace) -> None:
    # 1. Check the output file before the work starts
    if arguments.output.is_dir():
        raise ValueError(f"--output {arguments.output} is a folder; name a file in it, such as metrics.json")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)

    # 2. The measurements
    builder_arguments = dataset_arguments(arguments.dataset_args)
    if arguments.benchmarks is None:
        if len(arguments.model) > 1:
            raise ValueError("several models need --benchmarks; with --dataset, run this once for each model")
        arguments.captions = arguments.captions or ["caption1", "caption2"]
        split = arguments.split or "test"
        record = measure(arguments.model[0], arguments.dataset, builder_arguments, split, arguments)
        write_json(arguments.output, record)
    else:
        for option in ("split", "image", "captions", "person_id", "short_queries"):
            if getattr(arguments, option) is not None:
                raise ValueError(f"--{option.replace('_', '-')} goes with --dataset; --benchmarks has its own")
        arguments.captions, arguments.person_id = ["captions"], "person_id"
        cells = [
            measure(model, name, {"data_dir": str(place)} | builder_arguments, "test", arguments)
            for name, place in find_benchmarks(arguments.benchmarks).items()
            for model in arguments.model
        ]
        write_json(arguments.output, {"cells": cells})
        print("\n" + matrix(cells))
    print(f"Written to {arguments.output}")


def measure(
    model_name: str, name: str, builder_arguments: dict[str, Any], split: str, arguments: argparse.Namespace
) -> Record:
    model, processor = load_model_and_processor(model_name)
    try:
        dataset = load_split(name, split, **builder_arguments)
    except TypeError as error:  # an argument that the builder does not have
        raise ValueError(f"--dataset-args of {name}: {error}") from error
    if arguments.short_queries and "attributes" not in dataset.column_names:
        raise ValueError("--short-queries needs to know what the persons wear: use --dataset synthetic_persons")
    person_id = arguments.person_id or ("person_id" if "person_id" in dataset.column_names else None)
    columns = DatasetColumns(arguments.image or "image", tuple(arguments.captions), person_id)
    report = evaluate_retrieval(model, processor, dataset, columns, batch_size=arguments.batch_size)
    print(f"\n{model_name} on {name}, split {split}")
    print(report.to_table())
    if person_id is None:
        print("No person ids: each image is its own person, found by its own captions alone.")
    where = {"name": name, "arguments": builder_arguments, "split": split}
    record = make_record(report, model, model_name, dataset, columns, **where)
    if arguments.short_queries:
        record["short_queries"] = measure_short_queries(model, processor, dataset, arguments.batch_size)
    return record


def measure_short_queries(
    model: RetrievalModel, processor: RetrievalProcessor, dataset: datasets.Dataset, batch_size: int
) -> dict[str, dict[str, float]]:
    """Return the metrics of queries of one, two and three things, and print them."""
    attributes = dataset["attributes"][:]
    image_embeds = encode_images(model, processor, dataset["image"], batch_size=batch_size, total=len(dataset))
    metrics = {}
    print(f"{'short queries':13}{'R-precision':>13}{'hit@10':>8}")
    for items in (1, 2, 3):
        queries = short_queries(attributes, items=items)
        embeds = encode_captions(model, processor, [query.text for query in queries], batch_size=batch_size)
        values = short_query_metrics(embeds, image_embeds, [query.relevant for query in queries])
        print(f"{items} thing{'s' * (items > 1):6}{values['r_precision']:13.2f}{values['hit_at_10']:8.2f}")
        metrics[str(items)] = values
    return metrics


def matrix(cells: list[Record]) -> str:
    """Return a table of R@1 (mAP), text to image, with a row for each model and a column for each benchmark."""
    models = list(dict.fromkeys(cell["model"]["folder"] for cell in cells))
    names = list(dict.fromkeys(cell["dataset"]["name"] for cell in cells))
    values = {(cell["model"]["folder"], cell["dataset"]["name"]): cell["text_to_image"] for cell in cells}
    width = max(map(len, models))
    lines = [" " * width + "".join(f"{BENCHMARKS[name]:>18}" for name in names)]
    for model in models:
        row = [values[model, name] for name in names]
        texts = [f"{metrics['r1']:.2f} ({metrics['map']:.2f})" for metrics in row]
        lines.append(f"{model:<{width}}" + "".join(f"{text:>18}" for text in texts))
    return "\n".join([*lines, "R@1 (mAP), text to image, in percent."])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--model", nargs="+", required=True, help="folder or Hub name of a dual encoder, or several")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--dataset", help="synthetic_persons, a save_to_disk folder, or a name for load_dataset")
    what.add_argument("--benchmarks", type=Path, help="folder with CUHK-PEDES, ICFG-PEDES and RSTPReid")
    option("--dataset-args", nargs="+", default=[], metavar="KEY=VALUE", help="such as seed=1, or check_counts=false")
    option("--split", help="default: test")
    option("--image", help="column of images (default: image)")
    option("--captions", nargs="+", help="columns (default: caption1 caption2)")
    option("--person-id", help="column of person ids (default: person_id if it exists, else each row is a person)")
    option("--batch-size", type=int, default=64, help="images encoded at once (default: 64)")
    option("--short-queries", action="store_true", default=None, help="also measure short queries about drawn persons")
    option("--output", type=Path, default=Path("runs/metrics.json"), help="default: runs/metrics.json")
    try:
        main(parser.parse_args())
    except (OSError, ValueError, TypeError, ImportError, SafetensorError) as error:
        print(f"evaluate.py: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
