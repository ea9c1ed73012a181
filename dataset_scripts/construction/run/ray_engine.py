"""The Ray engine: runs the blocks of a stage as tasks and actors of Ray Data, on one machine or a cluster."""

import logging
import os
import pickle
import queue
import threading
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ..blocks import Block, BlockError, OutageError, SettingsError, join, run_shard
from .engines import LOST_PROCESS, Attempt, Resources, Stage, finish_shard, limit_threads, portable, read_shard


if TYPE_CHECKING:
    import ray.data


FINISHED, FAILURE = "finished", "failure"
"""Columns of a row that replaces the rows of a shard that is finished, or has failed with this pickled error. Errors
travel as rows, because Ray would wrap a raised error, change its text and print long tracebacks."""
_RESULT_SCHEMA = pa.schema({"shard": pa.int32(), FINISHED: pa.bool_(), FAILURE: pa.binary()})
_WHOLE_TABLES = {"batch_size": None, "batch_format": "pyarrow"}
_LOOK_SECONDS = 10.0
"""How often the cluster is looked at while no shard ends."""
_MAX_LOSSES = 100
"""Processes that may be lost before the first shard ends."""


def run_ray(
    stage: Stage, numbers: Sequence[int], is_retry: bool = False, *, resources: Mapping[str, Resources]
) -> Generator[Attempt]:
    """Run shards with Ray Data: on this machine, or on the cluster that `RAY_ADDRESS` names.

    A shard is one block of Ray. Blocks with a model run as actors, which load it once; the others run as tasks, which
    Ray fuses. All blocks of a caption column share an actor. The keys of `resources` are names of blocks, of caption
    columns for all their blocks, and `read` and `write`. All machines must see the run's folder under the same path or
    URL.

    When a process or a node is lost, its actors start again where there is room, and the shards in it have failed. An
    actor has shards waiting, which are lost with it. A retry (`is_retry`) gives it one at a time, so that only the
    shard that it worked on has failed, and makes do with one copy of each block, for nodes may be gone.

    Yields:
        `tuple[int, Exception | None]`: each shard with its error, as they end; see `run_local`.

    Raises:
        ImportError: if the extra `ray` is not installed.
        ValueError: if the cluster is too small for the resources.
        SettingsError: if processes die before any shard ends.
        OutageError: if the cluster is lost, or has no room any more for every block.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError('The engine `ray` needs Ray Data: pip install "gadms[ray]"') from error
    if not numbers:
        return
    _start_ray()
    if lacking := find_lacking(demands(stage.blocks, resources, one_copy=is_retry), _nodes()):
        raise ValueError(f"{lacking}: lower num_gpus, num_cpus or concurrency in section `resources`")
    least = demands(stage.blocks, resources, one_copy=True)
    unfinished = set(numbers)
    with _losses() as losses:
        try:
            for row in _rows(_plan(stage, numbers, resources, is_retry)):
                if row is None:
                    if lacking := find_lacking(least, _nodes()):
                        raise OutageError(f"{lacking}, because nodes were lost: run again when they are back")
                    if len(losses) > _MAX_LOSSES and len(unfinished) == len(numbers):
                        raise SettingsError(f"{len(losses)} processes died before any shard ended: {losses[-1]}")
                    continue
                unfinished.discard(row["shard"])
                yield row["shard"], None if row[FINISHED] else pickle.loads(row[FAILURE])
        except ray.exceptions.RayError as error:
            what = str(error).strip().partition("\n")[0]
            raise OutageError(f"Ray was lost in stage {stage.name} ({what}): run again to resume") from error
    for number in sorted(unfinished):
        yield number, BlockError(LOST_PROCESS + (f" ({losses[-1]})" if losses else ""))


def _rows(plan: "ray.data.Dataset") -> Iterator[dict[str, Any] | None]:
    """The rows of a data set as they come; `None` if none came for a while, so that one need not wait for ever."""
    rows: queue.Queue[Any] = queue.Queue()
    is_closed, end = threading.Event(), object()

    def consume() -> None:
        try:
            for row in plan.iter_rows():
                rows.put(row)
                if is_closed.is_set():
                    break
            rows.put(end)
        except BaseException as error:
            rows.put(error)

    threading.Thread(target=consume, daemon=True).start()
    try:
        while True:
            try:
                row = rows.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                yield None
                continue
            if row is end:
                return
            if isinstance(row, BaseException):
                raise row
            yield row
    finally:
        is_closed.set()


@contextmanager
def _losses() -> Iterator[list[str]]:
    """Collect what Ray Data tells of lost processes, one text a shard, instead of printing tracebacks."""
    told: list[str] = []

    def collect(record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1]:
            error = record.exc_info[1]
            told.append(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
        return False

    logger = logging.getLogger("ray.data._internal.execution.streaming_executor_state")
    logger.addFilter(collect)
    try:
        yield told
    finally:
        logger.removeFilter(collect)


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


@dataclass(frozen=True)
class Demand:
    """What a process needs of a node. `copies` of an actor run at a time, and for good."""

    name: str
    copies: int
    num_cpus: float
    num_gpus: float
    is_actor: bool


def demands(blocks: Sequence[Block], resources: Mapping[str, Resources], *, one_copy: bool = False) -> list[Demand]:
    """What the processes of a stage need."""
    found = []
    groups = [("read", []), *process_groups(blocks), ("write", [])]
    for name, members in groups:
        chosen = resources.get(name, Resources())
        is_actor = any(block.has_model for block in members)
        copies = (chosen.concurrency or 1) if is_actor and not one_copy else 1
        cpus = (0 if is_actor else 1) if chosen.num_cpus is None else chosen.num_cpus
        found.append(Demand(name, copies, cpus, chosen.num_gpus or 0, is_actor))
    return found


def find_lacking(wanted: Sequence[Demand], nodes: Sequence[Mapping[str, float]]) -> str | None:
    """What a cluster has no room for, in words.

    Actors are placed from the largest, each on the first node with room; then every task must fit beside them. A part
    of a GPU lies on one GPU.

    Args:
        wanted (`Sequence[Demand]`): the processes.
        nodes (`Sequence[Mapping[str, float]]`): `CPU` and `GPU` of each node.
    """
    free = [(node.get("CPU", 0.0), [1.0] * int(node.get("GPU", 0))) for node in nodes]
    order = sorted(wanted, key=lambda demand: (not demand.is_actor, -demand.num_gpus, -demand.num_cpus))
    for demand in order:
        for copy in range(demand.copies):
            fits = ((place, left) for place, node in enumerate(free) if (left := _left(node, demand)))
            place, left = next(fits, (None, None))
            if place is None or left is None:
                has = (
                    f"{sum(node.get('CPU', 0) for node in nodes):g} CPUs and {sum(len(gpus) for _, gpus in free)} GPUs"
                )
                return (
                    f"the cluster has {has} on {len(nodes)} nodes, and no room for copy {copy + 1} of {demand.copies} "
                    f"of `{demand.name}`, which needs {demand.num_cpus:g} CPUs and {demand.num_gpus:g} GPUs of a "
                    "node, beside the other blocks"
                )
            if demand.is_actor:
                free[place] = left
    return None


def _left(node: tuple[float, list[float]], demand: Demand) -> tuple[float, list[float]] | None:
    """What is left of a node's CPUs and GPUs, if the demand fits; Ray counts to four decimals."""
    cpus, gpus = round(node[0] - demand.num_cpus, 4), sorted(node[1])
    share = min(demand.num_gpus, 1)
    for _ in range(max(1, round(demand.num_gpus)) if share else 0):
        place = next((place for place, left in enumerate(gpus) if round(left - share, 4) >= 0), None)
        if place is None:
            return None
        gpus[place] = round(gpus[place] - share, 4)
    return (cpus, gpus) if cpus >= 0 else None


