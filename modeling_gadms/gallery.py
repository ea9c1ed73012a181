"""A gallery of persons: embeddings, thumbnails and where each person was seen, in one Lance table."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

import lancedb
import pyarrow as pa
from lancedb.index import IvfRq
from lancedb.query import LanceVectorQueryBuilder
from lancedb.table import Table
from PIL import Image

from .detection import PersonBox
from .encoding import encode_captions, encode_images
from .fingerprint import model_fingerprint
from .images import to_jpeg
from .onnx_model import RUNTIMES, RetrievalModel, runtime_of
from .processing_gadms import GADMSProcessor
from .queries import check_query


INDEX_FROM_ROWS = 10_000
"""Unindexed rows from which `add` builds an index. A scan of so many is exact and takes 12 ms on two cores, less than
an answer of the index at a million rows; one of 100,000 takes 80 ms, and the index 10 (`benchmarks/gallery.py`)."""
WRITE_ROWS = 4096
"""Rows of one commit: about 30 MB with their thumbnails. What is committed survives an interruption."""
THUMBNAIL_HEIGHT = 256
_TABLE = "persons"
_METADATA_KEY = b"gadms"
_INDEX_BITS = 4
"""Of each dimension in the index. With 1 bit, five times as many rows compared exactly still find fewer of the
nearest: 0.997 of them in 100,000 rows, against 1.000."""
_PARTS_SEARCHED = 128
"""Of the index, which has a part for about 4,096 rows: all of them up to half a million rows. At a million, the
nearest half, which takes 14 ms for recall@10 of 0.996; all of them take 16 ms for 1.000."""
_REFINE_FACTOR = 4
"""Rows compared exactly, by their whole vectors, for each row wanted. Directions that fill the space, the worst case,
need 4 for recall@10 of 0.99, persons 2."""


@dataclass(frozen=True)
class PersonRecord:
    """A person to put into a gallery.

    Attributes:
        image (`PIL.Image.Image`): the person, cropped.
        source (`str`): the image file, or the video.
        frame (`int`, *optional*): number of the video's frame.
        time_seconds (`float`, *optional*): when the video shows it.
        box (`PersonBox`, *optional*): where the detector found the person in the frame.
    """

    image: Image.Image
    source: str
    frame: int | None = None
    time_seconds: float | None = None
    box: PersonBox | None = None


@dataclass(frozen=True)
class SearchResult:
    """A person found, with `rank` from 1 and `score`, the cosine similarity to the query; `thumbnail` is a JPEG."""

    rank: int
    score: float
    source: str
    frame: int | None
    time_seconds: float | None
    box: PersonBox | None
    thumbnail: bytes


@dataclass(frozen=True)
class GalleryModel:
    """The model a gallery was built with, as stored in the table.

    Attributes:
        name (`str`): where it was loaded from.
        fingerprint (`str`): of [`~modeling_gadms.fingerprint.model_fingerprint`].
        runtime (`str`): what ran it; galleries from before there was a choice do not tell, and are of torch.
    """

    name: str
    fingerprint: str
    runtime: str = RUNTIMES[0]

    def __str__(self) -> str:
        return f"{self.name} ({self.fingerprint}, run by {self.runtime})"


class PersonGallery:
    """Persons in a LanceDB table, to be made with `PersonGallery.create` or `PersonGallery.open`.

    Example:

        gallery = PersonGallery.open("my_gallery", model, processor)
        for result in gallery.search("a woman in a red coat", top_k=5):
            print(result.rank, result.score, result.source)
    """

    def __init__(self, location: str, table: Table, model: RetrievalModel, processor: GADMSProcessor):
        self.location = location
        self._table = table
        self._model = model
        self._processor = processor

    @classmethod
    def create(
        cls, location: str | Path, model: RetrievalModel, processor: GADMSProcessor, *, overwrite: bool = False
    ) -> "PersonGallery":
        """Make an empty gallery.

        Args:
            location: a folder, made if needed, or a URI that LanceDB knows (`s3://bucket/gallery`).
            overwrite: whether to remove the persons of a gallery that is there already. An empty one, as a failed
                run leaves behind, is replaced in any case.

        Raises:
            FileExistsError: if there is a gallery with persons already and `overwrite` is not given.
        """
        location = str(location)
        database = lancedb.connect(location)
        exists = _TABLE in database.list_tables().tables
        if exists and not overwrite and (persons := database.open_table(_TABLE).count_rows()):
            raise FileExistsError(
                f"There is a gallery of {persons} persons in {location} already: give another place, or --overwrite "
                "(in Python overwrite=True) to replace it"
            )
        schema = _schema(model.config.projection_dim, _described(model, processor))
        table = database.create_table(_TABLE, schema=schema, mode="overwrite" if exists else "create")
        return cls(location, table, model, processor)

    @classmethod
    def open(cls, location: str | Path, model: RetrievalModel, processor: GADMSProcessor) -> "PersonGallery":
        """Open a gallery with the model that it was built with, in the same runtime.

        Raises:
            FileNotFoundError: if there is no gallery.
            ValueError: if another model built it, or the same in another runtime.
        """
        table = _open_table(str(location))
        built_with, given = _model_of(table), _described(model, processor)
        if given.fingerprint != built_with.fingerprint:
            raise ValueError(
                f"The gallery in {location} was built by the model {built_with}, and the model given is {given}: "
                "their embeddings cannot be compared. Give the first model and runtime, or index anew with the second"
            )
        return cls(str(location), table, model, processor)

    def __len__(self) -> int:
        return self._table.count_rows()

    def add(self, records: Iterable[PersonRecord], *, batch_size: int = 64) -> int:
        """Embed persons and append them; returns how many. A gallery that has grown large is indexed by the way.

        `records` may be a generator: at most `WRITE_ROWS` persons are held in memory.
        """
        records = iter(records)
        added = 0
        for first in records:
            rows = self._embed(chain([first], islice(records, WRITE_ROWS - 1)), batch_size)
            self._table.add(pa.Table.from_pylist(rows, schema=self._table.schema))
            added += len(rows)
        self._index_if_large()
        return added

    def search(self, text: str, top_k: int = 10) -> list[SearchResult]:
        """The `top_k` persons most similar to a description, best first; fewer if the gallery has fewer.

        Equal scores are ordered by source, then frame, then the box's left side.

        Warns:
            UserWarning: if the description is longer than the model reads.
        Raises:
            ValueError: if the description is empty, `top_k` not positive, or the gallery empty.
        """
        if top_k < 1:
            raise ValueError(f"top_k must be 1 or more, not {top_k}")
        query = check_query(self._processor, text)
        if len(self) == 0:
            raise ValueError(f"The gallery in {self.location} holds no person yet: {_how_to_index(self.location)}")
        vector = encode_captions(self._model, self._processor, [query], progress=False)[0]
        nearest = cast(LanceVectorQueryBuilder, self._table.search(vector.numpy(), vector_column_name="vector"))
        # Both matter to an indexed gallery alone: how much of the index to visit, and how many to compare exactly.
        nearest = nearest.distance_type("cosine").nprobes(_PARTS_SEARCHED).refine_factor(_REFINE_FACTOR)
        found = nearest.limit(top_k).to_list()
        found.sort(key=lambda row: (row["_distance"], row["source"], row["frame"] or 0, row["left"] or 0))
        return [_to_result(rank, row) for rank, row in enumerate(found, start=1)]

    def _embed(self, records: Iterator[PersonRecord], batch_size: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []

        def images() -> Iterator[Image.Image]:
            # `encode_images` reads it beside the model: so thumbnails are made there too, and no picture is kept.
            for record in records:
                rows.append({"thumbnail": _thumbnail(record.image), **_metadata(record)})
                yield record.image

        vectors = encode_images(self._model, self._processor, images(), batch_size=batch_size, progress=False)
        return [{**row, "vector": vector} for row, vector in zip(rows, vectors.numpy(), strict=True)]

    def _index_if_large(self) -> None:
        if self._model.config.projection_dim % 8:
            return  # RaBitQ packs dimensions by eight: such a gallery is scanned at any size
        indices = [index.name for index in self._table.list_indices() if index.columns == ["vector"]]  # one or none
        statistics = [self._table.index_stats(name) for name in indices]
        indexed = sum(index.num_indexed_rows for index in statistics if index)
        if len(self) - indexed >= INDEX_FROM_ROWS:  # rows beyond the index are scanned, so no answer misses them
            # RaBitQ codes find no less than a graph (HNSW), which takes fifteen times as long to build.
            index = IvfRq(distance_type="cosine", num_bits=_INDEX_BITS)
            self._table.create_index("vector", config=index, replace=True)


def gallery_model(location: str | Path) -> GalleryModel:
    """The model that built the gallery, for loading it.

    Raises:
        FileNotFoundError: if there is no gallery.
    """
    return _model_of(_open_table(str(location)))


def _open_table(location: str) -> Table:
    # Connecting would make the folder.
    if "://" in location or Path(location).is_dir():
        database = lancedb.connect(location)
        if _TABLE in database.list_tables().tables:
            return database.open_table(_TABLE)
    raise FileNotFoundError(f"There is no gallery in {location}: {_how_to_index(location)}")


def _how_to_index(location: str) -> str:
    return f"index persons first with `gadms index --source PERSONS --gallery {location} --model MODEL`"


def _schema(dimension: int, model: GalleryModel) -> pa.Schema:
    return pa.schema(
        [
            pa.field("vector", pa.list_(pa.float32(), dimension), nullable=False),
            pa.field("thumbnail", pa.binary(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("frame", pa.int64()),
            pa.field("time_seconds", pa.float64()),
            *(pa.field(name, pa.float32()) for name in ("left", "top", "right", "bottom", "confidence")),
        ],
        metadata={_METADATA_KEY: json.dumps(asdict(model))},
    )


def _model_of(table: Table) -> GalleryModel:
    return GalleryModel(**json.loads(table.schema.metadata[_METADATA_KEY]))


def _described(model: RetrievalModel, processor: GADMSProcessor) -> GalleryModel:
    return GalleryModel(_name_of(model), model_fingerprint(model, processor), runtime_of(model))


def _name_of(model: RetrievalModel) -> str:
    """Where the model was loaded from; a folder as an absolute path, so that a search can find it from anywhere."""
    name = model.name_or_path
    return str(Path(name).resolve()) if name and Path(name).is_dir() else name or "(not loaded from anywhere)"


def _thumbnail(image: Image.Image) -> bytes:
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_HEIGHT, THUMBNAIL_HEIGHT))
    return to_jpeg(small, 90)


def _metadata(record: PersonRecord) -> dict[str, str | int | float | None]:
    where = {"source": record.source, "frame": record.frame, "time_seconds": record.time_seconds}
    return {**where, **(asdict(record.box) if record.box else {})}


def _to_result(rank: int, row: dict) -> SearchResult:
    box = None
    if row["left"] is not None:
        box = PersonBox(row["left"], row["top"], row["right"], row["bottom"], row["confidence"])
    return SearchResult(
        rank=rank,
        score=1 - row["_distance"],
        source=row["source"],
        frame=row["frame"],
        time_seconds=row["time_seconds"],
        box=box,
        thumbnail=row["thumbnail"],
    )
