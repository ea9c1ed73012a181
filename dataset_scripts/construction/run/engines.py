"""The local engine, which runs the blocks of a stage with `datasets`; `ray_engine` is its counterpart for Ray Data.

Both give a block the same batches, and each model one thread, so that both write the same bytes.
"""

import os
import pickle
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Protocol

import datasets
import pyarrow as pa
from tqdm.auto import tqdm

from ..blocks import Block, BlockError, run_batch, run_shard


class Stage(Protocol):
    """A stage of a run: reads a shard, applies blocks to it, and writes it. Must pickle."""

    @property
    def name(self) -> str: ...

    @property
    def blocks(self) -> Sequence[Block]: ...

    def read(self, number: int) -> pa.Table:
        """Read the rows of a shard, with at least the columns of `ROW_SCHEMA`."""
        ...

    def finish(self, number: int, table: pa.Table) -> None:
        """Write the kept and rejected rows of a shard, and mark it as finished."""
        ...


@dataclass(frozen=True)
class Resources:
    """Resources of a block. They do not affect results, except for last bits that depend on a GPU's batch size.

    Args:
        batch_size (`int`, *optional*): rows per call; by default the block's own.
        num_cpus, num_gpus (`float`, *optional*): reserved by Ray for each copy of the block.
        concurrency (`int`, *optional*): copies of the block under Ray; by default 1 for a block with a model, and one
            per processor for others.

    Raises:
        ValueError: for a value out of its range.
    """

    batch_size: int | None = None
    num_cpus: float | None = None
    num_gpus: float | None = None
    concurrency: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("num_cpus", 0), ("num_gpus", 0), ("concurrency", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"`{name}` must be {least} or more, not {value}")


def run_local(stage: Stage, numbers: Sequence[int], *, workers: int = 1, progress: bool = True) -> None:
    """Run shards on this machine with `datasets.map`; each worker process takes whole shards.

    With one worker the shards run in-process, with a progress bar per block. Worker processes exit when this process
    ends, for any reason, and as soon as a shard fails.

    Raises:
        BlockError: if a block fails or a worker dies.
    """
    bar = partial(tqdm, total=len(numbers), desc=stage.name, unit="shard", disable=not progress)
    if workers == 1 or len(numbers) <= 1:
        with _one_thread(), _progress_bars(progress):
            for block in stage.blocks if numbers else ():
                block.prepare()
            for number in bar(numbers):
                _run_local_shard(stage, number)
        return
    context = get_context("spawn")
    lifeline, our_end = context.Pipe(duplex=False)
    workers = min(workers, len(numbers))
    with lifeline, our_end, ProcessPoolExecutor(workers, context, _start_worker, (stage, lifeline)) as pool:
        try:
            with _quiet_children():
                futures = [pool.submit(_run_in_worker, number) for number in numbers]
            for future in bar(as_completed(futures)):
                future.result()
        except BaseException as error:
            our_end.close()  # otherwise the pool would wait until the workers have finished their shards
            if isinstance(error, BrokenProcessPool):
                raise BlockError(
                    f"a worker process of stage {stage.name} died, perhaps for lack of memory. Finished shards are "
                    "kept: run again to resume, with fewer `workers` or smaller shards"
                ) from error
            raise


def _run_local_shard(stage: Stage, number: int) -> None:
    table = stage.read(number)
    for block in stage.blocks:
        table = run_shard(block, table, partial(_map, description=f"  shard {number}: {block.name}"))
    stage.finish(number, table)


def _map(block: Block, selected: pa.Table, description: str) -> pa.Table:
    if not selected.num_rows:
        return run_batch(block, selected)  # `map` would not add the columns
    fingerprint = os.urandom(8).hex()  # by default a digest of all images, which is slow and not used here
    rows = datasets.Dataset(datasets.table.InMemoryTable(selected.combine_chunks()), fingerprint=fingerprint)
    done = rows.with_format("arrow").map(
        partial(run_batch, block),
        batched=True,
        batch_size=block.batch_size or selected.num_rows,
        keep_in_memory=True,
        new_fingerprint=fingerprint,
        desc=description,
    )
    return done.data.table.replace_schema_metadata(None)


# Of a worker process of the local engine.
_worker_stage: Stage


def _start_worker(stage: Stage, lifeline: Connection) -> None:
    global _worker_stage
    _worker_stage = stage
    threading.Thread(target=_die_with_parent, args=(lifeline,), daemon=True).start()
    datasets.disable_progress_bars()
    tqdm.set_lock(threading.RLock())  # the default semaphore would leak if the worker is killed
    limit_threads()


@cache
def _prepare_worker() -> None:
    for block in _worker_stage.blocks:
        block.prepare()


def _run_in_worker(number: int) -> None:
    try:
        _prepare_worker()  # not in the initializer, whose errors do not reach the user
        _run_local_shard(_worker_stage, number)
    except Exception as error:
        raise portable(error) from None


def _die_with_parent(lifeline: Connection) -> None:
    """Exit when the parent ends: otherwise this worker would compete with the resumed run."""
    try:
        lifeline.recv()
    except EOFError:  # nothing is ever sent: the parent closed its end or died
        os._exit(1)


def portable(error: Exception) -> Exception:
    """Return the error if it pickles, else a `BlockError` with its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return BlockError(f"{type(error).__name__}: {error}")
    return error


@contextmanager
def _quiet_children() -> Iterator[None]:
    """Child processes started here show no progress bars and ignore Ctrl-C, because this process ends them."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    bars = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        if bars is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = bars
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _progress_bars(shown: bool) -> Iterator[None]:
    """Hide the progress bars of `datasets` unless `shown`."""
    if shown or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def limit_threads() -> None:
    """Use one thread per model, for the rest of this process."""
    # The number of threads changes the order of summation, and so the last bits.
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


@contextmanager
def _one_thread() -> Iterator[None]:
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    limit_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
