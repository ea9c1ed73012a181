"""Throughput of training rows: our stream beside `datasets` and `webdataset`; augmentation by batch and by image.

    python -m benchmarks.streaming.run            # about 3 minutes on two cores
    python -m benchmarks.streaming.run --quick    # in small, for tests

The same drawn JPEG images of 384x128 pixels are stored in Parquet files and in tars. All loaders except one shuffle
with the same buffer, and all do the same work: images decoded to RGB, resized and normalised, captions tokenised.
Loaders run in turn within each repetition, with one and with two worker processes; timing starts after the first
batches, so the start of processes is excluded. Ratios are within a repetition. Then the augmentation of the training
recipe by kornia on whole batches and by Pillow image by image, in one thread. Writes results/streaming.json and a
section of RESULTS.md.
"""

import argparse
import io
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks.measuring import command_of, machine, parser, provenance, save, spread
from dataset_scripts.synthetic_persons import PersonSampler
from modeling_gadms.media.images import load_image, to_jpeg
from modeling_gadms.processing_gadms import GADMSProcessor
from modeling_gadms.training.data import DatasetColumns, PairCollator, PersonAugmentation
from modeling_gadms.training.streaming import ParquetRows, StreamedPairs
from modeling_gadms.training.tokenizer import train_tokenizer


SIZE = (384, 128)
BATCH, BUFFER, SHARDS = 32, 256, 4
SKIPPED = 4
"""Batches of each run before the timed ones: workers start and fill their buffers."""


