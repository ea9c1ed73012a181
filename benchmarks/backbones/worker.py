"""A training step on one backbone; `run.py` starts it in a process of its own.

    python -m benchmarks.backbones.worker <backbone> [--tied]

Prints one line of JSON: seconds of the second step, peak resident memory and that of the libraries, and the numbers of
parameters. Weights, images and captions are random: neither time nor memory depends on them.
"""

import argparse
import json
import time

import torch
from transformers import CLIPTextConfig, MetaClip2TextConfig, SiglipTextConfig

from benchmarks.measuring import peak_memory_bytes
from modeling_gadms.configuration_gadms import GADMSConfig, encoder_configs, starts_with_bos
from modeling_gadms.modeling_gadms import GADMSForPreTraining


PAIRS, CAPTION_TOKENS = 4, 40
_SIGLIP_VISION = {"model_type": "siglip_vision_model"}
_SIGLIP_TEXT = {"model_type": SiglipTextConfig.model_type, "bos_token_id": None, "eos_token_id": 1}
BACKBONES = {
    "clip": {"text_config": {"model_type": CLIPTextConfig.model_type, "vocab_size": 49_409}},
    "siglip": {
        "text_config": _SIGLIP_TEXT | {"vocab_size": 32_001, "pad_token_id": 1},
        "vision_config": _SIGLIP_VISION,
        "projection_dim": 768,
    },
    "siglip2": {
        "text_config": _SIGLIP_TEXT | {"vocab_size": 256_001, "pad_token_id": 0},
        "vision_config": _SIGLIP_VISION,
        "projection_dim": 768,
    },
    "metaclip_2": {
        "text_config": {"model_type": MetaClip2TextConfig.model_type, "vocab_size": 901_630, "eos_token_id": 2},
        "vision_config": {"model_type": "metaclip_2_vision_model"},
    },
}
"""Fields of the configurations, at the sizes of ViT-B/16. Vocabularies are those of the published checkpoints with the
mask token."""


def make_config(backbone: str, tied: bool) -> GADMSConfig:
    """The configuration of a backbone for images of 384x128."""
    fields = BACKBONES[backbone]
    mask_token_id = fields["text_config"]["vocab_size"] - 1
    return GADMSConfig(**fields, mask_token_id=mask_token_id, tie_word_embeddings=tied)


def make_batch(config: GADMSConfig) -> dict[str, torch.Tensor]:
    """Random images, and random captions of one length."""
    text, _ = encoder_configs(config)
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(3, 30_000, (PAIRS, CAPTION_TOKENS), generator=generator)
    input_ids[:, -1] = text.eos_token_id
    if starts_with_bos(text):
        input_ids[:, 0] = 0
    pixel_values = torch.randn(PAIRS, 3, *config.image_size, generator=generator)
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "pixel_values": pixel_values}


def main(backbone: str, tied: bool) -> None:
    libraries = peak_memory_bytes()
    torch.manual_seed(0)
    model = GADMSForPreTraining(make_config(backbone, tied)).train()
    batch = make_batch(model.config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)  # as the trainer
    for _ in range(2):  # the first step also allocates the state of the optimizer
        start = time.perf_counter()
        model(**batch, return_loss=True).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds = time.perf_counter() - start
    result = {
        "seconds": seconds,
        "peak_bytes": peak_memory_bytes(),
        "libraries_bytes": libraries,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "embedding_parameters": model.gadms.text_model.embeddings.token_embedding.weight.numel(),
        "tied_by_default": make_config(backbone, None).tie_word_embeddings,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", choices=list(BACKBONES))
    parser.add_argument("--tied", action="store_true", help="the token head shares the token embeddings")
    arguments = parser.parse_args()
    main(arguments.backbone, arguments.tied)
