"""Explained captions contain the model's token scores and the typed text."""

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_gadms import GADMSModel
from modeling_gadms.explain.caption_tokens import Explanation, ScoredToken, draw_explanation, explain_caption


IMAGE = Image.new("RGB", (20, 50), (200, 30, 30))


def words_of(explanation: Explanation) -> list[str]:
    words: list[str] = []
    for token in explanation.tokens:
        if token.starts_word:
            words.append("")
        words[-1] += token.text
    return words


def test_scores_are_the_models_own_and_tokens_the_captions_letters(model, processor):
    caption = "A man in a RED coat, walking"
    explanation = explain_caption(model, processor, IMAGE, caption)
    assert words_of(explanation) == caption.split()

    inputs = processor(images=[IMAGE], text=[caption])
    with torch.no_grad():
        outputs = model(**inputs)
    scores = model.score_tokens(inputs["input_ids"], inputs["attention_mask"], outputs.image_embeds, method="gass")
    own = scores[0, 1:-1].tolist()  # between the tokens of beginning and end
    assert [token.score for token in explanation.tokens] == pytest.approx(own, abs=1e-5)
    assert max(own) == 1
    expected = torch.nn.functional.cosine_similarity(outputs.image_embeds, outputs.text_embeds).item()
    assert explanation.similarity == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("first, last", [(0.0, 1.0), (1.0, 0.0)])
def test_a_character_of_several_tokens_counts_once_with_the_highest_score(model, processor, monkeypatch, first, last):
    tokens = len(processor.tokenizer("red 😀")["input_ids"])
    assert tokens > 4, "the emoji is several tokens"
    scores = torch.linspace(first, last, tokens)[None]
    monkeypatch.setattr(GADMSModel, "score_tokens", lambda self, *_, **__: scores)
    explanation = explain_caption(model, processor, IMAGE, "red 😀")
    assert [token.text for token in explanation.tokens] == ["red", "😀"]
    assert explanation.tokens[1].score == pytest.approx(scores[0, 2:-1].max().item())


def test_a_caption_too_long_is_explained_as_far_as_the_model_reads(model, processor):
    with pytest.warns(UserWarning, match="are ignored"):
        explanation = explain_caption(model, processor, IMAGE, "red " * 500)
    assert len(explanation.tokens) == processor.tokenizer.model_max_length - 2


@pytest.mark.parametrize("special", ["<|endoftext|>", "<|mask|>"])
def test_a_special_token_in_a_caption_is_explained_as_the_text_that_it_is(model, processor, special):
    caption = f"red {special} hat"
    explanation = explain_caption(model, processor, IMAGE, caption)
    assert words_of(explanation) == caption.split()
    assert special not in {token.text for token in explanation.tokens}


def test_an_empty_caption_is_an_error(model, processor):
    with pytest.raises(ValueError, match="empty"):
        explain_caption(model, processor, IMAGE, " ")


def tokens(*scored: tuple[str, float]) -> Explanation:
    return Explanation([ScoredToken(text, score, True) for text, score in scored], similarity=0.3)


def count_of(sheet: Image.Image, colour: tuple[int, int, int]) -> int:
    """Number of pixels of a colour above the legend, right of the image."""
    return int((np.asarray(sheet)[60:105, 230:] == colour).all(axis=-1).sum())


def test_the_colour_deepens_with_the_score():
    strong, weak = (240, 120, 40), (255, 250, 240)
    assert count_of(draw_explanation(IMAGE, tokens(("red", 1.0))), strong) > 300
    assert count_of(draw_explanation(IMAGE, tokens(("red", 1.0))), weak) == 0
    assert count_of(draw_explanation(IMAGE, tokens(("red", 0.0))), weak) > 300
    both = draw_explanation(IMAGE, tokens(("red", 1.0), ("red", 0.0)))
    assert count_of(both, strong) == count_of(draw_explanation(IMAGE, tokens(("red", 1.0))), strong)


def test_the_image_is_shown_whole_at_its_own_proportions():
    shown = (np.abs(np.asarray(draw_explanation(IMAGE, tokens(("red", 0.5)))).astype(int) - (200, 30, 30)) < 6).all(-1)
    rows, columns = np.nonzero(shown)
    assert (np.ptp(rows) + 1) / (np.ptp(columns) + 1) == pytest.approx(50 / 20, rel=0.02)


@pytest.mark.parametrize("size", [(8, 900), (900, 8)])
@pytest.mark.parametrize("text", ["word", "人物😀", "w" * 400])
def test_a_long_caption_grows_the_picture_downwards_only(size, text):
    short = draw_explanation(Image.new("RGB", size), tokens(("a", 0.1)))
    long = draw_explanation(Image.new("RGB", size), tokens(*[(text, 0.5)] * 200))
    assert long.width == short.width
    assert long.height > short.height
