"""R-precision and hit@10 of queries that several images fit."""

import pytest
import torch

from modeling_gadms.evaluation.short_queries import short_query_metrics


def test_a_ranking_worked_by_hand():
    # Similarities of two queries to six rows; rows in order of rank: 4 2 0 1 3 5 and 0 1 2 3 4 5 (ties in row order).
    gallery = torch.eye(6)
    queries = torch.tensor([[0.5, 0.4, 0.6, 0.3, 0.9, 0.1], [0.2] * 6])
    relevant = [[0, 2, 3], [5]]
    metrics = short_query_metrics(queries, gallery, relevant, at_most=3)
    assert metrics == {"r_precision": round((2 / 3 + 0) / 2, 4), "hit_at_3": 0.5, "queries": 2}


def test_r_is_at_most_a_page():
    """Of seven fitting rows, the first two ranks count: one of them fits."""
    queries, gallery = torch.tensor([[10.0 - place for place in range(10)]]), torch.eye(10)
    metrics = short_query_metrics(queries, gallery, [[1, 3, 4, 5, 6, 7, 8]], at_most=2)
    assert metrics == {"r_precision": 0.5, "hit_at_2": 1.0, "queries": 1}


def test_a_query_that_nothing_fits_is_refused():
    with pytest.raises(ValueError, match="query 1 fits no row"):
        short_query_metrics(torch.eye(2), torch.eye(2), [[0], []])
