"""Search in the table of a gallery: the rows nearest to a vector, and persons by what is known of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import torch
from lancedb.query import LanceVectorQueryBuilder
from lancedb.table import Table

from .filter import literal
from .records import SearchResult, Walk
from .schema import columns_without, to_result, user_columns


_CROWD = 4
"""How many times as many rows are fetched, where crops of the same walks leave room for too few."""
_PARTS_SEARCHED = 80
"""Of the index, which has a part for about 4,096 rows: all of them up to 330,000 rows. At a million the nearest 80
have recall@10 of 0.989, and 64 of them 0.98 (`benchmarks/gallery`)."""
_REFINE_FACTOR = 4
"""Rows compared exactly, by their whole vectors, for each row wanted. Directions that fill the space, the worst case,
need 4 for recall@10 of 0.99, persons 2."""


@dataclass(frozen=True)
class LikedPerson:
    """A person of a gallery, to find others like.

    Attributes:
        id (`str`)
        vector (`torch.FloatTensor` of shape `(projection_dim,)`)
        source (`str`), track (`int`, *optional*): the walk that it belongs to.
    """

    id: str
    vector: torch.Tensor
    source: str
    track: int | None


@dataclass(frozen=True)
class EncodedQuery:
    """A query as [`~modeling_gadms.gallery.person_gallery.PersonGallery.encode`] makes it.

    Attributes:
        vector (`torch.FloatTensor` of shape `(projection_dim,)`): its products with embeddings are the scores.
        like (`LikedPerson`, *optional*): whom the results leave out.
    """

    vector: torch.Tensor
    like: LikedPerson | None = None


def nearest_persons(
    table: Table,
    schema: pa.Schema,
    vector: torch.Tensor,
    top_k: int,
    condition: str | None,
    like: LikedPerson | None,
    *,
    group_tracks: bool,
) -> list[SearchResult]:
    """The persons whose embeddings have the largest products with a vector, best first.

    Args:
        table (`Table`), schema (`pa.Schema`): the table's, which to ask it for takes longer than to keep.
        vector (`torch.FloatTensor` of shape `(projection_dim,)`): need not be of length 1.
        top_k (`int`)
        condition (`str`, *optional*): in the table's SQL.
        like (`LikedPerson`, *optional*): to leave out, where walks are one result with the whole walk.
        group_tracks (`bool`): whether a walk is one result, by its best crop.
    """
    columns = columns_without(schema, "vector")
    condition = _all_of(condition, _another(like, group_tracks) if like else None)
    limit = top_k
    while True:
        rows = _scored(table, columns, vector, limit, condition)
        best = _best_of_walks(rows) if group_tracks else rows
        # Enough walks, whose best crops come before all that was not fetched; or all that the table has.
        if len(best) >= top_k or len(rows) < limit:
            break
        limit *= _CROWD
    scale = float(vector.norm())
    return _results(table, schema, [(row, (1 - row["_distance"]) * scale) for row in best[:top_k]])


def read_persons(table: Table, schema: pa.Schema, condition: str) -> list[SearchResult]:
    """The persons that meet a condition in the table's SQL, in the order of source, frame and id; their score is 1."""
    rows = table.search().where(condition).select(columns_without(schema, "vector")).to_list()
    rows.sort(key=lambda row: (row["source"], row["frame"] or 0, row["id"]))
    return _results(table, schema, [(row, 1.0) for row in rows])


def liked_person(table: Table, person: str) -> LikedPerson:
    """The person of an id.

    Raises:
        ValueError: if nobody has it.
    """
    rows = table.search().where(of_ids([person])).select(["id", "vector", "source", "track"]).limit(1).to_list()
    if not rows:
        raise ValueError(f"Nobody in the gallery has the id {person!r}")
    return LikedPerson(person, torch.tensor(rows[0]["vector"]), rows[0]["source"], rows[0]["track"])


def of_walk(source: str, track: int) -> str:
    """A condition for the crops of a walk."""
    return f"(source = {literal(source)} AND track = {literal(track)})"


def of_ids(ids: Sequence[str]) -> str:
    """A condition for the persons of some ids."""
    if isinstance(ids, str):
        raise TypeError(f"ids is one text ({ids!r}): give a list")
    return f"id IN ({', '.join(map(literal, ids))})" if ids else "FALSE"


def _scored(
    table: Table, columns: Sequence[str], vector: torch.Tensor, limit: int, condition: str | None
) -> list[dict[str, Any]]:
    nearest = cast(LanceVectorQueryBuilder, table.search(vector.numpy(), vector_column_name="vector"))
    # Both matter to an indexed gallery alone: how much of the index to visit, and how many to compare exactly.
    nearest = nearest.distance_type("cosine").nprobes(_PARTS_SEARCHED).refine_factor(_REFINE_FACTOR)
    if condition:
        nearest = nearest.where(condition, prefilter=True)
    found = nearest.select([*columns, "_distance"]).limit(limit).to_list()
    found.sort(key=lambda row: (row["_distance"], row["source"], row["frame"] or 0, row["box"] or []))
    return found


def _results(table: Table, schema: pa.Schema, scored: Sequence[tuple[Mapping[str, Any], float]]) -> list[SearchResult]:
    columns = user_columns(schema)
    walks = _walks(table, [row for row, _ in scored])
    return [
        to_result(rank, score, row, columns, walks.get((row["source"], row["track"])))
        for rank, (row, score) in enumerate(scored, start=1)
    ]


def _walks(table: Table, rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], Walk]:
    """The walks that rows belong to, by source and track."""
    places = sorted({(row["source"], row["track"]) for row in rows if row["track"] is not None})
    if not places:
        return {}
    condition = " OR ".join(of_walk(*place) for place in places)
    crops = table.search().where(condition).select(["source", "track", "time_seconds"]).to_list()
    times: dict[tuple[str, int], list[float | None]] = {place: [] for place in places}
    for crop in crops:
        times[crop["source"], crop["track"]].append(crop["time_seconds"])
    walks = {}
    for place, of_walk_times in times.items():
        known = [time for time in of_walk_times if time is not None]
        walks[place] = Walk(len(of_walk_times), min(known, default=None), max(known, default=None))
    return walks


def _best_of_walks(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first row of each walk; rows that belong to none are kept."""
    best, met = [], set()
    for row in rows:
        place = (row["source"], row["track"])
        if row["track"] is None or place not in met:
            best.append(row)
            met.add(place)
    return best


def _another(person: LikedPerson, group_tracks: bool) -> str:
    """A condition for all but a person, and where walks are one result for all but that walk."""
    if group_tracks and person.track is not None:
        return f"(track IS NULL OR NOT {of_walk(person.source, person.track)})"
    return f"id <> {literal(person.id)}"


def _all_of(*conditions: str | None) -> str | None:
    return " AND ".join(f"({condition})" for condition in conditions if condition) or None
