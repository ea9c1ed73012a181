"""Timed training steps; `run.py` starts them in a process of their own.

    python -m benchmarks.adapters.worker <sizes: demo, vit-b-16> <way: frozen, lora, dora, full> <steps>

Prints one line of JSON: seconds of each step after the first, peak resident memory before the model was made and at
the end, and the number of trained parameters. Weights, images and captions are random: neither time nor memory depends
on them. A step consists of scores, masks, losses and optimizer, without data loading.
"""

import argparse
import json
import time
from typing import Any

import torch
import yaml

from benchmarks.measuring import ROOT
from modeling_gadms.configuration_gadms import GADMSConfig
from modeling_gadms.losses_gadms import similarity_distribution_matching_loss
from modeling_gadms.modeling_gadms import GADMSForPreTraining
from modeling_gadms.training.adapters import AdapterArguments, add_adapter
from modeling_gadms.training.footprint import Footprint


BATCH = {"demo": 64, "vit-b-16": 8}
CAPTION_LENGTH = {"demo": 40, "vit-b-16": 77}
PERSONS = {"demo": 300, "vit-b-16": 11_003}
"""In the drawn training split, and in that of CUHK-PEDES."""


def make_config(size: str) -> GADMSConfig:
    """The model of the drawn pre-training, or the paper's."""
    if size == "vit-b-16":
        return GADMSConfig(num_identities=PERSONS[size])
    path = ROOT / "examples" / "configs" / "reproduce_synthetic.yaml"
    fields: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]
    vocab_size = fields.pop("vocab_size") + 1
    # Special tokens of a small vocabulary: the last ones, as CLIP's are.
    tokens = {"vocab_size": vocab_size, "bos_token_id": 1, "eos_token_id": vocab_size - 2, "pad_token_id": 0}
    fields["text_config"] |= tokens | {"max_position_embeddings": 77}
    return GADMSConfig(**fields, mask_token_id=vocab_size - 1, num_identities=PERSONS[size])


def make_model(size: str, way: str, rank: int) -> torch.nn.Module:
    """A model that trains all weights, an adapter and the new modules, or only the new modules."""
    torch.manual_seed(0)
    model = GADMSForPreTraining(make_config(size)).train()
    if way in ("lora", "dora"):
        wrapped: torch.nn.Module = add_adapter(
            model, AdapterArguments(method=way, rank=rank), "nobody/random-weights"
        ).train()
        return wrapped
    model.gadms.requires_grad_(way == "full")
    return model


def make_batch(rows: int, length: int, config: GADMSConfig) -> dict[str, torch.Tensor]:
    """Random images, and random captions of one length."""
    generator = torch.Generator().manual_seed(0)
    shape = (rows, length)
    eos = config.text_config.eos_token_id
    input_ids = torch.randint(3, eos - 1, shape, generator=generator)
    input_ids[:, 0], input_ids[:, -1] = config.text_config.bos_token_id, eos
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones(shape, dtype=torch.long),
        "pixel_values": torch.randn(rows, 3, *config.image_size, generator=generator),
        "person_ids": torch.arange(rows),
    }


def main(arguments: argparse.Namespace) -> None:
    libraries = Footprint.of(torch.nn.Identity()).peak_memory_bytes
    model = make_model(arguments.size, arguments.way, arguments.rank)
    config = model.config
    batch = make_batch(arguments.batch or BATCH[arguments.size], CAPTION_LENGTH[arguments.size], config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    seconds = []
    for _ in range(arguments.steps + 1):
        start = time.perf_counter()
        outputs = model(**batch)
        loss = similarity_distribution_matching_loss(
            outputs.image_embeds, outputs.text_embeds, batch["person_ids"], temperature=outputs.temperature
        )
        loss = loss + config.mtp_weight * outputs.mtp_loss + config.identity_weight * outputs.identity_loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    footprint = Footprint.of(model)
    result = {
        # The first step also allocates memory and the state of the optimizer.
        "seconds": seconds[1:],
        "peak_bytes": footprint.peak_memory_bytes,
        "libraries_bytes": libraries,
        "trained_parameters": footprint.trained_parameters,
        "parameters": footprint.parameters,
        "batch": len(batch["input_ids"]),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=sorted(BATCH))
    parser.add_argument("way", choices=["frozen", "lora", "dora", "full"])
    parser.add_argument("steps", type=int)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--batch", type=int, help="pairs in a step (default: 64, with ViT-B/16 8)")
    main(parser.parse_args())
