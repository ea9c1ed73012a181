"""`transformers.Trainer` with the GA-DMS objective."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import torch
import torch.distributed.nn.functional as differentiable
from accelerate.utils import parse_flag_from_env
from torch import nn
from torch.utils.data import DataLoader
from transformers import EvalPrediction, Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

from ..encoders.loading import find_mismatch
from ..losses_gadms import alignment_loss, image_query_contrastive_loss
from ..metrics.person_retrieval.ranking import METRIC_NAMES, rank_metrics
from ..modeling_gadms import GADMSForPreTraining, GADMSForPreTrainingOutput
from ..processing_gadms import GADMSProcessor
from .callbacks import (
    CheckDataOrder,
    KeepSkippedRows,
    SeedEachProcess,
    SetEpoch,
    StopIfNotFinite,
    refuse_weights_not_finite,
)
from .caption_queries import fitting_images
from .data import ImageCaptionPairs, PairCollator
from .muon import MuonAdamW, is_layer_matrix
from .streaming import BatchStream, StreamedPairs


NEW_MODULES = frozenset({"fusion", "token_head", "classifier"})
EVALUATION_METRICS = ("loss", *METRIC_NAMES, *(f"image_to_text_{name}" for name in METRIC_NAMES))


@dataclass
class GADMSTrainingArguments(TrainingArguments):
    """[`~transformers.TrainingArguments`] with the schedule of the objective.

    Args:
        masking_start (`float`, *optional*, defaults to 0.0):
            Fraction of the training steps before masking and token prediction start. Token scores are meaningless
            before images and captions are aligned: start later from random weights, and at once from CLIP weights (the
            paper).
        contrastive_start (`float`, *optional*, defaults to 0.0):
            Fraction of the training steps that use ITC before the configuration's `alignment`. From random weights,
            SDM at a temperature of 0.02 hardly starts.
        new_module_lr_multiplier (`float`, *optional*, defaults to 1.0):
            Factor on the learning rate for the fusion encoder, the token head and the identity classifier. The
            published fine-tuning recipes use 5.
        query_weight (`float`, *optional*, defaults to 1.0):
            Weight of the loss of short queries, if the data draws them (`data.short_queries`).
        muon_learning_rate (`float`, *optional*):
            Learning rate of the matrices in the layers of the encoders, which are then trained by Muon, and all other
            parameters by AdamW with `learning_rate`. From random weights, this needs several times fewer steps.
        global_train_batch_size (`int`, *optional*):
            Pairs in a contrastive batch, over all processes. `per_device_train_batch_size` is derived from it, so that
            a recipe means the same on any number of processes that divides it.
        per_device_train_batch_size (`int`, *optional*, defaults to 8): used without `global_train_batch_size`.

    Raises:
        ValueError: for a value out of its range, or a batch that does not divide among the processes.
    """

    masking_start: float = field(default=0.0, metadata={"help": "fraction of the steps before masking starts"})
    contrastive_start: float = field(default=0.0, metadata={"help": "fraction of the steps that use ITC first"})
    new_module_lr_multiplier: float = field(default=1.0, metadata={"help": "learning rate factor of new modules"})
    query_weight: float = field(default=1.0, metadata={"help": "weight of the loss of short queries"})
    muon_learning_rate: float | None = field(default=None, metadata={"help": "learning rate of matrices, by Muon"})
    global_train_batch_size: int | None = field(default=None, metadata={"help": "pairs in a batch of all processes"})

    # Changed defaults of the base class.
    per_device_train_batch_size: int | None = None  # type: ignore[assignment]  # a number after `__post_init__`
    # The collator reads captions and person ids, whose column names are not arguments of `forward`.
    remove_unused_columns: bool = False
    # A contrastive loss depends on the batch size: drop the last, incomplete batch.
    dataloader_drop_last: bool = True
    metric_for_best_model: str | None = "r1"
    # The filter would log a loss that is not finite as a mean of earlier ones, and wait for the device in each step.
    logging_nan_inf_filter: bool = False
    # The fusion encoder has no gradient before `masking_start`.
    ddp_find_unused_parameters: bool | None = True

    def __post_init__(self) -> None:
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns = True would hide captions and identities from the collator")
        for name in ("masking_start", "contrastive_start"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} = {getattr(self, name)} must be a fraction of training between 0 and 1")
        for name in ("new_module_lr_multiplier", "query_weight", "muon_learning_rate"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"{name} = {value} must be positive")
        if self.restore_callback_states_from_checkpoint:
            # The settings that a resumed run is held against would be replaced by those of the checkpoint.
            raise ValueError("restore_callback_states_from_checkpoint = True is not supported; set it to False")
        if self.push_to_hub:
            raise ValueError(
                "push_to_hub = True would upload neither the model's code nor its card; set it to False, and publish "
                f"after training with `gadms publish model {self.output_dir}/model "
                f"{self.hub_model_id or 'NAMESPACE/NAME'}`"
            )
        # Otherwise each process shuffles the rows by the state of its own generator, and these states differ after
        # masks are drawn: processes would train on the same rows.
        if self.data_seed is None:
            self.data_seed = self.seed
        on_each = self.per_device_train_batch_size
        self.per_device_train_batch_size = 8 if on_each is None else on_each
        super().__post_init__()
        if self.global_train_batch_size is not None:
            self.per_device_train_batch_size = self._share_of_batch(self.global_train_batch_size, on_each)

    def _share_of_batch(self, whole: int, on_each: int | None) -> int:
        """The part of a batch that each process takes; `on_each` is what the user asked for, if anything."""
        share, rest = divmod(whole, self.world_size)
        if rest or share < 1:
            raise ValueError(
                f"global_train_batch_size = {whole} does not divide among {self.world_size} processes: start a number "
                "of processes that divides it, or change it"
            )
        if on_each not in (None, share):
            raise ValueError(
                f"per_device_train_batch_size = {on_each} on {self.world_size} processes is not "
                f"global_train_batch_size = {whole}: set one of them"
            )
        return share


def gather_with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """Gather the rows of all processes in rank order, with gradients to the process of each row.

    Args:
        tensor (`torch.Tensor` of shape `(num_rows, ...)`): the same shape on every process.

    Returns:
        `torch.Tensor` of shape `(world_size * num_rows, ...)`. The gradient of a row is the sum of the gradients of
        all processes' losses. After DistributedDataParallel averages, the update is that of the mean loss over the
        whole batch.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return tensor
    return torch.cat(differentiable.all_gather(tensor.contiguous()))


