"""A small tokenizer of CLIP's kind, for weight files that are converted."""

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from modeling_gadms.training.tokenizer import train_tokenizer
from tests.modeling_gadms.conversion.openai_clip import CAPTIONS


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(CAPTIONS * 4, vocab_size=560, max_length=24).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def vocab_size(tokenizer_folder) -> int:
    return len(CLIPTokenizer.from_pretrained(tokenizer_folder))
