"""Loss terms against hand-worked examples, naive loops and finite differences."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_gadms.losses_gadms import (
    identity_loss,
    image_query_contrastive_loss,
    image_text_contrastive_loss,
    masked_token_prediction_loss,
    similarity_distribution_matching_loss,
)


def random_pairs(rows: int, columns: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, rows, columns, dtype=torch.float64, generator=generator).unbind()


def naive_sdm(images, texts, person_ids, temperature, epsilon=1e-8) -> float:
    """Row by row in plain Python floats."""

    def cosine(x, y):
        return sum(a * b for a, b in zip(x, y, strict=True)) / (math.hypot(*x) * math.hypot(*y))

    def direction(rows, columns):
        losses = []
        for row, person in zip(rows, person_ids, strict=True):
            exponentials = [math.exp(cosine(row, column) / temperature) for column in columns]
            p = [value / sum(exponentials) for value in exponentials]
            same = [float(person == other) for other in person_ids]
            q = [value / sum(same) for value in same]
            losses.append(sum(a * (math.log(a) - math.log(b + epsilon)) for a, b in zip(p, q, strict=True)))
        return sum(losses) / len(losses)

    return direction(images, texts) + direction(texts, images)


# Images and queries.


def test_one_query_an_image_is_the_contrastive_loss():
    images, texts = random_pairs(5)
    persons = torch.tensor([0, 1, 0, 2, 3])
    same = persons[:, None] == persons
    expected = image_text_contrastive_loss(images, texts, persons, temperature=0.2)
    got = image_query_contrastive_loss(images, texts, same, same, temperature=0.2)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


def test_queries_against_a_loop():
    """Seven queries of three images; the last query fits nobody, and the last image has no query."""
    images, queries = random_pairs(3)[0], random_pairs(7, seed=1)[1]
    fits = torch.tensor([[1, 1, 0, 1, 0, 0, 0], [0, 1, 1, 0, 1, 1, 0], [0] * 7], dtype=torch.bool)

    def direction(rows, columns, matches):
        losses = []
        for row, fitting in zip(rows, matches, strict=True):
            logits = [F.cosine_similarity(row, column, dim=0).item() / 0.3 for column in columns]
            total = math.log(sum(map(math.exp, logits)))
            chosen = [total - logit for logit, fit in zip(logits, fitting, strict=True) if fit]
            if chosen:
                losses.append(sum(chosen) / len(chosen))
        return sum(losses) / len(losses)

    expected = (direction(images, queries, fits) + direction(queries, images, fits.T)) / 2
    got = image_query_contrastive_loss(images, queries, fits, fits.T, temperature=0.3)
    assert got.item() == pytest.approx(expected, rel=1e-12)
    # Two processes with the columns of both.
    halves = [
        image_query_contrastive_loss(
            images[rows], queries[own], fits[rows], fits.T[own],
            temperature=0.3, all_image_embeds=images, all_query_embeds=queries,
        )
        for rows, own in ((slice(0, 1), slice(0, 3)), (slice(1, 2), slice(3, 6)))
    ]  # fmt: skip
    assert (sum(halves) / 2).item() == pytest.approx(expected, rel=1e-12)


# Similarity distribution matching.


def test_sdm_by_hand():
    """Three pairs, the first and third of one person, tau = 0.5.

    Images are the unit axes; texts are (1, 0, 0), (0, 1, 0) and (0.6, 0, 0.8), one of them not normalised. Then

        cosine         = [[1, 0, 0.6], [0, 1, 0], [0, 0, 0.8]]     image rows, text columns
        cosine / tau   = [[2, 0, 1.2], [0, 2, 0], [0, 0, 1.6]]
        q              = [[1/2, 0, 1/2], [0, 1, 0], [1/2, 0, 1/2]]
    """
    images = torch.eye(3, dtype=torch.float64)
    texts = torch.tensor([[1.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.6, 0.0, 0.8]], dtype=torch.float64)
    person_ids = torch.tensor([7, 3, 7])

    e2, e12, e16 = math.exp(2), math.exp(1.2), math.exp(1.6)  # 7.389056, 3.320117, 4.953032
    half, one, none = math.log(0.5 + 1e-8), math.log(1 + 1e-8), math.log(1e-8)  # log(q + epsilon)

    def divergence(exponentials, log_q):
        total = sum(exponentials)
        return sum(x / total * (math.log(x / total) - y) for x, y in zip(exponentials, log_q, strict=True))

    image_to_text = [
        divergence([e2, 1, e12], [half, none, half]),  # p = (0.631, 0.085, 0.284) -> 1.349116
        divergence([1, e2, 1], [none, one, none]),  # p = (0.107, 0.787, 0.107) -> 3.258289
        divergence([1, 1, e16], [half, none, half]),  # p = (0.144, 0.144, 0.712) -> 2.443350
    ]
    text_to_image = [
        divergence([e2, 1, 1], [half, none, half]),  # p = (0.787, 0.107, 0.107) -> 1.915681
        divergence([1, e2, 1], [none, one, none]),  # p = (0.107, 0.787, 0.107) -> 3.258289
        divergence([e12, 1, e16], [half, none, half]),  # p = (0.358, 0.108, 0.534) -> 1.661975
    ]
    by_hand = sum(image_to_text) / 3 + sum(text_to_image) / 3

    loss = similarity_distribution_matching_loss(images, texts, person_ids, temperature=0.5)
    assert loss.item() == pytest.approx(by_hand, rel=1e-12)
    assert by_hand == pytest.approx(4.628900, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    person_ids=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.02, 0.1, 1.0]),
)
def test_sdm_equals_a_naive_loop(person_ids, seed, temperature):
    images, texts = random_pairs(len(person_ids), seed=seed)
    loss = similarity_distribution_matching_loss(images, texts, torch.tensor(person_ids), temperature=temperature)
    expected = naive_sdm(images.tolist(), texts.tolist(), person_ids, temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_sdm_is_zero_where_the_distributions_match():
    apart = torch.eye(4)
    loss = similarity_distribution_matching_loss(apart, apart, torch.arange(4), temperature=0.02)
    assert loss.abs() < 1e-6
    shared = apart[[0, 0, 1, 2]]  # two pairs of one person embedded alike: p is spread over both, as q is
    loss = similarity_distribution_matching_loss(shared, shared, torch.tensor([5, 5, 8, 9]), temperature=0.02)
    assert loss.abs() < 1e-6


def test_sdm_tells_a_repeated_identity_from_a_false_negative():
    """Released code makes every caption its own identity, so two captions of one image repel each other."""
    shared = torch.eye(4)[[0, 0, 1, 2]]
    own_identity = similarity_distribution_matching_loss(shared, shared, torch.arange(4), temperature=0.02)
    assert own_identity > 1.0


def test_sdm_epsilon_bounds_the_loss_of_an_impossible_match():
    """p sits wholly on a wrong column: KL = -log(epsilon), in both directions."""
    images, texts = torch.eye(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64).flip(0)
    for epsilon in (1e-8, 1e-4):
        loss = similarity_distribution_matching_loss(images, texts, torch.arange(2), temperature=0.01, epsilon=epsilon)
        assert loss.item() == pytest.approx(-2 * math.log(epsilon), rel=1e-9)


def test_identical_pairs_and_wrong_pairs_are_told_apart():
    images, texts = random_pairs(4)
    person_ids = torch.arange(4)
    matched = similarity_distribution_matching_loss(images, images, person_ids, temperature=0.02)
    unmatched = similarity_distribution_matching_loss(images, texts, person_ids, temperature=0.02)
    assert matched < 0.1 < unmatched


# Contrastive alignment.


@pytest.mark.parametrize("rows", [1, 2, 8, 37])
def test_itc_of_equal_similarities_is_the_logarithm_of_the_batch(rows):
    zeros = torch.zeros(rows, 5)
    loss = image_text_contrastive_loss(zeros, zeros, torch.arange(rows), temperature=0.02)
    assert loss.item() == pytest.approx(math.log(rows), abs=1e-6)


def test_itc_equals_clips_cross_entropy_for_distinct_identities():
    images, texts = random_pairs(7)
    logits = F.normalize(images) @ F.normalize(texts).T / 0.07
    expected = (F.cross_entropy(logits, torch.arange(7)) + F.cross_entropy(logits.T, torch.arange(7))) / 2
    torch.testing.assert_close(image_text_contrastive_loss(images, texts, torch.arange(7), temperature=0.07), expected)


def test_itc_by_hand_with_a_repeated_identity():
    """Logits [[1, 0], [0, 1]], one person: each row's target is (1/2, 1/2), so its loss is log(e + 1) - 1/2."""
    eye = torch.eye(2, dtype=torch.float64)
    loss = image_text_contrastive_loss(eye, eye, torch.tensor([4, 4]), temperature=1.0)
    assert loss.item() == pytest.approx(math.log(math.e + 1) - 0.5, rel=1e-12)


