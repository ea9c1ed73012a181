"""Exact R@k, mAP and mINP of a retrieval, without sorting the whole similarity matrix.

All metrics depend only on the ranks of a query's positives (the gallery rows with the query's person id). The rank of
a positive is one more than the number of gallery rows before it, which are counted. A row is sorted only for queries
with very many positives. Queries are processed in chunks, and memory is that of one chunk.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

METRIC_NAMES = ("r1", "r5", "r10", "map", "minp")
"""Keys of [`RetrievalMetrics.to_dict`] for the default `ks`."""

COUNTED_POSITIVES = 64
"""Maximum number of positives whose ranks are counted. Sorting the row costs as much as counting about 70."""

PersonIds = Sequence[int | str] | np.ndarray | torch.Tensor  # all integers or all strings


@dataclass(frozen=True)
class RetrievalMetrics:
    """Metrics of one direction, in percent.

    Attributes:
        recall (`Mapping[int, float]`): R@k for each k, the share of queries with a positive in the first k results.
        mean_average_precision (`float`): mAP over the full ranking.
        mean_inverse_negative_penalty (`float`): mINP (Ye et al., "Deep Learning for Person Re-identification: A Survey
            and Outlook", section 4), the mean of `number of positives / rank of the last positive`.
    """

    recall: Mapping[int, float]
    mean_average_precision: float
    mean_inverse_negative_penalty: float

    def to_dict(self) -> dict[str, float]:
        """Return `{"r1": ..., "r5": ..., "r10": ..., "map": ..., "minp": ...}`, in percent."""
        recall = {f"r{k}": value for k, value in self.recall.items()}
        return {**recall, "map": self.mean_average_precision, "minp": self.mean_inverse_negative_penalty}


def rank_metrics(
    query_embeds: torch.Tensor | np.ndarray,
    gallery_embeds: torch.Tensor | np.ndarray,
    query_ids: PersonIds,
    gallery_ids: PersonIds,
    *,
    ks: Sequence[int] = (1, 5, 10),
    chunk_size: int = 512,
) -> RetrievalMetrics:
    """Rank a gallery for every query by cosine similarity, and compute retrieval metrics.

    Ties: gallery rows of equal similarity are in gallery order, lower index first, as after a stable descending sort.
    This order is reproducible and independent of the person ids, so ties are never resolved in favour of the model.
    Gallery rows with equal embeddings always tie, regardless of rounding in the matrix product.

    Embeddings are normalised here, in float32. The chunk size only affects time, memory, and the rounding of the last
    bit of a similarity.

    Example, worked by hand: for the query `[1, 0]` of person 1, the gallery's order is 0, 2, 3, 1. The person is at
    ranks 1 and 3: average precision (1/1 + 2/3) / 2, inverse negative penalty 2/3. For the query `[0, 1]` of person 2,
    the order is 1, 2, 3, 0 (rows 2 and 3 are equal, so row 2 comes first). The person is at ranks 1 and 2: 1 and 1.

    >>> gallery = torch.tensor([[4.0, 0.0], [0.0, 2.0], [1.0, 1.0], [1.0, 1.0]])
    >>> metrics = rank_metrics(torch.eye(2), gallery, [1, 2], [1, 2, 2, 1], ks=(1,))
    >>> {name: round(value, 2) for name, value in metrics.to_dict().items()}
    {'r1': 100.0, 'map': 91.67, 'minp': 83.33}

    Args:
        query_embeds (`torch.FloatTensor` of shape `(num_queries, projection_dim)`): need not be normalised.
        gallery_embeds (`torch.FloatTensor` of shape `(num_gallery, projection_dim)`): need not be normalised.
        query_ids (`Sequence[int]` or `Sequence[str]` of length `num_queries`): person id of each query.
        gallery_ids (of the same type, of length `num_gallery`): person id of each gallery row.
        ks (`Sequence[int]`): the k of R@k. A k larger than the gallery includes the whole gallery.
        chunk_size (`int`): number of queries in a chunk. Memory is `4 * chunk_size * (num_gallery + projection_dim)`
            bytes plus a float32 copy of the gallery, independent of the number of queries.

    Returns:
        [`RetrievalMetrics`]: in percent.

    Raises:
        ValueError: if a query has no positive in the gallery, an embedding is zero or not finite, lengths differ, an
            input is empty, or `ks` or `chunk_size` is not positive.
        TypeError: if ids are not all integers or all strings.
    """
    _check_positive("chunk_size", [chunk_size])
    queries, rows = _matrix(query_embeds, "query_embeds"), _matrix(gallery_embeds, "gallery_embeds")
    if queries.shape[1] != rows.shape[1]:
        raise ValueError(
            f"query_embeds have {queries.shape[1]} dimensions and gallery_embeds {rows.shape[1]}; "
            "encode both with the same model"
        )
    # Checked before ranking, so that an error does not appear after minutes.
    for name, embeds in (("query_embeds", queries), ("gallery_embeds", rows)):
        _check_rows(embeds, name, chunk_size)
    gallery, copy_of = _distinct_rows(np.concatenate(list(_unit_chunks(rows, chunk_size))))
    has_duplicates = len(gallery) < len(copy_of)

    def similarity_rows() -> Iterator[np.ndarray]:
        for chunk in _unit_chunks(queries, chunk_size):
            for row in chunk @ gallery.T:  # (number of distinct gallery rows,)
                yield row[copy_of] if has_duplicates else row

    return _metrics(similarity_rows(), (len(queries), len(copy_of)), query_ids, gallery_ids, ks)


def rank_metrics_from_similarity(
    similarity: torch.Tensor | np.ndarray,
    query_ids: PersonIds,
    gallery_ids: PersonIds,
    *,
    ks: Sequence[int] = (1, 5, 10),
) -> RetrievalMetrics:
    """Compute retrieval metrics from a similarity matrix, for models that score pairs instead of embedding each side.

    >>> rank_metrics_from_similarity(torch.tensor([[0.5, 0.9, 0.5]]), ["ann"], ["bob", "bob", "ann"]).to_dict()
    {'r1': 0.0, 'r5': 100.0, 'r10': 100.0, 'map': 33.33333333333333, 'minp': 33.33333333333333}

    Args:
        similarity (`torch.FloatTensor` of shape `(num_queries, num_gallery)`): higher is better; compared as given.
        query_ids, gallery_ids, ks: as in [`rank_metrics`], like ties, return value and errors.
    """
    scores = _matrix(similarity, "similarity")
    wide = scores.dtype == torch.float64 or not scores.is_floating_point()
    matrix = scores.cpu().to(torch.float64 if wide else torch.float32).numpy()  # NumPy has no bfloat16
    bad_rows = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad_rows):
        raise ValueError(f"similarity has NaN or infinity in row {bad_rows[0]} ({len(bad_rows)} such rows)")
    return _metrics(iter(matrix), matrix.shape, query_ids, gallery_ids, ks)


def _metrics(
    similarity_rows: Iterator[np.ndarray],
    shape: tuple[int, int],
    query_ids: PersonIds,
    gallery_ids: PersonIds,
    ks: Sequence[int],
) -> RetrievalMetrics:
    _check_positive("ks", ks)
    queries, gallery = checked_person_ids(query_ids, "query_ids"), checked_person_ids(gallery_ids, "gallery_ids")
    for name, ids, expected in (("query", queries, shape[0]), ("gallery", gallery, shape[1])):
        if len(ids) != expected:
            raise ValueError(f"{name}_ids has {len(ids)} entries for {expected} {name} rows; give one id for each row")
    if type(queries[0]) is not type(gallery[0]):
        raise TypeError(
            f"query_ids are {type(queries[0]).__name__} and gallery_ids {type(gallery[0]).__name__}; "
            "no query could match, so convert one side"
        )
    positions: dict[int | str, list[int]] = {}
    for position, person in enumerate(gallery):
        positions.setdefault(person, []).append(position)
    positives_of = {person: np.array(found) for person, found in positions.items()}
    unmatched = [person for person in queries if person not in positives_of]
    if unmatched:
        first = ", ".join(repr(person) for person in dict.fromkeys(unmatched[:5]))
        raise ValueError(
            f"{len(unmatched)} of {len(queries)} queries have no image or caption of their person in the gallery "
            f"(first person ids: {first}); remove these queries or complete the gallery"
        )

    best_rank = np.empty(len(queries), dtype=np.int64)
    average_precision = np.empty(len(queries))
    inverse_negative_penalty = np.empty(len(queries))
    for query, (row, person) in enumerate(zip(similarity_rows, queries, strict=True)):
        ranks = _positive_ranks(row, positives_of[person])
        best_rank[query] = ranks[0]
        average_precision[query] = np.mean(np.arange(1, len(ranks) + 1) / ranks)
        inverse_negative_penalty[query] = len(ranks) / ranks[-1]
    return RetrievalMetrics(
        recall={k: 100 * int(np.count_nonzero(best_rank <= k)) / len(queries) for k in ks},
        mean_average_precision=100 * float(average_precision.mean()),
        mean_inverse_negative_penalty=100 * float(inverse_negative_penalty.mean()),
    )


def _positive_ranks(row: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Return the ranks of `positives` in a stable descending sort of `row`, from 1 and ascending."""
    scores = row[positives]
    if len(positives) <= COUNTED_POSITIVES:
        # Before a positive are the rows of higher similarity, and those of equal similarity and lower index.
        before = [
            np.count_nonzero(row[:position] >= score) + np.count_nonzero(row[position + 1 :] > score)
            for position, score in zip(positives, scores, strict=True)
        ]
        return np.sort(before) + 1
    ascending = np.sort(row)  # several times faster than an argsort
    not_above = np.searchsorted(ascending, scores, side="right")
    below = np.searchsorted(ascending, scores, side="left")
    if np.all(not_above - below == 1):  # no positive ties with another row
        return np.sort(len(row) - not_above + 1)
    rank_of = np.empty(len(row), dtype=np.int64)
    rank_of[np.argsort(-row, kind="stable")] = np.arange(1, len(row) + 1)
    return np.sort(rank_of[positives])


def _matrix(values: torch.Tensor | np.ndarray, name: str) -> torch.Tensor:
    matrix = torch.as_tensor(values).detach()
    if matrix.dim() != 2 or 0 in matrix.shape:
        raise ValueError(f"{name} has shape {tuple(matrix.shape)}; expected a non-empty matrix, one row for each item")
    return matrix


def _check_rows(embeds: torch.Tensor, name: str, chunk_size: int) -> None:
    norms = np.concatenate([_float32_and_norms(chunk)[1][:, 0] for chunk in embeds.split(chunk_size)])
    bad_rows = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(bad_rows):
        fault = "is zero" if norms[bad_rows[0]] == 0 else "has NaN or infinity in float32"
        raise ValueError(
            f"{name}: row {bad_rows[0]} {fault} ({len(bad_rows)} of {len(norms)} rows cannot be ranked); "
            "check the model and the input of this row"
        )


def _unit_chunks(embeds: torch.Tensor, chunk_size: int) -> Iterator[np.ndarray]:
    """Yield L2-normalised float32 rows in arrays of shape `(chunk_size, projection_dim)`; the last may be shorter."""
    for chunk in embeds.split(chunk_size):
        rows, norms = _float32_and_norms(chunk)
        yield rows / norms + 0.0  # -0.0 becomes 0.0, so that equal rows have equal bytes


def _float32_and_norms(chunk: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    rows = chunk.cpu().float().numpy()
    return rows, np.linalg.norm(rows, axis=1, keepdims=True)


def _distinct_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows and, for each given row, its index among them.

    The same dot product can round differently in different columns of a matrix product. Duplicates tie exactly because
    each distinct row is multiplied once, and its similarity is copied.
    """
    indices: dict[bytes, int] = {}
    copy_of = np.array([indices.setdefault(row.tobytes(), len(indices)) for row in rows])
    if len(indices) == len(rows):
        return rows, copy_of
    return rows[np.unique(copy_of, return_index=True)[1]], copy_of


def checked_person_ids(ids: PersonIds, name: str) -> list[int | str]:
    """Return `ids` as plain Python integers or strings.

    Raises:
        TypeError: if they are not all integers or all strings, naming `name` and the types.
    """
    values = ids.tolist() if isinstance(ids, torch.Tensor | np.ndarray) else list(ids)
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    kinds = {type(value) for value in values}
    if kinds - {int, str} or len(kinds) > 1:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise TypeError(f"{name} holds {names}; person ids are all integers or all strings")
    return values


def _check_positive(name: str, values: Sequence[int]) -> None:
    if not values or any(not isinstance(value, int) or value < 1 for value in values):
        raise ValueError(f"{name} must be positive and whole, not {', '.join(map(repr, values)) or 'empty'}")
