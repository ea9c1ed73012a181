"""Dual masking: probabilities by hand, rates over many draws, and what may never be masked."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_gadms.masking_gadms import (
    apply_mask,
    caption_token_mask,
    draw_mask,
    informative_mask_probability,
    noise_mask_probability,
)


BOS, EOS, MASK, PAD = 37, 38, 39, 0
NOISE = {"rate": 0.2, "sharpness": 20.0, "threshold": 0.9}
INFORMATIVE = {"rate": 0.3, "sharpness": 20.0, "threshold": 0.1}


def literal_noise_probability(score: float) -> float:
    return 0.2 / (1 + math.exp(-20 * ((1 - score) - 0.9)))


def literal_informative_probability(score: float) -> float:
    return 0.3 / (1 + math.exp(-20 * (score - 0.1)))


@pytest.mark.parametrize(
    ("score", "noise", "informative"),
    [
        # exponents: noise -20 (0.1, -0.4, -0.9), informative -20 (-0.1, 0.4, 0.9)
        (0.0, 0.2 / (1 + math.exp(-2)), 0.3 / (1 + math.exp(2))),
        (0.5, 0.2 / (1 + math.exp(8)), 0.3 / (1 + math.exp(-8))),
        (1.0, 0.2 / (1 + math.exp(18)), 0.3 / (1 + math.exp(-18))),
        # at the thresholds exactly half of the largest rate
        (0.1, 0.1, 0.15),
    ],
)
def test_probabilities_by_hand(score, noise, informative):
    scores = torch.tensor(score, dtype=torch.float64)
    assert noise_mask_probability(scores, **NOISE).item() == pytest.approx(noise, rel=1e-12)
    assert informative_mask_probability(scores, **INFORMATIVE).item() == pytest.approx(informative, rel=1e-12)


def test_probabilities_in_figures():
    """The unlikely token is noise in 18 of 100 draws, the likely one practically never."""
    scores = torch.tensor([0.0, 0.5, 1.0])
    assert noise_mask_probability(scores, **NOISE).tolist() == pytest.approx(
        [0.176159, 6.70700e-05, 3.04600e-09], 1e-4
    )
    assert informative_mask_probability(scores, **INFORMATIVE).tolist() == pytest.approx(
        [0.035761, 0.299899, 0.3], 1e-4
    )


@pytest.mark.parametrize("score", [0.0, 0.05, 0.1, 0.2, 0.5, 1.0])
@pytest.mark.parametrize(
    ("probability", "numbers", "literal"),
    [
        (noise_mask_probability, NOISE, literal_noise_probability),
        (informative_mask_probability, INFORMATIVE, literal_informative_probability),
    ],
)
def test_rates_over_many_draws_match_the_formulas(score, probability, numbers, literal):
    """Within five standard deviations of a binomial count."""
    draws, expected = 200_000, literal(score)
    scores, own_tokens = torch.full((draws // 100, 100), score), torch.ones(draws // 100, 100, dtype=torch.bool)
    generator = torch.Generator().manual_seed(int(score * 100))
    count = draw_mask(probability(scores, **numbers), own_tokens, generator).sum().item()
    bound = 5 * math.sqrt(draws * expected * (1 - expected))
    assert abs(count - draws * expected) <= max(bound, 1)


def test_tokens_are_drawn_independently():
    """Two tokens of a caption are masked together with the product of their probabilities."""
    draws = 100_000
    probability = torch.tensor([0.0, 0.2, 0.3, 0.0]).expand(draws, 4)
    own_tokens = torch.tensor([False, True, True, False]).expand(draws, 4)
    mask = draw_mask(probability, own_tokens, torch.Generator().manual_seed(0))
    together = (mask[:, 1] & mask[:, 2]).float().mean().item()
    assert together == pytest.approx(0.06, abs=5 * math.sqrt(0.06 * 0.94 / draws))


def test_probability_zero_never_and_one_always_masks():
    own_tokens = torch.ones(100, 100, dtype=torch.bool)
    assert not draw_mask(torch.zeros(100, 100), own_tokens).any()
    assert draw_mask(torch.ones(100, 100), own_tokens).all()


def test_draws_differ_and_a_generator_repeats_them():
    probability, own_tokens = torch.full((8, 50), 0.5), torch.ones(8, 50, dtype=torch.bool)
    generator = torch.Generator().manual_seed(3)
    first, second = draw_mask(probability, own_tokens, generator), draw_mask(probability, own_tokens, generator)
    assert not torch.equal(first, second)
    assert torch.equal(draw_mask(probability, own_tokens, torch.Generator().manual_seed(3)), first)
    state = torch.get_rng_state()
    draw_mask(probability, own_tokens, generator)
    assert torch.equal(torch.get_rng_state(), state)  # the global source is untouched
    torch.manual_seed(5)
    first, second = draw_mask(probability, own_tokens), draw_mask(probability, own_tokens)
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    assert torch.equal(draw_mask(probability, own_tokens), first)


def test_rows_of_a_batch_are_drawn_apart():
    mask = draw_mask(torch.full((6, 64), 0.5), torch.ones(6, 64, dtype=torch.bool), torch.Generator().manual_seed(0))
    assert len({tuple(row) for row in mask.tolist()}) == 6


CAPTIONS = st.lists(
    # own tokens may hold ids above EOS (a mask token) and the padding id
    st.lists(st.one_of(st.integers(0, 36), st.just(MASK)), max_size=10),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(captions=CAPTIONS, pad=st.sampled_from([PAD, EOS, 5]), extra=st.integers(0, 3), pass_mask=st.booleans())
def test_only_the_captions_own_tokens_are_masked(captions, pad, extra, pass_mask):
    rows = [[BOS, *caption, EOS] for caption in captions]
    length = max(map(len, rows)) + extra
    input_ids = torch.tensor([row + [pad] * (length - len(row)) for row in rows])
    attention_mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    own_tokens = caption_token_mask(input_ids, EOS, attention_mask if pass_mask else None)
    expected = [[0 < position <= len(caption) for position in range(length)] for caption in captions]
    assert own_tokens.tolist() == expected
    masked = apply_mask(input_ids, draw_mask(torch.ones(input_ids.shape), own_tokens), MASK)
    for before, after, caption in zip(input_ids.tolist(), masked.tolist(), captions, strict=True):
        assert after == [BOS, *[MASK] * len(caption), *before[len(caption) + 1 :]]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), probability=st.floats(0, 1))
def test_nothing_but_the_mask_token_is_inserted(seed, probability):
    """Released code also inserts random tokens."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(1, 37, (5, 12), generator=generator)
    input_ids[:, 0], input_ids[:, -1] = BOS, EOS
    original = input_ids.clone()
    own_tokens = caption_token_mask(input_ids, EOS)
    mask = draw_mask(torch.full(input_ids.shape, probability), own_tokens, generator)
    masked = apply_mask(input_ids, mask, MASK)
    assert (masked[mask] == MASK).all()
    assert torch.equal(masked[~mask], input_ids[~mask])
    assert torch.equal(input_ids, original)  # the caption itself is kept: it holds the labels


def test_a_caption_without_words_has_no_own_tokens():
    assert not caption_token_mask(torch.tensor([[BOS, EOS, PAD], [BOS, EOS, EOS]]), EOS).any()


def test_own_tokens_leave_the_input_alone():
    attention_mask = torch.ones(1, 4, dtype=torch.long)
    input_ids = torch.tensor([[BOS, 4, 5, EOS]])
    caption_token_mask(input_ids, EOS, attention_mask)
    assert input_ids.tolist() == [[BOS, 4, 5, EOS]] and attention_mask.tolist() == [[1, 1, 1, 1]]
