"""The local engine, which runs the blocks of a stage with `datasets`; `ray_engine` is its counterpart for Ray Data.

Both give a block the same batches, and each model one thread, so that both write the same bytes.
"""

import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import NoReturn, Protocol

import datasets
import pyarrow as pa
from tqdm.auto import tqdm

from ..blocks import Block, BlockError, OutageError, SettingsError, run_batch, run_shard
from ..failures import Failure, FailureLog


LOST_PROCESS = "its process died, perhaps for lack of memory: take smaller shards, or fewer at a time"


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
        batch_size (`int`, *optional*): images or persons per forward pass of a detector or pose estimator, by default
            1 on a CPU and 16 on a GPU; rows per call of another block, by default its own.
        num_cpus (`float`, *optional*): reserved by Ray for each copy of the block. On either engine a detector or pose
            estimator prepares its images in as many threads (rounded up) beside the model.
        num_gpus (`float`, *optional*): reserved by Ray for each copy of the block.
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
        if self.num_gpus and self.num_gpus > 1 and self.num_gpus % 1:
            raise ValueError(f"`num_gpus` must be a part of one GPU or a whole number, not {self.num_gpus}")


Attempt = tuple[int, Exception | None]
"""Number of a shard, and why it failed; `None` if it is finished."""
Engine = Callable[[Stage, Sequence[int], bool], Generator[Attempt]]
"""Runs shards; the last argument tells whether they have failed before."""


def run_shards(
    engine: Engine,
    stage: Stage,
    numbers: Sequence[int],
    log: FailureLog,
    *,
    max_failed: int,
    has_finished: bool = False,
    progress: bool = True,
) -> list[Failure]:
    """Run the unfinished shards of a stage. Those that fail are tried again at the end, `ATTEMPTS` times in all.

    Args:
        engine (`Engine`), stage (`Stage`), numbers (`Sequence[int]`): what runs which shards.
        log (`FailureLog`): counts the attempts. Shards that an earlier run set aside are not tried.
        max_failed (`int`): how many shards may be set aside.
        has_finished (`bool`, *optional*, defaults to `False`): whether an earlier run has finished shards.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.

    Returns:
        `list[Failure]`: the shards of the stage that are set aside, in order.

    Raises:
        BlockError: if too many shards fail, or all: the cause is then hardly in the shards. The attempts of this run
            are forgotten.
        SettingsError, OutageError, ImportError, OSError, ValueError, ...: what ends the run at once, as it was raised.
    """
    set_aside = {failure.number: failure for failure in log.all() if failure.is_set_aside}
    failed: dict[int, Failure] = {}
    if len(set_aside) > max_failed:
        raise BlockError(
            f"{len(set_aside)} shards of stage {stage.name} are set aside, more than `run.max_failed_shards` "
            f"({max_failed}): remove {log.folder} to try them again"
        )
    pending = [number for number in numbers if number not in set_aside]
    is_retry = False
    with tqdm(total=len(pending), desc=stage.name, unit="shard", disable=not progress) as bar:
        while pending:
            with closing(engine(stage, pending, is_retry)) as attempts:
                for number, error in attempts:
                    if error is None:
                        has_finished = True
                        failed.pop(number, None)
                        log.forget(number)
                        bar.update()
                        continue
                    if type(error) is not BlockError:
                        raise error
                    failed[number] = log.record(number, str(error))
                    if failed[number].is_set_aside:
                        set_aside[number] = failed[number]
                    if len(set_aside if has_finished else set_aside | failed) > max_failed:
                        _give_up(stage, failed, log, f"more than `run.max_failed_shards` ({max_failed})")
            pending = [number for number in pending if number in failed and number not in set_aside]
            is_retry = True
    if failed and not has_finished:
        _give_up(stage, failed, log, "and none was finished")
    return [set_aside[number] for number in sorted(set_aside)]


def _give_up(stage: Stage, failed: Mapping[int, Failure], log: FailureLog, why: str) -> NoReturn:
    for number in failed:
        log.forget(number)
    last = list(failed.values())[-1]
    raise BlockError(f"{len(failed)} shards of stage {stage.name} failed, {why}. Shard {last.number}: {last.reason}")