# What both alignments share.

alignments = pytest.mark.parametrize(
    "alignment", [similarity_distribution_matching_loss, image_text_contrastive_loss], ids=["sdm", "itc"]
)
PERSONS = torch.tensor([0, 1, 0, 2, 3, 1])


@alignments
@pytest.mark.parametrize("parts", [[3, 3], [1, 2, 3], [1] * 6])
def test_parts_of_a_batch_against_all_columns_average_to_the_whole(alignment, parts):
    """What each process computes on its own rows; values and gradients, weighted by rows."""
    images, texts = (embeds.requires_grad_() for embeds in random_pairs(6))
    whole = alignment(images, texts, PERSONS, temperature=0.1)
    columns = {"all_image_embeds": images, "all_text_embeds": texts, "all_person_ids": PERSONS}
    in_parts = sum(
        len(ids) / 6 * alignment(rows, captions, ids, temperature=0.1, **columns)
        for rows, captions, ids in zip(images.split(parts), texts.split(parts), PERSONS.split(parts), strict=True)
    )
    torch.testing.assert_close(in_parts, whole)
    for ours, expected in zip(
        torch.autograd.grad(in_parts, [images, texts]), torch.autograd.grad(whole, [images, texts]), strict=True
    ):
        torch.testing.assert_close(ours, expected)