def draw(folder: Path, rows: int) -> None:
    """Write the same rows as Parquet files and as tars."""
    sampler = PersonSampler(0, "train")
    features = datasets.Features({"image": datasets.Image(), "caption1": datasets.Value("string")})
    for shard in range(SHARDS):
        values = []
        with tarfile.open(folder / f"train-{shard}.tar", "w") as tar:
            for row in range(shard, rows, SHARDS):
                picture, quality = sampler.draw(row, 0, SIZE)
                content, caption = to_jpeg(picture, quality), sampler.captions(row, 0, noise=0.0)[0].text
                values.append({"image": {"bytes": content, "path": f"{row}.jpg"}, "caption1": caption})
                for suffix, data in (("jpg", content), ("txt", caption.encode())):
                    member = tarfile.TarInfo(f"{row:06d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        table = pa.Table.from_pylist(values, features.arrow_schema)
        pq.write_table(table, folder / f"train-{shard}.parquet", row_group_size=50)


def ours(folder: Path, workers: int, collate: PairCollator) -> Iterable[dict[str, torch.Tensor]]:
    files = sorted(map(str, folder.glob("*.parquet")))
    pairs = StreamedPairs(
        ParquetRows(files, DatasetColumns(captions=("caption1",)), progress=False), shuffle_buffer=BUFFER
    )
    return DataLoader(pairs.batches(BATCH, collate), batch_size=None, num_workers=workers)


def plain_datasets(
    folder: Path, workers: int, collate: PairCollator, *, shuffled: bool = False
) -> Iterable[dict[str, torch.Tensor]]:
    rows = datasets.load_dataset(
        "parquet", data_files=sorted(map(str, folder.glob("*.parquet"))), split="train", streaming=True,
        cache_dir=str(folder / "cache"),
    )  # fmt: skip
    if shuffled:
        rows = rows.shuffle(seed=0, buffer_size=BUFFER)
    return DataLoader(
        rows, batch_size=BATCH, num_workers=workers, collate_fn=partial(_collate_rows, collate), drop_last=True
    )


def web_dataset(folder: Path, workers: int, collate: PairCollator) -> Iterable[dict[str, torch.Tensor]]:
    files = sorted(map(str, folder.glob("*.tar")))
    rows = webdataset.WebDataset(files, shardshuffle=SHARDS, seed=0).shuffle(BUFFER)
    batches = rows.batched(BATCH, collation_fn=partial(_collate_members, collate), partial=False)
    return DataLoader(batches, batch_size=None, num_workers=workers)


def _pairs(images: Iterable[Image.Image], captions: Iterable[str]) -> list[Any]:
    return [
        {"image": image, "caption": caption, "person_id": number, "image_index": number}
        for number, (image, caption) in enumerate(zip(images, captions, strict=True))
    ]


def _collate_rows(collate: PairCollator, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return collate(_pairs([load_image(row["image"]) for row in rows], [row["caption1"] for row in rows]))


def _collate_members(collate: PairCollator, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return collate(_pairs([load_image(row["jpg"]) for row in rows], [row["txt"].decode() for row in rows]))


LOADERS: dict[str, Callable[[Path, int, PairCollator], Iterable[dict[str, torch.Tensor]]]] = {
    "ours": ours,
    "datasets, in order": plain_datasets,
    "datasets, shuffled": partial(plain_datasets, shuffled=True),
    "webdataset": web_dataset,
}


def rows_per_second(batches: Iterable[dict[str, torch.Tensor]]) -> float:
    """Rows a second after the first batches."""
    start, rows = 0.0, 0
    for number, batch in enumerate(batches):
        if number == SKIPPED:
            start = time.perf_counter()
        elif number > SKIPPED:
            rows += len(batch["pixel_values"])
    return rows / (time.perf_counter() - start)


def augment_by_image(images: list[Image.Image], rng: np.random.Generator, mean: tuple[int, ...]) -> list[Image.Image]:
    """Flip, pad by 10 and crop, erase: the recipe with Pillow, image by image."""
    width, height = SIZE[1], SIZE[0]
    done = []
    for image in images:
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        padded = Image.new("RGB", (width + 20, height + 20))
        padded.paste(image, (10, 10))
        left, top = (int(value) for value in rng.integers(0, 21, 2))
        image = padded.crop((left, top, left + width, top + height))
        if rng.random() < 0.5:
            area = width * height * rng.uniform(0.02, 0.4)
            ratio = np.exp(rng.uniform(np.log(0.3), np.log(3.3)))
            erased = (min(width, round((area / ratio) ** 0.5)), min(height, round((area * ratio) ** 0.5)))
            left, top = int(rng.integers(0, width - erased[0] + 1)), int(rng.integers(0, height - erased[1] + 1))
            image.paste(mean, (left, top, left + erased[0], top + erased[1]))
        done.append(image)
    return done


def augmentation_speeds(folder: Path, processor: GADMSProcessor, rows: int) -> dict[str, float]:
    """Images a second of each augmentation, with the conversion to normalised pixels that both need."""
    table = pq.read_table(sorted(folder.glob("*.parquet"))[0])
    images = [load_image(value["bytes"]) for value in table["image"].to_pylist()[:BATCH]]
    mean = tuple(round(255 * value) for value in processor.image_processor.image_mean)
    augmentation, rng = PersonAugmentation(processor), np.random.default_rng(0)

    def by_batch() -> None:
        augmentation(processor(images=images)["pixel_values"])

    def by_image() -> None:
        processor(images=augment_by_image(images, rng, mean))

    def neither() -> None:
        processor(images=images)

    speeds = {}
    for name, work in (("by batch, kornia", by_batch), ("by image, Pillow", by_image), ("none", neither)):
        work()
        repeats = max(1, rows // len(images))
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        speeds[name] = repeats * len(images) / (time.perf_counter() - start)
    return speeds


def report(results: dict[str, Any]) -> str:
    """The section of RESULTS.md."""
    lines = [
        "## Streaming of training rows",
        "",
        "Claim: shuffled rows arrive as fast as unshuffled ones of `datasets`. "
        f"{results['rows']:,} drawn images of 384x128 pixels (JPEG), batches of {BATCH}, shuffle buffer {BUFFER}, "
        f"{SHARDS} files: decoded, resized, normalised, captions tokenised. Medians of {results['repetitions']} "
        "repetitions (minimum to maximum), all loaders in turn in each; ratios within a repetition.",
        "",
        "| loader | workers | rows/s | over `datasets` in order |",
        "| :-- | --: | --: | --: |",
    ]
    for workers in ("1", "2"):
        speeds = results["rows_per_second"][workers]
        for name in LOADERS:
            ratio = spread([a / b for a, b in zip(speeds[name], speeds["datasets, in order"], strict=True)])
            lines.append(f"| {name} | {workers} | {_text(spread(speeds[name]), 0)} | {_text(ratio, 2)} |")
    lines += [
        "",
        "`datasets` 5.2 permutes its whole buffer, with the images, for every new row group; ours and webdataset move "
        "references.",
    ]
    lines += ["", "Augmentation, one thread of a CPU, with the conversion to normalised pixels:", ""]
    lines += ["| augmentation | images/s | over none |", "| :-- | --: | --: |"]
    by_way = results["augmentation"]
    for name, values in by_way.items():
        ratio = spread([a / b for a, b in zip(values, by_way["none"], strict=True)])
        lines.append(f"| {name} | {_text(spread(values), 0)} | {_text(ratio, 2)} |")
    lines += [
        "",
        "What falls short: webdataset is faster than ours, and on a CPU kornia's augmentation is three times as slow "
        "as Pillow's. It runs on whole batches, so on an accelerator it would cost the loader's processes nothing; "
        "that was not measured.",
        "",
        provenance(results),
    ]
    return "\n".join(lines)


def _text(values: dict[str, float], digits: int) -> str:
    return "{median:,.{d}f} ({min:,.{d}f} to {max:,.{d}f})".format(d=digits, **values)


def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    rows, repetitions = (400, 1) if arguments.quick else (2000, 3)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        draw(folder, rows)
        captions = [PersonSampler(0, "train").captions(row, 0, noise=0.0)[0].text for row in range(200)]
        tokenizer = train_tokenizer(captions, vocab_size=1024, max_length=77)
        processor = GADMSProcessor.from_tokenizer(tokenizer, image_size=SIZE)
        collate = PairCollator(processor)
        speeds: dict[str, dict[str, list[float]]] = {str(n): {name: [] for name in LOADERS} for n in (1, 2)}
        augmentation: dict[str, list[float]] = {}
        for repetition in range(repetitions):
            for workers in (1, 2):
                for name, loader in LOADERS.items():
                    speed = rows_per_second(loader(folder, workers, collate))
                    speeds[str(workers)][name].append(speed)
                    print(f"repetition {repetition}, {workers} workers, {name}: {speed:,.0f} rows/s", flush=True)
            for name, speed in augmentation_speeds(folder, processor, 64 if arguments.quick else 640).items():
                augmentation.setdefault(name, []).append(speed)
                print(f"repetition {repetition}, augmentation {name}: {speed:,.0f} images/s", flush=True)
    results = {
        "command": command_of("streaming", *["--quick"] * arguments.quick),
        "seed": 0,
        "machine": machine("datasets", "webdataset"),
        "rows": rows,
        "repetitions": repetitions,
        "rows_per_second": speeds,
        "augmentation": augmentation,
    }
    save("streaming", results, report, arguments.output)


if __name__ == "__main__":
    main(parser(__doc__, quick="few rows, one repetition").parse_args())
