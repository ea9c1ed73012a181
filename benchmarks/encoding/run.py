"""Our encoders against transformers' CLIPModel of the same size, and an index run against the encoder alone.

    python -m benchmarks.encoding.run            # 5 minutes on two cores
    python -m benchmarks.encoding.run --quick    # small models, half a minute

Encoders: ViT-B/16 with random weights, on square images of 224x224, which CLIP requires, and on captions of 20 to 50
tokens; both models have the same weights and get the same batches. Captions from text to embedding: ours, which sorts
captions by length and packs them, beside CLIP with batches in the given order, padded to their longest caption or to
77 tokens.

Overlap: a folder of JPEG files of persons is decoded, resized and encoded: one after the other, by `encode_images`,
and by `gadms index` into a gallery, each against the encoder alone on preprocessed pixels; with ViT-B/16 at 384x128
and with the model of the demo at 96x32. Calls run in turn; ratios are within a repetition. Writes
results/encoding.json and a section of RESULTS.md.
"""

import argparse
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerBase

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
from modeling_gadms import GADMSConfig, GADMSModel, GADMSProcessor
from modeling_gadms.encoders.encoding import encode_captions, encode_images
from modeling_gadms.gallery.person_gallery import PersonGallery
from modeling_gadms.indexing.indexer import index_frames
from modeling_gadms.media.folders import list_images
from modeling_gadms.media.images import load_image, to_jpeg
from modeling_gadms.media.video import FrameReader
from modeling_gadms.training.tokenizer import train_tokenizer


SEED = 0
MAX_TOKENS = 77
CLIP_TOKENS = 49_409
"""CLIP's vocabulary and the mask token."""
TARGETS = {"clip": 1.0, "index": 0.9}
DEMO = yaml.safe_load((ROOT / "examples" / "configs" / "demo.yaml").read_text(encoding="utf-8"))["model"]
WAYS = {"sequence": "one after the other", "ahead": "`encode_images`", "index": "`gadms index`"}
PADDED = {
    "ours": "ours, similar lengths together and packed",
    "longest": "CLIP, padded to the longest",
    "77": "CLIP, padded to 77",
}
Results = dict[str, Any]


@dataclass(frozen=True)
class IndexSizes:
    """An index run: the model's name and sizes, (height, width) of its images, how many, the batch, and the encoder's
    threads."""

    name: str
    image_size: tuple[int, int]
    images: int
    batch: int
    repetitions: int
    threads: int
    text: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)
    projection_dim: int = 512


@dataclass(frozen=True)
class Sizes:
    """The comparison with CLIP: the encoders (ViT-B/16 by default), side of the images, batches, repetitions."""

    encoder: dict[str, Any]
    side: int
    images: int
    captions: int
    texts: int
    repetitions: int
    text_repetitions: int
    index: tuple[IndexSizes, ...]
    threads: int


SMALL = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
DEMO_INDEX = IndexSizes(
    "the demo's model",
    tuple(DEMO["vision_config"]["image_size"]),
    images=256,
    batch=64,
    repetitions=5,
    threads=2,
    text=DEMO["text_config"],
    vision={name: value for name, value in DEMO["vision_config"].items() if name != "image_size"},
    projection_dim=DEMO["projection_dim"],
)
FULL = Sizes(
    encoder={},
    side=224,
    images=4,
    captions=16,
    texts=32,
    repetitions=21,
    text_repetitions=3,
    index=(
        IndexSizes("ViT-B/16", (384, 128), images=16, batch=4, repetitions=3, threads=2),
        DEMO_INDEX,
        replace(DEMO_INDEX, threads=1),  # leaves a core to the thread that reads
    ),
    threads=2,
)
QUICK = Sizes(
    encoder=SMALL,
    side=64,
    images=16,
    captions=16,
    texts=32,
    repetitions=61,
    text_repetitions=3,
    index=(
        IndexSizes("a small model", (96, 32), images=64, batch=16, repetitions=7, threads=1, text=SMALL, vision=SMALL),
    ),
    threads=1,  # two would wait for each other wherever the machine is busy, longer than so small a model takes
)


def make_captions(count: int) -> list[str]:
    """Sentences of 18 to 48 words, which are as many tokens, and two at the ends."""
    draw = random.Random(SEED)
    words = (
        "a man woman person in with the red blue black white coat jeans bag shoes hat and holding long dark".split()
    )
    return [" ".join(draw.choices(words, k=draw.randint(18, 48))) for _ in range(count)]