def run_local(
    stage: Stage, numbers: Sequence[int], is_retry: bool = False, *, workers: int = 1, progress: bool = True
) -> Generator[Attempt]:
    """Run shards on this machine with `datasets.map`; each worker process takes whole shards.

    With one worker the shards run in-process, with a progress bar per block. A worker that dies is replaced. Worker
    processes exit when this process ends, for any reason, and when the iterator is closed. Retries (`is_retry`) have
    one worker, and so the memory of all.

    Yields:
        `tuple[int, Exception | None]`: each shard with its error, as they end. A `BlockError` is a failed attempt at
        this shard, as is a worker that died with it; any other error is one of loading, which every shard would meet.
    """
    if workers == 1:
        with _one_thread(), _progress_bars(progress):
            is_prepared = False
            for number in numbers:
                try:
                    if not is_prepared:
                        for block in stage.blocks:
                            block.prepare()
                        is_prepared = True
                    _run_local_shard(stage, number)
                    error = None
                except Exception as raised:
                    error = raised
                yield number, error
        return
    yield from _run_in_workers(stage, numbers, 1 if is_retry else min(workers, len(numbers)))


def _run_in_workers(stage: Stage, numbers: Sequence[int], workers: int) -> Generator[Attempt]:
    # A pool for each worker: when a process dies, the shard that it worked on is known.
    context = get_context("spawn")
    lifeline, our_end = context.Pipe(duplex=False)

    def start() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, context, _start_worker, (stage, lifeline))

    waiting = deque(numbers)
    idle = [start() for _ in range(workers)]
    busy: dict[Future[None], tuple[ProcessPoolExecutor, int]] = {}
    with lifeline, our_end:
        try:
            while waiting or busy:
                with _quiet_children():
                    while waiting and idle:
                        pool, number = idle.pop(), waiting.popleft()
                        try:
                            future = pool.submit(_run_in_worker, number)
                        except BrokenProcessPool:  # its process was killed while it was idle
                            pool = start()
                            future = pool.submit(_run_in_worker, number)
                        busy[future] = pool, number
                for future in wait(busy, return_when=FIRST_COMPLETED).done:
                    pool, number = busy.pop(future)
                    error: BaseException | None = future.exception()
                    if isinstance(error, BrokenProcessPool):
                        pool.shutdown()
                        pool = start()
                        error = BlockError(LOST_PROCESS)
                    idle.append(pool)
                    yield number, error  # type: ignore[misc]  # not a BaseException: workers ignore Ctrl-C
        except BaseException:
            our_end.close()  # otherwise the pools would wait until the workers have finished their shards
            raise
        finally:
            for pool in (*idle, *(pool for pool, _ in busy.values())):
                pool.shutdown()


def _run_local_shard(stage: Stage, number: int) -> None:
    table = read_shard(stage, number)
    for block in stage.blocks:
        table = run_shard(block, table, partial(_map, description=f"  shard {number}: {block.name}"))
    finish_shard(stage, number, table)


def read_shard(stage: Stage, number: int) -> pa.Table:
    """Read a shard; an error is one of the shard, a `BlockError`, unless it says that it is not."""
    try:
        return stage.read(number)
    except (SettingsError, OutageError):
        raise
    except Exception as error:
        raise BlockError(f"shard {number} cannot be read: {type(error).__name__}: {error}") from error


def finish_shard(stage: Stage, number: int, table: pa.Table) -> None:
    """Finish a shard; for errors see `read_shard`."""
    try:
        stage.finish(number, table)
    except (SettingsError, OutageError):
        raise
    except Exception as error:
        raise BlockError(f"shard {number} cannot be finished: {type(error).__name__}: {error}") from error


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
    """Return the error if it pickles, else one of the same kind with its text.

    Errors of shards are `BlockError`s, which pickle. Another is one of loading.
    """
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return SettingsError(f"{type(error).__name__}: {error}")
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
