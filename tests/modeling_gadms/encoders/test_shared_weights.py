"""Several threads share one model and one processor, as in the web page and the server."""

import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_gadms.encoders.encoding import encode_captions, encode_images
from modeling_gadms.encoders.query_checks import query_warnings
from modeling_gadms.explain.caption_tokens import explain_caption
from modeling_gadms.explain.image_patches import image_relevance


SHORT, LONG = "a man in a red coat", "a woman in a blue jacket with a black bag " * 5
ROUNDS = 60


@pytest.fixture(autouse=True)
def threads_that_take_turns_often():
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the long caption
        yield
    sys.setswitchinterval(usual)


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8))


def agree_concurrently(*asked: Callable[[], torch.Tensor]) -> None:
    """Run each call repeatedly in its own thread, and compare with its result when run alone."""
    alone = [ask() for ask in asked]

    def repeat(ask: Callable[[], torch.Tensor], expected: torch.Tensor) -> None:
        for _ in range(ROUNDS):
            torch.testing.assert_close(ask(), expected, atol=1e-5, rtol=0)

    with ThreadPoolExecutor(len(asked)) as pool:
        for answer in [pool.submit(repeat, *pair) for pair in zip(asked, alone, strict=True)]:
            answer.result()


def test_counting_and_truncating_tokens_concurrently(processor):
    limit = processor.tokenizer.model_max_length

    def cut() -> torch.Tensor:
        tokens = processor(text=[SHORT, LONG])
        assert tokens["input_ids"].shape == (2, limit)
        return tokens["attention_mask"]

    def counted() -> torch.Tensor:
        (message,) = query_warnings(processor, LONG)
        return torch.tensor([int(word) for word in message.replace(":", "").split() if word.isdigit()])

    agree_concurrently(cut, counted, cut, counted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_explanations_concurrent_with_search_and_indexing(model, processor, dtype):
    model.to(dtype)

    def explained(text: str) -> Callable[[], torch.Tensor]:
        return lambda: torch.tensor(
            [token.score for token in explain_caption(model, processor, picture(), text).tokens]
        )

    def embeds(encode: Callable[..., torch.Tensor], what: Any) -> Callable[[], torch.Tensor]:
        return lambda: encode(model, processor, [what], progress=False)

    agree_concurrently(
        explained(SHORT),
        explained(LONG),
        lambda: image_relevance(model, processor, picture(), SHORT).scores,
        embeds(encode_captions, LONG),
        embeds(encode_images, picture()),
    )
