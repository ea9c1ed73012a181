"""A gallery of persons in one Lance table: embeddings, thumbnails, and where each person was seen."""

import hashlib
import json
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from itertools import chain, islice
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar, cast, overload

import pyarrow as pa
from lancedb.merge import LanceMergeInsertBuilder
from lancedb.table import Table
from PIL import Image

from ..encoders.encoding import embedding_dim, encode_images
from ..encoders.loading import load_model_and_processor
from ..encoders.onnx_model import RetrievalModel
from ..encoders.processors import RetrievalProcessor, with_image_fit
from ..media.images import to_jpeg
from . import erasure, maintenance, storage
from .errors import GalleryStorageError as GalleryStorageError
from .errors import clear_errors
from .filter import check_filter, column_name, literal, passed_over
from .records import AddReport, GalleryModel, PersonRecord, SearchResult
from .records import GalleryModelError as GalleryModelError
from .records import Query as Query
from .schema import ADDED, CONTENT, UPDATABLE, check_values, gallery_schema, model_of, to_row, user_columns
from .search import AnyQuery, EncodedQuery, encode_queries, nearest_persons, of_ids, of_track, read_persons
from .storage import KEEP_VERSIONS
from .storage import gallery_model as gallery_model


WRITE_ROWS = 4096
"""Rows in one commit: about 30 MB with their thumbnails. Committed rows survive an interruption."""
COMMIT_SECONDS = 25.0
"""Seconds after which smaller commits are made. The last batch is then embedded and written, so that a killed process
loses the persons of at most 30 seconds."""
_STALE = timedelta(days=1)
"""Age from which an unfinished gallery is one that nobody will go on with."""
THUMBNAIL_HEIGHT = 256
_IDS_PER_LOOKUP = 64
"""Number of ids in one membership query."""
_SEARCH_THREADS = 4
_FILTERS_REMEMBERED = 256

T = TypeVar("T")


