"""Trains tiny models and writes down what happened; `test_distributed.py` compares one process with two.

    torchrun --nproc_per_node 2 tests/modeling_gadms/training/distributed_worker.py FOLDER

Every case sees the same rows in the same order on any number of processes: the batch size is that of all processes
together. Scores decide the masks alone (rates of 1 and a very sharp sigmoid), so that the draws do not matter.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import nn
from transformers import TrainerCallback

from modeling_gadms import GADMSConfig, GADMSForPreTraining, GADMSProcessor
from modeling_gadms.training.data import DatasetColumns, ImageCaptionPairs
from modeling_gadms.training.tokenizer import train_tokenizer
from modeling_gadms.training.trainer import GADMSTrainer, GADMSTrainingArguments


GLOBAL_BATCH_SIZE = 8
NUM_ROWS = 24
NUM_PERSONS = 5
COLUMNS = DatasetColumns(person_id="person_id")
CAPTIONS = [
    "A man in a red coat and blue jeans walks towards the camera, a bag in his hand.",
    "A woman with a hat.",
    "Someone wears a green shirt, grey trousers and brown boots, and carries a yellow bag.",
    "A child in white.",
    "Boots.",
    "An old man with a walking stick, a long black coat and a grey scarf.",
]

# What a case changes: fields of the model's configuration, training arguments, and the training pairs.
CASES: dict[str, dict[str, Any]] = {
    "sdm": {"model": {}},
    "sdm_with_learned_temperature": {"model": {"learn_temperature": True, "temperature": 0.1}},
    "itc_without_prediction": {
        "model": {"alignment": "itc", "learn_temperature": True, "temperature": 0.07, "masked_token_prediction": False}
    },
    "identity": {"model": {"num_identities": NUM_PERSONS, "token_score": "cosine"}},
    "one_rank_predicts_nothing": {
        "model": {"informative_mask_threshold": 0.9},
        "training": {"train_sampling_strategy": "sequential"},
        "pairs": {"one_word_rows": [4, 5, 6, 7, 12, 13, 14, 15]},
    },
    "late_masking": {"model": {}, "training": {"masking_start": 0.5, "contrastive_start": 0.25}},
    "gradient_checkpointing": {"model": {}, "training": {"gradient_checkpointing": True}},
    # The two processes have different numbers of statements, words and tokens.
    "short_queries": {"model": {}, "training": {"query_weight": 0.5}, "pairs": {"short_queries": 2}},
    "muon": {"model": {}, "training": {"muon_learning_rate": 1e-2}},
    "sgd": {"model": {}, "training": {"optim": "sgd", "learning_rate": 1e-3, "max_grad_norm": 0.0}},
    "accumulation": {"model": {}, "training": {"gradient_accumulation_steps": 2, "max_steps": 3}},
    "random_masks": {
        "model": {"token_score": "random", "noise_mask_rate": 0.5, "informative_mask_rate": 0.5},
        # The same caption everywhere: masks of two processes differ by their draws alone.
        "pairs": {"captions": CAPTIONS[:1]},
    },
}


def make_processor() -> GADMSProcessor:
    tokenizer = train_tokenizer(CAPTIONS * 3, vocab_size=640, max_length=32)
    return GADMSProcessor.from_tokenizer(tokenizer, image_size=(16, 16))


def make_model(processor: GADMSProcessor, **fields: Any) -> GADMSForPreTraining:
    tokenizer = processor.tokenizer
    sizes = {"intermediate_size": 24, "num_hidden_layers": 2}
    defaults = {
        "text_config": {
            **sizes,
            "hidden_size": 16,
            "num_attention_heads": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": tokenizer.model_max_length,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        "vision_config": {
            **sizes,
            "hidden_size": 12,
            "num_attention_heads": 2,
            "image_size": processor.image_size,
            "patch_size": 8,
        },
        "projection_dim": 8,
        "mask_token_id": tokenizer.mask_token_id,
        "score_layers": 2,
        "temperature": 0.1,
        "fusion_num_hidden_layers": 1,
        "fusion_num_attention_heads": 2,
        "fusion_intermediate_size": 16,
        # Masks that no draw decides.
        "noise_mask_rate": 1.0,
        "informative_mask_rate": 1.0,
        "mask_sharpness": 1e6,
    }
    torch.manual_seed(0)
    return GADMSForPreTraining(GADMSConfig(**(defaults | fields))).double()


def make_pairs(
    processor: GADMSProcessor,
    num_rows: int,
    *,
    captions: Sequence[str] = CAPTIONS,
    one_word_rows: Sequence[int] = (),
    seed: int = 0,
    **options: Any,
) -> ImageCaptionPairs:
    captions = [[captions[(row * step) % len(captions)] for row in range(num_rows)] for step in (1, 5)]
    for column in captions:
        for row in one_word_rows:
            column[row] = "a"
    persons = [row % NUM_PERSONS for row in range(num_rows)]
    rows = {"image": list(range(num_rows)), "caption1": captions[0], "caption2": captions[1], "person_id": persons}
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (num_rows, 3, *processor.image_size), dtype=torch.uint8, generator=generator)
    return ImageCaptionPairs(datasets.Dataset.from_dict(rows), COLUMNS, pixel_cache=pixels, **options)


class _Witness(TrainerCallback):
    """Keeps what each forward pass of this process saw."""

    def __init__(self, model: nn.Module):
        self.seen: list[dict[str, Any]] = []
        model.register_forward_hook(self._keep, with_kwargs=True)

    def _keep(self, model, arguments, inputs, outputs):
        self.seen.append(
            {
                "training": model.training,
                "input_ids": inputs["input_ids"].clone(),
                "person_ids": None if inputs["person_ids"] is None else inputs["person_ids"].clone(),
                "noise_mask": outputs.noise_mask,
                "num_predicted_tokens": outputs.num_predicted_tokens,
            }
        )


class _Trainer(GADMSTrainer):
    """Keeps every micro-batch's loss as it is: the Trainer's own sum is in float32."""

    def __init__(self, *arguments: Any, **kwargs: Any):
        super().__init__(*arguments, **kwargs)
        self.losses: list[float] = []

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if not return_outputs:
            self.losses.append(loss.item())
        return loss


def run_case(name: str, folder: Path, world_size: int) -> dict[str, Any]:
    case = CASES[name]
    processor = make_processor()
    model = make_model(processor, **case["model"])
    start = {key: value.clone() for key, value in model.state_dict().items()}
    training = {
        "per_device_train_batch_size": GLOBAL_BATCH_SIZE // world_size,
        "per_device_eval_batch_size": 4,
        "max_steps": 5,
        "learning_rate": 1e-2,
        "weight_decay": 0.01,
        "new_module_lr_multiplier": 2.0,
        "warmup_steps": 0,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "max_grad_norm": 0.5,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
    }
    arguments = GADMSTrainingArguments(output_dir=str(folder), **(training | case.get("training", {})))
    witness = _Witness(model)
    trainer = _Trainer(
        model,
        arguments,
        processing_class=processor,
        train_dataset=make_pairs(processor, NUM_ROWS, **case.get("pairs", {})),
        # 7 images of 2 captions: 14 pairs fill neither the batches of one process nor those of two.
        eval_dataset=make_pairs(processor, 7, captions_per_image="all", seed=1),
        callbacks=[witness],
    )
    trainer.train()
    evaluation = trainer.evaluate() if name == "sdm" else None
    return {
        "world_size": arguments.world_size,
        "start": start,
        "parameters": {key: value.detach().clone() for key, value in model.state_dict().items()},
        "losses": trainer.losses,
        "logs": [entry for entry in trainer.state.log_history if "loss" in entry],
        "seen": witness.seen,
        "evaluation": evaluation,
    }


def main(folder: Path, rank: int, world_size: int) -> None:
    for name in CASES:
        torch.save(run_case(name, folder / "runs", world_size), folder / f"{name}-{rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