def _nodes() -> list[dict[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _plan(
    stage: Stage, numbers: Sequence[int], resources: Mapping[str, Resources], is_retry: bool
) -> "ray.data.Dataset":
    """The stage as a Ray data set with one row per shard that is finished or has failed."""
    import ray

    rows = ray.data.from_items([{"shard": number} for number in numbers], override_num_blocks=len(numbers))
    rows.context.target_max_block_size = None  # a shard stays whole
    rows.context.enable_progress_bars = False
    rows.context.max_errored_blocks = -1  # a shard that is lost ends no run
    with warnings.catch_warnings():
        # Deprecated in Ray 2.64, but without a replacement for the number of retries.
        warnings.filterwarnings("ignore", "`ray_remote_args", DeprecationWarning)
        shards = rows.map_batches(partial(_read, stage), **_task("read", resources))
        for name, blocks in process_groups(stage.blocks):
            if any(block.has_model for block in blocks):
                shards = shards.map_batches(_actor(blocks), **_pool(name, resources, is_retry))
            else:
                shards = shards.map_batches(_RayBlocks(blocks), **_task(name, resources))
        return shards.map_batches(partial(_write, stage), **_task("write", resources))


def _actor(blocks: Sequence[Block]) -> type:
    # A new class instead of constructor arguments: Ray warns that arguments of actors may be lost.
    class Blocks(_RayBlocks):
        def __init__(self) -> None:
            super().__init__(blocks)

    return Blocks


def _pool(name: str, resources: Mapping[str, Resources], is_retry: bool) -> dict[str, Any]:
    from ray.data import ActorPoolStrategy

    options = _given(name, resources)
    size = options.pop("concurrency", 1)
    if is_retry:
        pool = ActorPoolStrategy(min_size=1, max_size=size, max_tasks_in_flight_per_actor=1)
    else:
        pool = ActorPoolStrategy(size=size)
    # Actors start again as often as nodes are lost, but not their shards, which may be the cause.
    return _WHOLE_TABLES | {"num_cpus": 0} | options | {"compute": pool, "max_restarts": -1, "max_task_retries": 0}


def _task(name: str, resources: Mapping[str, Resources]) -> dict[str, Any]:
    return _WHOLE_TABLES | _given(name, resources) | {"max_retries": 0}


def _given(name: str, resources: Mapping[str, Resources]) -> dict[str, Any]:
    chosen = asdict(resources.get(name, Resources()))
    given = {key: chosen[key] for key in ("num_cpus", "concurrency") if chosen[key] is not None}
    if gpus := chosen["num_gpus"]:
        # As an argument of its own Ray would insist on a batch size, and cut or join shards.
        given["ray_remote_args_fn"] = lambda: {"num_gpus": gpus}
    return given


class _RayBlocks:
    """Blocks that share a process of Ray. They are prepared with the first rows, where an error can be reported."""

    def __init__(self, blocks: Sequence[Block]):
        self.blocks = blocks
        self.is_prepared = False

    def __call__(self, table: pa.Table) -> pa.Table:
        done, shards = _apart(table)
        for number, rows in shards.items():
            try:
                self._prepare()
                for block in self.blocks:
                    rows = run_shard(block, rows)
                done.append(rows)
            except Exception as error:
                done.append(_result(number, error))
        return join(done or [table])

    def _prepare(self) -> None:
        if not self.is_prepared:
            limit_threads()
            for block in self.blocks:
                block.prepare()
            self.is_prepared = True


def _read(stage: Stage, table: pa.Table) -> pa.Table:
    read = []
    for number in table["shard"].to_pylist():
        try:
            rows = read_shard(stage, number)
            if not rows.num_rows:  # no rows would arrive at the end to finish the shard
                for block in stage.blocks:
                    rows = run_shard(block, rows)
                finish_shard(stage, number, rows)
                rows = _result(number)
        except Exception as error:
            rows = _result(number, error)
        read.append(rows)
    return join(read)


def _write(stage: Stage, table: pa.Table) -> pa.Table:
    results, shards = _apart(table)
    for number, rows in shards.items():
        try:
            finish_shard(stage, number, rows)
            results.append(_result(number))
        except Exception as error:
            results.append(_result(number, error))
    return join(results or [_RESULT_SCHEMA.empty_table()])


def _result(number: int, error: Exception | None = None) -> pa.Table:
    """The row that replaces a shard that is finished or has failed."""
    failure = pickle.dumps(portable(error)) if error else None
    return pa.table([[number], [error is None], [failure]], schema=_RESULT_SCHEMA)


def _apart(table: pa.Table) -> tuple[list[pa.Table], dict[int, pa.Table]]:
    """The results in a table, and the rows of each shard: a batch of Ray may contain several, one of ours must not."""
    results = []
    if FINISHED in table.column_names:
        is_result = pc.is_valid(table[FINISHED])
        found = table.filter(is_result).select(_RESULT_SCHEMA.names)
        if found.num_rows:
            results.append(found)
        table = table.filter(pc.invert(is_result)).drop_columns([FINISHED, FAILURE])
    numbers = pc.unique(table["shard"]).to_pylist()
    return results, {number: table.filter(pc.equal(table["shard"], number)) for number in numbers}
