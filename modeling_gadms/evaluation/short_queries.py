"""Measure short queries, which many images fit: R-precision and hit@10."""

from collections.abc import Sequence

import torch


def short_query_metrics(
    query_embeds: torch.Tensor, gallery_embeds: torch.Tensor, relevant: Sequence[Sequence[int]], *, at_most: int = 10
) -> dict[str, float]:
    """Rank a gallery for queries that several of its rows fit.

    R-precision (Manning et al., "Introduction to Information Retrieval", section 8.4) is the share of fitting rows
    among the first R results, where R is the number of rows that fit; here R is at most what one page shows.

    Args:
        query_embeds (`torch.Tensor` of shape `(num_queries, projection_dim)`): normalised embeddings.
        gallery_embeds (`torch.Tensor` of shape `(num_rows, projection_dim)`): normalised embeddings.
        relevant (`Sequence[Sequence[int]]`): for each query the numbers of the rows that fit it, at least one.
        at_most (`int`, *optional*, defaults to 10): upper limit of R, and k of hit@k.

    Returns:
        `dict[str, float]`: `r_precision`, `hit_at_{at_most}` (share of queries with a fitting row among the first
        `at_most`), both from 0 to 1, and `queries`.

    Raises:
        ValueError: if a query fits no row.
    """
    ranked = (query_embeds @ gallery_embeds.T).argsort(dim=1, descending=True, stable=True)[:, :at_most].tolist()
    precisions, hits = [], 0
    for number, (first, fitting) in enumerate(zip(ranked, relevant, strict=True)):
        if not fitting:
            raise ValueError(f"query {number} fits no row of the gallery: its precision is undefined")
        wanted = set(fitting)
        found = [row in wanted for row in first]
        shown = min(len(fitting), at_most)
        precisions.append(sum(found[:shown]) / shown)
        hits += any(found)
    return {
        "r_precision": round(sum(precisions) / len(precisions), 4),
        f"hit_at_{at_most}": round(hits / len(precisions), 4),
        "queries": len(precisions),
    }
