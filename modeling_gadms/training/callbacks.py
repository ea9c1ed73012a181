"""Callbacks of the trainer: seeds of processes, epochs of data sets, and the order of a stream."""

from typing import Any, cast

from transformers import TrainerCallback, TrainerState, TrainingArguments, set_seed
from transformers.trainer_callback import ExportableState

from .streaming import BatchStream


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


class CheckStreamOrder(TrainerCallback, ExportableState):
    """Saves the settings that a stream's order depends on in each checkpoint, and refuses to resume with others."""

    def __init__(self, order: dict[str, int]):
        self.order = order

    def state(self) -> dict[str, Any]:
        return {"args": {"order": self.order}, "attributes": {}}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        saved = cast(dict[str, Any], state.stateful_callbacks).get(type(self).__name__)
        before = saved["args"]["order"] if saved else self.order
        pairs = ((name, before.get(name), value) for name, value in self.order.items())
        changed = [f"{name} was {old} and is {new}" for name, old, new in pairs if old != new]
        if changed and not args.ignore_data_skip:
            raise ValueError(
                f"this run cannot resume in the middle of its stream: {'; '.join(changed)}. Restore these settings, "
                "or start the epoch again with training.ignore_data_skip=true"
            )
