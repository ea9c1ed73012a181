"""FAISS's indexes of the vectors of `gallery.py`, built in a process of their own, without torch.

    python -m benchmarks.gallery.faiss_indexes <index: flat, hnsw> <folder>

The folder holds `vectors.f32` and `queries.npy`; `hnsw` writes `hnsw.faiss` beside them. Prints one line of JSON.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.gallery.vectors import DIMENSION, read_vectors
from benchmarks.measuring import peak_memory_bytes


TOP_K = 10
LINKS, CONSTRUCTION_WIDTH = 32, 80


def make_flat(folder: Path) -> Any:
    """An index that compares every vector."""
    index = faiss.IndexFlatIP(DIMENSION)
    for block in read_vectors(folder / "vectors.f32"):
        index.add(block)
    return index


def make_hnsw(folder: Path) -> Any:
    """A graph over the whole vectors."""
    index = faiss.IndexHNSWFlat(DIMENSION, LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = CONSTRUCTION_WIDTH
    for block in read_vectors(folder / "vectors.f32"):
        index.add(block)
    return index


def faiss_search(index: Any, query: np.ndarray, parameters: Any = None) -> list[int]:
    """Rows of the `TOP_K` vectors nearest to one of shape `(512,)`, fewer where a filter keeps fewer."""
    rows = index.search(query[None], TOP_K, params=parameters)[1][0]
    return rows[rows >= 0].tolist()


def main(arguments: argparse.Namespace) -> None:
    libraries = peak_memory_bytes()
    path = arguments.folder / "hnsw.faiss"
    start = time.perf_counter()
    index = make_flat(arguments.folder) if arguments.index == "flat" else make_hnsw(arguments.folder)
    seconds = time.perf_counter() - start
    faiss_search(index, np.load(arguments.folder / "queries.npy")[0])
    peak = peak_memory_bytes()
    if arguments.index == "hnsw":
        faiss.write_index(index, str(path))
    size = path.stat().st_size if arguments.index == "hnsw" else index.ntotal * DIMENSION * 4
    result = {"build_seconds": seconds, "bytes": size, "libraries_bytes": libraries, "peak_bytes": peak}
    print(json.dumps(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", choices=["flat", "hnsw"])
    parser.add_argument("folder", type=Path)
    main(parser.parse_args())
