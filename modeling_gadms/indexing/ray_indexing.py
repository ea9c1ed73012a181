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
from .indexer import IndexReport, SourceIndexer, SourceOptions


def index_with_ray(
    gallery: str,
    sources: Sequence[str],
    *,
    workers: int,
    model: str | None = None,
    options: SourceOptions | None = None,
    box_filter: PersonBoxFilter | None = None,
) -> dict[str, IndexReport | str]:
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
        `dict`: for each source its report, or the message of its error. A failed source does not stop the others.

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
        rows = ray.data.from_items([{"source": source} for source in sources], override_num_blocks=len(sources))
        rows.context.enable_progress_bars = False
        pool = ActorPoolStrategy(size=min(workers, len(sources)))
        worker = _worker(gallery, model, options or SourceOptions(), box_filter or PersonBoxFilter())
        done = rows.map(worker, compute=pool)
        return {row["source"]: _report(row) for row in done.iter_rows()}
    finally:
        if started_here:
            ray.shutdown()


def _worker(gallery: str, model: str | None, options: SourceOptions, box_filter: PersonBoxFilter) -> type:
    # A closure, because Ray warns that constructor arguments of actors may be lost.
    class Worker:
        def __init__(self) -> None:
            opened, _ = open_with_model(gallery, model)
            detector = partial(SsdMobileNetDetector, box_filter=box_filter)
            self._index = SourceIndexer(opened, detector)

        def __call__(self, row: dict[str, Any]) -> dict[str, str | None]:
            report = error = None
            try:
                report = json.dumps(asdict(self._index(options.open(row["source"]), options, progress=False)))
            except (ValueError, OSError, ImportError) as caught:
                error = " ".join(str(caught).split())
            return {"source": row["source"], "report": report, "error": error}

    return Worker


def _report(row: dict[str, Any]) -> IndexReport | str:
    if row["error"] is not None:
        return str(row["error"])
    fields = json.loads(row["report"])
    return IndexReport(**{**fields, "unused_fields": tuple(fields["unused_fields"])})
