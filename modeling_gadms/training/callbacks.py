"""Callbacks of the trainer: seeds of processes, epochs of data sets, the order of the data, and finite values."""

from typing import Any, cast

import torch
from accelerate.utils import gather_object
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed
from transformers.trainer_callback import ExportableState

from .streaming import BatchStream, StreamedPairs


class SeedEachProcess(TrainerCallback):
    """Seeds each process differently, for its masks and augmentations. The Trainer seeds all processes alike."""

    def on_train_begin(self, args: TrainingArguments, *_: Any, **kwargs: Any) -> None:
        if args.world_size > 1:
            set_seed(args.seed + args.process_index)


class SetEpoch(TrainerCallback):
    """Passes the epoch to the data set, which draws its captions by it. accelerate passes it only to the sampler."""

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        dataloader: Any = kwargs["train_dataloader"]
        dataset: Any = getattr(dataloader, "dataset", None)
        epoch = int(state.epoch or 0)
        if isinstance(dataset, BatchStream):
            # A resumed run skips the batches of this epoch that it was trained on before.
            steps_per_epoch = max(1, -(-len(dataloader) // args.gradient_accumulation_steps))
            done = state.global_step % steps_per_epoch * args.gradient_accumulation_steps
            dataset.start_at(epoch, 0 if args.ignore_data_skip else done)
        elif hasattr(dataset, "set_epoch"):
            dataset.set_epoch(epoch)


class CheckDataOrder(TrainerCallback, ExportableState):
    """Saves the settings that the order of the data depends on in each checkpoint, and refuses to resume with others.

    Args:
        order (`dict[str, int | None]`): the settings by the names that an error shows.
    """

    # With another value, the steps that were made are another part of an epoch.
    _LENGTH = frozenset({"number of pairs", "number of pairs in a step", "training.gradient_accumulation_steps"})

    def __init__(self, order: dict[str, int | None]):
        self.order = order

    def state(self) -> dict[str, Any]:
        return {"args": {"order": self.order}, "attributes": {}}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        saved = cast(dict[str, Any], state.stateful_callbacks).get(type(self).__name__)
        before = saved["args"]["order"] if saved else self.order
        changed = [name for name, value in self.order.items() if before.get(name) != value]
        what = "; ".join(f"{name} was {before.get(name)} and is {self.order[name]}" for name in changed)
        if self._LENGTH & set(changed):
            raise ValueError(
                f"this run cannot resume at step {state.global_step}, as its epochs have another length: {what}. "
                "Restore these settings, or start a new run from these weights with "
                f"model.from_pretrained={args.output_dir}/checkpoint-{state.global_step}"
            )
        if changed and not args.ignore_data_skip:
            raise ValueError(
                f"this run cannot resume in the middle of an epoch, whose order would change: {what}. Restore these "
                "settings, or start the epoch again with training.ignore_data_skip=true"
            )


class KeepSkippedRows(TrainerCallback, ExportableState):
    """Collects the rows of a stream that any process skipped, and keeps them in each checkpoint.

    Args:
        pairs ([`StreamedPairs`]): the stream.
    """

    def __init__(self, pairs: StreamedPairs):
        self.pairs = pairs

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"rows": self.pairs.skipped_numbers()}}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        saved = cast(dict[str, Any], state.stateful_callbacks).get(type(self).__name__)
        self.pairs.mark_skipped(saved["attributes"]["rows"] if saved else [])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_save:
            self._collect()

    def on_epoch_end(self, *_: Any, **kwargs: Any) -> None:
        self._collect()

    def on_train_end(self, *_: Any, **kwargs: Any) -> None:
        self._collect()

    def _collect(self) -> None:
        self.pairs.mark_skipped([row for rows in gather_object([self.pairs.skipped_numbers()]) for row in rows])


class StopIfNotFinite(TrainerCallback):
    """Stops a run whose loss or weights are NaN or infinite, with the first such step.

    The step is noted on the device, and read at every tenth step and before a log, an evaluation or a checkpoint:
    reading in each step would make the processor wait for the device.
    """

    _EVERY = 10
    _NEVER = torch.iinfo(torch.long).max

    def __init__(self) -> None:
        self._first_step: torch.Tensor | None = None

    def note(self, loss: torch.Tensor, step: int) -> None:
        """Note a loss of shape `()` and its step, counted from 1."""
        if self._first_step is None:
            self._first_step = torch.full_like(loss, self._NEVER, dtype=torch.long)
        self._first_step = torch.where(loss.isfinite(), self._first_step, self._first_step.clamp(max=step))

    def on_train_begin(self, *_: Any, **kwargs: Any) -> None:
        self._first_step = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % self._EVERY == 0 or control.should_log or control.should_evaluate:
            self._check_loss(args)

    def on_epoch_end(self, args: TrainingArguments, *_: Any, **kwargs: Any) -> None:
        self._check_loss(args)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._check_loss(args)
        refuse_weights_not_finite(kwargs["model"], args, state.global_step)

    def _check_loss(self, args: TrainingArguments) -> None:
        if self._first_step is None:
            return
        first = self._first_step.clone()
        if torch.distributed.is_initialized():  # a process alone would leave the others waiting
            torch.distributed.all_reduce(first, op=torch.distributed.ReduceOp.MIN)
        if first < self._NEVER:
            raise FloatingPointError(f"the loss is NaN or infinite in step {int(first)}{_advice(args)}")


def refuse_weights_not_finite(model: nn.Module, args: TrainingArguments, step: int) -> None:
    """Check all weights of a model.

    Raises:
        FloatingPointError: if a weight is NaN or infinite.
    """
    named = [(name, parameter.detach()) for name, parameter in model.named_parameters() if parameter.numel()]
    # Both are NaN if any value is. An `isfinite` of all values takes ten times as long on a CPU.
    extremes = [torch.stack(torch.aminmax(parameter)).isfinite().all() for _, parameter in named]
    finite = torch.stack(extremes).tolist()
    if not all(finite):
        first = next(name for (name, _), is_finite in zip(named, finite, strict=True) if not is_finite)
        raise FloatingPointError(
            f"after step {step}, {finite.count(False)} of {len(named)} weight tensors hold NaN or infinite values, "
            f"such as {first}{_advice(args)}"
        )


def _advice(args: TrainingArguments) -> str:
    precision = ", set training.fp16=false (bf16 does not overflow)" if args.fp16 else ""
    return (
        f". The model is not saved, and checkpoints are of earlier steps. Lower training.learning_rate (now "
        f"{args.learning_rate:g}), raise training.warmup_steps{precision} and start again"
    )
