"""What the trainer does between its steps: seeds, epochs, and the order of a stream."""

from typing import Any, cast

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed
from transformers.trainer_callback import ExportableState

from .streaming import BatchStream


class SeedEachProcess(TrainerCallback):
    """The Trainer seeds all processes alike; masks and augmentations of different rows should differ."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.world_size > 1:
            set_seed(args.seed + args.process_index)


class TellEpoch(TrainerCallback):
    """Each epoch draws its captions anew. On several processes accelerate tells the epoch to the sampler alone."""

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
        """Batches of this epoch that were trained on before a resumed run, which the Trainer passes over."""
        if args.ignore_data_skip:
            return 0
        steps_per_epoch = max(1, -(-batches_per_epoch // args.gradient_accumulation_steps))
        return state.global_step % steps_per_epoch * args.gradient_accumulation_steps


class KeepStreamOrder(TrainerCallback, ExportableState):
    """Keeps with each checkpoint what the order of a stream depends on; resuming with another would repeat rows."""

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
                f"this run cannot go on in the middle of its stream: {'; '.join(changed)}. Set them back, or give "
                "training.ignore_data_skip=true to begin the epoch anew"
            )