def make_config(
    tokenizer: PreTrainedTokenizerBase,
    image_size: tuple[int, int],
    text: dict[str, Any],
    vision: dict[str, Any],
    projection_dim: int = 512,
) -> GADMSConfig:
    """Sizes of CLIP ViT-B/16 but for those given, and as many tokens, of which the tokenizer uses the first."""
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return GADMSConfig(
        text_config={"vocab_size": CLIP_TOKENS, **tokens, **text},
        vision_config={"patch_size": 16, **vision, "image_size": image_size},
        projection_dim=projection_dim,
        mask_token_id=tokenizer.mask_token_id,
        score_layers=1,
    )


def make_twins(tokenizer: PreTrainedTokenizerBase, sizes: Sizes) -> tuple[GADMSModel, CLIPModel]:
    """Our model and CLIP's of the same sizes, with the same random weights."""
    config = make_config(tokenizer, (sizes.side, sizes.side), sizes.encoder, sizes.encoder)
    torch.manual_seed(SEED)
    ours = GADMSModel(config).eval()
    vision = {**config.vision_config.to_dict(), "image_size": sizes.side}
    clip_config = CLIPConfig(
        text_config=config.text_config.to_dict(), vision_config=vision, projection_dim=config.projection_dim
    )
    clip = CLIPModel(clip_config).eval()
    clip.load_state_dict(ours.state_dict())
    return ours, clip