def retrieval_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Compute the retrieval metrics of an evaluation in both directions, in percent.

    Every caption is a query. Every image is in the gallery once, whatever its number of captions.

    Returns:
        `dict[str, float]`: text-to-image `r1`, `r5`, `r10`, `map`, `minp`, and the same with prefix `image_to_text_`.
    """
    image_embeds, text_embeds = cast(tuple[np.ndarray, np.ndarray], prediction.predictions)
    person_ids, image_indices = cast(tuple[np.ndarray, np.ndarray], prediction.label_ids)
    _, first = np.unique(image_indices, return_index=True)
    gallery, gallery_ids = image_embeds[first], person_ids[first]
    text_to_image = rank_metrics(text_embeds, gallery, person_ids, gallery_ids).to_dict()
    image_to_text = rank_metrics(gallery, text_embeds, gallery_ids, person_ids).to_dict()
    return text_to_image | {f"image_to_text_{name}": value for name, value in image_to_text.items()}


def _refuse_sharding(args: TrainingArguments) -> None:
    sharding = None
    if args.fsdp or parse_flag_from_env("ACCELERATE_USE_FSDP"):
        sharding = "FSDP"
    elif args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3:
        sharding = "DeepSpeed ZeRO-3"
    if sharding is not None:
        raise ValueError(
            f"{sharding} shards parameters, but scoring reads the text encoder's weights outside its forward pass; "
            "train with DistributedDataParallel (`accelerate launch --multi_gpu`)"
        )


def _check_best_model_metric(args: TrainingArguments) -> None:
    metric = args.metric_for_best_model
    decides = args.load_best_model_at_end or args.save_strategy == "best"
    if decides and metric is not None and metric.removeprefix("eval_") not in EVALUATION_METRICS:
        raise ValueError(
            f"metric_for_best_model = {metric!r} is not a metric of the evaluation; choose one of "
            f"{', '.join(EVALUATION_METRICS)}"
        )


def last_checkpoint(output_dir: str) -> str | None:
    """Return the newest complete checkpoint of a run, if there is one.

    A run that was killed while saving leaves a checkpoint without its state, which is written last.
    """
    states = Path(output_dir).glob("checkpoint-*/trainer_state.json")
    newest = max(states, key=lambda path: int(path.parent.name.removeprefix("checkpoint-")), default=None)
    return None if newest is None else str(newest.parent)


class GADMSTrainer(Trainer):
    """Trains [`GADMSForPreTraining`].

    The loss is `L_alignment + beta * L_mtp (+ weight * L_identity)`. The alignment loss compares the rows of this
    process with the rows of all processes. With gradient accumulation each micro-batch is a contrastive batch of its
    own; a larger contrastive batch needs more memory or more processes.

    Sharded parameters (FSDP, DeepSpeed ZeRO-3) are not supported: scoring reads the text encoder's weights.

    Args:
        model ([`GADMSForPreTraining`], or a `peft.PeftModel` of [`~modeling_gadms.training.adapters.add_adapter`])
        args ([`GADMSTrainingArguments`])
        processing_class ([`GADMSProcessor`]): saved with each checkpoint.
        train_dataset ([`ImageCaptionPairs`] or [`StreamedPairs`], *optional*)
        eval_dataset ([`ImageCaptionPairs`], *optional*)
        augmentation (`torch.nn.Module`, *optional*): applied to training batches on the model's device.
        kwargs: passed to [`~transformers.Trainer`].

    Raises:
        ValueError: if the training set is smaller than one batch over all processes, a stream should keep its last,
            incomplete batch, one process has several GPUs, parameters are sharded, `metric_for_best_model` is unknown,
            or the processor belongs to another model. From `train`: if a run is resumed with settings that change the
            order of its data.
        FloatingPointError: from `train` and `save_model`, if the loss or a weight is NaN or infinite.
    """

    args: GADMSTrainingArguments
    # compute_loss returns a mean over the micro-batch, which the Trainer divides by the accumulation steps.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: GADMSForPreTraining,
        args: GADMSTrainingArguments,
        *,
        processing_class: GADMSProcessor,
        train_dataset: ImageCaptionPairs | StreamedPairs | None = None,
        eval_dataset: ImageCaptionPairs | None = None,
        augmentation: nn.Module | None = None,
        **kwargs: Any,
    ):
        if args.n_gpu > 1:
            # DataParallel would return a loss and a count of masked tokens for each GPU.
            raise ValueError(
                f"one process has {args.n_gpu} GPUs, and training uses one for each process: start it with "
                "`accelerate launch` or `torchrun`, or set CUDA_VISIBLE_DEVICES=0"
            )
        _refuse_sharding(args)
        if mismatch := find_mismatch(processing_class, model.config):
            raise ValueError(f"the model and its processor do not fit: {mismatch}")
        if "compute_metrics" not in kwargs and not isinstance(eval_dataset, dict):
            _check_best_model_metric(args)
        kwargs.setdefault("data_collator", PairCollator(processing_class))
        kwargs.setdefault("compute_metrics", retrieval_metrics)
        super().__init__(
            model=model,
            args=args,
            processing_class=processing_class,
            # A stream is not a data set to the base class; get_train_dataloader handles it.
            train_dataset=cast(Any, train_dataset),
            eval_dataset=eval_dataset,
            **kwargs,
        )
        self.augmentation = None if augmentation is None else augmentation.to(args.device)
        self.add_callback(SeedEachProcess())
        self.add_callback(SetEpoch())
        self._stop_if_not_finite = StopIfNotFinite()
        self.add_callback(self._stop_if_not_finite)
        self._terms: dict[str, torch.Tensor] = {}
        batch_size = args.train_batch_size * args.world_size
        if isinstance(train_dataset, StreamedPairs):
            if not args.dataloader_drop_last:
                raise ValueError("dataloader_drop_last = False: a stream has only complete batches; set it to True")
            self.add_callback(KeepSkippedRows(train_dataset))
        if train_dataset is not None and args.dataloader_drop_last and len(train_dataset) < batch_size:
            raise ValueError(
                f"{len(train_dataset)} training pairs do not fill one batch of {batch_size} "
                f"({args.train_batch_size} on each of {args.world_size} processes); lower the batch size "
                "(global_train_batch_size or per_device_train_batch_size)"
            )
        if train_dataset is not None:
            self.add_callback(CheckDataOrder(self._data_order(train_dataset)))

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Overridden to note the first step whose loss is not finite."""
        loss = super().training_step(*args, **kwargs)
        self._stop_if_not_finite.note(loss, self.state.global_step + 1)
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, GADMSForPreTrainingOutput]:
        """Compute the loss of one micro-batch. Overridden because the loss spans all processes, unlike `forward`."""
        config = self.accelerator.unwrap_model(model).config
        progress = self.state.global_step / max(1, self.state.max_steps)
        pixel_values = inputs["pixel_values"]
        if model.training and self.augmentation is not None:
            pixel_values = self.augmentation(pixel_values)

        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            pixel_values=pixel_values,
            # The identity classifier does not know the persons of the evaluation.
            person_ids=inputs["person_ids"] if model.training else None,
            masking=model.training and progress >= self.args.masking_start,
            query_input_ids=inputs.get("query_input_ids"),
            query_attention_mask=inputs.get("query_attention_mask"),
        )

        contrastive = progress < self.args.contrastive_start
        all_image_embeds = gather_with_gradient(outputs["image_embeds"])
        loss = alignment_loss(
            outputs["image_embeds"],
            outputs["text_embeds"],
            inputs["person_ids"],
            alignment="itc" if contrastive else config.alignment,
            epsilon=config.sdm_epsilon,
            temperature=outputs["temperature"],
            all_image_embeds=all_image_embeds,
            all_text_embeds=gather_with_gradient(outputs["text_embeds"]),
            all_person_ids=self.accelerator.gather(inputs["person_ids"]),
        )
        terms = {"alignment_loss": loss}
        if outputs.query_embeds is not None:
            terms["query_loss"] = self._query_loss(outputs, inputs, all_image_embeds)
            loss = loss + self.args.query_weight * terms["query_loss"]
        if outputs.mtp_loss is not None:
            terms["mtp_loss"] = self._mean_over_processes(outputs.mtp_loss, outputs.num_predicted_tokens)
            loss = loss + config.mtp_weight * terms["mtp_loss"]
        if outputs.identity_loss is not None:
            terms["identity_loss"] = outputs.identity_loss
            loss = loss + config.identity_weight * outputs.identity_loss

        if model.training:
            self._record(terms, outputs, inputs["truncated"])
        return (loss, outputs) if return_outputs else loss

    def _query_loss(
        self, outputs: GADMSForPreTrainingOutput, inputs: dict[str, torch.Tensor], all_image_embeds: torch.Tensor
    ) -> torch.Tensor:
        """A query fits the images whose captions state all of it, and all images of the person it was drawn from."""
        queries_per_image = len(inputs["query_words"]) // len(inputs["person_ids"])
        query_persons = inputs["person_ids"].repeat_interleave(queries_per_image)
        words = {}
        for name in ("query_words", "image_words"):
            rows = inputs[name]
            for dim in (1, 2):  # the most statements and words of any process
                rows = self.accelerator.pad_across_processes(rows, dim=dim)
            words[name] = rows
        gathered = self.accelerator.gather({**words, "queries": query_persons, "images": inputs["person_ids"]})

        def fits(query_words, query_persons, image_words, image_persons):
            return fitting_images(query_words, image_words) | (query_persons[:, None] == image_persons)

        fits_all_images = fits(words["query_words"], query_persons, gathered["image_words"], gathered["images"])
        fits_all_queries = (
            fits_all_images.T
            if self.args.world_size == 1
            else fits(gathered["query_words"], gathered["queries"], words["image_words"], inputs["person_ids"]).T
        )
        return image_query_contrastive_loss(
            outputs["image_embeds"],
            outputs["query_embeds"],
            fits_all_queries,
            fits_all_images,
            temperature=outputs["temperature"],
            all_image_embeds=all_image_embeds,
            all_query_embeds=gather_with_gradient(outputs["query_embeds"]),
        )

    def _mean_over_processes(self, local_mean: torch.Tensor, local_count: torch.Tensor) -> torch.Tensor:
        """Weight a local mean so that the average over processes is the mean over all items."""
        if self.args.world_size == 1:
            return local_mean
        total = self.accelerator.reduce(local_count, reduction="sum")
        return local_mean * local_count * self.args.world_size / total.clamp(min=1)

    @torch.no_grad()
    def _record(
        self, terms: dict[str, torch.Tensor], outputs: GADMSForPreTrainingOutput, truncated: torch.Tensor
    ) -> None:
        """Add to the numerator and the denominator of each value in the next log."""
        means = terms | {"temperature": outputs["temperature"], "truncated_captions": truncated.float().mean()}
        ratios = {name: (value, torch.ones_like(value)) for name, value in means.items()}
        for name in ("noise_mask", "informative_mask"):
            if name in outputs:
                ratios[f"{name}_rate"] = (outputs[name].sum(), outputs["own_tokens"].sum())
        for name, ratio in ratios.items():
            total = torch.stack(ratio).float()
            self._terms[name] = self._terms[name] + total if name in self._terms else total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds each loss term to the training logs, as its mean since the last log over all processes.

        Masking rates are fractions of all tokens that could be masked, over all captions and processes.
        """
        if "loss" in logs:
            for name, own in self._terms.items():
                total = self.accelerator.reduce(own, reduction="sum")
                logs[name] = (total[0] / total[1].clamp(min=1)).item()
            self._terms.clear()
        super().log(logs, start_time)

    def _data_order(self, pairs: ImageCaptionPairs | StreamedPairs) -> dict[str, int | None]:
        args = self.args
        order: dict[str, int | None] = {
            "number of pairs": len(pairs),
            "number of pairs in a step": args.train_batch_size * args.world_size * args.gradient_accumulation_steps,
            "training.gradient_accumulation_steps": args.gradient_accumulation_steps,
        }
        if not isinstance(pairs, StreamedPairs):
            return order | {"training.data_seed": args.data_seed}
        return order | {
            "data.shuffle_buffer": pairs.shuffle_buffer,
            "seed": pairs.seed,
            "number of processes": args.world_size,
            "training.per_device_train_batch_size": args.train_batch_size,
            "training.dataloader_num_workers": args.dataloader_num_workers,
        }

    def get_train_dataloader(self) -> DataLoader:
        """Overridden for streams, which split their rows by process. With accelerate each process reads all rows."""
        if not isinstance(self.train_dataset, StreamedPairs):
            return super().get_train_dataloader()
        args = self.args
        batches = self.train_dataset.batches(
            self._train_batch_size,
            cast(PairCollator, self.data_collator),
            process_index=args.process_index,
            num_processes=args.world_size,
        )
        return DataLoader(
            batches,
            batch_size=None,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context,
        )

    def num_examples(self, dataloader: DataLoader) -> int:
        """Overridden because a stream's length counts batches."""
        dataset = dataloader.dataset
        return len(dataset.pairs) if isinstance(dataset, BatchStream) else super().num_examples(dataloader)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Overridden because `dataloader_drop_last`, meant for training, would also drop the last rows here."""
        with self._keeping_the_last_rows():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """Overridden for the same reason."""
        with self._keeping_the_last_rows():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _keeping_the_last_rows(self) -> Iterator[None]:
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drop_last

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, Any, Any]:
        """Overridden because the base class gives no loss without `labels`. Captions are not masked here.

        Returns:
            the loss, both embeddings, and the person ids with the image indices; the latter two are `None` with
            `prediction_loss_only`.
        """
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss, None, None
        embeddings = (outputs["image_embeds"].float(), outputs["text_embeds"].float())
        return loss, embeddings, (inputs["person_ids"], inputs["image_indices"])

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Overridden because scalars and DoRA's norms have no decay, like the base class's norms and biases."""
        dimensions = {name: parameter.ndim for name, parameter in model.named_parameters()}
        names = super().get_decay_parameter_names(model)
        return [name for name in names if dimensions.get(name) and "lora_magnitude_vector" not in name]

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: TrainingArguments, model: Any = None) -> tuple[Any, Any]:
        """Overridden for Muon.

        Raises:
            ValueError: if `muon_learning_rate` is set with an `optim` that is not AdamW.
        """
        optimizer_class, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, model)
        if cast(GADMSTrainingArguments, args).muon_learning_rate is None:
            return optimizer_class, kwargs
        if optimizer_class is not torch.optim.AdamW:
            optim = OptimizerNames(args.optim).value
            raise ValueError(f"muon_learning_rate needs AdamW for the other parameters, and optim is {optim}")
        return MuonAdamW, kwargs

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Overridden for the learning rates of new modules and of Muon's matrices."""
        if self.optimizer is not None:
            return self.optimizer
        optimizer = super().create_optimizer(model)
        muon_rate, factor = self.args.muon_learning_rate, self.args.new_module_lr_multiplier
        if muon_rate is not None and not isinstance(optimizer, MuonAdamW):
            raise ValueError("muon_learning_rate chooses the optimizer: give no optimizer_cls_and_kwargs with it")
        names = {id(parameter): name for name, parameter in (model or cast(nn.Module, self.model)).named_parameters()}
        for group in list(optimizer.param_groups):
            parts: dict[tuple[bool, bool], list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                name = names[id(parameter)]
                by_muon = muon_rate is not None and is_layer_matrix(name, parameter)
                parts[by_muon, bool(NEW_MODULES & set(name.split(".")))].append(parameter)
            group["params"] = parts.pop((False, False), [])
            for (by_muon, is_new), parameters in parts.items():
                rate = cast(float, muon_rate if by_muon else group["lr"]) * (factor if is_new else 1.0)
                kind = {"muon": True} if by_muon else {}
                optimizer.add_param_group(group | {"params": parameters, "lr": rate} | kind)
        return optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Overridden because a model that is not finite is of no use."""
        refuse_weights_not_finite(cast(nn.Module, self.model), self.args, self.state.global_step)
        super().save_model(output_dir, _internal_call)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Overridden because the base class would upload neither the model's code nor its card.

        Raises:
            NotImplementedError: always; it names the function that publishes.
        """
        raise NotImplementedError(
            "save the model with `trainer.save_model(FOLDER)`, and publish it with "
            "`modeling_gadms.publishing.publish_model(FOLDER, 'NAMESPACE/NAME')`"
        )
