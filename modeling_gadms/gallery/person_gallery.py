"""A gallery of persons: embeddings, thumbnails and where each person was seen, in one Lance table."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import lancedb
import pyarrow as pa
import torch
from lancedb.index import BTree, IvfRq
from lancedb.table import Table
from PIL import Image

from ..encoders.encoding import encode_captions, encode_images
from ..encoders.fingerprint import model_fingerprint, preprocessing_fingerprint
from ..encoders.onnx_model import RetrievalModel, runtime_of
from ..encoders.query_checks import check_query
from ..media.images import to_jpeg
from ..processing_gadms import GADMSProcessor
from .filter import check_filter, literal
from .records import (
    WITHOUT_WEIGHT,
    AddReport,
    GalleryModel,
    PersonRecord,
    Query,
    SearchResult,
    Walk,
)
from .schema import UPDATABLE, check_values, gallery_schema, indexed_rows, model_of, to_row, user_columns
from .search import EncodedQuery, liked_person, nearest_persons, of_ids, of_walk, read_persons


if TYPE_CHECKING:
    from .maintenance import GalleryInfo, VerificationReport


__all__ = [
    "AddReport",
    "GalleryModel",
    "PersonGallery",
    "PersonRecord",
    "Query",
    "SearchResult",
    "Walk",
    "gallery_model",
]

logger = logging.getLogger(__name__)

INDEX_FROM_ROWS = 10_000
"""Unindexed rows from which `add` builds an index. A scan of so many is exact and takes about as long as an
answer of the index at a million; one of 100,000 takes ten times as long as the index (`benchmarks/gallery`)."""
WRITE_ROWS = 4096
"""Rows of one commit: about 30 MB with their thumbnails. What is committed survives an interruption."""
THUMBNAIL_HEIGHT = 256
KEEP_VERSIONS = timedelta(hours=1)
"""Age from which `compact` removes earlier versions: what reads one meanwhile is not to lose it."""
_TABLE = "persons"
_READ_AGAIN = timedelta(seconds=1)
"""Age from which an open gallery looks whether another process has changed it."""
_IDS_OUTSIDE = 16
"""At most this part of the ids of a large gallery is outside of their index. Those outside are read at each lookup,
and all of them whenever the index is made: neither may be all of the work."""
_LOOSE_FILES = 100
"""Beside the files of full commits, from which on `add` joins them all: each makes searches slower. Joining writes the
whole table, so that a large one waits until they are a file for each `_PERSONS_PER_LOOSE_FILE` persons."""
_PERSONS_PER_LOOSE_FILE = 1000
_METADATA_BYTES = 64 * 2**20
"""Kept in memory of what a table says of its files. LanceDB would keep a gigabyte, and every change adds to it."""
_LOOKUP = 64
"""Persons of which is asked at once whether the gallery has them."""
_INDEX_BITS = 4
"""Of each dimension in the index. With 1 bit, five times as many rows compared exactly still find fewer of the
nearest: 0.997 of them in 100,000 rows, against 1.000."""
_THREADS = 4
"""That answer several queries."""

AnyQuery = str | Image.Image | Query


class PersonGallery:
    """Persons in a LanceDB table, to be made with `PersonGallery.create` or `PersonGallery.open`.

    Examples, with the `model` and `processor` of `AutoModel.from_pretrained` and `AutoProcessor.from_pretrained`:

    >>> red, blue = (Image.new("RGB", (32, 64), color) for color in ("red", "blue"))
    >>> gallery = PersonGallery.create("my_gallery", model, processor, columns={"floor": "integer"})
    >>> gallery.add([PersonRecord(red, "a.jpg", columns={"floor": 1}), PersonRecord(blue, "b.jpg", camera="gate-2")])
    AddReport(added=2, already_there=0)

    Search by a description, a picture, or both, among all or those that a filter keeps; `get` and `crops` look up
    without asking the model.

    >>> gallery = PersonGallery.open("my_gallery", model, processor)
    >>> [(result.rank, result.source) for result in gallery.search(red, top_k=1)]
    [(1, 'a.jpg')]
    >>> (result,) = gallery.search("a woman in a red coat", where="camera = 'gate-2'")
    >>> result.source, result.camera, -1 < result.score < 1
    ('b.jpg', 'gate-2', True)
    >>> both = Query(text="a woman in a red coat", image=red, without=["a hat"])
    >>> len(gallery.search([both, "a man in a suit"]))
    2
    >>> [result.source for result in gallery.search(Query(like=result.id))]
    ['a.jpg']

    Change, remove and look after, for which no model is needed:

    >>> gallery = PersonGallery.open("my_gallery")
    >>> gallery.update({"camera": "gate-1", "floor": 2}, where="floor = 1")
    1
    >>> [(result.camera, result.columns) for result in gallery.get([PersonRecord(red, "a.jpg").id])]
    [('gate-1', {'floor': 2})]
    >>> gallery.remove(where="camera = 'gate-1'"), len(gallery)
    (1, 1)
    >>> gallery.compact()
    >>> gallery.verify().sound
    True
    """

    def __init__(self, location: str, table: Table, model: RetrievalModel | None, processor: GADMSProcessor | None):
        self.location = location
        self._table = table
        self._schema = table.schema
        self._encoders = (model, processor) if model is not None and processor is not None else None

    @classmethod
    def create(
        cls,
        location: str | Path,
        model: RetrievalModel,
        processor: GADMSProcessor,
        *,
        columns: Mapping[str, str] | None = None,
        overwrite: bool = False,
        storage_options: dict[str, str] | None = None,
    ) -> "PersonGallery":
        """Make an empty gallery.

        Args:
            location: a folder, made if needed, or a URI that LanceDB knows (`s3://bucket/gallery`).
            columns: of your own, by name the type: `"string"`, `"integer"`, `"float"`, `"boolean"` or `"time"`.
            overwrite: whether to remove the persons of a gallery that is there already. An empty one, as a failed
                run leaves behind, is replaced in any case.
            storage_options: of an object store, as LanceDB takes them; by default from the environment.

        Raises:
            FileExistsError: if there is a gallery with persons already and `overwrite` is not given.
            ValueError: if a column cannot be.
        """
        location = str(location)
        schema = gallery_schema(model.config.projection_dim, _described(model, processor), columns or {})
        database = _connect(location, storage_options)
        exists = _TABLE in database.list_tables().tables
        if exists and not overwrite and (persons := database.open_table(_TABLE).count_rows()):
            raise FileExistsError(
                f"There is a gallery of {persons} persons in {location} already: give another place, or --overwrite "
                "(in Python overwrite=True) to replace it"
            )
        table = database.create_table(_TABLE, schema=schema, mode="overwrite" if exists else "create")
        # So that of two processes that add the same person at once the second one notices.
        cast(Any, table).set_unenforced_primary_key(["id"])
        return cls(location, table, model, processor)

    @classmethod
    def open(
        cls,
        location: str | Path,
        model: RetrievalModel | None = None,
        processor: GADMSProcessor | None = None,
        *,
        storage_options: dict[str, str] | None = None,
    ) -> "PersonGallery":
        """Open a gallery with the model that it was built with, in the same runtime; or without, to look after it.

        Args:
            location: as in `create`.
            model, processor: without them nobody can be added or searched for, except others like a person.
            storage_options: as in `create`.

        Raises:
            FileNotFoundError: if there is no gallery.
            ValueError: if another model built it, or the same in another runtime or with another preprocessing.
        """
        table = _open_table(str(location), storage_options)
        if model is not None and processor is not None:
            _refuse_another_model(str(location), model_of(table.schema), _described(model, processor))
        return cls(str(location), table, model, processor)

    @property
    def columns(self) -> dict[str, str]:
        """The columns that its user declared, by name the type."""
        return user_columns(self._schema)

    @property
    def model(self) -> GalleryModel:
        """The model that it was built with."""
        return model_of(self._schema)

    def __len__(self) -> int:
        return self._table.count_rows()

    def add(self, records: Iterable[PersonRecord], *, batch_size: int = 64) -> AddReport:
        """Embed persons and append them; those that are there already are left alone, so that a run that was cut off
        can be repeated. A gallery that has grown large is indexed by the way, and one of many small additions has
        their files joined.

        Several processes may add at once.

        Args:
            records (`Iterable[PersonRecord]`): may be a generator: at most `WRITE_ROWS` persons are held in memory.
            batch_size (`int`): persons embedded at once.

        Raises:
            ValueError: if a record has a column that the gallery has not, or a value of another type.
            OSError: if the gallery cannot be written, as on a full disk.
        """
        columns = self.columns
        met: set[str] = set()  # since the last commit
        there = 0

        def new_ones() -> Iterator[tuple[PersonRecord, dict[str, Any]]]:
            nonlocal there
            remaining = iter(records)
            while group := list(islice(remaining, min(_LOOKUP, WRITE_ROWS))):
                rows = [(record, to_row(record, columns)) for record in group]
                known = self._known([row["id"] for _, row in rows])
                for record, row in rows:
                    if row["id"] in known or row["id"] in met:
                        there += 1
                    else:
                        met.add(row["id"])
                        yield record, row

        added = 0
        remaining = new_ones()
        for first in remaining:
            rows = self._embed(chain([first], islice(remaining, WRITE_ROWS - 1)), batch_size)
            inserted = self._insert(rows)
            met.clear()
            added += inserted
            there += len(rows) - inserted
            self._index_ids_if_many()
        self._join_files_if_many()
        self._index_if_large()
        return AddReport(added, there)

    @overload
    def search(
        self, query: AnyQuery, top_k: int = 10, *, where: str | None = None, group_tracks: bool = True
    ) -> list[SearchResult]: ...

    @overload
    def search(
        self, query: list[AnyQuery], top_k: int = 10, *, where: str | None = None, group_tracks: bool = True
    ) -> list[list[SearchResult]]: ...

    def search(
        self,
        query: AnyQuery | list[AnyQuery],
        top_k: int = 10,
        *,
        where: str | None = None,
        group_tracks: bool = True,
    ) -> list[SearchResult] | list[list[SearchResult]]:
        """The `top_k` persons most similar to a query, best first; fewer if there are fewer.

        Equal scores are ordered by source, then frame, then the box's left side.

        Args:
            query: a description, a picture, or a [`Query`] of several parts; of several queries a list.
            top_k (`int`)
            where (`str`, *optional*): a condition on columns, as [`~modeling_gadms.gallery.filter.check_filter`] takes
                it: `"camera = 'gate-2' AND time > '2026-11-25 08:00'"`.
            group_tracks (`bool`): whether a walk that was tracked is one result, by its most similar crop.

        Returns:
            `list[SearchResult]`, of several queries a list of such lists.

        Warns:
            UserWarning: if a description is longer than the model reads, or says what should not be there.
        Raises:
            ValueError: if a description is empty, the filter is not allowed, `top_k` not positive, the gallery empty,
                or nobody has the id in `like`.
        """
        self._condition(top_k, where)  # before anything is encoded
        answer = partial(self.nearest, top_k=top_k, where=where, group_tracks=group_tracks)
        if not isinstance(query, list):
            return answer(self.encode([query])[0])
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(answer, self.encode(query)))

    def encode(self, queries: Sequence[AnyQuery]) -> list[EncodedQuery]:
        """What the model makes of queries, all at once: the first half of `search`, for programs that collect queries
        of several users.

        Warns:
            UserWarning, and raises ValueError: as `search`.
        """
        return self._encode([_as_query(query) for query in queries])

    def nearest(
        self, query: EncodedQuery, top_k: int = 10, *, where: str | None = None, group_tracks: bool = True
    ) -> list[SearchResult]:
        """The persons nearest to a query of `encode`: the second half of `search`, which says what the arguments are.
        Several threads may ask at once."""
        condition = self._condition(top_k, where)
        found = nearest_persons(
            self._table, self._schema, query.vector, top_k, condition, query.like, group_tracks=group_tracks
        )
        if not found and len(self) == 0:
            raise ValueError(f"The gallery in {self.location} holds no person yet: {_how_to_index(self.location)}")
        return found

    def get(self, ids: Sequence[str]) -> list[SearchResult]:
        """Persons by their ids, in that order, those that are not there left out. As nothing is asked, their rank
        counts them and their score is 1."""
        found = {person.id: person for person in read_persons(self._table, self._schema, of_ids(ids))}
        return [replace(found[each], rank=rank) for rank, each in enumerate((i for i in ids if i in found), start=1)]

    def crops(self, source: str, track: int) -> list[SearchResult]:
        """The crops of a walk, in their order in the video; rank and score as those of `get`."""
        return read_persons(self._table, self._schema, of_walk(source, track))

    def remove(self, *, where: str | None = None, ids: Sequence[str] | None = None) -> int:
        """Remove persons, by a filter or by their ids; returns how many. Their pictures leave the disk with
        `compact`."""
        return int(cast(Any, self._table).delete(self._chosen(where, ids)).num_deleted_rows)

    def update(self, values: Mapping[str, Any], *, where: str | None = None, ids: Sequence[str] | None = None) -> int:
        """Set columns of persons chosen by a filter or by their ids; returns how many.

        Args:
            values (`Mapping[str, Any]`): of `camera`, `time`, `track` or columns of yours.

        Raises:
            ValueError: if a column is unknown or says which person it is, or a value has another type.
        """
        if not values:
            raise ValueError(f"No value is given: set {', '.join(UPDATABLE)} or columns of yours")
        checked = check_values(values, UPDATABLE | self.columns)
        settings = {name: literal(value) for name, value in checked.items()}
        return int(self._table.update(where=self._chosen(where, ids), values_sql=settings).rows_updated)

    def compact(self, *, keep_versions: timedelta = KEEP_VERSIONS) -> None:
        """Join small files, bring the index up to date, and take what was removed, and earlier versions, off the disk.

        Args:
            keep_versions (`timedelta`): how old a version must be to go: nobody may be reading it any more.
        """
        self._table.optimize(cleanup_older_than=keep_versions)
        self._index_if_large()

    def verify(self) -> "VerificationReport":
        """Read all of it and count what is wrong; see [`~modeling_gadms.gallery.maintenance.VerificationReport`]."""
        from .maintenance import verify_table

        return verify_table(self._table)

    @property
    def size_bytes(self) -> int:
        """Of its rows, without earlier versions."""
        from .maintenance import size_of

        return size_of(self._table)

    def info(self) -> "GalleryInfo":
        """Its size, model, columns and index; see [`~modeling_gadms.gallery.maintenance.GalleryInfo`]."""
        from .maintenance import table_info

        return table_info(self.location, self._table)

    def export(self, path: str | Path, kind: str) -> int:
        """Write its persons to files; see [`~modeling_gadms.gallery.maintenance.export_table`]."""
        from .maintenance import export_table

        return export_table(self._table, Path(path), kind)

    def copy_to(
        self,
        location: str | Path,
        model: RetrievalModel,
        processor: GADMSProcessor,
        *,
        storage_options: dict[str, str] | None = None,
    ) -> "PersonGallery":
        """A new gallery of its persons as they are now: what was removed is not in its files, as it may be in these.

        Args:
            location, storage_options: as in `create`.
            model, processor: the gallery's, under the name that the copy is to know them by.

        Raises:
            FileExistsError: if there is a gallery with persons already.
            ValueError: if the model is another one.
        """
        from .maintenance import copy_rows

        _refuse_another_model(self.location, self.model, _described(model, processor))
        copy = PersonGallery.create(location, model, processor, columns=self.columns, storage_options=storage_options)
        copy_rows(self._table, copy._table)
        copy._index_if_large()
        return copy

    def _known(self, ids: Sequence[str]) -> set[str]:
        found = self._table.search().where(of_ids(ids)).select(["id"]).limit(len(ids)).to_arrow()
        return set(found["id"].to_pylist())

    def _insert(self, rows: list[dict[str, Any]]) -> int:
        """Append in one commit; whom another process has added since is left out."""
        merge = self._table.merge_insert("id").when_not_matched_insert_all()
        try:
            return int(merge.execute(pa.Table.from_pylist(rows, schema=self._schema)).num_inserted_rows)
        except RuntimeError as error:  # whatever the storage says
            raise OSError(
                f"The gallery in {self.location} could not be written, and holds what was added before: {error}"
            ) from error

    def _embed(self, items: Iterator[tuple[PersonRecord, dict[str, Any]]], batch_size: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []

        def images() -> Iterator[Image.Image]:
            # `encode_images` reads it beside the model: so thumbnails are made there too, and no picture is kept.
            for record, row in items:
                rows.append({"thumbnail": _thumbnail(record.image), **row})
                yield record.image

        vectors = encode_images(*self._encoding(), images(), batch_size=batch_size, progress=False)
        return [{**row, "vector": vector} for row, vector in zip(rows, vectors.numpy(), strict=True)]

    def _condition(self, top_k: int, where: str | None) -> str | None:
        if top_k < 1:
            raise ValueError(f"top_k must be 1 or more, not {top_k}")
        return check_filter(where, self._schema) if where else None

    def _encode(self, queries: Sequence[Query]) -> list[EncodedQuery]:
        texts = [query.text for query in queries if query.text is not None]
        texts += [text for query in queries for text in query.without]
        pictures = [query.image for query in queries if query.image is not None]
        text_vectors = iter(self._encode_texts(texts))
        own = [next(text_vectors) if query.text is not None else None for query in queries]
        against = [[next(text_vectors) for _ in query.without] for query in queries]
        image_vectors = iter(encode_images(*self._encoding(), pictures, progress=False) if pictures else ())
        encoded = []
        for query, text_vector, unwanted in zip(queries, own, against, strict=True):
            like = None if query.like is None else liked_person(self._table, query.like)
            parts = [] if text_vector is None else [text_vector]
            parts += [] if query.image is None else [next(image_vectors)]
            parts += [] if like is None else [like.vector]
            vector = torch.stack(parts).mean(dim=0)
            if unwanted:
                vector = vector - WITHOUT_WEIGHT * torch.stack(unwanted).mean(dim=0)
            encoded.append(EncodedQuery(vector, like))
        return encoded

    def _encode_texts(self, texts: Sequence[str]) -> Sequence[torch.Tensor]:
        if not texts:
            return ()
        model, processor = self._encoding()
        checked = [check_query(processor, text) for text in texts]
        return list(encode_captions(model, processor, checked, progress=False))

    def _encoding(self) -> tuple[RetrievalModel, GADMSProcessor]:
        if self._encoders is None:
            raise ValueError(
                f"The gallery in {self.location} was opened without a model: give the one that built it, {self.model}"
            )
        return self._encoders

    def _chosen(self, where: str | None, ids: Sequence[str] | None) -> str:
        if (where is None) == (ids is None):
            raise ValueError("Say which persons: by a filter (where) or by their ids, one of the two")
        if ids is not None:
            return of_ids(ids)
        return check_filter(cast(str, where), self._schema)

    def _join_files_if_many(self) -> None:
        statistics = cast(Any, self._table.stats())
        loose = statistics["fragment_stats"]["num_fragments"] - statistics["num_rows"] // WRITE_ROWS
        if loose > max(_LOOSE_FILES, statistics["num_rows"] // _PERSONS_PER_LOOSE_FILE):
            try:
                self._table.optimize(cleanup_older_than=KEEP_VERSIONS)
            except RuntimeError as error:  # another process changes them, or the disk has no room: nothing is lost
                logger.warning("The files of the gallery in %s could not be joined now: %s", self.location, error)

    def _index_ids_if_many(self) -> None:
        """Index ids, so that those who are there are known quickly: without it, adding to a large gallery is slow."""
        persons = len(self)
        if persons - indexed_rows(self._table, "id") >= max(INDEX_FROM_ROWS, persons // _IDS_OUTSIDE):
            self._table.create_index("id", config=BTree(), replace=True)

    def _index_if_large(self) -> None:
        """Index ids and vectors, once enough rows are in no index."""
        self._index_ids_if_many()
        persons = len(self)
        if self._schema.field("vector").type.list_size % 8:
            return  # RaBitQ packs dimensions by eight: such a gallery is scanned at any size
        if (
            persons - indexed_rows(self._table, "vector") >= INDEX_FROM_ROWS
        ):  # rows beyond the index are scanned: none is missed
            # RaBitQ codes find no less than a graph (HNSW), which takes fifteen times as long to build.
            index = IvfRq(distance_type="cosine", num_bits=_INDEX_BITS)
            self._table.create_index("vector", config=index, replace=True)


def gallery_model(location: str | Path, *, storage_options: dict[str, str] | None = None) -> GalleryModel:
    """The model that built the gallery, for loading it.

    Raises:
        FileNotFoundError: if there is no gallery.
    """
    return model_of(_open_table(str(location), storage_options).schema)


def _connect(location: str, storage_options: dict[str, str] | None) -> lancedb.DBConnection:
    return lancedb.connect(
        location,
        storage_options=storage_options,
        read_consistency_interval=_READ_AGAIN,
        session=lancedb.Session(metadata_cache_size_bytes=_METADATA_BYTES),
    )


def _open_table(location: str, storage_options: dict[str, str] | None) -> Table:
    # Connecting would make the folder.
    if "://" in location or Path(location).is_dir():
        database = _connect(location, storage_options)
        if _TABLE in database.list_tables().tables:
            table = database.open_table(_TABLE)
            if "box" not in table.schema.names:
                raise ValueError(
                    f"The gallery in {location} was made by an earlier version, with other columns: "
                    f"{_how_to_index(location)} --overwrite"
                )
            return table
    raise FileNotFoundError(f"There is no gallery in {location}: {_how_to_index(location)}")


def _how_to_index(location: str) -> str:
    return f"index persons first with `gadms index --source PERSONS --gallery {location} --model MODEL`"


def _described(model: RetrievalModel, processor: GADMSProcessor) -> GalleryModel:
    return GalleryModel(
        _name_of(model),
        model_fingerprint(model, processor),
        runtime_of(model),
        getattr(model.config, "_commit_hash", None),
        preprocessing_fingerprint(processor),
    )


def _name_of(model: RetrievalModel) -> str:
    """Where the model was loaded from; a folder as an absolute path, so that a search can find it from anywhere."""
    name = model.name_or_path
    return str(Path(name).resolve()) if name and Path(name).is_dir() else name or "(not loaded from anywhere)"


def _refuse_another_model(location: str, built_with: GalleryModel, given: GalleryModel) -> None:
    if given.fingerprint == built_with.fingerprint:
        return
    what = "weights"
    if given.runtime != built_with.runtime:
        what = "runtime"
    elif built_with.preprocessing and given.preprocessing != built_with.preprocessing:
        what = "preprocessing (tokenizer, image size or normalisation)"
    raise ValueError(
        f"The gallery in {location} was built by the model {built_with}, and the model given is {given}, of another "
        f"{what}: their embeddings cannot be compared. Give the first model and runtime, or index anew with the second"
    )


def _thumbnail(image: Image.Image) -> bytes:
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_HEIGHT, THUMBNAIL_HEIGHT))
    return to_jpeg(small, 90)


def _as_query(query: AnyQuery) -> Query:
    if isinstance(query, str):
        return Query(text=query)
    if isinstance(query, Image.Image):
        return Query(image=query)
    if isinstance(query, Query):
        return query
    raise TypeError(f"a query is a text, a PIL image or a Query, not a {type(query).__name__}: {query!r}")
