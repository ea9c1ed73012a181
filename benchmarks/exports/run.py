r"""ONNX and int8 beside PyTorch: agreement of the embeddings, accuracy and speed on the same two cores.

    python -m benchmarks.exports.run           # under 10 minutes on two cores, with the model of `make demo`
    python -m benchmarks.exports.run --quick --model my_model --dataset my_data    # in small, for tests

The demo's model and one of the size of ViT-B/16 (random weights, so it has no accuracy) are exported with `--int8`.
Accuracy: all captions and images of the test split are embedded by each runtime and ranked. Speed: the encoders alone,
without decoding and tokenising, on the first captions and images of the split; all runtimes in turn within each
repetition, two threads each; ratios are within a repetition. Writes results/exports.json and a section of RESULTS.md.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
import yaml
from PIL import Image
from transformers import CLIPTokenizer

from benchmarks.measuring import (
    ROOT,
    command_of,
    in_turn,
    machine,
    parser,
    provenance,
    ratio,
    save,
    spread,
    spread_text,
    table,
)
from dataset_scripts.loading import choose_split, load_splits
from modeling_gadms import GADMSConfig, GADMSModel, GADMSProcessor
from modeling_gadms.conversion.onnx_export import export_onnx
from modeling_gadms.encoders.encoding import encode_captions, encode_images
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.encoders.onnx_model import RUNTIMES
from modeling_gadms.metrics.person_retrieval.ranking import rank_metrics
from modeling_gadms.training.data import DatasetColumns
from modeling_gadms.training.tokenizer import BOS_TOKEN, EOS_TOKEN, train_tokenizer


THREADS = 2
BATCHES = (1, 32)
CLIP_TOKENS = 49_408
NAMES = dict(zip(RUNTIMES, ("PyTorch float32", "ONNX float32", "ONNX int8"), strict=True))


@dataclass(frozen=True)
class Persons:
    """Images and captions of a split, with their person ids."""

    images: list[Image.Image]
    image_ids: list[Any]
    captions: list[str]
    caption_ids: list[Any]


def read_persons(name: str, builder_arguments: dict[str, Any], split: str) -> Persons:
    """Read a split with the captions of both of WebPerson's columns."""
    rows = choose_split(name, load_splits(name, **builder_arguments), split)
    columns = DatasetColumns("image", ("caption1", "caption2"), "person_id")
    columns.validate(rows.column_names)
    captions, caption_ids = [], []
    for number, row in enumerate(rows.remove_columns("image")):
        of_row = columns.row_captions(row, number)
        captions += of_row
        caption_ids += [row["person_id"]] * len(of_row)
    return Persons([row["image"].convert("RGB") for row in rows], list(rows["person_id"]), captions, caption_ids)


def make_model(folder: Path, captions: list[str], *, quick: bool) -> None:
    """A model of the size of ViT-B/16, all 49,409 tokens included, with random weights."""
    learned = train_tokenizer(captions, vocab_size=1024, max_length=77)
    if quick:
        tokenizer = learned
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        image_size = (64, 32)
    else:
        own = [piece for piece in learned.get_vocab() if piece not in (BOS_TOKEN, EOS_TOKEN)]
        own.sort(key=learned.convert_tokens_to_ids)
        never_used = [f"unused{number}</w>" for number in range(CLIP_TOKENS - len(own) - 2)]
        vocabulary = {piece: index for index, piece in enumerate([*own, *never_used, BOS_TOKEN, EOS_TOKEN])}
        merges: Any = [tuple(merge) for merge in json.loads(learned.backend_tokenizer.to_str())["model"]["merges"]]
        tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
        sizes = {}
        image_size = (384, 128)
    processor = GADMSProcessor.from_tokenizer(tokenizer, image_size=image_size)
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    torch.manual_seed(0)
    config = GADMSConfig(
        text_config={"vocab_size": len(tokenizer), **tokens, **sizes},
        vision_config={"image_size": image_size, "patch_size": 16, **sizes},
        mask_token_id=tokenizer.mask_token_id,
        score_layers=1,
    )
    GADMSModel(config).save_pretrained(folder)
    processor.save_pretrained(folder)


