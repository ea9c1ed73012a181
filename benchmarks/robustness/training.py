"""One training of the robustness study: a trunk with alignment only, and branches that continue it with masks.

The learning rate warms up, stays constant, and falls along a cosine over the branch. All objectives share the trunk,
so trunk and branch together are a training whose masks begin at the end of the trunk.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.robustness.data import LENGTH, Persons
from modeling_gadms import GADMSConfig, GADMSForPreTraining, GADMSProcessor
from modeling_gadms.losses_gadms import image_text_contrastive_loss


WARM_UP_STEPS = 60
SORTED_BATCHES = 16
"""Number of batches whose captions are sorted by length together, to reduce padding."""


@dataclass(frozen=True)
class Schedule:
    """Steps, batch size and learning rate of a training.

    Attributes:
        trunk_steps (`int`): steps that all objectives share.
        branch_steps (`int`): steps after them, over which the learning rate falls to zero.
        batch_size (`int`)
        learning_rate (`float`): after the warm-up.
    """

    trunk_steps: int
    branch_steps: int
    batch_size: int = 64
    learning_rate: float = 1e-3

    @property
    def steps(self) -> int:
        return self.trunk_steps + self.branch_steps

    def rate(self, step: int) -> float:
        """Learning rate of a step, from 0."""
        if step < WARM_UP_STEPS:
            return self.learning_rate * (step + 1) / WARM_UP_STEPS
        progress = max(0, step - self.trunk_steps) / max(1, self.branch_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def model_config(processor: GADMSProcessor, **objective: Any) -> GADMSConfig:
    """A small model with a learned temperature, because SDM at 0.02 hardly starts from random weights."""
    tokenizer = processor.tokenizer
    layers: dict[str, Any] = {
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_attention_heads": 4,
        "hidden_act": "relu",
    }
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": LENGTH, "num_hidden_layers": 4, **special}
    fields: dict[str, Any] = {
        "projection_dim": 96,
        "fusion_num_hidden_layers": 1,
        "fusion_num_attention_heads": 4,
        "fusion_intermediate_size": 192,
        "score_layers": 4,
        "alignment": "itc",
        "temperature": 0.05,
        "learn_temperature": True,
    }
    return GADMSConfig(
        text_config=layers | text,
        vision_config={**layers, "image_size": processor.image_size, "patch_size": 12, "num_hidden_layers": 4},
        mask_token_id=tokenizer.mask_token_id,
        **fields | objective,
    )


class Batches:
    """Batches as a function of (seed, step): every objective sees the same batches in the same order.

    Args:
        persons ([`Persons`]): the training split.
        pixels (`torch.FloatTensor` of shape `(N, 3, height, width)`): normalised.
        schedule ([`Schedule`])
        trunk_rate (`float`), rate (`float`): noise rate of the captions in the trunk and after it.
        seed (`int`)
    """

    def __init__(
        self, persons: Persons, pixels: torch.Tensor, schedule: Schedule, *, trunk_rate: float, rate: float, seed: int
    ):
        self.persons, self.pixels, self.schedule = persons, pixels, schedule
        self.trunk_rate, self.rate, self.seed = trunk_rate, rate, seed
        self.batch_size = schedule.batch_size
        self.per_epoch = len(pixels) // self.batch_size
        self._epoch = -1

    def __getitem__(self, step: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The inputs of the model, and the mask of planted noise: (batch_size, sequence_length)."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._shuffle(epoch)
        rows, which = self._rows[self._order[place]], self._which[self._order[place]]
        captions = self.persons.captions[self.trunk_rate if step < self.schedule.trunk_steps else self.rate]
        lengths = captions.lengths[rows, which]
        longest = int(lengths.max())
        batch = {
            "input_ids": captions.input_ids[rows, which, :longest].long(),
            "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
            "pixel_values": self.pixels[rows],
            "person_ids": self.persons.person_ids[rows],
        }
        return batch, captions.noise[rows, which, :longest]

    def _shuffle(self, epoch: int) -> None:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
        rows = torch.randperm(len(self.pixels), generator=generator)[: self.per_epoch * self.batch_size]
        which = torch.randint(2, rows.shape, generator=generator)
        # Sorted by the length of true captions, so that no batch depends on the noise rate.
        lengths = self.persons.captions[0.0].lengths[rows, which]
        together = SORTED_BATCHES * self.batch_size
        starts = range(0, len(rows), together)
        parts = zip(starts, lengths.split(together), strict=True)
        order = torch.cat([start + part.argsort(stable=True) for start, part in parts])
        self._rows, self._which = (part[order].reshape(self.per_epoch, -1) for part in (rows, which))
        self._order = torch.randperm(self.per_epoch, generator=generator).tolist()
        self._epoch = epoch


def make_model(config: GADMSConfig, seed: int) -> GADMSForPreTraining:
    """A model with random weights; it has a fusion encoder and a token head for every objective."""
    torch.manual_seed(seed)
    return GADMSForPreTraining(config).train()


def make_optimizer(model: GADMSForPreTraining, schedule: Schedule) -> torch.optim.Optimizer:
    """AdamW with weight decay of matrices only."""
    matrices = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.98), fused=True)


Scorer = Callable[[dict[str, torch.Tensor], torch.Tensor, torch.Tensor], torch.Tensor]
"""From a batch, its planted noise and the image embeddings to scores in [0, 1], (batch_size, sequence_length)."""


def train(
    model: GADMSForPreTraining,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    steps: range,
    scorer: Scorer | None = None,
) -> dict[str, Any]:
    """Train for some steps of a schedule.

    Args:
        model ([`GADMSForPreTraining`]): its configuration is the objective.
        optimizer (`torch.optim.Optimizer`): of [`make_optimizer`].
        batches ([`Batches`])
        steps (`range`): the steps to run.
        scorer (`Scorer`, *optional*): scores tokens instead of the model.

    Returns:
        `dict`: means over the steps of the losses and of the masking rates, and the seconds of a step.
    """
    sums: dict[str, float] = defaultdict(float)
    start = time.perf_counter()
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = batches.schedule.rate(step)
        batch, noise = batches[step]
        with _scored_by(model, scorer and partial(scorer, batch, noise)):
            outputs = model(**batch)
        loss = image_text_contrastive_loss(
            outputs.image_embeds, outputs.text_embeds, batch["person_ids"], temperature=outputs.temperature
        )
        sums["alignment_loss"] += loss.item()
        if outputs.mtp_loss is not None:
            sums["mtp_loss"] += outputs.mtp_loss.item()
            loss = loss + model.config.mtp_weight * outputs.mtp_loss
        for name in ("noise_mask", "informative_mask"):
            if name in outputs:
                sums[f"{name}_rate"] += (outputs[name].sum() / outputs.own_tokens.sum()).item()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - start
    return {name: value / len(steps) for name, value in sums.items()} | {"seconds_per_step": seconds / len(steps)}


@contextmanager
def _scored_by(model: GADMSForPreTraining, scores: Callable[[torch.Tensor], torch.Tensor] | None) -> Iterator[None]:
    """Inside the `with`, the model takes its scores from a function of the image embeddings."""
    if scores is None:
        yield
        return

    def score_tokens(input_ids: Any, attention_mask: Any, image_embeds: torch.Tensor) -> torch.Tensor:
        return scores(image_embeds)

    model.gadms.score_tokens = score_tokens  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.gadms.score_tokens
