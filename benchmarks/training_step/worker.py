"""Training steps for `run.py`, which also starts this module in a process of its own to measure memory.

    python -m benchmarks.training_step.worker <ours, reference or sdm> <vit-b-16 or small> <steps>

Prints one line of JSON: peak resident memory before the model was made and at the end. Weights, images and captions
are random: neither time nor memory depends on them.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import CLIPTokenizer

from benchmarks.measuring import peak_memory_bytes
from benchmarks.training_step.reference import ReferenceStep
from modeling_gadms.configuration_gadms import GADMSConfig
from modeling_gadms.modeling_gadms import GADMSForPreTraining
from modeling_gadms.processing_gadms import GADMSProcessor
from modeling_gadms.training.tokenizer import BOS_TOKEN, EOS_TOKEN
from modeling_gadms.training.trainer import GADMSTrainer, GADMSTrainingArguments


STEPS = ("ours", "reference", "sdm")
SIZES = ("vit-b-16", "small")
BATCH_SIZE = 8
CAPTION_TOKENS = (20, 50)
"""Minimum and maximum number of a caption's own tokens."""
LEARNING_RATE, EPSILON, WEIGHT_DECAY = 1e-5, 1e-3, 4e-5
"""Of the released configuration (FACTS section 1)."""

Batch = dict[str, torch.Tensor]


@dataclass
class Step:
    """A training step.

    Attributes:
        model ([`GADMSForPreTraining`])
        optimizer (`torch.optim.Optimizer`)
        loss (`Callable`): the objective of a batch; masks come from the global generator.
        scorer (`Any`), scores (`str`): object and name of its method that scores the tokens.
    """

    model: GADMSForPreTraining
    optimizer: torch.optim.Optimizer
    loss: Callable[[Batch], torch.Tensor]
    scorer: Any
    scores: str

    def run(self, batch: Batch) -> None:
        self.loss(batch).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def make_config(size: str, **objective: Any) -> GADMSConfig:
    """The paper's model, or a small one for tests."""
    if size == "vit-b-16":
        return GADMSConfig(text_config={"pad_token_id": 0}, **objective)
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    tokens = {"vocab_size": 4000, "bos_token_id": 3997, "eos_token_id": 3998, "pad_token_id": 0}
    return GADMSConfig(
        text_config=sizes | tokens,
        vision_config=sizes | {"image_size": (128, 64)},
        projection_dim=128,
        mask_token_id=3999,
        fusion_num_hidden_layers=2,
        fusion_intermediate_size=512,
        score_layers=3,
        **objective,
    )


def make_batch(config: GADMSConfig) -> Batch:
    """Noise: captions of evenly spread lengths, padded to the longest, as the trainer's collator does."""
    generator = torch.Generator().manual_seed(0)
    tokens = config.text_config
    lengths = torch.linspace(*CAPTION_TOKENS, BATCH_SIZE).round().long()[:, None]
    position = torch.arange(int(lengths.max()) + 2)
    input_ids = torch.randint(3, tokens.bos_token_id, (BATCH_SIZE, len(position)), generator=generator)
    input_ids[:, 0] = tokens.bos_token_id
    input_ids[position == lengths + 1] = tokens.eos_token_id
    input_ids[position > lengths + 1] = tokens.pad_token_id
    return {
        "input_ids": input_ids,
        "attention_mask": (position <= lengths + 1).long(),
        "pixel_values": torch.randn(BATCH_SIZE, 3, *config.image_size, generator=generator),
        "person_ids": torch.arange(BATCH_SIZE),
        "truncated": torch.zeros(BATCH_SIZE, dtype=torch.bool),
    }


def make_step(name: str, size: str) -> Step:
    """One of `STEPS` (ours, the literal one, ours with plain SDM), on the same random weights."""
    plain = {"token_score": "none", "noise_masking": False, "masked_token_prediction": False}
    torch.manual_seed(0)
    model = GADMSForPreTraining(make_config(size, **(plain if name == "sdm" else {}))).train()
    if name == "reference":
        reference = ReferenceStep(model)
        optimizer = reference.optimizer(lr=LEARNING_RATE, eps=EPSILON, weight_decay=WEIGHT_DECAY)
        return Step(model, optimizer, reference.loss, reference, "scores")
    trainer = make_trainer(model)
    return Step(
        model,
        trainer.create_optimizer(),
        lambda batch: trainer.compute_loss(model, batch),
        model.gadms,
        "score_tokens",
    )


def make_trainer(model: GADMSForPreTraining) -> GADMSTrainer:
    """The package's trainer, which provides the loss and the optimizer; it has no data."""
    text = model.config.text_config
    names = {text.bos_token_id: BOS_TOKEN, text.eos_token_id: EOS_TOKEN}
    vocabulary = {names.get(index, f"<{index}>"): index for index in range(model.config.mask_token_id)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=text.max_position_embeddings)
    with tempfile.TemporaryDirectory() as folder:
        arguments = GADMSTrainingArguments(
            output_dir=folder,
            learning_rate=LEARNING_RATE,
            adam_epsilon=EPSILON,
            weight_decay=WEIGHT_DECAY,
            use_cpu=True,
            report_to="none",
        )
        processor = GADMSProcessor.from_tokenizer(tokenizer, image_size=model.config.image_size)
        return GADMSTrainer(model, arguments, processing_class=processor)


def main(arguments: argparse.Namespace) -> None:
    libraries = peak_memory_bytes()
    step = make_step(arguments.step, arguments.size)
    batch = make_batch(step.model.config)
    for _ in range(arguments.steps):
        step.run(batch)
    print(json.dumps({"peak_bytes": peak_memory_bytes(), "libraries_bytes": libraries}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("steps", type=int)
    main(parser.parse_args())