def measure(source: Path, folder: Path, persons: Persons, *, ranked: bool, repetitions: dict[int, int]) -> dict:
    """Export a model, then compare the runtimes.

    Args:
        source (`Path`): the model.
        folder (`Path`): destination of the export.
        persons ([`Persons`]): images and captions to encode.
        ranked (`bool`): whether to measure retrieval, which needs trained weights.
        repetitions (`dict[int, int]`): repetitions by batch size.
    """
    report = export_onnx(source, folder, int8=True)
    models: dict[str, Any] = {}
    for runtime in RUNTIMES:
        models[runtime], processor = load_model_and_processor(
            source if runtime == "torch" else folder, runtime=runtime
        )
    models["torch"] = models["torch"].cpu().float()
    embeds = {
        runtime: (
            encode_images(model, processor, persons.images, progress=False),
            encode_captions(model, processor, persons.captions, progress=False),
        )
        for runtime, model in models.items()
    }
    result: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in models["torch"].parameters()),
        "opset": report.opset,
        "megabytes": {file.name: round(file.size / 1e6, 2) for file in report.files},
        "compared": {"images": len(persons.images), "captions": len(persons.captions)},
        "agreement": {
            runtime: {
                kind: {
                    "largest_difference": float((ours - theirs).abs().max()),
                    "mean_cosine": float((ours * theirs).sum(-1).mean()),
                    "least_cosine": float((ours * theirs).sum(-1).min()),
                }
                for kind, ours, theirs in zip(("images", "captions"), embeds[runtime], embeds["torch"], strict=True)
            }
            for runtime in RUNTIMES[1:]
        },
    }
    if ranked:
        result["text_to_image"] = {
            runtime: rank_metrics(captions, images, persons.caption_ids, persons.image_ids).to_dict()
            for runtime, (images, captions) in embeds.items()
        }
    result["speed"] = {
        f"{kind} {batch}": speed(calls_of(kind, batch, models, processor, persons), repetitions[batch])
        for kind in ("captions", "images")
        for batch in BATCHES
    }
    return result


def calls_of(
    kind: str, batch: int, models: dict[str, Any], processor: GADMSProcessor, persons: Persons
) -> dict[str, Callable[[], Any]]:
    """By runtime, a function that encodes a preprocessed batch."""
    if kind == "images":
        pixels = processor(images=persons.images[:batch])["pixel_values"]
        return {runtime: lambda model=model: model.get_image_features(pixels) for runtime, model in models.items()}
    tokens = processor(text=persons.captions[:batch])
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    return {runtime: lambda model=model: model.get_text_features(ids, mask) for runtime, model in models.items()}


def speed(calls: dict[str, Callable[[], Any]], repetitions: int) -> dict[str, dict[str, float]]:
    """Milliseconds of PyTorch's call, and how many times as fast the others are, all in turn in each repetition."""
    with torch.inference_mode():
        seconds = in_turn(calls, repetitions)
    return speed_summary(seconds)


