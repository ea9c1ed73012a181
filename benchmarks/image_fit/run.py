"""Image fit: how the crop of a person, three times as high as wide, is best brought to a model's square input.

    python -m benchmarks.image_fit.run            # 8 minutes on one core; --quick takes seconds and measures nothing

No pretrained model is involved. Two small dual encoders with a square input (CLIP's architecture, random weights) are
trained on photographs as the web has them: nearly square, a drawn person somewhere in each, at half to all of its
height, in natural proportions. One sees the photographs squashed, as SigLIP was trained; the other sees square crops,
as CLIP was. Both then rank the crops of other drawn persons (height three times width, no surroundings) by their
captions, with each fit of `modeling_gadms.encoders`: squash, pad and crop; at the drawn size and enlarged four times.
Writes results/image_fit.json and a section of RESULTS.md.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from benchmarks.measuring import command_of, machine, parser, provenance, save, table
from dataset_scripts.synthetic_persons import PersonSampler
from modeling_gadms.encoders.encoding import encode_captions, encode_images
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.metrics.person_retrieval.ranking import rank_metrics
from modeling_gadms.training.muon import MuonAdamW, is_layer_matrix
from modeling_gadms.training.tokenizer import train_tokenizer


SIDE = 64
PERSON = (96, 32)
"""(height, width) of a drawn person, in pixels."""
FITS = ("squash", "pad", "crop")
TRAINED = {"squash": "squashed, as SigLIP", "crop": "square crops, as CLIP"}
ENLARGED = (1, 4)
MAX_LENGTH = 40


@dataclass(frozen=True)
class Sizes:
    """How much is drawn and trained."""

    persons: int = 3000
    tested: int = 400
    steps: int = 1000
    batch: int = 48
    width: int = 96
    layers: int = 3


SMALL = Sizes(persons=8, tested=4, steps=2, batch=4, width=16, layers=1)


@dataclass(frozen=True)
class Drawn:
    """Drawn persons with one caption each."""

    images: list[Image.Image]
    captions: list[str]


def draw(split: str, count: int, seed: int) -> Drawn:
    sampler = PersonSampler(seed, split)
    images = [sampler.draw(index, 0, PERSON)[0].convert("RGB") for index in range(count)]
    return Drawn(images, [sampler.captions(index, 0, noise=0.0)[0].text for index in range(count)])


def photograph(person: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A photograph of 3:4 to 4:3 with a soft background, and the person at a random place and size."""
    proportion = float(np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3))))
    height = round(person.height / rng.uniform(0.5, 1.0))
    width = max(person.width, round(height * proportion))
    colours = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    made = colours.resize((width, height), Image.Resampling.BICUBIC)
    made.paste(person, (int(rng.integers(width - person.width + 1)), int(rng.integers(height - person.height + 1))))
    return made


