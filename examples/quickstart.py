"""The whole package in one program: draw a data set, train, evaluate, index, search, explain, reload.

    make demo                                                  # installs everything first
    python examples/quickstart.py --output runs/demo

It runs offline on a CPU, on drawn persons and from random weights. Each step is a command, which is printed before it
runs and which you can type yourself. Expected time: 12 minutes on two cores.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import AutoModel, AutoProcessor

import modeling_gadms  # noqa: F401  registers the model with transformers
from dataset_scripts.loading import load_splits
from modeling_gadms.training.run_config import load_run_config


CONFIG = "examples/configs/demo.yaml"
QUERIES = (
    "a woman in a red coat carrying a black backpack",
    "a man wearing a yellow t-shirt and blue shorts",
    "a person in a green jacket and black trousers with a white bag",
)


def run(*command: str) -> None:
    """Print a command and run it in this Python's environment."""
    print(f"\n$ {shlex.join(command)}", flush=True)
    program = shutil.which(command[0], path=str(Path(sys.executable).parent)) or command[0]
    subprocess.run([program, *command[1:]], check=True)


def main(output: Path, overrides: list[str]) -> None:
    started = time.monotonic()
    model_folder, persons, gallery = str(output / "model"), output / "persons", str(output / "gallery")
    overrides = [f"training.output_dir={output}", *overrides]
    data = load_run_config(CONFIG, overrides).data

    # 1. Draw the data set. The later steps find it in the cache.
    print("Drawing persons and writing captions", flush=True)
    test_split = load_splits(data.dataset, **data.dataset_args)["test"]

    # 2. Train from random weights. By default accelerate uses one CPU thread.
    run("accelerate", "launch", "--num_processes", "1", "--num_cpu_threads_per_process", str(os.cpu_count()),
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
        "examples/train.py", "--config", CONFIG, *overrides)  # fmt: skip

    # 3. Evaluate on persons that are not in the training split.
    arguments = [f"{key}={json.dumps(value)}" for key, value in data.dataset_args.items()]
    run("python", "examples/evaluate.py", "--model", model_folder, "--dataset", data.dataset,
        "--dataset-args", *arguments, "--split", "test", "--short-queries",
        "--output", str(output / "metrics.json"))  # fmt: skip

    # 4. Write the same persons as image files, and index them in a gallery.
    shutil.rmtree(persons, ignore_errors=True)
    persons.mkdir(parents=True)
    for row in tqdm(test_split, desc="Writing images", unit="image"):
        row["image"].save(persons / f"{row['person_id']:06d}.png")
    run("gadms", "index", "--source", str(persons), "--gallery", gallery, "--model", model_folder, "--overwrite")

    # 5. Search for persons by text, and explain a match.
    for number, query in enumerate(QUERIES, start=1):
        figure = str(output / f"search-{number}.png")
        run("gadms", "search", query, "--gallery", gallery, "--top-k", "10", "--out", figure)
    first = test_split[0]
    image_file = str(persons / f"{first['person_id']:06d}.png")
    figure = str(output / "explain.png")
    run("gadms", "explain", image_file, first["caption1"], "--model", model_folder, "--out", figure)

    # 6. Load the checkpoint with transformers.
    model, processor = AutoModel.from_pretrained(model_folder).eval(), AutoProcessor.from_pretrained(model_folder)
    with torch.inference_mode():
        inputs = processor(text=[first["caption1"]], images=test_split[:5]["image"], return_tensors="pt")
        similarity = model(**inputs).logits_per_text[0] * model.temperature
    print(f"\nAutoModel.from_pretrained({model_folder!r}) -> {type(model).__name__}")
    own, *others = (round(float(value), 3) for value in similarity)
    print(f"cosine of {first['caption1']!r} with its own image: {own}; with four others: {others}")

    # 7. Print the results.
    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    print(f"\n{'':16}{'R@1':>8}{'R@5':>8}{'R@10':>8}{'mAP':>8}{'mINP':>8}   (percent)")
    for direction in ("text_to_image", "image_to_text"):
        values = (f"{metrics[direction][name]:8.2f}" for name in ("r1", "r5", "r10", "map", "minp"))
        print(f"{direction.replace('_', '-'):16}{''.join(values)}")
    for things, values in metrics["short_queries"].items():
        precision, hits = 100 * values["r_precision"], 100 * values["hit_at_10"]
        print(f"short queries of {things} thing(s): R-precision {precision:.0f} %, hit@10 {hits:.0f} %")
    print(
        f"{len(test_split):,} drawn persons that are not in the training split, one image and two clean captions each;"
    )
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters, from random weights, on a CPU.")
    print(f"Written: {output}/metrics.json, {output}/search-1.png to search-{len(QUERIES)}.png, {output}/explain.png")
    print(f"{(time.monotonic() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"))
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help=f"settings that override {CONFIG}")
    parsed = parser.parse_args()
    main(parsed.output, parsed.overrides)
