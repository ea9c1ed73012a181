"""Muon for the hidden matrices of a model and AdamW for its other parameters, as one optimizer."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


MUON_MOMENTUM = 0.95
# Quintic Newton-Schulz iteration of Muon (https://kellerjordan.github.io/posts/muon, 2024).
_COEFFICIENTS, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5


def is_layer_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a matrix in a layer of an encoder, and no adapter's: those that Muon is for."""
    return parameter.ndim == 2 and ".layers." in name and "lora_" not in name


class MuonAdamW(torch.optim.AdamW):
    """AdamW in which groups with `muon=True` are updated by Muon: by their momentum, made nearly orthogonal.

    A model that is trained from random weights needs several times fewer steps. [`torch.optim.Muon`] computes the same
    update in bfloat16 and one matrix at a time, which is slow on a CPU without bfloat16 instructions.

    Args:
        params (`Iterable[dict]`): parameter groups; the parameters of a group with `muon=True` are matrices.
        kwargs: of [`torch.optim.AdamW`]. Of these, Muon's groups use `lr` and `weight_decay`.

    Raises:
        ValueError: if a parameter of a Muon group is not a matrix.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """See [`torch.optim.Optimizer.add_param_group`]."""
        super().add_param_group(param_group)
        shapes = [tuple(parameter.shape) for parameter in param_group["params"] if parameter.ndim != 2]
        if param_group.setdefault("muon", False) and shapes:
            raise ValueError(f"Muon optimises matrices, not parameters of shape {shapes[0]}")

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters. See [`torch.optim.Optimizer.step`]."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["muon"]:
                self._update_matrices(group)
        return loss

    @torch.no_grad()
    def _update_matrices(self, group: dict[str, Any]) -> None:
        momenta: dict[torch.Size, list[tuple[nn.Parameter, torch.Tensor]]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                # AdamW restores states only if each has a number of steps.
                state.update(step=torch.zeros(()), momentum_buffer=torch.zeros_like(parameter))
            state["step"] += 1
            average = state["momentum_buffer"]
            average.lerp_(parameter.grad, 1 - MUON_MOMENTUM)
            momenta[parameter.shape].append((parameter, parameter.grad.lerp(average, MUON_MOMENTUM)))  # Nesterov
        for (rows, columns), matrices in momenta.items():
            directions = orthogonalize(torch.stack([momentum for _, momentum in matrices]).float())
            step = group["lr"] * max(1.0, rows / columns) ** 0.5
            for (parameter, _), direction in zip(matrices, directions, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(direction.to(parameter.dtype), alpha=-step)


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Return matrices with the same singular vectors, and singular values of about 1 (0.7 to 1.2).

    Args:
        matrices (`torch.FloatTensor` of shape `(num_matrices, rows, columns)`)
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalize(matrices.mT).mT
    a, b, c = _COEFFICIENTS
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
