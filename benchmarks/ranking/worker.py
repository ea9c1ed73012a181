"""One timed ranking; `run.py` starts it in a process of its own.

    python -m benchmarks.ranking.worker <way: counted, sorted> <queries> <gallery> <persons> <dimensions> <seed>

Prints one line of JSON: wall-clock and CPU seconds, the metrics in percent, resident memory before the ranking (with
libraries and embeddings) and its peak. For `sorted` also the largest difference of our metrics on the same
similarities.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.measuring import peak_memory_bytes
from modeling_gadms.metrics.person_retrieval.ranking import rank_metrics, rank_metrics_from_similarity


NOISE = 2.4
"""Length of a row's own part, relative to the part it shares with its person: persons are found, but not always first.
Times do not depend on it."""
ROWS_AT_ONCE = 1000
KS = (1, 5, 10)


@dataclass(frozen=True)
class Retrieval:
    """Queries and gallery.

    Attributes:
        query_embeds (`torch.FloatTensor` of shape `(num_queries, dimensions)`)
        gallery_embeds (`torch.FloatTensor` of shape `(num_gallery, dimensions)`)
        query_ids (`torch.LongTensor` of shape `(num_queries,)`)
        gallery_ids (`torch.LongTensor` of shape `(num_gallery,)`)
    """

    query_embeds: torch.Tensor
    gallery_embeds: torch.Tensor
    query_ids: torch.Tensor
    gallery_ids: torch.Tensor


def make_retrieval(queries: int, gallery: int, persons: int, dimensions: int, seed: int) -> Retrieval:
    """Persons with about equally many images; with as many captions as images, each image has one.

    Rows are drawn in small blocks, so that drawing them needs less memory than ranking them.
    """
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(persons, dimensions, generator=generator) / dimensions**0.5
    gallery_ids = torch.arange(gallery)[torch.randperm(gallery, generator=generator)] % persons
    query_ids = gallery_ids[torch.arange(queries) % gallery]

    def around(ids: torch.Tensor) -> torch.Tensor:
        rows = torch.empty(len(ids), dimensions)
        for row, some in zip(rows.split(ROWS_AT_ONCE), ids.split(ROWS_AT_ONCE), strict=True):
            row.normal_(std=NOISE / dimensions**0.5, generator=generator).add_(centres[some])
        return rows

    return Retrieval(around(query_ids), around(gallery_ids), query_ids, gallery_ids)


def cosines(retrieval: Retrieval) -> torch.Tensor:
    """Of shape `(num_queries, num_gallery)`."""
    queries = torch.nn.functional.normalize(retrieval.query_embeds, dim=1)
    gallery = torch.nn.functional.normalize(retrieval.gallery_embeds, dim=1)
    return queries @ gallery.T


def rank_by_full_argsort(retrieval: Retrieval) -> dict[str, float]:
    """The method of common evaluation code: the whole similarity matrix, its argsort, and the sorted matches.

    It needs less memory than the code of IRRA, which keeps all matrices to the end and divides column by column.
    """
    similarity = cosines(retrieval)
    ordered_ids = retrieval.gallery_ids[torch.argsort(similarity, dim=1, descending=True, stable=True)]
    matches = ordered_ids == retrieval.query_ids[:, None]
    del similarity, ordered_ids
    found = matches.cumsum(dim=1)
    positives = found[:, -1]
    precision = found / torch.arange(1, found.shape[1] + 1)
    average_precision = (precision * matches).sum(dim=1).double() / positives
    last = torch.stack([row.nonzero()[-1, 0] for row in matches]) + 1
    metrics = {f"r{k}": 100 * matches[:, :k].any(dim=1).double().mean() for k in KS}
    metrics |= {"map": 100 * average_precision.mean(), "minp": 100 * (positives.double() / last).mean()}
    return {name: float(value) for name, value in metrics.items()}


def rank_by_counting(retrieval: Retrieval) -> dict[str, float]:
    """Ours."""
    embeds = retrieval.query_embeds, retrieval.gallery_embeds
    return rank_metrics(*embeds, retrieval.query_ids, retrieval.gallery_ids, ks=KS).to_dict()


def difference_on_same_similarities(retrieval: Retrieval, metrics: dict[str, float]) -> float:
    """The largest difference of our metrics from `metrics` on the same similarity matrix."""
    ids = retrieval.query_ids, retrieval.gallery_ids
    ours = rank_metrics_from_similarity(cosines(retrieval), *ids, ks=KS).to_dict()
    return max(abs(ours[name] - value) for name, value in metrics.items())


WAYS = {"counted": rank_by_counting, "sorted": rank_by_full_argsort}


def resident_bytes() -> int:
    """Resident memory of this process now (Linux only)."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(arguments: argparse.Namespace) -> None:
    retrieval = make_retrieval(
        arguments.queries, arguments.gallery, arguments.persons, arguments.dimensions, arguments.seed
    )
    before = resident_bytes()
    start, cpu_start = time.perf_counter(), time.process_time()
    metrics = WAYS[arguments.way](retrieval)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    result = {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "before_bytes": before,
        "peak_bytes": peak_memory_bytes(),
        "metrics": metrics,
        "threads": torch.get_num_threads(),
    }
    if arguments.way == "sorted":
        result["difference_on_same_similarities"] = difference_on_same_similarities(retrieval, metrics)
    print(json.dumps(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=sorted(WAYS))
    for name in ("queries", "gallery", "persons", "dimensions", "seed"):
        parser.add_argument(name, type=int)
    main(parser.parse_args())
