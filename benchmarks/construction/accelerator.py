"""How long an accelerator waits for the images that the block `detect` prepares on the CPU.

    python -m benchmarks.construction.accelerator              # about a minute

The accelerator is simulated: a network that sleeps in proportion to its batch and finds nothing, behind the image
processor and the post-processing of RT-DETR at 640x640. It takes a quarter longer for an image than the cores that are
given to the block need to prepare one, which is measured first. One thread that prepares images is compared with none.
"""

import argparse
import io
import json
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measuring import machine
from dataset_scripts.construction.persons.batches import StoredImages
from dataset_scripts.construction.persons.detectors import DetectorSettings, build_detector


BATCH, SIZE, SLACK = 16, (960, 640), 1.25


def write_network(folder: Path) -> None:
    """A tiny RT-DETR with random weights, with the image processor of the real one."""
    from transformers import RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection

    backbone = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],  # type: ignore[call-arg]
    )
    config = RTDetrV2Config(
        backbone_config=backbone,
        encoder_in_channels=[8, 16, 16],
        encoder_hidden_dim=16,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        num_queries=300,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        num_denoising=0,
        id2label={0: "person"},
        label2id={"person": 0},
    )
    RTDetrV2ForObjectDetection(config).save_pretrained(folder)
    processor = {"image_processor_type": "RTDetrImageProcessor", "size": {"height": 640, "width": 640}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor | {"do_normalize": False, "do_pad": False}))


def draw_images(count: int, seed: int) -> list[bytes]:
    """JPEG files of smooth noise."""
    rng = np.random.default_rng(seed)
    files = []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        small.resize(SIZE, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


class Accelerator:
    """A network that sleeps for each image."""

    def __init__(self, seconds: float):
        self.seconds, self.busy, self.shapes = seconds, 0.0, []  # type: ignore[var-annotated]

    def __call__(self, pixel_values: Any, **_: Any) -> SimpleNamespace:
        import torch

        start = time.perf_counter()
        time.sleep(self.seconds * len(pixel_values))
        self.busy += time.perf_counter() - start
        self.shapes.append(tuple(pixel_values.shape))
        boxes = torch.full((len(pixel_values), 300, 4), 0.5)
        return SimpleNamespace(logits=torch.full((len(pixel_values), 300, 1), -5.0), pred_boxes=boxes)


def main(arguments: argparse.Namespace) -> None:
    """Measure, and print a line of JSON."""
    import torch

    torch.set_num_threads(1)  # as in a run
    files = draw_images(arguments.images, arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        write_network(Path(folder))
        detector = build_detector(DetectorSettings(model=folder, device="cpu"), BATCH, arguments.threads)
    network = detector._network  # type: ignore[union-attr]
    start = time.process_time()
    for number in range(0, arguments.images, BATCH):
        network.prepare(StoredImages(files[number : number + BATCH]))
    prepare = (time.process_time() - start) / arguments.images
    seconds = SLACK * prepare / arguments.threads

    shares = {}
    for name in ("in turn", "beside"):
        network.model = Accelerator(seconds)
        start = time.perf_counter()
        step = BATCH if name == "in turn" else arguments.images  # a call of one batch has nothing beside it
        for number in range(0, arguments.images, step):
            detector(StoredImages(files[number : number + step]))
        shares[name] = round(network.model.busy / (time.perf_counter() - start), 3)
    print(
        json.dumps(
            {
                "images": arguments.images,
                "threads": arguments.threads,
                "prepare_ms": round(1000 * prepare, 1),
                "accelerator_ms": round(1000 * seconds, 1),
                "busy": shares,
                "machine": machine("transformers", "pillow"),
            }
        )
    )


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--images", type=int, default=512, help="images (default: 512)")
    options.add_argument("--threads", type=int, default=1, help="threads that prepare images (default: 1)")
    options.add_argument("--seed", type=int, default=0, help="seed of the images (default: 0)")
    main(options.parse_args())