class PersonGallery:
    """A gallery of persons; make one with [`PersonGallery.create`] or [`PersonGallery.open`].

    The examples use the `model` and `processor` of `AutoModel.from_pretrained` and `AutoProcessor.from_pretrained`:

    >>> red, blue = (Image.new("RGB", (32, 64), color) for color in ("red", "blue"))
    >>> gallery = PersonGallery.create("my_gallery", model, processor, columns={"floor": "integer"})
    >>> gallery.add([PersonRecord(red, "a.jpg", columns={"floor": 1}), PersonRecord(blue, "b.jpg", camera="gate-2")])
    AddReport(added=2, already_there=0, updated=0)

    Search by text, by image, or by both, optionally with a filter; `get` and `crops` look persons up without a query.

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

    Updating, removing and maintenance need no model:

    >>> gallery = PersonGallery.open("my_gallery")
    >>> gallery.update({"camera": "gate-1", "floor": 2}, where="floor = 1")
    1
    >>> [(result.camera, result.columns) for result in gallery.get([PersonRecord(red, "a.jpg").id])]
    [('gate-1', {'floor': 2})]
    >>> gallery.remove(where="camera = 'gate-1'"), len(gallery)
    (1, 1)
    >>> gallery.purge().earlier_versions  # no byte of removed persons is left
    0
    >>> gallery.verify().sound
    True

    Every method reads the latest version of the gallery within a second. Methods that read or write the table raise
    [`GalleryStorageError`], an `OSError`, if its files cannot be read or written.
    """

    def __init__(
        self, location: str, table: Table, model: RetrievalModel | None, processor: RetrievalProcessor | None
    ):
        self.location = location
        self._table = table
        self._version, self._schema = table.version, table.schema
        self._opened_with = model_of(self._schema)
        self._encoders = (model, processor) if model is not None and processor is not None else None
        self._remarks = lru_cache(_FILTERS_REMEMBERED)(self._count_passed_over)

    @classmethod
    def create(
        cls,
        location: str | Path,
        model: RetrievalModel,
        processor: RetrievalProcessor,
        *,
        columns: Mapping[str, str] | None = None,
        image_fit: str | None = None,
        storage_options: dict[str, str] | None = None,
    ) -> "PersonGallery":
        """Create an empty gallery. An existing empty one, as a failed run leaves behind, is replaced; for others see
        [`PersonGallery.rebuild`].

        Args:
            location: a folder, created if missing, or a URI that LanceDB supports (`s3://bucket/gallery`).
            columns: additional columns, as a mapping from name to type: `"string"`, `"integer"`, `"float"`,
                `"boolean"` or `"time"`.
            image_fit: how images are brought to the size that the model reads: `"squash"`, `"pad"` or `"crop"`, as
                far as the model's family supports it; by default the processor's. The gallery stores it, and searches
                and later additions fit images in the same way.
            storage_options: options of the object store, passed to LanceDB; by default read from the environment.

        Raises:
            FileExistsError: if there is a gallery with persons.
            ValueError: if the location is empty, the name or type of a column is invalid, or the model does not
                support `image_fit`.
        """
        location, processor = storage.gallery_location(location), with_image_fit(processor, image_fit)
        built_by = GalleryModel.describe(model, processor)
        schema = gallery_schema(embedding_dim(model, processor), built_by, columns or {})
        return cls(location, storage.create_table(location, schema, storage_options), model, processor)

    @classmethod
    @contextmanager
    def rebuild(
        cls,
        location: str | Path,
        model: RetrievalModel,
        processor: RetrievalProcessor,
        *,
        columns: Mapping[str, str] | None = None,
        image_fit: str | None = None,
        resume: str | None = None,
        storage_options: dict[str, str] | None = None,
    ) -> Iterator["PersonGallery"]:
        """Build a gallery that replaces the one in `location`, if there is one, at the end of the `with` block.

        Until then it is built in a folder inside `location`, and the old gallery can be searched. The old one is
        replaced in one step, and stays as it is if the block raises. After the block, the new gallery is open in
        `location`.

        >>> red, blue = (Image.new("RGB", (32, 64), color) for color in ("red", "blue"))
        >>> with PersonGallery.rebuild("shop", model, processor) as gallery:
        ...     gallery.add([PersonRecord(red, "a.jpg"), PersonRecord(blue, "b.jpg")])
        AddReport(added=2, already_there=0, updated=0)
        >>> len(gallery)
        2

        Args:
            location, model, processor, columns, image_fit, storage_options: as in `create`.
            resume: what the persons depend on beside model and columns, such as sources and options. If given, an
                interrupted block leaves the persons that it has added, and the next one with the same text goes on
                with them.

        Raises:
            ValueError: as `create`; or at the end, if the new gallery is empty.
        """
        location, processor = storage.gallery_location(location), with_image_fit(processor, image_fit)
        built_by = GalleryModel.describe(model, processor)
        schema = gallery_schema(embedding_dim(model, processor), built_by, columns or {})
        run = json.dumps([vars(built_by), dict(columns or {}), uuid.uuid4().hex if resume is None else resume])
        key = hashlib.blake2b(run.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
        place = storage.unfinished_location(location, key)
        new = cls(place, storage.open_or_create_table(place, schema, storage_options), model, processor)
        try:
            with storage.building(place):
                yield new
                if not len(new):
                    raise ValueError(f"No person was found for the gallery {location}, which is left as it was")
                rows = maintenance.all_rows(new._table, new._schema)
                new.location, new._table = location, storage.write_table(location, rows, new._schema, storage_options)
        finally:
            if new.location == location or resume is None or not len(new):
                storage.remove_gallery(place, storage_options)
        storage.remove_unfinished(location, unchanged_for=_STALE)
        new._build_indexes()

    @classmethod
    def open(
        cls,
        location: str | Path,
        model: RetrievalModel | None = None,
        processor: RetrievalProcessor | None = None,
        *,
        storage_options: dict[str, str] | None = None,
    ) -> "PersonGallery":
        """Open an existing gallery.

        Args:
            location, storage_options: as in `create`.
            model, processor: the model that built the gallery, in the same runtime. Images are fitted as the gallery
                was built, whatever the processor says. Without a model, `add` fails and `search` accepts only queries
                by `like`.

        Raises:
            FileNotFoundError: if there is no gallery.
            GalleryModelError: if the gallery was built by another model, in another runtime, or with other
                preprocessing.
        """
        place = storage.gallery_location(location)
        table = storage.open_table(place, storage_options)
        built_by = model_of(table.schema)
        if model is not None and processor is not None:
            processor = built_by.fit_images(processor)
            built_by.check_same(GalleryModel.describe(model, processor), place)
        return cls(place, table, model, processor)

    @property
    def columns(self) -> dict[str, str]:
        """The additional columns, as a mapping from name to type."""
        self._refresh()
        return user_columns(self._schema)

    @property
    def model(self) -> GalleryModel:
        """The model that built the gallery."""
        self._refresh()
        return model_of(self._schema)

    def __len__(self) -> int:
        return self._read(self._table.count_rows)

    def check_model(self) -> None:
        """Check that the gallery has not been rebuilt by another model since it was opened. `search` and `add` do.

        Raises:
            GalleryModelError: if it has been.
        """
        now = self.model
        if now.fingerprint != self._opened_with.fingerprint:
            raise GalleryModelError(
                f"The gallery in {self.location} has been rebuilt by the model {now} since it was opened with "
                f"{self._opened_with}; embeddings of the two cannot be compared. Open it again with the new model"
            )

    def add(self, records: Iterable[PersonRecord], *, batch_size: int = 64) -> AddReport:
        """Embed persons and append them. Existing persons are skipped, so an interrupted run can be repeated; those
        whose image, camera, time or columns have changed are replaced.

        Persons are committed in groups of `WRITE_ROWS` and at the latest after `COMMIT_SECONDS`; also those before an
        error of `records`. Several processes may add at once. `add` also indexes a large gallery, and joins files if
        there are many small ones.

        Args:
            records (`Iterable[PersonRecord]`): may be a generator; at most `WRITE_ROWS` persons are held in memory.
            batch_size (`int`): number of images embedded at once.

        Raises:
            ValueError: if a record has an unknown column, or a value of the wrong type.
            GalleryModelError: if the gallery is rebuilt by another model in the meantime.
            GalleryStorageError: if the gallery cannot be written, for instance because the disk is full.
        """
        self.check_model()
        self._migrate()
        columns, remaining = self.columns, iter(records)
        added = existing = updated = 0
        changed: set[str] = set()  # those of the next commit who are in the gallery
        ended = False
        failure: Exception | None = None
        upcoming: Future[PersonRecord | None] | None = None

        def of_one_commit() -> Iterator[tuple[PersonRecord, dict[str, Any]]]:
            """The next persons, until there are enough or the commit is due. An error is raised after the commit."""
            nonlocal ended, failure, upcoming
            due = monotonic() + COMMIT_SECONDS
            for _ in range(WRITE_ROWS):
                upcoming = upcoming or reader.submit(next, remaining, None)
                if not wait([upcoming], max(0.0, due - monotonic())).done or monotonic() >= due:
                    return
                try:
                    record = upcoming.result()
                    row = {} if record is None else to_row(record, columns)
                except Exception as error:
                    record, failure = None, error
                upcoming = None
                if record is None:
                    ended = True
                    return
                yield record, row

        def new_persons() -> Iterator[tuple[PersonRecord, dict[str, Any]]]:
            nonlocal existing
            states: dict[str, str] = {}  # of the persons of this commit; see `content_state`
            persons = of_one_commit()
            while group := list(islice(persons, _IDS_PER_LOOKUP)):
                stored = self._stored_states([row["id"] for _, row in group])
                for record, row in group:
                    person = row["id"]
                    if states.get(person, stored.get(person)) == row[CONTENT]:
                        existing += 1
                    else:
                        states[person] = row[CONTENT]
                        changed.update({person} & stored.keys())
                        yield record, row

        # A thread, because a commit may be due while the next person is still looked for.
        with ThreadPoolExecutor(1, thread_name_prefix="records") as reader:
            while not ended:
                persons = new_persons()
                changed.clear()
                for first in persons:  # if there is one
                    rows = self._embed(chain([first], persons), batch_size)
                    latest = {row["id"]: row for row in rows}
                    inserted = self._insert([row for person, row in latest.items() if person not in changed])
                    replaced = self._replace([latest[person] for person in changed])
                    added += inserted
                    updated += replaced + len(rows) - len(latest)
                    existing += len(latest) - inserted - replaced  # by another process in the meantime
                    self._write(lambda: storage.index_lookups(self._table))
                    with storage.writing(self.location):
                        storage.join_small_files(self.location, self._table, WRITE_ROWS)
        self._build_indexes()
        if failure is not None:
            raise failure
        return AddReport(added, existing, updated)

    @overload
    def search(
        self, query: AnyQuery, top_k: int = 10, *, where: str | None = None, group_tracks: bool = True
    ) -> list[SearchResult]: ...

    @overload
    def search(
        self, query: list[AnyQuery], top_k: int = 10, *, where: str | None = None, group_tracks: bool = True
    ) -> list[list[SearchResult]]: ...

    def search(
        self, query: AnyQuery | list[AnyQuery], top_k: int = 10, *, where: str | None = None, group_tracks: bool = True
    ) -> list[SearchResult] | list[list[SearchResult]]:
        """Find the `top_k` persons most similar to a query, best first.

        Equal scores are ordered by source, then by frame, then by the left side of the box.

        Args:
            query: a text, an image, a [`Query`] that combines several parts, or a list of these.
            top_k (`int`): maximum number of results.
            where (`str`, *optional*): a condition on columns, such as
                `"camera = 'gate-2' AND time > '2026-11-25 08:00'"`; see
                [`~modeling_gadms.gallery.filter.check_filter`].
            group_tracks (`bool`): whether a track is one result, represented by its most similar crop.

        Returns:
            `list[SearchResult]`, or a list of such lists for a list of queries.

        Warns:
            UserWarning: if a text is longer than the model reads, or contains a negation; if the filter passes over
                persons (see `filter_remarks`).
        Raises:
            ValueError: if a text is empty, the filter is not allowed, `top_k` is not positive, the gallery is empty,
                or the id in `like` is unknown.
            GalleryModelError: if the gallery has been rebuilt by another model.
        """
        self._check_search(top_k, where)  # before the queries are encoded
        self._warn_of_passed_over(where)
        answer = partial(self.nearest, top_k=top_k, where=where, group_tracks=group_tracks)
        if not isinstance(query, list):
            return answer(self.encode([query])[0])
        with ThreadPoolExecutor(_SEARCH_THREADS) as pool:
            return list(pool.map(answer, self.encode(query)))

    def encode(self, queries: Sequence[AnyQuery]) -> list[EncodedQuery]:
        """Encode queries in one batch. This is the first half of `search`, for programs that collect the queries of
        several users; warnings and errors are those of `search`."""
        self.check_model()
        return self._read(lambda: encode_queries(self._table, self._model_and_processor, queries))

    def nearest(
        self, query: EncodedQuery, top_k: int = 10, *, where: str | None = None, group_tracks: bool = True
    ) -> list[SearchResult]:
        """Find the persons nearest to a query from `encode`. This is the second half of `search`, with the same
        arguments; it may be called from several threads."""
        condition = self._check_search(top_k, where)
        arguments = (query, top_k, condition)
        found = self._read(lambda: nearest_persons(self._table, self._schema, *arguments, group_tracks=group_tracks))
        self.check_model()  # again, because the gallery may have been rebuilt during the search
        if not found and len(self) == 0:
            raise ValueError(f"The gallery in {self.location} is empty: {storage.how_to_index(self.location)}")
        return found

    def get(self, ids: Sequence[str]) -> list[SearchResult]:
        """Look up persons by id, in the given order; unknown ids are skipped. `rank` is the position among the persons
        found and `score` is 1."""
        found = {person.id: person for person in self._persons(of_ids(ids))}
        return [replace(found[each], rank=rank) for rank, each in enumerate((i for i in ids if i in found), start=1)]

    def crops(self, source: str, track: int) -> list[SearchResult]:
        """The crops of a track, in the order of the video; `rank` and `score` as in `get`."""
        return self._persons(of_track(source, track))

    def filter_remarks(self, where: str) -> list[str]:
        """Remarks on a filter, for its user: how many persons it passes over for lack of a value.

        As in SQL, a person without a camera does not meet `camera <> 'b'`, and one without a time neither `time < ...`
        nor `time >= ...`. Such persons are not counted for `camera = 'b'`.

        Raises:
            ValueError: if the filter is not allowed.
        """
        self._refresh()
        return list(self._remarks(where, self._version))

    def _count_passed_over(self, where: str, version: int) -> tuple[str, ...]:
        """The remarks on a filter; `version` is for the cache."""
        condition, columns = passed_over(where, self._schema)
        if not (count := self._count(condition)):
            return ()
        missing = [name for name in columns if self._count(f"{condition} AND {column_name(name)} IS NULL")] or columns
        remark = (
            f"The filter passes over {count:,} of {len(self):,} persons, who have no {' or no '.join(missing)}; add "
            f'"OR {missing[0]} IS NULL" to include them'
        )
        return (f"{remark}. Every person has a time of adding, {ADDED}" if "time" in missing else remark,)

    def remove(self, *, where: str | None = None, ids: Sequence[str] | None = None) -> int:
        """Remove persons selected by a filter or by id, and return their number. They are no longer found, but their
        data stays on the disk until `purge` or `compact`.

        Warns:
            UserWarning: if the filter passes over persons (see `filter_remarks`).
        """
        self._migrate()
        condition = self._selected(where, ids)
        return int(self._write(lambda: cast(Any, self._table).delete(condition)).num_deleted_rows)

    def remove_outdated(self, contents: Mapping[str, str]) -> int:
        """Remove the persons of files that were replaced since, and return their number.

        Args:
            contents (`Mapping[str, str]`): for each source the digest of its present content, as given to
                [`~modeling_gadms.gallery.records.content_state`]. Persons of unknown content stay.
        """
        self._migrate()
        removed, remaining = 0, iter(contents.items())
        while group := list(islice(remaining, _IDS_PER_LOOKUP)):
            conditions = (
                f"(source = {literal(source)} AND NOT starts_with({CONTENT}, {literal(content)}))"
                for source, content in group
            )
            condition = " OR ".join(conditions)
            if self._count(condition):  # else there would be a version without a change
                deleted = self._write(partial(cast(Any, self._table).delete, condition))
                removed += int(deleted.num_deleted_rows)
        return removed

    def update(self, values: Mapping[str, Any], *, where: str | None = None, ids: Sequence[str] | None = None) -> int:
        """Set columns of persons selected by a filter or by id, and return the number of persons changed.

        Args:
            values (`Mapping[str, Any]`): new values of `camera`, `time`, `track` or additional columns.

        Warns:
            UserWarning: if the filter passes over persons (see `filter_remarks`).
        Raises:
            ValueError: if a column is unknown or cannot be updated, or a value has the wrong type.
        """
        if not values:
            raise ValueError(f"No value is given: set {', '.join(UPDATABLE)} or additional columns of the gallery")
        self._migrate()
        checked = check_values(values, UPDATABLE | self.columns)
        settings = {name: literal(value) for name, value in checked.items()}
        condition = self._selected(where, ids)
        return int(self._write(lambda: self._table.update(where=condition, values_sql=settings)).rows_updated)

    def compact(self, *, keep_versions: timedelta = KEEP_VERSIONS) -> erasure.CleanupReport:
        """Join small files, write files with removed persons anew, update the indexes, and delete old versions.

        Args:
            keep_versions (`timedelta`): age from which earlier versions are deleted. They contain persons who were
                removed later, so these are gone only after a `compact` of that age, or after `purge`.

        Returns:
            [`~modeling_gadms.gallery.erasure.CleanupReport`]: sizes, and what is kept until when.
        """
        self._migrate()
        before = erasure.disk_bytes(self.location)
        storage.remove_unfinished(self.location)
        self._rewrite_removed(rebuild_indexes=False)
        self._write(lambda: erasure.delete_old_files(self._table, keep_versions))
        self._build_indexes()
        return self._read(lambda: erasure.cleanup_report(self.location, self._table, before, kept=keep_versions))

    def purge(self) -> erasure.CleanupReport:
        """Erase removed persons: after it, the files of the gallery contain nothing but its current persons.

        Files with removed persons are written anew, which needs disk space for a second copy of them; the indexes are
        rebuilt; all earlier versions and the files of interrupted writes are deleted. Writers wait for the last step,
        and searches that run meanwhile are repeated. An export or a copy that runs meanwhile fails.

        Returns:
            [`~modeling_gadms.gallery.erasure.CleanupReport`]: sizes, and what had to be kept until when.
        """
        self._migrate()
        before = erasure.disk_bytes(self.location)
        storage.remove_unfinished(self.location)
        self._rewrite_removed(rebuild_indexes=True)
        self._write(self._table.optimize)
        with storage.writing(self.location, alone=True) as locked:
            clean = partial(erasure.delete_all_but_current, self._table, unfinished=locked)
            storage.attempt(self.location, self._table, "purged", clean)
        report = partial(erasure.cleanup_report, self.location, self._table, before, unfinished=not locked)
        return self._read(report)

    def verify(self) -> maintenance.VerificationReport:
        """Read the whole gallery and count what is wrong."""
        return self._read(lambda: maintenance.verify_table(self._table))

    def info(self) -> maintenance.GalleryInfo:
        """Describe the gallery: its size, model, columns and indexes."""
        return self._read(lambda: maintenance.table_info(self.location, self._table))

    def export(self, path: str | Path, kind: str) -> int:
        """Write the persons to files; see [`~modeling_gadms.gallery.maintenance.export_table`]."""
        with clear_errors(self.location, "read"):
            return maintenance.export_table(self._table, Path(path), kind)

    def copy_to(
        self,
        location: str | Path,
        model: RetrievalModel,
        processor: RetrievalProcessor,
        *,
        storage_options: dict[str, str] | None = None,
    ) -> "PersonGallery":
        """Copy the persons to a new gallery. Its files contain no removed persons, unlike those of this gallery.

        Args:
            location, storage_options: as in `create`.
            model, processor: the gallery's model. The copy stores the name that it was loaded from here.

        Raises:
            FileExistsError: if there is a gallery with persons in `location`.
            GalleryModelError: if the model is another one.
        """
        processor = self.model.fit_images(processor)
        self.model.check_same(GalleryModel.describe(model, processor), self.location)
        copy = PersonGallery.create(location, model, processor, columns=self.columns, storage_options=storage_options)
        with clear_errors(self.location, "copied"):
            rows = maintenance.all_rows(self._table, copy._schema)
            copy._table = storage.write_table(copy.location, rows, copy._schema, storage_options)
        copy._build_indexes()
        return copy

    def _stored_states(self, ids: Sequence[str]) -> dict[str, str | None]:
        """For those ids that the gallery has, the state of the person; see `content_state`."""
        looked_up = self._table.search().where(of_ids(ids)).select(["id", CONTENT]).limit(len(ids))
        found = self._read(looked_up.to_arrow)
        return dict(zip(found["id"].to_pylist(), found[CONTENT].to_pylist(), strict=True))

    def _persons(self, condition: str) -> list[SearchResult]:
        self._refresh()
        return self._read(lambda: read_persons(self._table, self._schema, condition))

    def _count(self, condition: str) -> int:
        return self._read(lambda: self._table.count_rows(condition))

    def _embed(self, items: Iterator[tuple[PersonRecord, dict[str, Any]]], batch_size: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []

        def images() -> Iterator[Image.Image]:
            # `encode_images` consumes this in its reading thread, so thumbnails are made there and no image is kept.
            for record, row in items:
                rows.append({"thumbnail": _thumbnail(record.image), **row})
                yield record.image

        vectors = encode_images(*self._model_and_processor(), images(), batch_size=batch_size, progress=False)
        return [{**row, "vector": vector} for row, vector in zip(rows, vectors.numpy(), strict=True)]

    def _insert(self, rows: list[dict[str, Any]]) -> int:
        """Append rows in one commit, except persons that another process has added in the meantime."""
        merge = self._table.merge_insert("id").when_not_matched_insert_all()
        return int(self._merge(merge, rows).num_inserted_rows) if rows else 0

    def _replace(self, rows: list[dict[str, Any]]) -> int:
        """Replace rows in one commit, except persons that another process has replaced or removed in the meantime."""
        differs = f"target.{CONTENT} IS NULL OR target.{CONTENT} <> source.{CONTENT}"
        merge = self._table.merge_insert("id").when_matched_update_all(where=differs)
        return int(self._merge(merge, rows).num_updated_rows) if rows else 0

    def _merge(self, merge: LanceMergeInsertBuilder, rows: list[dict[str, Any]]) -> Any:
        self.check_model()
        if unknown := rows[0].keys() - set(self._schema.names):
            raise ValueError(f"The gallery in {self.location} has been rebuilt without {', '.join(sorted(unknown))}")
        now = datetime.now(UTC)
        data = pa.Table.from_pylist([{**row, ADDED: now} for row in rows], schema=self._schema)
        # Without the index, because only then does LanceDB notice that another process inserts the same ids meanwhile.
        merged = self._write(lambda: merge.use_index(False).execute(data))
        try:
            self.check_model()
        except GalleryModelError:  # rebuilt just before the commit, which LanceDB repeats on the new version
            mine = f"{of_ids(data['id'].to_pylist())} AND {ADDED} = {literal(now)}"
            self._write(lambda: self._table.delete(mine))
            raise
        return merged

    def _build_indexes(self) -> None:
        self._write(lambda: storage.index_lookups(self._table))
        self._write(lambda: storage.index_vectors(self._table))

    def _rewrite_removed(self, *, rebuild_indexes: bool) -> None:
        rewritten = self._write(lambda: erasure.rewrite_removed(self.location, self._table))
        if rewritten or rebuild_indexes:
            self._write(lambda: storage.rebuild_indexes(self._table))

    def _read(self, call: Callable[[], T]) -> T:
        return storage.attempt(self.location, self._table, "read", call)

    def _write(self, call: Callable[[], T]) -> T:
        with storage.writing(self.location):
            return storage.attempt(self.location, self._table, "written", call)

    def _refresh(self) -> None:
        """Read the schema anew if there is a new version: the gallery may have been rebuilt with another one."""
        version = self._read(lambda: self._table.version)
        if version != self._version:
            self._schema = self._read(lambda: self._table.schema)
            self._version = version

    def _migrate(self) -> None:
        self._write(lambda: storage.migrate(self.location, self._table))

    def _check_search(self, top_k: int, where: str | None) -> str | None:
        """The filter as SQL of the table."""
        if top_k < 1:
            raise ValueError(f"top_k must be 1 or more, not {top_k}")
        self.check_model()
        return check_filter(where, self._schema) if where else None

    def _selected(self, where: str | None, ids: Sequence[str] | None) -> str:
        """A condition for the persons of a filter or of a list of ids."""
        if (where is None) == (ids is None):
            raise ValueError("Select persons either by a filter (where) or by their ids: give one of the two")
        self._refresh()
        self._warn_of_passed_over(where)
        return of_ids(ids) if ids is not None else check_filter(cast(str, where), self._schema)

    def _warn_of_passed_over(self, where: str | None) -> None:
        for remark in self.filter_remarks(where) if where else ():
            warnings.warn(remark, UserWarning, stacklevel=3)

    def _model_and_processor(self) -> tuple[RetrievalModel, RetrievalProcessor]:
        if self._encoders is None:
            raise ValueError(
                f"The gallery in {self.location} was opened without a model: give the one that built it, {self.model}"
            )
        return self._encoders


def open_with_model(
    location: str | Path, model: str | None = None, runtime: str | None = None
) -> tuple[PersonGallery, RetrievalProcessor]:
    """Open a gallery with a model, and return the gallery and the model's processor.

    `model` is a folder or a Hub name; by default model and runtime are those that built the gallery. The errors are
    those of [`PersonGallery.open`].
    """
    location = storage.gallery_location(location)
    built_with = gallery_model(location)
    loaded, processor = load_model_and_processor(model or built_with.name, runtime=runtime or built_with.runtime)
    opened = PersonGallery.open(location, loaded, processor)
    return opened, opened._model_and_processor()[1]


def _thumbnail(image: Image.Image) -> bytes:
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_HEIGHT, THUMBNAIL_HEIGHT))
    return to_jpeg(small, 90)
