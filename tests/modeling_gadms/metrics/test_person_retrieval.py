"""`person_retrieval`: metrics compared with a plain full sort, and the `evaluate` module."""

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_gadms.metrics.person_retrieval.person_retrieval import PersonRetrieval
from modeling_gadms.metrics.person_retrieval.ranking import (
    COUNTED_POSITIVES,
    rank_metrics,
    rank_metrics_from_similarity,
)
from tests.waiting import PATIENCE_SECONDS


METRIC_FOLDER = Path(__file__).parents[3] / "modeling_gadms" / "metrics" / "person_retrieval"


def naive_metrics(
    similarity: list[list[float]], query_ids: list, gallery_ids: list, ks=(1, 5, 10)
) -> dict[str, float]:
    """Sort the whole gallery for each query (Python's sort is stable) and walk down the ranking."""
    found = {k: [] for k in ks}
    average_precisions, inverse_negative_penalties = [], []
    for scores, person in zip(similarity, query_ids, strict=True):
        ranking = sorted(range(len(scores)), key=lambda index: -scores[index])
        hits = [gallery_ids[index] == person for index in ranking]
        precisions, last_rank = [], 0
        for rank, hit in enumerate(hits, start=1):
            if hit:
                precisions.append(sum(hits[:rank]) / rank)
                last_rank = rank
        for k in ks:
            found[k].append(any(hits[:k]))
        average_precisions.append(sum(precisions) / len(precisions))
        inverse_negative_penalties.append(len(precisions) / last_rank)
    metrics = {f"r{k}": 100 * sum(values) / len(values) for k, values in found.items()}
    metrics["map"] = 100 * sum(average_precisions) / len(average_precisions)
    metrics["minp"] = 100 * sum(inverse_negative_penalties) / len(inverse_negative_penalties)
    return metrics


@st.composite
def retrievals(draw, scores):
    """A similarity matrix with repeated ids, in which every query has at least one positive."""
    num_gallery = draw(st.integers(1, 25))
    gallery_ids = draw(st.lists(st.integers(0, 6), min_size=num_gallery, max_size=num_gallery))
    query_ids = draw(st.lists(st.sampled_from(gallery_ids), min_size=1, max_size=9))
    row = st.lists(scores, min_size=num_gallery, max_size=num_gallery)
    return draw(st.lists(row, min_size=len(query_ids), max_size=len(query_ids))), query_ids, gallery_ids


@settings(max_examples=150, deadline=None)
@given(retrievals(st.floats(-1, 1, width=32)))
def test_metrics_of_a_random_matrix_equal_those_of_a_full_sort(retrieval):
    similarity, query_ids, gallery_ids = retrieval
    ours = rank_metrics_from_similarity(torch.tensor(similarity), query_ids, gallery_ids).to_dict()
    assert ours == pytest.approx(naive_metrics(similarity, query_ids, gallery_ids))


@settings(max_examples=150, deadline=None)
@given(retrievals(st.sampled_from([-0.5, -0.0, 0.0, 0.5])))
def test_metrics_of_a_heavily_tied_matrix_equal_those_of_a_stable_full_sort(retrieval):
    similarity, query_ids, gallery_ids = retrieval
    ours = rank_metrics_from_similarity(torch.tensor(similarity), query_ids, gallery_ids).to_dict()
    assert ours == pytest.approx(naive_metrics(similarity, query_ids, gallery_ids))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([-0.5, 0.0, 0.25, 0.5, 1.0]), min_size=3, max_size=20), st.booleans())
def test_ranks_of_many_positives_equal_those_of_a_count(scores, tied):
    # So many gallery rows of one person that the row is sorted, interleaved with as many of another.
    row = np.repeat(scores, COUNTED_POSITIVES).astype(np.float32)
    if not tied:
        row += np.random.default_rng(0).permutation(len(row)).astype(np.float32) / 2**16
    gallery_ids = [position % 2 for position in range(len(row))]
    assert len(row) // 2 > COUNTED_POSITIVES
    ours = rank_metrics_from_similarity(row[None], [1], gallery_ids).to_dict()
    assert ours == pytest.approx(naive_metrics([row.tolist()], [1], gallery_ids))


AXIS_ROWS = st.tuples(st.integers(0, 3), st.sampled_from([-2.0, 1.0, 3.0]), st.integers(0, 4))  # axis, length, person


