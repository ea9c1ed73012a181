"""A model that was trained or downloaded, ready to search and to be measured."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from .configuration_gadms import GADMSConfig
from .modeling_gadms import GADMSModel
from .processing_gadms import GADMSProcessor


def load_model_and_processor(name: str | Path) -> tuple[GADMSModel, GADMSProcessor]:
    """Load a model, in evaluation mode and on the GPU if there is one, and the processor made for it.

    Args:
        name (`str` or `Path`): folder or Hub name of a GA-DMS model, with or without what training adds.

    Returns:
        [`GADMSModel`] and [`GADMSProcessor`].

    Raises:
        ValueError: if that is no model or one of another kind, lacks weights, or has a tokenizer of another model.
        OSError: if nothing is found under that name, or a file is missing.
    """
    config = AutoConfig.from_pretrained(name)
    if not isinstance(config, GADMSConfig):
        raise ValueError(f"{name} holds a model of type {config.model_type!r}, not a GA-DMS one")
    loaded: Any = GADMSModel.from_pretrained(name, output_loading_info=True)
    model, loading = loaded
    refuse_missing_weights(name, model, loading)
    processor = GADMSProcessor.from_pretrained(name)
    known, expected = len(processor.tokenizer), model.text_model.embeddings.token_embedding.num_embeddings
    if known != expected:  # transformers makes up a tokenizer of three tokens where the vocabulary is missing
        raise ValueError(f"{name}: its tokenizer has {known} tokens, its model {expected}; save both there again")
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), processor


def refuse_missing_weights(name: str | Path, model: Any, loading: dict[str, Any]) -> None:
    """Refuse a model of which weights would be random.

    Args:
        name (`str` or `Path`): what was loaded.
        model: as `from_pretrained` gives it with `output_loading_info=True`.
        loading (`dict`): what it gives beside it.

    Raises:
        ValueError: if weights are missing, naming one.
    """
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(f"{name} lacks {len(missing)} weights of {type(model).__name__}, such as {missing[0]}")
