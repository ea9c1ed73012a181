"""The comparison of ways to rank: both are right, the ratios point the right way, and misses are told."""

import argparse
import json
from dataclasses import replace

import pytest
import torch

from benchmarks.ranking import run as ranking
from benchmarks.ranking.run import compare, report
from benchmarks.ranking.worker import Retrieval, make_retrieval, rank_by_counting, rank_by_full_argsort


def worker_says(seconds: float, before: int, peak: int, r1: float = 60.0, difference: float = 2e-8) -> dict:
    return {
        "difference_on_same_similarities": difference,
        "seconds": seconds,
        "cpu_seconds": 2 * seconds,
        "before_bytes": before,
        "peak_bytes": peak,
        "metrics": {"r1": r1, "map": 42.0, "minp": 9.0},
    }


def results_of(runs: dict[str, list[dict]]) -> dict:
    ratios = compare(runs)
    return {
        "command": "c",
        "machine": {"cpu": "m", "cores": 2, "memory_gb": 8, "python": "3", "torch": "2"},
        "time_ratio": ratios["time_ratio"]["median"],
        "memory_ratio": ratios["memory_ratio"]["median"],
        "rows": 19_848,
        "persons": 1_000,
        "gallery": 20_000,
        "ratios": ratios,
        "runs": runs,
        "growth": [{"queries": 50_000, "seconds": 30.04, "held_mb": 102.4, "added_mb": 61.0}],
    }


@pytest.mark.slow
def test_both_ways_run_and_agree(tmp_path, monkeypatch):
    smaller = replace(ranking.QUICK, rows=4_000, repetitions=1, growing_queries=(1_000, 10_000))
    monkeypatch.setattr(ranking, "QUICK", smaller)
    ranking.main(argparse.Namespace(quick=True, output=tmp_path))
    results = json.loads((tmp_path / "results" / "ranking.json").read_text())
    assert results["ratios"]["difference_on_same_similarities"] <= 1e-6
    assert results["ratios"]["difference_from_embeddings"] <= 1e-4
    assert 0 < results["time_ratio"] and 0 < results["memory_ratio"] < 1
    assert results["ratios"]["added_memory_ratio"]["max"] < 1 / 8
    for name in ("time_ratio", "memory_ratio"):
        assert results[name] == results["ratios"][name]["median"]
    for name in ("cpu_ratio", "added_memory_ratio"):
        assert results["guarded"][name] == {"value": results["ratios"][name]["median"], "better": "lower"}
    few, many = results["growth"]
    assert many["queries"] == 10 * few["queries"]
    assert many["added_mb"] < few["added_mb"] + many["held_mb"] / 2  # not even a copy of the captions' embeddings
    assert "<!-- ranking: begin -->" in (tmp_path / "RESULTS.md").read_text()


def test_the_full_argsort_walks_down_the_ranking_with_ties_in_gallery_order():
    # Cosines 1, 0 or -1: the query orders the gallery 1, 3, 0, 4, 2 and finds its person at ranks 2, 3 and 5.
    gallery = torch.tensor([[0.0, 2.0], [1.0, 0.0], [-3.0, 0.0], [5.0, 0.0], [0.0, 1.0]])
    retrieval = Retrieval(torch.tensor([[2.0, 0.0]]), gallery, torch.tensor([7]), torch.tensor([7, 8, 7, 7, 8]))
    metrics = rank_by_full_argsort(retrieval)
    precision = (1 / 2 + 2 / 3 + 3 / 5) / 3
    expected = {"r1": 0.0, "r5": 100.0, "r10": 100.0, "map": 100 * precision, "minp": 100 * 3 / 5}
    assert metrics == pytest.approx(expected, rel=1e-6)
    assert rank_by_counting(retrieval) == pytest.approx(expected)


def test_the_drawn_retrieval_has_a_caption_an_image_and_as_many_images_of_each_person():
    retrieval = make_retrieval(2_500, 1_200, 60, 16, seed=3)
    assert torch.equal(torch.bincount(retrieval.gallery_ids), torch.full((60,), 20))
    assert torch.equal(retrieval.query_ids[:1_200], retrieval.gallery_ids)
    assert torch.equal(retrieval.query_ids[1_200:2_400], retrieval.gallery_ids)
    assert retrieval.query_embeds.shape == (2_500, 16) and retrieval.gallery_embeds.shape == (1_200, 16)
    again = make_retrieval(2_500, 1_200, 60, 16, seed=3)
    assert torch.equal(retrieval.query_embeds, again.query_embeds)
    rows = torch.nn.functional.normalize(retrieval.gallery_embeds)
    same = retrieval.gallery_ids[:, None] == retrieval.gallery_ids
    cosines = rows @ rows.T
    assert cosines[same].mean() > cosines[~same].mean() + 0.1  # persons are to be told apart


def test_ratios_are_ours_over_theirs_within_a_repetition_and_memory_is_that_of_whole_processes():
    runs = {
        "sorted": [worker_says(10.0, 400, 4_000), worker_says(40.0, 400, 4_400, difference=3e-8)],
        "counted": [worker_says(1.0, 400, 500, r1=60.5), worker_says(2.0, 400, 440)],
    }
    ratios = compare(runs)
    assert (ratios["time_ratio"]["min"], ratios["time_ratio"]["max"]) == (0.05, 0.1)
    assert (ratios["memory_ratio"]["min"], ratios["memory_ratio"]["max"]) == (0.1, 0.125)
    assert ratios["added_memory_ratio"]["max"] == pytest.approx(100 / 3_600)
    assert (ratios["difference_from_embeddings"], ratios["difference_on_same_similarities"]) == (0.5, 3e-8)


def test_a_miss_is_told():
    theirs = worker_says(10.0, 400_000_000, 4_000_000_000, difference=2e-6)
    text = report(results_of({"sorted": [theirs], "counted": [worker_says(3.0, 400_000_000, 420_000_000, r1=61.0)]}))
    assert "MISSED: time at most 1/5 (0.300); met: memory at most 1/8 (0.105)" in text
    assert "MISSED: equal metrics on the same similarities to 1e-06 percent points (2.0e-06)" in text
    assert "the metrics then differ by 1.0e+00 points" in text
    assert "| full argsort | 10.0 | 20.0 | 4,000 | 3,600 | 60.0000 | 42.0000 | 9.0000 |" in text
    assert "| ratio | 0.300 | 0.300 | 0.105 | 0.006 |  |  |  |" in text
    assert "| 50,000 | 30.0 | 102 | 61 |" in text
    assert "met: time at most 1/5 (0.100)" in report(
        results_of({"sorted": [theirs], "counted": [worker_says(1, 0, 9)]})
    )
