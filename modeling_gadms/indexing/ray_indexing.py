"""Index several sources in parallel with Ray Data, on one machine or on the cluster in `RAY_ADDRESS`."""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from ..gallery.person_gallery import open_with_model
from ..media.detection import PersonBoxFilter, SsdMobileNetDetector
from .indexer import BrokenSourceError, IndexReport, SourceIndexer, SourceOptions


def index_with_ray(
    gallery: str,
    sources: Sequence[str],
    *,
    workers: int,
    model: str | None = None,
    options: SourceOptions | None = None,
    box_filter: PersonBoxFilter | None = None,
) -> dict[str, IndexReport | BrokenSourceError]:
    """Index sources in parallel. Each source is indexed by one worker, and all workers write to the gallery.

    Existing persons are skipped, so an interrupted run can be repeated.

    Args:
        gallery (`str`): folder or URI of an existing gallery, accessible to every worker.
        sources (`Sequence[str]`): videos, folders, archives and tables, accessible to every worker.
        workers (`int`): number of processes, each with its own model.
        model (`str`, *optional*): folder or Hub name; by default the model that built the gallery.
        options (`SourceOptions`, *optional*)
        box_filter (`PersonBoxFilter`, *optional*): selects the boxes of the person detector.

    Returns:
        `dict`: for each source its report, or the error that says why it could not be read to its end, which does not
        stop the others.

    Raises:
        ImportError: if the extra `ray` is not installed.
        ValueError: if `workers` is not positive.
    """
    if workers < 1:
        raise ValueError(f"workers must be 1 or more, not {workers}")
    try:
        import ray
        from ray.data import ActorPoolStrategy
    except ImportError as error:
        raise ImportError('Indexing with several workers needs Ray: pip install "gadms[ray]"') from error
    started_here = not ray.is_initialized()
    if started_here:
        address = os.environ.get("RAY_ADDRESS", "local")
        ray.init(address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    try:
        # Numbers, since Ray's tables take no name that is not UTF-8.
        rows = ray.data.from_items([{"number": n} for n in range(len(sources))], override_num_blocks=len(sources))
        rows.context.enable_progress_bars = False
        pool = ActorPoolStrategy(size=min(workers, len(sources)))
        worker = _worker(
            os.path.abspath(gallery) if "://" not in gallery else gallery,  # workers run in other folders
            sources,
            model,
            options or SourceOptions(),
            box_filter or PersonBoxFilter(),
        )
        done = rows.map(worker, compute=pool)
        return {sources[row["number"]]: _report(row) for row in done.iter_rows()}
    finally:
        if started_here:
            ray.shutdown()


def _worker(
    gallery: str, sources: Sequence[str], model: str | None, options: SourceOptions, box_filter: PersonBoxFilter
) -> type:
    # A closure, because Ray warns that constructor arguments of actors may be lost.
    class Worker:
        def __init__(self) -> None:
            opened, _ = open_with_model(gallery, model)
            detector = partial(SsdMobileNetDetector, box_filter=box_filter)
            self._index = SourceIndexer(opened, detector)

        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            try:
                frames = options.open(sources[row["number"]])
                report, problem = self._index(frames, options, progress=False), None
            except BrokenSourceError as broken:
                report, problem = broken.report, broken.problem
            return {"number": row["number"], "report": json.dumps(asdict(report)), "problem": json.dumps(problem)}

    return Worker


def _report(row: dict[str, Any]) -> IndexReport | BrokenSourceError:
    fields = json.loads(row["report"])
    report = IndexReport(**{**fields, "unused_fields": tuple(fields["unused_fields"])})
    problem = json.loads(row["problem"])
    return report if problem is None else BrokenSourceError(problem, report)
