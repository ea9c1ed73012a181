"""Make the model and the processor that the `model` section of a run file describes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ..configuration_gadms import GADMSConfig
from ..encoders.adapter_folders import ADAPTER_CONFIG
from ..encoders.loading import find_mismatch, refuse_missing_weights
from ..modeling_gadms import GADMSForPreTraining
from ..processing_gadms import GADMSProcessor
from .run_config import ModelArguments
from .tokenizer import train_tokenizer
from .trainer import NEW_MODULES


def build_model_and_processor(
    arguments: ModelArguments, captions: Iterable[str]
) -> tuple[GADMSForPreTraining, GADMSProcessor]:
    """Load a model to train, or create one with random weights.

    Args:
        arguments ([`ModelArguments`]): a GA-DMS checkpoint, a dual encoder of transformers or neither.
        captions (`Iterable[str]`): training captions, read only to learn a vocabulary for random weights.

    Returns:
        [`GADMSForPreTraining`] and its [`GADMSProcessor`].

    Raises:
        ValueError: if two sources are given, an image size is given without `from_dual_encoder`, or a checkpoint is an
            adapter, lacks weights of the encoders, does not fit its configuration or has another model's tokenizer.
    """
    source = arguments.dual_encoder
    if arguments.from_pretrained and source:
        raise ValueError("section `model` sets both from_pretrained and a dual encoder to start from; keep one")
    if arguments.image_size and not source:
        raise ValueError(
            "model.image_size goes with model.from_dual_encoder; otherwise set model.vision_config.image_size"
        )

    if arguments.from_pretrained:
        if Path(arguments.from_pretrained, ADAPTER_CONFIG).is_file():
            raise ValueError(
                f"{arguments.from_pretrained} is an adapter, and training starts from a whole model: merge it with "
                f"`gadms convert {arguments.from_pretrained} FOLDER`"
            )
        # The classifier of another data set's persons is not reused.
        fields = {"num_identities": 0} | arguments.config
        config = GADMSConfig.from_pretrained(arguments.from_pretrained, **fields)
        model = _load(arguments.from_pretrained, config)
        processor = GADMSProcessor.from_pretrained(arguments.from_pretrained)
        if mismatch := find_mismatch(processor, config):
            raise ValueError(f"{arguments.from_pretrained}: {mismatch}; save the model's own tokenizer there")
        return model, processor

    if source:
        image_size = arguments.image_size or (384, 128)
        model = GADMSForPreTraining.from_dual_encoder(source, image_size=image_size, **arguments.config)
        processor = GADMSProcessor.from_dual_encoder(source, image_size=image_size)
        if mismatch := find_mismatch(processor, model.config):
            # Both have a mask token by now, which the checkpoint has not.
            raise ValueError(
                f"{source}: {mismatch}, both with the mask token. Give the model's own tokenizer; cut an embedding "
                "that was padded with `model.text_model.resize_token_embeddings(len(tokenizer))`, and save the model "
                "again"
            )
        return model, processor

    text_config = {"max_position_embeddings": 77} | arguments.config.get("text_config", {})
    max_length = text_config["max_position_embeddings"]
    tokenizer = train_tokenizer(captions, vocab_size=arguments.vocab_size, max_length=max_length)
    # The learned vocabulary completes the configuration.
    text_config |= {
        "vocab_size": len(tokenizer) + 1,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = GADMSConfig(**(arguments.config | {"text_config": text_config, "mask_token_id": len(tokenizer)}))
    processor = GADMSProcessor.from_tokenizer(tokenizer, image_size=config.image_size)
    return GADMSForPreTraining(config), processor


def _load(name: str, config: GADMSConfig) -> GADMSForPreTraining:
    # In half precision, in which checkpoints may be published, small optimizer steps would be lost. Only a classifier
    # may have another size: other mismatches are refused below.
    options: Any = {"dtype": torch.float32, "ignore_mismatched_sizes": True, "output_loading_info": True}
    loaded: Any = GADMSForPreTraining.from_pretrained(name, config=config, **options)
    model, loading = loaded
    differing = sorted(key for key, *_ in loading["mismatched_keys"] if not key.startswith("classifier."))
    if differing:
        raise ValueError(
            f"{name}: {len(differing)} weights do not have the size that its configuration says, such as "
            f"{differing[0]}"
        )
    encoders = [key for key in loading["missing_keys"] if key.split(".")[0] not in NEW_MODULES]
    refuse_missing_weights(name, model, {"missing_keys": encoders})
    return model