def compare_with_clip(tokenizer: PreTrainedTokenizerBase, captions: list[str], sizes: Sizes) -> Results:
    """Both models on the same batches, and captions from text to embedding."""
    ours, clip = make_twins(tokenizer, sizes)
    pixels = torch.randn(sizes.images, 3, sizes.side, sizes.side, generator=torch.Generator().manual_seed(SEED))
    processor = GADMSProcessor.from_tokenizer(tokenizer, image_size=(sizes.side, sizes.side))
    tokens = processor(text=captions[: sizes.captions])
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    kinds: dict[str, dict[str, Callable[[], torch.Tensor]]] = {
        "images": {
            "ours": lambda: ours.get_image_features(pixel_values=pixels)["pooler_output"],
            "clip": lambda: clip.get_image_features(pixel_values=pixels)["pooler_output"],
        },
        "captions": {
            "ours": lambda: ours.get_text_features(input_ids=ids, attention_mask=mask)["pooler_output"],
            "clip": lambda: clip.get_text_features(input_ids=ids, attention_mask=mask)["pooler_output"],
        },
    }
    results: Results = {
        "image_size": [sizes.side, sizes.side],
        "batch": {"images": sizes.images, "captions": sizes.captions},
        "tokens": {"least": int(mask.sum(1).min()), "most": int(mask.sum(1).max())},
        "largest_difference": {},
        "seconds": {},
    }
    with torch.inference_mode():
        for kind, calls in kinds.items():
            results["largest_difference"][kind] = float((calls["ours"]() - calls["clip"]()).abs().max())
            results["seconds"][kind] = in_turn(calls, sizes.repetitions)

    def clip_from_text(padding: str | bool) -> torch.Tensor:
        embeds = []
        for start in range(0, sizes.texts, sizes.captions // 2):
            batch = captions[start : start + sizes.captions // 2]
            inputs = processor(text=batch, padding=padding, text_kwargs={"max_length": MAX_TOKENS})
            embeds.append(clip.get_text_features(**inputs)["pooler_output"])
        return torch.nn.functional.normalize(torch.cat(embeds), dim=-1)

    texts: dict[str, Callable[[], torch.Tensor]] = {
        "ours": lambda: encode_captions(
            ours, processor, captions[: sizes.texts], batch_size=sizes.captions // 2, progress=False
        ),
        "longest": lambda: clip_from_text(True),
        "77": lambda: clip_from_text("max_length"),
    }
    with torch.inference_mode():
        embeds = texts["ours"]()
        results["largest_difference"]["from text"] = float((embeds - texts["longest"]()).abs().max())
        results["seconds"]["from text"] = in_turn(texts, sizes.text_repetitions, warm_ups=0)
    results["texts"] = {"captions": sizes.texts, "batch": sizes.captions // 2}
    return results


def draw_persons(folder: Path, count: int) -> None:
    """JPEG files of the sizes of cut-out persons: 200 to 480 pixels high, and 2 to 3 times as high as wide."""
    generator = np.random.default_rng(SEED)
    folder.mkdir()
    for number in range(count):
        height = int(generator.integers(200, 480))
        width = int(height / generator.uniform(2, 3))
        coarse = generator.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        (folder / f"{number:04d}.jpg").write_bytes(to_jpeg(picture, 90))


def compare_index_run(tokenizer: PreTrainedTokenizerBase, sizes: IndexSizes, place: Path) -> Results:
    """The encoder alone, and with what comes before and after it."""
    torch.set_num_threads(sizes.threads)
    draw_persons(place / "persons", sizes.images)
    torch.manual_seed(SEED)
    config = make_config(tokenizer, sizes.image_size, sizes.text, sizes.vision, sizes.projection_dim)
    model = GADMSModel(config).eval()
    processor = GADMSProcessor.from_tokenizer(tokenizer, image_size=sizes.image_size)
    # Whom a gallery has it does not embed again.
    empty = iter(
        [PersonGallery.create(place / f"gallery-{run}", model, processor) for run in range(sizes.repetitions)]
    )
    files, _ = list_images(place / "persons")
    batches = [files[start : start + sizes.batch] for start in range(0, len(files), sizes.batch)]

    def read(batch: list[Path]) -> torch.Tensor:
        pixels: torch.Tensor = processor(images=[load_image(file) for file in batch])["pixel_values"]
        return pixels

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return torch.nn.functional.normalize(model.get_image_features(pixels)["pooler_output"], dim=-1)

    def encode_ahead() -> torch.Tensor:
        return encode_images(model, processor, map(load_image, files), batch_size=sizes.batch, progress=False)

    def index() -> None:
        report = index_frames(next(empty), FrameReader(place / "persons"), batch_size=sizes.batch, progress=False)
        if report.persons != sizes.images:
            raise RuntimeError(f"{report.persons} of {sizes.images} images were indexed")

    ready = [read(batch) for batch in batches]
    alone = torch.cat([encode(pixels) for pixels in ready])
    calls: dict[str, Callable[[], Any]] = {
        "alone": lambda: [encode(pixels) for pixels in ready],
        "read": lambda: [read(batch) for batch in batches],
        "sequence": lambda: [encode(read(batch)) for batch in batches],
        "ahead": encode_ahead,
        "index": index,
    }
    return {
        "name": sizes.name,
        "image_size": list(sizes.image_size),
        "images": sizes.images,
        "batch": sizes.batch,
        "threads": sizes.threads,
        "largest_difference": float((alone - encode_ahead()).abs().max()),
        "seconds": in_turn(calls, sizes.repetitions, warm_ups=0),
    }


def throughput_ratio(seconds: dict[str, list[float]], name: str, over: str) -> dict[str, float]:
    """How many times as many items a second `name` does as `over`.

    >>> throughput_ratio({"ours": [1.0], "clip": [2.0]}, "ours", "clip")["median"]
    2.0
    """
    return ratio(seconds[over], over=seconds[name])


def report(results: Results) -> str:
    """The section of RESULTS.md."""
    clip, targets = results["clip"], []
    rows = []
    for kind in ("images", "captions"):
        seconds, batch = clip["seconds"][kind], clip["batch"][kind]
        rates = {name: spread([batch / second for second in values]) for name, values in seconds.items()}
        ratios = throughput_ratio(seconds, "ours", "clip")
        targets.append(
            f"{'met' if ratios['median'] >= TARGETS['clip'] else 'MISSED'}: {kind} at least {TARGETS['clip']:.1f} "
            f"times CLIP's ({ratios['median']:.3f})"
        )
        difference = f"{clip['largest_difference'][kind]:.0e}"
        rows.append(
            [
                kind,
                str(batch),
                spread_text(rates["ours"]),
                spread_text(rates["clip"]),
                spread_text(ratios, 3),
                difference,
            ]
        )
    texts = clip["seconds"]["from text"]
    count = clip["texts"]["captions"]
    text_rows = [
        [
            name,
            spread_text(spread([count / second for second in texts[way]])),
            spread_text(throughput_ratio(texts, way, "longest"), 2),
        ]
        for way, name in PADDED.items()
    ]
    index_rows = []
    for run in results["index"]:
        rate = spread([run["images"] / second for second in run["seconds"]["alone"]])
        height, width = run["image_size"]
        index_rows.append(
            [
                f"{run['name']}, {height}x{width}, batches of {run['batch']}, threads: {run['threads']}",
                spread_text(rate),
                spread_text(spread([1000 * second / run["images"] for second in run["seconds"]["read"]])),
                *(spread_text(throughput_ratio(run["seconds"], way, "alone"), 2) for way in WAYS),
            ]
        )
        share = throughput_ratio(run["seconds"], "index", "alone")["median"]
        targets.append(
            f"{'met' if share >= TARGETS['index'] else 'MISSED'}: an index run at least {TARGETS['index']} of the "
            f"encoder alone, {run['name']}, threads: {run['threads']} ({share:.2f})"
        )
    tokens, side = clip["tokens"], clip["image_size"][0]
    return "\n\n".join(
        [
            "## Encoding",
            "Claim: our encoders are as fast as transformers' CLIPModel of the same sizes and weights. Both get the "
            f"same batches: images of {side}x{side}, captions of {tokens['least']} to {tokens['most']} tokens, "
            f"padded to the longest. {results['threads']} threads, float32; items a second, medians (minimum to "
            f"maximum) of {len(clip['seconds']['images']['ours'])} repetitions in turn; ratios within a repetition.",
            table(["", "batch", "ours", "CLIP", "ratio", "largest difference"], rows),
            "Both use the layers of transformers, so parity is the most that is possible on the same batch. One thing "
            "differs: ours normalises and projects all tokens, because the fusion encoder reads them, and CLIP "
            "projects one (0.5 % of the FLOP of ViT-B/16). Nothing is padded to 77 tokens and no positions are "
            "resized in either model.",
            f"Captions from text to embedding, {count} in batches of {clip['texts']['batch']}, a second:",
            table(["", "captions", "over CLIP, padded to the longest"], text_rows),
            "Overlap: JPEG files of persons are decoded, resized and encoded; throughput relative to the encoder "
            "alone on preprocessed pixels.",
            table(["", "encoder alone, a second", "read and resize, ms an image", *WAYS.values()], index_rows),
            f"Targets: {'; '.join(targets)}.",
            "`encode_images` reads ahead in a thread while the encoder computes. If the encoder uses all cores, this "
            "gains nothing; with a free core it is faster than one after the other. With a large model, reading is a "
            "hundredth of the time. What falls short: with a small model, reading and resizing take as long as "
            "encoding, and the index run also makes a thumbnail of each person, so that on two cores no order of the "
            "work reaches the encoder alone. Nothing was measured on a GPU.",
            provenance(results),
        ]
    )


def main(arguments: argparse.Namespace) -> None:
    sizes = QUICK if arguments.quick else FULL
    torch.set_num_threads(sizes.threads)
    captions = make_captions(max(sizes.captions, sizes.texts))
    tokenizer = train_tokenizer(captions, vocab_size=1024, max_length=MAX_TOKENS)
    GADMSProcessor.from_tokenizer(tokenizer, image_size=(sizes.side, sizes.side))  # the tokenizer gains its mask token
    clip = compare_with_clip(tokenizer, captions, sizes)
    print("beside CLIP: measured", flush=True)
    index = []
    for index_sizes in sizes.index:
        with tempfile.TemporaryDirectory() as place:
            index.append(compare_index_run(tokenizer, index_sizes, Path(place)))
        print(f"{index_sizes.name}: measured", flush=True)
    ratio_to_clip = {
        kind: throughput_ratio(clip["seconds"][kind], "ours", "clip")["median"] for kind in ("images", "captions")
    }
    guarded = {f"{kind}_to_clip": value for kind, value in ratio_to_clip.items()}
    # Over reading alone, not over the encoder: where the model is small, the rest is most of the run.
    guarded["index_to_reading"] = throughput_ratio(index[-1]["seconds"], "index", "read")["median"]
    results = {
        "command": command_of("encoding", *["--quick"] * arguments.quick),
        "machine": machine("transformers", "pillow"),
        "seed": SEED,
        "threads": sizes.threads,
        "ratio_to_clip": ratio_to_clip,
        "index_to_encoder": {
            f"{run['name']}, threads: {run['threads']}": throughput_ratio(run["seconds"], "index", "alone")["median"]
            for run in index
        },
        "guarded": {name: {"value": value, "better": "higher"} for name, value in guarded.items()},
        "clip": clip,
        "index": index,
    }
    save("encoding", results, report, arguments.output)


if __name__ == "__main__":
    main(parser(__doc__, quick="small models").parse_args())
