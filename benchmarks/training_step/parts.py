"""Time of each part of a training step, forward and backward."""

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from transformers.utils import ModelOutput

from benchmarks.training_step.worker import Batch, Step


PARTS = ("image", "score", "captions", "fusion", "head", "losses", "optimizer")


class CutGraph:
    """A step whose graph is cut between its parts, so that the backward pass of each is timed separately.

    The outputs of a part are passed on as leaves. Once the backward pass has reached them, their gradients start the
    backward pass of the part. The gradients of all weights are those of the whole graph.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._cuts: list[tuple[str, list[torch.Tensor], list[torch.Tensor]]] = []

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `call`: count its time for the part, and return leaves instead of its outputs."""

        def run(*arguments: Any, **keywords: Any) -> Any:
            start = time.perf_counter()
            outputs = call(*arguments, **keywords)
            self.seconds[part] += time.perf_counter() - start
            if isinstance(outputs, ModelOutput):
                leaves = self._cut(part, list(outputs.values()))
                return type(outputs)(**dict(zip(outputs.keys(), leaves, strict=True)))
            return self._cut(part, [outputs])[0]

        return run

    def _cut(self, part: str, outputs: list[torch.Tensor]) -> list[torch.Tensor]:
        leaves = [output.detach().requires_grad_(output.requires_grad) for output in outputs]
        self._cuts.append((part, outputs, leaves))
        return leaves

    def backward(self, loss: torch.Tensor) -> None:
        """Backward pass part by part, from the last to the first."""
        start = time.perf_counter()
        loss.backward()
        self.seconds["losses"] += time.perf_counter() - start
        while self._cuts:
            part, outputs, leaves = self._cuts.pop()
            reached = [
                (output, leaf.grad) for output, leaf in zip(outputs, leaves, strict=True) if leaf.grad is not None
            ]
            del outputs, leaves
            start = time.perf_counter()
            if reached:
                torch.autograd.backward(*zip(*reached, strict=True))
            self.seconds[part] += time.perf_counter() - start


def timed_parts(step: Step, batch: Batch) -> dict[str, float]:
    """Run a step and return the seconds of each of `PARTS`; everything else, such as the masks, counts as `losses`."""
    graph, model = CutGraph(), step.model
    calls = [
        ("image", model.gadms, "get_image_features"),
        ("score", step.scorer, step.scores),
        ("captions", model.gadms, "get_text_features"),  # of the reference
        ("captions", model.gadms, "get_packed_text_features"),
    ]
    if model.fusion is not None and model.token_head is not None:
        calls += [("fusion", model.fusion, "forward"), ("head", model.token_head, "forward")]
    with ExitStack() as patches:
        for part, owner, name in calls:
            patches.enter_context(patch.object(owner, name, graph.timed(part, getattr(owner, name))))
        start = time.perf_counter()
        loss = step.loss(batch)
        forward = time.perf_counter() - start
    graph.seconds["losses"] += forward - sum(graph.seconds.values())
    graph.backward(loss)
    start = time.perf_counter()
    step.optimizer.step()
    step.optimizer.zero_grad()
    graph.seconds["optimizer"] = time.perf_counter() - start
    return {part: graph.seconds[part] for part in PARTS}