@settings(max_examples=100, deadline=None)
@given(
    axes=st.lists(AXIS_ROWS, min_size=1, max_size=30),
    picks=st.lists(st.integers(0, 29), min_size=1, max_size=12),
    chunk_size=st.integers(1, 14),
)
def test_every_chunk_size_gives_the_metrics_of_a_full_sort(axes, picks, chunk_size):
    # Rows on the coordinate axes: their cosines are exactly -1, 0 or 1, so that almost everything ties.
    gallery = torch.zeros(len(axes), 4)
    for row, (axis, length, _) in enumerate(axes):
        gallery[row, axis] = length
    gallery_ids = [person for _, _, person in axes]
    picks = [pick % len(axes) for pick in picks]
    queries, query_ids = gallery[picks].roll(1, dims=1), [gallery_ids[pick] for pick in picks]
    ours = rank_metrics(queries, gallery, query_ids, gallery_ids, chunk_size=chunk_size).to_dict()
    cosines = (torch.sign(queries) @ torch.sign(gallery).T).tolist()
    assert ours == pytest.approx(naive_metrics(cosines, query_ids, gallery_ids))


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 101, 1000])
def test_random_embeddings_give_the_metrics_of_a_full_sort_in_both_directions(chunk_size):
    generator = torch.Generator().manual_seed(0)
    captions, images = torch.randn(101, 16, generator=generator), torch.randn(60, 16, generator=generator)
    caption_ids, image_ids = [row % 20 for row in range(101)], [row % 20 for row in range(60)]
    cosines = torch.nn.functional.cosine_similarity(captions[:, None].double(), images[None].double(), dim=-1)
    text_to_image = rank_metrics(captions, images, caption_ids, image_ids, chunk_size=chunk_size).to_dict()
    image_to_text = rank_metrics(images, captions, image_ids, caption_ids, chunk_size=chunk_size).to_dict()
    assert text_to_image == pytest.approx(naive_metrics(cosines.tolist(), caption_ids, image_ids))
    assert image_to_text == pytest.approx(naive_metrics(cosines.T.tolist(), image_ids, caption_ids))


def test_worked_example():
    # Both queries rank the gallery 1, 3, 2, 0, 4: persons B A B A A. So A is at ranks 2, 4, 5 and B at ranks 1, 3.
    similarity = [[0.6, 0.9, 0.7, 0.8, 0.5], [0.6, 0.9, 0.7, 0.8, 0.5]]
    gallery_ids = ["A", "B", "B", "A", "A"]
    metrics = rank_metrics_from_similarity(torch.tensor(similarity), ["A", "B"], gallery_ids, ks=(1, 2)).to_dict()
    assert metrics["r1"] == 50.0 and metrics["r2"] == 100.0
    assert metrics["map"] == pytest.approx(100 * ((1 / 2 + 2 / 4 + 3 / 5) / 3 + (1 / 1 + 2 / 3) / 2) / 2)
    assert metrics["minp"] == pytest.approx(100 * (3 / 5 + 2 / 3) / 2)


def test_a_tie_is_won_by_the_lower_gallery_index():
    tied = torch.tensor([[0.5, 0.5]])
    assert rank_metrics_from_similarity(tied, [1], [1, 2], ks=(1,)).recall == {1: 100.0}
    assert rank_metrics_from_similarity(tied, [1], [2, 1], ks=(1,)).recall == {1: 0.0}


@pytest.mark.parametrize("chunk_size", [1, 2, 256])
@pytest.mark.parametrize("num_gallery", [7, 33, 1001])
def test_gallery_duplicates_tie_whatever_the_matrix_product_rounds(num_gallery, chunk_size):
    generator = torch.Generator().manual_seed(1)
    embedding, queries = torch.randn(64, generator=generator), torch.randn(9, 64, generator=generator)
    gallery = embedding.repeat(num_gallery, 1)
    gallery[:, :8] = torch.where(
        torch.rand(num_gallery, 8, generator=generator) < 0.5, 0.0, -0.0
    )  # equal, not bit by bit
    person_ids = list(range(num_gallery))
    metrics = rank_metrics(queries, gallery, [4] * 9, person_ids, chunk_size=chunk_size)
    assert metrics.mean_average_precision == pytest.approx(100 / 5)


def test_one_query_whose_whole_gallery_is_positive_is_perfect():
    metrics = rank_metrics(torch.randn(1, 4), torch.randn(6, 4), [3], [3] * 6).to_dict()
    assert set(metrics.values()) == {100.0}


