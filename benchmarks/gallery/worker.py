"""Galleries under a clock, beside FAISS's indexes, for `gallery.py`, which starts each part in a process of its own.

    python -m benchmarks.gallery.worker <part: build, serve, compare> <folder> [--repetitions 200]

The folder holds `vectors.f32`, `queries.npy` and, for `compare`, the `hnsw.faiss` of `gallery_faiss.py`; `build`
writes `gallery` beside them, which `serve` and `compare` read. Prints one line of JSON.

A gallery is written and searched by `PersonGallery`. Stand-ins take the place of what is measured elsewhere: encoders,
which look the vectors up, and thumbnails, bytes of the size that photographs have, as incompressible as JPEG is.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import count, cycle
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import faiss
import numpy as np
import torch
from lancedb.index import Bitmap, BTree
from PIL import Image

from benchmarks.gallery.faiss_indexes import TOP_K, faiss_search, make_flat
from benchmarks.gallery.vectors import DIMENSION, read_vectors
from benchmarks.measuring import in_turn, peak_memory_bytes
from modeling_gadms import GADMSConfig, GADMSModel, GADMSProcessor
from modeling_gadms.gallery import person_gallery, storage
from modeling_gadms.gallery import search as gallery_search
from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord
from modeling_gadms.media.detection import PersonBox
from modeling_gadms.training.tokenizer import train_tokenizer


THREADS = (1, 4, 16)
BATCH = 32
THUMBNAIL_BYTES = 9_400
"""Of a photograph of 85x256 pixels at the quality of the gallery."""
HNSW_SEARCH = (32, 64, 128, 256, 512, 1024, 2048)
WANTED_RECALL = 0.98
Search = Callable[[np.ndarray], list[int]]
Results = dict[str, Any]


@dataclass(frozen=True)
class Filter:
    """What a query is limited to.

    Attributes:
        column (`str`): of the table.
        where (`str`): the condition in SQL.
        index (`Bitmap` or `BTree`): an index of the column that suits it.
        keeps (`Callable`): the condition in Python.
    """

    column: str
    where: str
    index: Bitmap | BTree
    keeps: Callable[[PersonRecord], bool]


FILTERS = {
    "1 %": Filter("source", "source = 'camera07.mp4'", Bitmap(), lambda record: record.source == "camera07.mp4"),
    "50 %": Filter("time_seconds", "time_seconds < 5", BTree(), lambda record: cast(float, record.time_seconds) < 5),
}


def make_model() -> tuple[GADMSModel, GADMSProcessor]:
    """The least that a gallery accepts: it is never run, but the width of its embeddings counts."""
    tokenizer = train_tokenizer(["A man in a red coat, number 0123456789."], vocab_size=514, max_length=77)
    processor = GADMSProcessor.from_tokenizer(tokenizer, image_size=(32, 16))
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    torch.manual_seed(0)
    config = GADMSConfig(
        text_config={"vocab_size": len(tokenizer), **tokens, **sizes},
        vision_config={"image_size": (32, 16), "patch_size": 16, **sizes},
        projection_dim=DIMENSION,
        mask_token_id=tokenizer.mask_token_id,
        score_layers=1,
    )
    return GADMSModel(config).eval(), processor


def person_records(rows: int) -> Iterator[PersonRecord]:
    """One of 100 cameras each, at one of 10 seconds; `frame` is the row."""
    image = Image.new("RGB", (8, 16))
    generator = np.random.default_rng(0)
    for row in range(rows):
        # No two alike: columns of one value are stored, and read, in a way of their own.
        left, top, height, confidence = generator.random(4).tolist()
        box = PersonBox(1800 * left, 800 * top, 1800 * left + 100, 800 * top + 100 + 200 * height, confidence)
        yield PersonRecord(image, f"camera{row % 100:02d}.mp4", row, float(row // 100 % 10), box)


def caption_of(query: int) -> str:
    return f"a man in a red coat, number {query}"


class StandIns:
    """What replaces the encoders and the JPEGs of a gallery.

    Args:
        vectors (`Iterator[np.ndarray]`): of the images, a row each, in the order in which they are added.
        queries (`np.ndarray` of shape `(num_queries, 512)`): of the captions that [`caption_of`] makes.
    """

    def __init__(self, vectors: Iterator[np.ndarray], queries: np.ndarray):
        self._vectors, self._queries = vectors, queries
        generator = np.random.default_rng(0)
        self._noise = generator.bytes(1 << 20)
        self._offsets = cycle(generator.integers(0, len(self._noise) - THUMBNAIL_BYTES, 10_007).tolist())

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """A context in which galleries use them."""
        adding = patch.multiple(person_gallery, encode_images=self.encode_images, _thumbnail=self.thumbnail)
        searching = patch.object(gallery_search, "encode_captions", self.encode_captions)
        with adding, searching:
            yield

    def encode_images(self, model: Any, processor: Any, images: Sequence[Image.Image], **_: Any) -> torch.Tensor:
        return torch.from_numpy(np.stack([next(self._vectors) for _ in images]))

    def encode_captions(self, model: Any, processor: Any, captions: Sequence[str], **_: Any) -> torch.Tensor:
        numbers = [int(caption.rpartition(" ")[2]) for caption in captions]
        return torch.from_numpy(self._queries[numbers])

    def thumbnail(self, image: Image.Image) -> bytes:
        offset = next(self._offsets)
        return self._noise[offset : offset + THUMBNAIL_BYTES]


def build(folder: Path, libraries: int) -> Results:
    """Add all persons; index them, which `add` does by itself, and is apart for the sake of the clock; and compact.

    A few searches are timed before the compaction and after it.
    """
    rows = (folder / "vectors.f32").stat().st_size // (4 * DIMENSION)
    vectors = (row for block in read_vectors(folder / "vectors.f32") for row in block)
    queries = np.load(folder / "queries.npy")
    with StandIns(vectors, queries).in_place():
        made = PersonGallery.create(folder / "gallery", *make_model())
        start = time.perf_counter()
        with patch.object(storage, "index_vectors"):
            made.add(person_records(rows))
        write_seconds = time.perf_counter() - start
        start = time.perf_counter()
        made.add([])
        index_seconds = time.perf_counter() - start
        searches: dict[str, Search] = {"search": whole_search(made, queries)}
        before = time_searches(searches, queries, 50)["search"]
        start = time.perf_counter()
        made.compact(keep_versions=timedelta(0))
        compact_seconds = time.perf_counter() - start
        after = time_searches(searches, queries, 50)["search"]
    files = [path for path in (folder / "gallery").rglob("*") if path.is_file()]
    return {
        "write_seconds": write_seconds,
        "index_seconds": index_seconds,
        "compact_seconds": compact_seconds,
        "ms_before_compact": before,
        "ms_after_compact": after,
        "index_from_rows": storage.INDEX_FROM_ROWS,
        "bytes": sum(file.stat().st_size for file in files),
        "index_bytes": sum(file.stat().st_size for file in files if "_indices" in file.parts),
        "libraries_bytes": libraries,
        "peak_bytes": peak_memory_bytes(),
    }


def whole_search(made: PersonGallery, queries: np.ndarray) -> Callable[..., list[int]]:
    """What a user calls, for one of the queries; the rows found."""
    numbers = {query.tobytes(): number for number, query in enumerate(queries)}

    def search(query: np.ndarray, where: str | None = None) -> list[int]:
        found = made.search(caption_of(numbers[query.tobytes()]), TOP_K, where=where)
        return [result.frame for result in found if result.frame is not None]

    return search


def serve(folder: Path, libraries: int, repetitions: int) -> Results:
    """Open the gallery and search; the first search loads the index."""
    queries = np.load(folder / "queries.npy")
    with StandIns(iter(()), queries).in_place():
        start = time.perf_counter()
        made = PersonGallery.open(folder / "gallery", *make_model())
        opened = time.perf_counter()
        made.search(caption_of(0), TOP_K)
        first = time.perf_counter()
        for query in range(min(repetitions, len(queries))):
            made.search(caption_of(query), TOP_K)
    return {
        "open_ms": 1000 * (opened - start),
        "first_ms": 1000 * (first - opened),
        "libraries_bytes": libraries,
        "peak_bytes": peak_memory_bytes(),
    }


def recall(found: Sequence[Sequence[int]], exact: Sequence[Sequence[int]]) -> float:
    """The share of the exact neighbours that was found, over all queries.

    >>> recall([[3, 1], [2]], exact=[[1, 2], [2, 5]])
    0.5
    """
    hits = sum(len(set(ours) & set(theirs)) for ours, theirs in zip(found, exact, strict=True))
    return hits / sum(map(len, exact))


def time_searches(searches: dict[str, Search], queries: np.ndarray, repetitions: int) -> dict[str, list[float]]:
    """Milliseconds of single searches, all ways in turn, each with a query of its own."""
    calls: dict[str, Callable[[], Any]] = {
        name: partial(_search_next, search, cycle(queries)) for name, search in searches.items()
    }
    times = in_turn(calls, repetitions, warm_ups=3)
    return {name: [round(1000 * value, 3) for value in values] for name, values in times.items()}


def time_concurrently(search: Search, queries: np.ndarray, threads: int) -> Results:
    """All queries through a number of threads; FAISS does each of them with one thread of its own."""

    def timed(query: np.ndarray) -> float:
        start = time.perf_counter()
        search(query)
        return round(1000 * (time.perf_counter() - start), 3)

    with ThreadPoolExecutor(threads, initializer=partial(faiss.omp_set_num_threads, 1)) as pool:
        list(pool.map(search, queries[:threads]))
        start = time.perf_counter()
        milliseconds = list(pool.map(timed, queries))
        seconds = time.perf_counter() - start
    return {"queries_per_second": len(queries) / seconds, "ms": milliseconds}


def compare(folder: Path, repetitions: int) -> Results:
    """Search the gallery and FAISS's indexes in turn: recall and times of single, filtered and concurrent queries."""
    queries = np.load(folder / "queries.npy")
    repetitions = min(repetitions, len(queries))
    flat: Any = make_flat(folder)
    hnsw: Any = faiss.read_index(str(folder / "hnsw.faiss"))
    exact = flat.search(queries, TOP_K)[1].tolist()
    recall_by_width = {}
    for width in HNSW_SEARCH:
        hnsw.hnsw.efSearch = width
        recall_by_width[width] = recall(hnsw.search(queries, TOP_K)[1].tolist(), exact)
        if recall_by_width[width] >= WANTED_RECALL:
            break
    more = (row for _ in count() for block in read_vectors(folder / "vectors.f32") for row in block)
    with StandIns(more, queries).in_place():
        made = PersonGallery.open(folder / "gallery", *make_model())
        whole = whole_search(made, queries)

        searches: dict[str, Search] = {
            "search": whole,
            "vector": partial(table_search, made),
            "flat": partial(faiss_search, flat),
            "hnsw": partial(faiss_search, hnsw),
        }
        few = queries[: max(10, repetitions // 10)]
        results: Results = {
            "recall": {name: recall([search(query) for query in queries], exact) for name, search in searches.items()},
            "hnsw_recall_by_width": recall_by_width,
            "ms": time_searches(searches, queries, repetitions)
            | time_searches({"scan": partial(table_search, made, scan=True)}, few, len(few)),
            "batch_ms": time_batches({"flat": flat, "hnsw": hnsw}, queries),
            "filters": {
                name: filtered(made, limit, partial(whole, where=limit.where), flat, hnsw, few)
                for name, limit in FILTERS.items()
            },
            "concurrent": {
                name: {threads: time_concurrently(searches[name], queries[:96], threads) for threads in THREADS}
                for name in ("search", "flat", "hnsw")
            },
        }
        if flat.ntotal >= storage.INDEX_FROM_ROWS:  # as many more as can be without being indexed
            made.add(person_records(storage.INDEX_FROM_ROWS - 1))
            results["ms"]["unindexed"] = time_searches({"search": whole}, few, len(few))["search"]
    return results


def table_search(made: PersonGallery, query: np.ndarray, *, scan: bool = False) -> list[int]:
    """A search of the table with the gallery's own settings that fetches nothing but rows' numbers."""
    search: Any = made._table.search(query, vector_column_name="vector").distance_type("cosine").limit(TOP_K)
    search = search.nprobes(gallery_search._PARTITIONS_SEARCHED).refine_factor(gallery_search._REFINE_FACTOR)
    search = search.select(["frame", "_distance"])
    search = search.bypass_vector_index() if scan else search
    return search.to_arrow()["frame"].to_pylist()


def time_batches(indexes: dict[str, Any], queries: np.ndarray) -> dict[str, list[float]]:
    """Milliseconds of a query when FAISS gets `BATCH` at once; a gallery has no such call."""
    batch = np.resize(queries, (BATCH, DIMENSION))
    times = in_turn({name: partial(index.search, batch, TOP_K) for name, index in indexes.items()}, 5)
    return {name: [round(1000 * value / BATCH, 3) for value in values] for name, values in times.items()}


def filtered(made: PersonGallery, limit: Filter, search: Search, flat: Any, hnsw: Any, queries: np.ndarray) -> Results:
    """Searches among the persons that a filter keeps: before and after the table's column is indexed, and FAISS."""
    kept = np.array([record.frame for record in person_records(flat.ntotal) if limit.keeps(record)])
    selector = faiss.IDSelectorBatch(kept)
    of_flat = faiss.SearchParameters(sel=selector)
    of_hnsw = faiss.SearchParametersHNSW(sel=selector, efSearch=hnsw.hnsw.efSearch)
    searches: dict[str, Search] = {
        "gallery": search,
        "flat": partial(faiss_search, flat, parameters=of_flat),
        "hnsw": partial(faiss_search, hnsw, parameters=of_hnsw),
    }
    exact = [searches["flat"](query) for query in queries]
    results: Results = {
        "where": limit.where,
        "kept": len(kept),
        "recall": {way: recall([search(query) for query in queries], exact) for way, search in searches.items()},
        "ms": time_searches(searches, queries, len(queries)),
    }
    made._table.create_index(limit.column, config=limit.index)
    indexed = {"gallery, column indexed": searches["gallery"]}
    results["ms"] |= time_searches(indexed, queries, len(queries))
    return results


def _search_next(search: Search, queries: Iterator[np.ndarray]) -> list[int]:
    return search(next(queries))


def main(arguments: argparse.Namespace) -> None:
    libraries = peak_memory_bytes()
    torch.set_num_threads(1)
    folder = arguments.folder
    parts: dict[str, Callable[[], Results]] = {
        "build": partial(build, folder, libraries),
        "serve": partial(serve, folder, libraries, arguments.repetitions),
        "compare": partial(compare, folder, arguments.repetitions),
    }
    print(json.dumps(parts[arguments.part]()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["build", "serve", "compare"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repetitions", type=int, default=200, help="single searches (default: 200)")
    main(parser.parse_args())
