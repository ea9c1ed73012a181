"""Search in the table of a gallery: encode queries, find the nearest rows, and read rows by a condition."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import torch
from lancedb.query import LanceVectorQueryBuilder
from lancedb.table import Table
from PIL import Image

from ..encoders.encoding import encode_captions, encode_images
from ..encoders.onnx_model import RetrievalModel
from ..encoders.processors import RetrievalProcessor
from ..encoders.query_checks import check_query
from .filter import literal
from .records import WITHOUT_WEIGHT, Query, SearchResult, TrackSummary
from .schema import CONTENT, columns_without, to_result, user_columns


AnyQuery = str | Image.Image | Query

_FETCH_GROWTH = 4
"""Factor by which the number of fetched rows grows when they belong to too few tracks."""
_PARTITIONS_SEARCHED = 80
"""Partitions of the index to search. A partition has about 4,096 rows, so up to 330,000 rows all are searched. At a
million rows, 80 partitions have a recall@10 of 0.989 and 64 of 0.98 (`benchmarks/gallery`)."""
_REFINE_FACTOR = 4
"""Rows compared exactly, by their full vectors, for each row wanted. For a recall@10 of 0.99, uniformly distributed
vectors (the worst case) need 4 and persons need 2."""


@dataclass(frozen=True)
class LikedPerson:
    """A person of the gallery whose neighbours are searched."""

    id: str
    vector: torch.Tensor  # (embedding_dim,)
    source: str
    track: int | None


@dataclass(frozen=True)
class EncodedQuery:
    """The embedding of a query, from [`~modeling_gadms.gallery.person_gallery.PersonGallery.encode`].

    Attributes:
        vector (`torch.FloatTensor` of shape `(embedding_dim,)`): its dot products with embeddings are the scores; not
            normalised.
        like (`LikedPerson`, *optional*): the person to exclude from the results.
    """

    vector: torch.Tensor
    like: LikedPerson | None = None


def encode_queries(
    table: Table, encoders: Callable[[], tuple[RetrievalModel, RetrievalProcessor]], queries: Sequence[AnyQuery]
) -> list[EncodedQuery]:
    """Encode queries with one call of each encoder.

    `encoders` returns model and processor; it is not called if all queries consist of `like`, who are looked up in the
    table. Warnings and errors are those of [`~modeling_gadms.gallery.person_gallery.PersonGallery.search`].
    """
    parsed = [_as_query(query) for query in queries]
    texts = [text for query in parsed for text in (query.text, *query.without) if text is not None]
    images = [query.image for query in parsed if query.image is not None]
    text_vectors = iter(_encode_texts(*encoders(), texts) if texts else ())
    image_vectors = iter(encode_images(*encoders(), images, progress=False) if images else ())
    encoded = []
    for query in parsed:
        like = None if query.like is None else liked_person(table, query.like)
        parts = [] if query.text is None else [next(text_vectors)]
        parts += [] if query.image is None else [next(image_vectors)]
        parts += [] if like is None else [like.vector]
        vector = torch.stack(parts).mean(dim=0)
        if query.without:
            excluded = torch.stack([next(text_vectors) for _ in query.without])
            vector = vector - WITHOUT_WEIGHT * excluded.mean(dim=0)
        encoded.append(EncodedQuery(vector, like))
    return encoded


def nearest_persons(
    table: Table, schema: pa.Schema, query: EncodedQuery, top_k: int, condition: str | None, *, group_tracks: bool
) -> list[SearchResult]:
    """Find the persons whose embeddings have the largest dot products with a query, best first.

    Excluded are the person in `query.like`, with `group_tracks` the whole track, and those who do not meet
    `condition`, SQL of the table. The schema is an argument, because asking the table for it would be slower.
    """
    columns = columns_without(schema, "vector", CONTENT)
    conditions = (condition, _excluding(query.like, group_tracks) if query.like else None)
    condition = " AND ".join(f"({each})" for each in conditions if each) or None
    limit = top_k
    while True:
        rows = _nearest_rows(table, columns, query.vector, limit, condition)
        best = _best_of_tracks(rows) if group_tracks else rows
        # Rows come best first, so a track among them has its best crop among them too.
        if len(best) >= top_k or len(rows) < limit:
            break
        limit *= _FETCH_GROWTH
    scale = float(query.vector.norm())
    return _results(table, schema, [(row, (1 - row["_distance"]) * scale) for row in best[:top_k]])


def read_persons(table: Table, schema: pa.Schema, condition: str) -> list[SearchResult]:
    """Read the persons that meet a condition (SQL), in the order of source, frame and id. Their score is 1."""
    rows = table.search().where(condition).select(columns_without(schema, "vector", CONTENT)).to_list()
    rows.sort(key=lambda row: (row["source"], row["frame"] or 0, row["id"]))
    return _results(table, schema, [(row, 1.0) for row in rows])


def liked_person(table: Table, person: str) -> LikedPerson:
    """Look up a person by id.

    Raises:
        ValueError: if the id is unknown.
    """
    rows = table.search().where(of_ids([person])).select(["id", "vector", "source", "track"]).limit(1).to_list()
    if not rows:
        raise ValueError(f"No person in the gallery has the id {person!r}")
    return LikedPerson(person, torch.tensor(rows[0]["vector"]), rows[0]["source"], rows[0]["track"])


def of_track(source: str, track: int) -> str:
    """The condition that selects the crops of a track."""
    return f"(source = {literal(source)} AND track = {literal(track)})"


def of_ids(ids: Sequence[str]) -> str:
    """The condition that selects persons by id."""
    if isinstance(ids, str):
        raise TypeError(f"ids is a single string ({ids!r}): give a list")
    return f"id IN ({', '.join(map(literal, ids))})" if ids else "FALSE"


def _as_query(query: AnyQuery) -> Query:
    if isinstance(query, str):
        return Query(text=query)
    if isinstance(query, Image.Image):
        return Query(image=query)
    if isinstance(query, Query):
        return query
    raise TypeError(f"A query must be a text, a PIL image or a Query, not a {type(query).__name__}: {query!r}")


def _encode_texts(model: RetrievalModel, processor: RetrievalProcessor, texts: Sequence[str]) -> torch.Tensor:
    checked = [check_query(processor, text) for text in texts]
    return encode_captions(model, processor, checked, progress=False)


def _nearest_rows(
    table: Table, columns: Sequence[str], vector: torch.Tensor, limit: int, condition: str | None
) -> list[dict[str, Any]]:
    nearest = cast(LanceVectorQueryBuilder, table.search(vector.numpy(), vector_column_name="vector"))
    # The last two only matter to a gallery with an index.
    nearest = nearest.distance_type("cosine").nprobes(_PARTITIONS_SEARCHED).refine_factor(_REFINE_FACTOR)
    if condition:
        nearest = nearest.where(condition, prefilter=True)
    found = nearest.select([*columns, "_distance"]).limit(limit).to_list()
    found.sort(key=lambda row: (row["_distance"], row["source"], row["frame"] or 0, row["box"] or []))
    return found


def _results(table: Table, schema: pa.Schema, scored: Sequence[tuple[Mapping[str, Any], float]]) -> list[SearchResult]:
    columns = user_columns(schema)
    tracks = _track_summaries(table, [row for row, _ in scored])
    return [
        to_result(rank, score, row, columns, tracks.get((row["source"], row["track"])))
        for rank, (row, score) in enumerate(scored, start=1)
    ]


def _track_summaries(table: Table, rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], TrackSummary]:
    """The summaries of the tracks that rows belong to, by source and track."""
    tracks = sorted({(row["source"], row["track"]) for row in rows if row["track"] is not None})
    if not tracks:
        return {}
    condition = " OR ".join(of_track(*track) for track in tracks)
    crops = table.search().where(condition).select(["source", "track", "time_seconds"]).to_arrow()
    times = [([], "count_all"), ("time_seconds", "min"), ("time_seconds", "max")]
    return {
        (row["source"], row["track"]): TrackSummary(row["count_all"], row["time_seconds_min"], row["time_seconds_max"])
        for row in crops.group_by(["source", "track"]).aggregate(times).to_pylist()
    }


def _best_of_tracks(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first row of each track, and all rows without a track."""
    best, seen = [], set()
    for row in rows:
        track = (row["source"], row["track"])
        if row["track"] is None or track not in seen:
            best.append(row)
            seen.add(track)
    return best


def _excluding(person: LikedPerson, group_tracks: bool) -> str:
    """The condition that excludes a person, with `group_tracks` the whole track."""
    if group_tracks and person.track is not None:
        return f"(track IS NULL OR NOT {of_track(person.source, person.track)})"
    return f"id <> {literal(person.id)}"