def test_embedding_lengths_do_not_matter_and_half_precision_is_read():
    generator = torch.Generator().manual_seed(2)
    queries, gallery = torch.randn(10, 8, generator=generator), torch.randn(10, 8, generator=generator)
    lengths = torch.rand(10, 1, generator=generator) + 0.1
    expected = rank_metrics(queries, gallery, range(10), range(10))
    assert rank_metrics(queries * lengths, gallery / lengths, range(10), range(10)) == expected
    halves = rank_metrics(queries.bfloat16(), gallery.bfloat16(), range(10), range(10))
    assert halves == rank_metrics(queries.bfloat16().float(), gallery.bfloat16().float(), range(10), range(10))


def test_peak_memory_does_not_grow_with_queries_times_gallery():
    def peak(rows: int) -> int:
        embeds = torch.from_numpy(np.random.default_rng(0).standard_normal((rows, 8), dtype=np.float32))
        ids = torch.arange(rows) % 50
        tracemalloc.start()
        try:
            rank_metrics(embeds, embeds, ids, ids, chunk_size=16)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(500), peak(2000)
    assert large < 5 * small  # 4 times the rows: 4 times the memory, not 16
    assert large < 2000 * 2000 * 4 / 4  # a quarter of the similarity matrix alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_peak_memory_does_not_grow_with_the_queries(dtype):
    def peak(rows: int) -> int:
        queries = torch.ones(rows, 512, dtype=dtype)
        tracemalloc.start()
        try:
            rank_metrics(queries, torch.ones(4, 512), np.zeros(rows, int), [0] * 4, chunk_size=16)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(100)  # what is loaded once
    assert peak(4000) - peak(100) < 4000 * 512 * 4 / 10  # a tenth of a float32 copy: ids and ranks, no embeddings


EMBEDS = torch.eye(3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[1.0, float("nan")]], [[1.0, 0.0]], [1], [1]), ValueError, "query_embeds: row 0 has NaN or infinity"),
        ((EMBEDS, [[1.0, 0, 0], [0, float("inf"), 0]], [1] * 3, [1, 1]), ValueError, "gallery_embeds: row 1 has NaN"),
        ((EMBEDS, EMBEDS * torch.tensor([[1.0], [1.0], [0.0]]), [1] * 3, [1] * 3), ValueError, "row 2 is zero"),
        ((EMBEDS, EMBEDS, [1, 2], [1, 2, 3]), ValueError, "query_ids has 2 entries for 3 query rows"),
        ((EMBEDS, EMBEDS, [1, 2, 3], [1, 2, 3, 4]), ValueError, "gallery_ids has 4 entries for 3 gallery rows"),
        ((EMBEDS, torch.eye(4), [1] * 3, [1] * 4), ValueError, "query_embeds have 3 dimensions and gallery_embeds 4"),
        ((torch.zeros(0, 3), EMBEDS, [], [1] * 3), ValueError, r"query_embeds has shape \(0, 3\)"),
        ((EMBEDS[0], EMBEDS, [1], [1] * 3), ValueError, r"query_embeds has shape \(3,\)"),
        ((EMBEDS, EMBEDS, [1, 8, 9], [1, 2, 3]), ValueError, r"2 of 3 queries .* \(first person ids: 8, 9\)"),
        ((EMBEDS, EMBEDS, [1.5, 2, 3], [1, 2, 3]), TypeError, "query_ids holds float, int"),
        ((EMBEDS, EMBEDS, [1, 2, 3], [1, "2", 3]), TypeError, "gallery_ids holds int, str"),
        ((EMBEDS, EMBEDS, [True, False, True], [1, 2, 3]), TypeError, "query_ids holds bool"),
        ((EMBEDS, EMBEDS, ["1", "2", "3"], [1, 2, 3]), TypeError, "query_ids are str and gallery_ids int"),
    ],
)
def test_bad_input_is_an_error_that_names_it(arguments, error, message):
    queries, gallery, query_ids, gallery_ids = arguments
    with pytest.raises(error, match=message):
        rank_metrics(torch.as_tensor(queries), torch.as_tensor(gallery), query_ids, gallery_ids)


def test_a_similarity_that_is_not_finite_names_its_row():
    with pytest.raises(ValueError, match="similarity has NaN or infinity in row 1"):
        rank_metrics_from_similarity(torch.tensor([[0.0], [float("nan")]]), [1, 1], [1])