def square(image: Image.Image, trained: str, rng: np.random.Generator) -> Image.Image:
    """A photograph as the model sees it in training: squashed, or a random square crop of all of its shorter side."""
    if trained == "crop":
        side = min(image.size)
        left, top = int(rng.integers(image.width - side + 1)), int(rng.integers(image.height - side + 1))
        image = image.crop((left, top, left + side, top + side))
    return image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def train(drawn: Drawn, trained: str, sizes: Sizes, seed: int, folder: Path) -> float:
    """Train a model, save it with its processor, and return the last loss."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tokenizer = train_tokenizer(drawn.captions, vocab_size=1000, max_length=MAX_LENGTH)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    layers = {
        "hidden_size": sizes.width,
        "intermediate_size": 4 * sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": 4,
    }
    text = {**layers, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": MAX_LENGTH}
    vision = {**layers, "image_size": SIDE, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=sizes.width)).train()
    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    matrices = [parameter for name, parameter in model.named_parameters() if is_layer_matrix(name, parameter)]
    others = [parameter for name, parameter in model.named_parameters() if not is_layer_matrix(name, parameter)]
    # From random weights, Muon needs several times fewer steps than AdamW.
    groups = [{"params": others, "lr": 2e-3}, {"params": matrices, "lr": 0.02, "muon": True}]
    optimizer = MuonAdamW(groups, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in groups], total_steps=sizes.steps, pct_start=0.1, cycle_momentum=False
    )
    loss = torch.zeros(())
    for _ in range(sizes.steps):
        chosen = rng.choice(len(drawn.images), sizes.batch, replace=False)
        seen = [square(photograph(drawn.images[index], rng), trained, rng) for index in chosen]
        captions = [drawn.captions[index] for index in chosen]
        inputs = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
        pixels = images(seen, return_tensors="pt")["pixel_values"]
        logits = model(**inputs, pixel_values=pixels).logits_per_text
        target = torch.arange(len(chosen))
        loss = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images.save_pretrained(folder)
    return loss.item()


def measure(folder: Path, tested: Drawn) -> dict[str, Any]:
    """R@1 and mAP of each fit and enlargement."""
    people = list(range(len(tested.captions)))
    measured: dict[str, Any] = {}
    for fit in FITS:
        model, processor = load_model_and_processor(folder, image_fit=fit)
        queries = encode_captions(model, processor, tested.captions, progress=False)
        for factor in ENLARGED:
            size = (PERSON[1] * factor, PERSON[0] * factor)
            enlarged = [image.resize(size, Image.Resampling.BICUBIC) for image in tested.images]
            gallery = encode_images(model, processor, enlarged, progress=False)
            metrics = rank_metrics(queries, gallery, people, people, ks=(1, 10)).to_dict()
            measured[f"{fit} x{factor}"] = {name: metrics[name] for name in ("r1", "r10", "map")}
    return measured


def report(results: dict[str, Any]) -> str:
    """The section of RESULTS.md."""
    rows = []
    for trained, measured in results["trained"].items():
        for fit in FITS:
            cells = [measured[f"{fit} x{factor}"] for factor in ENLARGED]
            rows.append([TRAINED[trained], fit, *(f"{cell['map']:.1f} ({cell['r1']:.1f})" for cell in cells)])
    height, width = PERSON
    return "\n\n".join(
        [
            "## Image fit",
            "How the crop of a person is best brought to a square input. mAP in percent, in brackets R@1, of "
            f"{results['tested']:,} captions of drawn persons and as many crops of {width}x{height} pixels, as drawn "
            f"and enlarged four times. Two small CLIP models ({SIDE}x{SIDE} pixels) were trained for "
            f"{results['steps']:,} steps on {results['persons']:,} other drawn persons in nearly square photographs, "
            "one on squashed photographs and one on square crops of them.",
            table(["trained on", "fit", "mAP (R@1)", "enlarged"], rows),
            results["verdict"],
            "What falls short: these models are small and know nothing but drawn persons. No pretrained SigLIP or "
            "CLIP was measured; measure on your own photographs with `gadms index --image-fit`.",
            provenance(results),
        ]
    )


def verdict(trained: dict[str, Any]) -> str:
    """What the numbers say about the default."""
    best = {
        name: max(FITS, key=lambda fit: sum(measured[f"{fit} x{factor}"]["map"] for factor in ENLARGED))
        for name, measured in trained.items()
    }
    return "Highest mAP: " + "; ".join(f"{TRAINED[name]}: {fit}" for name, fit in best.items()) + "."


def main(arguments: argparse.Namespace) -> None:
    sizes = SMALL if arguments.quick else Sizes()
    torch.set_num_threads(1)
    started = time.process_time()
    drawn, tested = draw("train", sizes.persons, arguments.seed), draw("test", sizes.tested, arguments.seed)
    trained: dict[str, Any] = {}
    for name in TRAINED:
        with tempfile.TemporaryDirectory() as folder:
            loss = train(drawn, name, sizes, arguments.seed, Path(folder))
            trained[name] = {"loss": loss, **measure(Path(folder), tested)}
    results = {
        "command": command_of("image_fit", *["--quick"] * arguments.quick),
        "seed": arguments.seed,
        "machine": machine("transformers"),
        "persons": sizes.persons,
        "tested": sizes.tested,
        "steps": sizes.steps,
        "cpu_seconds": time.process_time() - started,
        "trained": trained,
        "verdict": verdict(trained),
    }
    save("image_fit", results, report, arguments.output)


if __name__ == "__main__":
    options = parser(__doc__, quick="few persons and steps")
    options.add_argument("--seed", type=int, default=0, help="seed of persons, photographs and weights (default: 0)")
    main(options.parse_args())
