"""Processes of the serving benchmark: `make` builds a gallery, `serve` serves it, `load` is its users."""

import argparse
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import requests
import torch
import uvicorn
from PIL import Image

from modeling_gadms import GADMSConfig, GADMSModel, GADMSProcessor
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.gallery import person_gallery
from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord
from modeling_gadms.serving.app import create_app
from modeling_gadms.serving.limits import ServingLimits
from modeling_gadms.training.tokenizer import train_tokenizer


WORDS = (
    "a man woman person in with and red blue green black white grey coat jacket jeans trousers skirt hat bag backpack"
).split()
# The text encoder of ViT-B/16; a tiny image encoder, which no query runs.
TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
DIMENSION = 512


def make(folder: Path, rows: int) -> None:
    """A model with random weights, and a gallery of random vectors."""
    tokenizer = train_tokenizer([" ".join(WORDS)] * 3, vocab_size=560, max_length=77)
    processor = GADMSProcessor.from_tokenizer(tokenizer, image_size=(32, 16))
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    torch.manual_seed(0)
    config = GADMSConfig(
        text_config={"vocab_size": len(tokenizer), **tokens, **TEXT},
        vision_config={"image_size": (32, 16), "patch_size": 16, **VISION},
        projection_dim=DIMENSION,
        mask_token_id=tokenizer.mask_token_id,
        score_layers=1,
    )
    model = GADMSModel(config).eval()
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    model, processor = load_model_and_processor(folder / "model")
    generator = np.random.default_rng(0)

    def vectors(model: Any, processor: Any, images: Any, **_: Any) -> torch.Tensor:
        drawn = generator.standard_normal((sum(1 for _ in images), DIMENSION), dtype=np.float32)
        return torch.nn.functional.normalize(torch.from_numpy(drawn), dim=-1)

    image = Image.new("RGB", (8, 16))
    thumbnail = person_gallery._thumbnail(image)
    made = PersonGallery.create(folder / "gallery", model, processor)
    with patch.multiple(person_gallery, encode_images=vectors, _thumbnail=lambda _: thumbnail):
        made.add(PersonRecord(image, f"camera{row % 100}.mp4", row, camera=f"gate-{row % 100}") for row in range(rows))


def serve(folder: Path, max_batch: int) -> None:
    """Serve the gallery on a free port, which is printed on the first line."""
    model, processor = load_model_and_processor(folder / "model")
    opened = PersonGallery.open(folder / "gallery", model, processor)
    app = create_app(opened, processor, max_batch=max_batch, limits=ServingLimits(search_seconds=60))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))

    def tell() -> None:
        while not server.started:
            time.sleep(0.01)
        print(server.servers[0].sockets[0].getsockname()[1], flush=True)  # noqa: T201

    threading.Thread(target=tell, daemon=True).start()
    server.run()


def load(address: str, users: int, seconds: float) -> dict[str, Any]:
    """Users who search without a pause, a quarter of the searches with a filter."""
    latencies: list[float] = []
    answers: Counter[str] = Counter()
    end = time.monotonic() + seconds

    def user(number: int) -> None:
        words = random.Random(number)
        with requests.Session() as session:
            while time.monotonic() < end:
                body: dict[str, Any] = {"text": " ".join(words.choices(WORDS, k=words.randint(8, 30)))}
                if words.random() < 0.25:
                    body["where"] = f"camera = 'gate-{words.randrange(100)}'"
                start = time.perf_counter()
                try:
                    answer = session.post(f"{address}/search", json=body, timeout=120)
                    answers[str(answer.status_code) if len(answer.json()["results"]) == 10 else "short"] += 1
                except (requests.RequestException, KeyError) as error:
                    answers[type(error).__name__] += 1
                latencies.append(time.perf_counter() - start)

    threads = [threading.Thread(target=user, args=(number,)) for number in range(users)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - start
    p50, p95, p99 = (float(value) for value in np.percentile(latencies, [50, 95, 99]))
    metrics = dict(
        line.rsplit(" ", 1)
        for line in requests.get(f"{address}/metrics", timeout=60).text.splitlines()
        if line[0] != "#"
    )
    batches = float(metrics["gadms_query_batch_count"])
    return {
        "answers": dict(answers),
        "per_second": answers["200"] / elapsed,
        "p50_ms": 1000 * p50,
        "p95_ms": 1000 * p95,
        "p99_ms": 1000 * p99,
        "mean_batch": float(metrics["gadms_query_batch_sum"]) / batches,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["make", "serve", "load"])
    parser.add_argument("place", help="folder, or address")
    parser.add_argument("numbers", nargs="*")
    arguments = parser.parse_args()
    if arguments.what == "make":
        make(Path(arguments.place), int(arguments.numbers[0]))
        sys.stdout.write("{}\n")
    elif arguments.what == "serve":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        serve(Path(arguments.place), int(arguments.numbers[0]))
    else:
        users, seconds = int(arguments.numbers[0]), float(arguments.numbers[1])
        sys.stdout.write(json.dumps(load(arguments.place, users, seconds)) + "\n")