def speed_summary(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Spreads from the seconds of each runtime.

    >>> speed_summary({"torch": [0.2], "onnx": [0.1]})["onnx"]["median"]
    2.0
    """
    own = seconds["torch"]
    return {"torch_ms": spread([1000 * value for value in own])} | {
        runtime: ratio(own, over=values) for runtime, values in seconds.items() if runtime != "torch"
    }


def report(results: dict[str, Any]) -> str:
    """The section of RESULTS.md."""
    parts = [
        "## ONNX and int8",
        f"Claim: exports give the same results faster. Both encoders of each model, exported by `gadms export "
        f"--format onnx --int8` (opset {results['models'][0]['opset']}) and run by onnxruntime, beside PyTorch in "
        f"float32; {THREADS} threads for each. Differences and cosines compare embeddings of unit length with "
        f"PyTorch's.",
        _agreement(results["models"]),
    ]
    parts += [_accuracy(model) for model in results["models"] if "text_to_image" in model]
    parts += [
        "Times of the encoders alone, without decoding and tokenising: medians (minimum to maximum), all runtimes in "
        "turn within each repetition; ratios within a repetition, above 1 where the export is faster.",
        _speeds(results["models"]),
        "What falls short: ViT-B/16 has random weights here. Its speeds and sizes are real, but its cosines in int8 "
        "are not those of trained weights, whose rare large values are harder to quantise. `gadms export` prints the "
        "cosine of the exported model.",
        provenance(results),
    ]
    return "\n\n".join(parts)


def _agreement(models: list[dict[str, Any]]) -> str:
    rows = []
    for model in models:
        for runtime, kinds in model["agreement"].items():
            suffix = "_int8.onnx" if runtime == "onnx-int8" else "_encoder.onnx"
            for kind, values in kinds.items():
                encoder = "image" if kind == "images" else "text"
                files = model["megabytes"].items()
                size = sum(size for name, size in files if name.startswith(encoder) and suffix in name)
                cosines = f"{values['mean_cosine']:.4f} ({values['least_cosine']:.4f})"
                of = f"{model['compared'][kind]:,} {kind}"
                rows.append(
                    [model["name"], NAMES[runtime], of, f"{values['largest_difference']:.1e}", cosines, f"{size:,.1f}"]
                )
    return table(["model", "runtime", "of", "largest difference", "mean cosine (least)", "encoder, MB"], rows)


def _accuracy(model: dict[str, Any]) -> str:
    metrics = model["text_to_image"]
    rows = []
    for runtime, values in metrics.items():
        change = values["r1"] - metrics["torch"]["r1"]
        numbers = [f"{values[name]:.2f}" for name in ("r1", "r5", "r10", "map")]
        rows.append([NAMES[runtime], *numbers, f"{change:+.2f}" if runtime != "torch" else ""])
    counts = model["compared"]
    return f"{model['name']}, {counts['captions']:,} captions to {counts['images']:,} images, in percent:\n\n" + table(
        ["runtime", "R@1", "R@5", "R@10", "mAP", "R@1 less PyTorch's"], rows
    )


def _speeds(models: list[dict[str, Any]]) -> str:
    rows = []
    for model in models:
        for what, measured in model["speed"].items():
            kind, batch = what.split()
            ratios = [spread_text(measured[runtime], 2) for runtime in RUNTIMES[1:]]
            rows.append([model["name"], kind, batch, spread_text(measured["torch_ms"]), *ratios])
    return table(["model", "of", "batch", "PyTorch, ms", "ONNX float32", "ONNX int8"], rows)


def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(THREADS)
    persons = read_persons(arguments.dataset, dict(arguments.dataset_args), arguments.split)
    few = Persons(persons.images[:32], persons.image_ids[:32], persons.captions[:64], persons.caption_ids[:64])
    models = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_model(folder / "large", persons.captions, quick=arguments.quick)
        for name, source, seen, repetitions in (
            ("the demo's", arguments.model, persons, {1: 50, 32: 30}),
            ("ViT-B/16", folder / "large", few, {1: 15, 32: 5}),
        ):
            repetitions = dict.fromkeys(repetitions, 2) if arguments.quick else repetitions
            exported = folder / f"onnx-{len(models)}"
            measured = measure(source, exported, seen, ranked=seen is persons, repetitions=repetitions)
            models.append({"name": name, **measured})
            print(f"{name}: measured", flush=True)
    results = {
        "command": command_of("exports", *["--quick"] * arguments.quick),
        "machine": machine("onnxruntime"),
        "dataset": {"name": arguments.dataset, "arguments": dict(arguments.dataset_args), "split": arguments.split},
        "models": models,
    }
    save("exports", results, report, arguments.output)


def key_value(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not (key and separator):
        raise argparse.ArgumentTypeError(f"{text!r} must read key=value")
    return key, yaml.safe_load(value)


if __name__ == "__main__":
    datasets.disable_progress_bars()
    options = parser(__doc__, quick="a small model instead of ViT-B/16, and two repetitions")
    option = options.add_argument
    option(
        "--model", type=Path, default=ROOT / "runs" / "demo" / "model", help="a trained model (default: the demo's)"
    )
    option("--dataset", default="synthetic_persons", help="as of examples/evaluate.py (default: synthetic_persons)")
    option(
        "--dataset-args",
        type=key_value,
        nargs="*",
        default=[("image_size", [96, 32]), ("num_proc", 2)],
        metavar="KEY=VALUE",
        help="default: those of the demo",
    )
    option("--split", default="test", help="default: test")
    main(options.parse_args())