@alignments
def test_alignment_does_not_depend_on_the_length_of_embeddings(alignment):
    images, texts = random_pairs(6)
    expected = alignment(images, texts, PERSONS, temperature=0.1)
    lengths = torch.tensor([0.01, 3.0, 100.0, 1.0, 7.0, 0.5], dtype=torch.float64)[:, None]
    torch.testing.assert_close(alignment(images * lengths, texts * 40.0, PERSONS, temperature=0.1), expected)


@alignments
def test_alignment_does_not_depend_on_order_direction_or_names_of_persons(alignment):
    images, texts = random_pairs(6)
    expected = alignment(images, texts, PERSONS, temperature=0.1)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    torch.testing.assert_close(alignment(images[order], texts[order], PERSONS[order], temperature=0.1), expected)
    torch.testing.assert_close(alignment(texts, images, PERSONS, temperature=0.1), expected)
    torch.testing.assert_close(alignment(images, texts, PERSONS * 1000 - 7, temperature=0.1), expected)


@alignments
def test_gradient_of_alignment_by_finite_differences(alignment):
    images, texts = (embeds.requires_grad_() for embeds in random_pairs(4))
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda i, t, tau: alignment(i, t, PERSONS[:4], temperature=tau), (images, texts, temperature)
    )


@alignments
@pytest.mark.parametrize("temperature", [0.0, -0.02])
def test_a_temperature_that_is_not_positive_is_refused(alignment, temperature):
    with pytest.raises(ValueError, match=f"temperature = {temperature}"):
        alignment(*random_pairs(2), torch.arange(2), temperature=temperature)


