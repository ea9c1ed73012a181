"""The Ray engine: runs the blocks of a stage as tasks and actors of Ray Data, on one machine or a cluster."""

import logging
import os
import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from tqdm.auto import tqdm

from ..blocks import Block, BlockError, join, run_shard
from .engines import Resources, Stage, limit_threads, portable


if TYPE_CHECKING:
    import ray.data


FAILURE = "failure"
"""Column with a pickled error, in a table that replaces the rows of a shard. Errors travel as rows, because Ray would
wrap a raised error, change its text and print long tracebacks."""

_WHOLE_TABLES = {"batch_size": None, "batch_format": "pyarrow"}


def run_ray(
    stage: Stage, numbers: Sequence[int], resources: Mapping[str, Resources], *, progress: bool = True
) -> None:
    """Run shards with Ray Data: on this machine, or on the cluster that `RAY_ADDRESS` names.

    A shard is one block of Ray. Blocks with a model run as actors, which load it once; the others run as tasks, which
    Ray fuses. All blocks of a caption column share an actor. The keys of `resources` are names of blocks, of caption
    columns for all their blocks, and `read` and `write`. All machines must see the run's folder under the same path.

    A shard that kills its process is not retried, which Ray would do forever: the run ends, and processes the
    unfinished shards when it is started again.

    Raises:
        ImportError: if the extra `ray` is not installed.
        BlockError: if a block fails or a Ray process dies.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError('The engine `ray` needs Ray Data: pip install "gadms[ray]"') from error
    if not numbers:
        return
    _start_ray()
    with tqdm(total=len(numbers), desc=stage.name, unit="shard", disable=not progress) as bar:
        try:
            for row in _plan(stage, numbers, resources).iter_rows():
                if failure := row.get(FAILURE):
                    raise pickle.loads(failure)
                bar.update(row["finished"])
        except ray.exceptions.RayError as error:
            what = str(error).strip().partition("\n")[0]
            raise BlockError(
                f"Ray lost a process of stage {stage.name}, perhaps for lack of memory ({what}). Finished shards are "
                "kept: run again to resume"
            ) from error
        bar.update(len(numbers) - bar.n)  # shards without rows are finished when they are read


def process_groups(blocks: Sequence[Block]) -> list[tuple[str, list[Block]]]:
    """The blocks that share a process under Ray, in order, with their key in `resources`."""
    groups: list[tuple[str, list[Block]]] = []
    for block in blocks:
        if block.group and groups and groups[-1][0] == block.group:
            groups[-1][1].append(block)
        else:
            groups.append((block.group or block.name, [block]))
    return groups


def _start_ray() -> None:
    import ray

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # its warnings are about Ray's internals
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
        # Without an address Ray joins any cluster that runs on this machine.
        address = os.environ.get("RAY_ADDRESS", "local")
        ray.init(address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)


def _plan(stage: Stage, numbers: Sequence[int], resources: Mapping[str, Resources]) -> "ray.data.Dataset":
    """The stage as a Ray data set with one row per finished shard, or the failure."""
    import ray

    rows = ray.data.from_items([{"shard": number} for number in numbers], override_num_blocks=len(numbers))
    rows.context.target_max_block_size = None  # a shard stays whole
    rows.context.enable_progress_bars = False
    with warnings.catch_warnings():
        # Deprecated in Ray 2.64, but without a replacement for the number of retries.
        warnings.filterwarnings("ignore", "`ray_remote_args`", DeprecationWarning)
        shards = rows.map_batches(partial(_read, stage), **_task("read", resources))
        for name, blocks in process_groups(stage.blocks):
            if any(block.has_model for block in blocks):
                shards = shards.map_batches(_actor(blocks), **_pool(name, resources))
            else:
                shards = shards.map_batches(_RayBlocks(blocks), **_task(name, resources))
        return shards.map_batches(partial(_write, stage), **_task("write", resources))


def _actor(blocks: Sequence[Block]) -> type:
    # A new class instead of constructor arguments: Ray warns that arguments of actors may be lost.
    class Blocks(_RayBlocks):
        def __init__(self) -> None:
            super().__init__(blocks)

    return Blocks


def _pool(name: str, resources: Mapping[str, Resources]) -> dict[str, Any]:
    from ray.data import ActorPoolStrategy

    options = _given(name, resources)
    pool = {"compute": ActorPoolStrategy(size=options.pop("concurrency", 1)), "max_restarts": 0}
    return _WHOLE_TABLES | {"num_cpus": 0} | options | pool


def _task(name: str, resources: Mapping[str, Resources]) -> dict[str, Any]:
    return _WHOLE_TABLES | _given(name, resources) | {"max_retries": 0}


def _given(name: str, resources: Mapping[str, Resources]) -> dict[str, Any]:
    chosen = asdict(resources.get(name, Resources()))
    return {key: chosen[key] for key in ("num_cpus", "num_gpus", "concurrency") if chosen[key] is not None}


def _or_failure(work: Callable[[Any, pa.Table], pa.Table]) -> Callable[[Any, pa.Table], pa.Table]:
    """Let a function of rows return its failure instead of raising it, and pass an earlier one on."""

    @wraps(work)
    def guarded(owner: Any, table: pa.Table) -> pa.Table:
        if FAILURE in table.column_names:
            return table.select([FAILURE]).drop_null()[:1]
        try:
            return work(owner, table)
        except Exception as error:
            return pa.table({FAILURE: [pickle.dumps(portable(error))]})

    return guarded


class _RayBlocks:
    """Blocks that share a process of Ray. They are prepared with the first rows, where an error can be reported."""

    def __init__(self, blocks: Sequence[Block]):
        self.blocks = blocks
        self.is_prepared = False

    @_or_failure
    def __call__(self, table: pa.Table) -> pa.Table:
        if not self.is_prepared:
            limit_threads()
            for block in self.blocks:
                block.prepare()
            self.is_prepared = True
        done = []
        for shard in _by_shard(table).values():
            for block in self.blocks:
                shard = run_shard(block, shard)
            done.append(shard)
        return join(done or [table])


@_or_failure
def _read(stage: Stage, table: pa.Table) -> pa.Table:
    read = []
    for number in table["shard"].to_pylist():
        rows = stage.read(number)
        if not rows.num_rows:  # no rows would arrive at the end to finish the shard
            for block in stage.blocks:
                rows = run_shard(block, rows)
            stage.finish(number, rows)
        read.append(rows)
    return join(read)


@_or_failure
def _write(stage: Stage, table: pa.Table) -> pa.Table:
    shards = _by_shard(table)
    for number, rows in shards.items():
        stage.finish(number, rows)
    return pa.table({"finished": [len(shards)]})


def _by_shard(table: pa.Table) -> dict[int, pa.Table]:
    """The rows by shard: a batch of Ray may contain several shards, a batch of ours must not."""
    return {number: table.filter(pc.equal(table["shard"], number)) for number in pc.unique(table["shard"]).to_pylist()}
