"""Models with random weights."""

import torch
from torch import nn


def randomised(model: nn.Module, seed: int = 0, scale: float = 0.12) -> nn.Module:
    """Randomise all weights, biases and norms: freshly initialised biases are zero and would hide an omission."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if not name.endswith("logit_scale"):
            centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            parameter.data = centre + scale * torch.randn(parameter.shape, generator=generator)
    return model