@alignments
def test_images_and_texts_that_do_not_pair_up_are_refused(alignment):
    images, texts = random_pairs(4)
    with pytest.raises(ValueError, match=r"\(4, 6\).*\(3, 6\)"):
        alignment(images, texts[:3], torch.arange(4), temperature=0.02)


@alignments
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_embeddings_are_compared_in_float32(alignment, dtype):
    images, texts = (embeds.to(dtype) for embeds in random_pairs(6))
    loss = alignment(images, texts, PERSONS, temperature=0.02)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, alignment(images.float(), texts.float(), PERSONS, temperature=0.02))


@alignments
def test_alignment_in_autocast_is_computed_in_float32(alignment):
    """At tau = 0.02 a product in bfloat16 would be wrong by a tenth of a nat."""
    images, texts = (embeds.float() for embeds in random_pairs(6))
    expected = alignment(images, texts, PERSONS, temperature=0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = alignment(images, texts, PERSONS, temperature=0.02)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)


# Masked token prediction and identity.


def test_mtp_is_the_mean_cross_entropy_by_hand():
    """Logits (0, log 3) give (1/4, 3/4); labels 0 and 1 cost log 4 and log 4/3."""
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    loss = masked_token_prediction_loss(logits, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx((math.log(4) + math.log(4 / 3)) / 2, rel=1e-6)


def test_mtp_of_nothing_masked_is_zero_and_part_of_the_graph():
    """A process without a masked token must still give every parameter a gradient."""
    head = torch.nn.Linear(4, 10)
    loss = masked_token_prediction_loss(head(torch.zeros(0, 4)), torch.zeros(0, dtype=torch.long))
    assert loss.item() == 0.0
    loss.backward()
    assert torch.equal(head.weight.grad, torch.zeros(10, 4))


def test_mtp_of_large_half_precision_logits_is_finite():
    logits = torch.full((3, 50), 6e4, dtype=torch.float16)
    assert masked_token_prediction_loss(logits, torch.arange(3)).item() == pytest.approx(math.log(50), rel=1e-6)


def test_gradient_of_mtp_by_finite_differences():
    logits = random_pairs(5, 7)[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: masked_token_prediction_loss(x, torch.arange(5)), logits)


def test_identity_loss_is_the_mean_of_both_classifications():
    images, texts = random_pairs(5, 4)
    person_ids = torch.tensor([3, 0, 0, 1, 2])
    expected = (F.cross_entropy(images, person_ids) + F.cross_entropy(texts, person_ids)) / 2
    torch.testing.assert_close(identity_loss(images, texts, person_ids), expected)


def test_gradient_of_identity_loss_by_finite_differences():
    images, texts = (logits.requires_grad_() for logits in random_pairs(5, 4))
    person_ids = torch.tensor([3, 0, 0, 1, 2])
    assert torch.autograd.gradcheck(lambda x, y: identity_loss(x, y, person_ids), (images, texts))


def test_identity_loss_of_large_half_precision_logits_is_finite():
    logits = torch.full((2, 3), 6e4, dtype=torch.float16)
    loss = identity_loss(logits, -logits, torch.tensor([0, 2]))
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(math.log(3), rel=1e-6)


def test_identity_loss_of_an_undecided_classifier_is_the_logarithm_of_identities():
    zeros = torch.zeros(3, 11)
    assert identity_loss(zeros, zeros, torch.tensor([0, 10, 5])).item() == pytest.approx(math.log(11), rel=1e-6)


@pytest.mark.parametrize(("person_ids", "span"), [([0, 4], "0 to 4"), ([-1, 2], "-1 to 2")])
def test_identity_outside_the_classifier_is_refused(person_ids, span):
    logits = torch.zeros(2, 4)
    with pytest.raises(ValueError, match=f"range from {span}.*identities 0 to 3"):
        identity_loss(logits, logits, torch.tensor(person_ids))
