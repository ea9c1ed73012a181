"""Callbacks of the trainer: seeds of processes, epochs of data sets, and the order of a stream."""

from typing import Any, cast

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed
from transformers.trainer_callback import ExportableState

from .streaming import BatchStream


class SeedEachProcess(TrainerCallback):
    """Seeds each process differently, for its masks and augmentations. The Trainer seeds all processes alike."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.world_size > 1:
            set_seed(args.seed + args.process_index)


class SetEpoch(TrainerCallback):
    """Passes the epoch to the data set, which draws its captions by it. accelerate passes it only to the sampler."""

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        dataloader: Any = kwargs["train_dataloader"]
        dataset: Any = getattr(dataloader, "dataset", None)
        epoch = int(state.epoch or 0)
        if isinstance(dataset, BatchStream):
            dataset.start_at(epoch, self._batches_done(args, state, len(dataloader)))
        elif hasattr(dataset, "set_epoch"):
            dataset.set_epoch(epoch)

    @staticmethod
    def _batches_done(args: TrainingArguments, state: TrainerState, batches_per_epoch: int) -> int:
        """Number of batches of this epoch that a resumed run skips, as they were trained on before."""
        if args.ignore_data_skip:
            return 0
        steps_per_epoch = max(1, -(-batches_per_epoch // args.gradient_accumulation_steps))
        return state.global_step % steps_per_epoch * args.gradient_accumulation_steps


class CheckStreamOrder(TrainerCallback, ExportableState):
    """Saves the settings that a stream's order depends on in each checkpoint, and refuses to resume with others."""

    def __init__(self, order: dict[str, int]):
        self.order = order

    def state(self) -> dict[str, Any]:
        return {"args": {"order": self.order}, "attributes": {}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        saved = cast(dict[str, Any], state.stateful_callbacks).get(type(self).__name__)
        before = saved["args"]["order"] if saved else self.order
        changed = [
            f"{name} was {before.get(name)} and is {value}"
            for name, value in self.order.items()
            if before.get(name) != value
        ]
        if changed and not args.ignore_data_skip:
            raise ValueError(
                f"this run cannot resume in the middle of its stream: {'; '.join(changed)}. Restore these settings, "
                "or start the epoch again with training.ignore_data_skip=true"
            )