@pytest.mark.parametrize("options", [{"chunk_size": 0}, {"ks": (0,)}, {"ks": ()}, {"ks": (1.5,)}])
def test_a_size_that_is_not_positive_names_its_argument(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be positive and whole"):
        rank_metrics(EMBEDS, EMBEDS, [1] * 3, [1] * 3, **options)


CAPTIONS, CAPTION_IDS = [[1.0, 0.1], [0.2, 1.0], [-1.0, 0.3]], [5, 6, 5]
IMAGES, IMAGE_IDS = [[0.9, 0.2], [0.1, 1.0]], [5, 6]


def expected_results() -> dict[str, float]:
    cosines = torch.nn.functional.cosine_similarity(torch.tensor(CAPTIONS)[:, None], torch.tensor(IMAGES), dim=-1)
    text_to_image = naive_metrics(cosines.tolist(), CAPTION_IDS, IMAGE_IDS)
    image_to_text = naive_metrics(cosines.T.tolist(), IMAGE_IDS, CAPTION_IDS)
    return {**text_to_image, **{f"image_to_text_{name}": value for name, value in image_to_text.items()}}


@pytest.fixture
def metric(tmp_path):
    return PersonRetrieval(cache_dir=str(tmp_path))


@pytest.mark.parametrize("container", [list, np.array, torch.tensor])
def test_metric_measures_both_directions(metric, container):
    results = metric.compute(
        predictions=container(CAPTIONS),
        references=container(CAPTION_IDS),
        gallery_embeds=container(IMAGES),
        gallery_ids=container(IMAGE_IDS),
    )
    assert results == pytest.approx(expected_results())


def test_metric_takes_captions_one_by_one_and_in_batches(metric):
    metric.add(prediction=CAPTIONS[0], reference=CAPTION_IDS[0])
    metric.add_batch(predictions=CAPTIONS[1:], references=CAPTION_IDS[1:])
    assert metric.compute(gallery_embeds=IMAGES, gallery_ids=IMAGE_IDS) == pytest.approx(expected_results())


def test_metric_takes_string_ids_and_keeps_them_strings(metric):
    ids = {"references": ["05", "6", "05"], "gallery_ids": ["05", "6"]}  # as integers, "05" would match 5
    assert metric.compute(predictions=CAPTIONS, gallery_embeds=IMAGES, **ids) == pytest.approx(expected_results())
    with pytest.raises(ValueError, match="have no image or caption of their person"):
        metric.compute(predictions=CAPTIONS, gallery_embeds=IMAGES, **{**ids, "gallery_ids": ["5", "6"]})


def test_metric_measures_one_direction_where_the_gallery_has_other_persons(metric):
    arguments = {"predictions": CAPTIONS, "references": CAPTION_IDS, "gallery_embeds": [*IMAGES, [-1.0, 0.0]]}
    results = metric.compute(**arguments, gallery_ids=[5, 6, 99], image_to_text=False)
    assert results["r1"] == pytest.approx(100 * 2 / 3)
    assert len(results) == 5
    with pytest.raises(ValueError, match=r"1 of 3 queries .* \(first person ids: 99\)"):
        metric.compute(**arguments, gallery_ids=[5, 6, 99])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"references": [0.5, 1.5, 2.5]}, TypeError, "references holds float"),
        ({"references": [5, "6", 5]}, TypeError, "references holds int, str"),
        ({"references": [5, 6]}, ValueError, r"predictions \(3\) and references \(2\)"),
        ({"predictions": [[1.0], [1.0, 2.0], [1.0]]}, ValueError, "predictions have rows of 1 to 2 numbers"),
    ],
)
def test_metric_refuses_bad_input(metric, changes, error, message):
    arguments = {
        "predictions": CAPTIONS,
        "references": CAPTION_IDS,
        "gallery_embeds": IMAGES,
        "gallery_ids": IMAGE_IDS,
    }
    with pytest.raises(error, match=message):
        metric.compute(**{**arguments, **changes})


def test_evaluate_loads_the_folder_without_a_network(tmp_path):
    program = f"""
import json, socket
def refuse(*arguments, **options):
    raise RuntimeError("the network was used")
socket.socket.connect = socket.getaddrinfo = refuse
import evaluate
metric = evaluate.load({str(METRIC_FOLDER)!r})
results = metric.compute(
    predictions={CAPTIONS}, references={CAPTION_IDS}, gallery_embeds={IMAGES}, gallery_ids={IMAGE_IDS}
)
print(json.dumps(results))
"""
    offline = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    environment = {**os.environ, **offline}
    environment.pop("HF_MODULES_CACHE", None)
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == pytest.approx(expected_results())


def test_metric_card_names_every_result():
    card = (METRIC_FOLDER / "README.md").read_text(encoding="utf-8")
    for name in ("r1", "r5", "r10", "map", "minp"):
        assert f"`{name}`" in card
