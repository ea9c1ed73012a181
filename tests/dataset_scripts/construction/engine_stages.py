"""A stage of a run without models, and blocks that watch or fail: what an engine is tried with.

    python engine_stages.py workers|ray FOLDER SECONDS

runs two shards, each of so many seconds.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from dataset_scripts.construction.blocks import ROW_SCHEMA, Batch, Block, Outcome, in_order
from dataset_scripts.construction.captions.chat.types import ChatConfigurationError, ChatOutageError
from dataset_scripts.construction.failures import Failure, FailureLog
from dataset_scripts.construction.persons.pretrained import device_and_batch_size
from dataset_scripts.construction.run.engines import Engine, run_local, run_shards
from dataset_scripts.construction.run.ray_engine import run_ray


@dataclass(frozen=True)
class CountingStage:
    """Shards of numbers, which are written as JSON.

    Attributes:
        folder: where they are written.
        sizes: rows of each shard.
        blocks: what is done to them.
    """

    folder: Path
    sizes: tuple[int, ...]
    blocks: tuple[Block, ...]
    name: str = "counting"

    def read(self, number: int) -> pa.Table:
        first = sum(self.sizes[:number])
        rows = [
            {"row_id": f"r{first + place}", "shard": number, "position": first + place, "trail": []}
            for place in range(self.sizes[number])
        ]
        return pa.Table.from_pylist(rows, ROW_SCHEMA)

    def finish(self, number: int, table: pa.Table) -> None:
        (self.folder / f"{number}.json").write_text(json.dumps(in_order(table).to_pylist()))

    def rows(self, number: int) -> list[dict[str, Any]]:
        """What was written of a shard."""
        return json.loads((self.folder / f"{number}.json").read_text())

    def discard(self, number: int) -> None:
        (self.folder / f"{number}.json").unlink(missing_ok=True)

    def finished(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob("*.json"))


class Twins(Block):
    """Rejects the row `r1`, and makes two of every other one."""

    name = "twins"
    reads = ("row_id",)
    adds = {"row_id": pa.string(), "person": pa.int32()}
    batch_size = 4

    def __call__(self, batch: Batch) -> Outcome:
        kept = [place for place, row_id in enumerate(batch["row_id"]) if row_id != "r1"]
        origins = [place for place in kept for _ in range(2)]
        return Outcome(
            {
                "row_id": [f"{batch['row_id'][place]}-{twin}" for twin, place in enumerate(origins)],
                "person": [index % 2 for index in range(len(origins))],
            },
            verdicts=[True if row_id != "r1" else (False, "is one") for row_id in batch["row_id"]],
            origins=origins,
        )


class Watcher(Block):
    """Notes the rows that it sees at once, and with how many threads a model would run beside it."""

    reads = ("row_id",)

    def __init__(self, name: str, batch_size: int | None, *, has_model: bool):
        self.name, self.batch_size, self.has_model = name, batch_size, has_model
        self.adds = {name: pa.list_(pa.string()), "threads": pa.list_(pa.int32())}

    def prepare(self) -> None:
        self._is_ready = True

    def __call__(self, batch: Batch) -> Outcome:
        import cv2
        import torch

        if not self._is_ready:
            raise AttributeError("called before it was prepared")
        rows = len(batch["row_id"])
        threads = [torch.get_num_threads(), cv2.getNumThreads()]
        return Outcome({self.name: [batch["row_id"]] * rows, "threads": [threads] * rows})


class TwoWordsError(Exception):
    """An error that cannot be read from another process: it needs two words, and keeps one text."""

    def __init__(self, first: str, second: str):
        super().__init__(f"{first} and {second}")


class Failing(Block):
    """Fails as it is told, and says so in a file: when it is prepared, when it is called, or with its process; the
    last two only for rows of some shards, if they are named, and so many times, if there is a number."""

    name = "failing"
    reads = ("shard",)

    def __init__(
        self,
        how: str,
        log: Path,
        *,
        has_model: bool = True,
        shards: tuple[int, ...] | None = None,
        times: int | None = None,
    ):
        self.how, self.log, self.has_model, self.shards, self.times = how, log, has_model, shards, times

    def prepare(self) -> None:
        if self.how == "prepare":
            self._fail(ImportError("no model called nothing"))
        if self.how == "prepare oddly":
            self._fail(TwoWordsError("heads", "tails"))

    def __call__(self, batch: Batch) -> Outcome:
        shard = batch["shard"][0]
        is_due = self.shards is None or shard in self.shards
        if is_due and (self.times is None or self.failures().count(shard) < self.times):
            if self.how == "call":
                self._fail(KeyError("colour"), shard)
            if self.how == "outage":
                self._fail(ChatOutageError("the server is gone"), shard)
            if self.how == "settings":
                self._fail(ChatConfigurationError("no such model"), shard)
            if self.how == "die":
                self._fail(None, shard)
        return Outcome()

    def failures(self) -> list[int]:
        """The shards that failed, in order; -1 is for loading."""
        return [int(line) for line in self.log.read_text().split()] if self.log.exists() else []

    def _fail(self, error: Exception | None, shard: int = -1) -> None:
        with self.log.open("a") as log:
            log.write(f"{shard}\n")
        if error:
            raise error
        os._exit(3)


class Slow(Block):
    """Takes its time, and writes the number of its process into a file now and then."""

    name = "slow"
    reads = ("row_id",)

    def __init__(self, seconds: float, log: Path):
        self.seconds, self.log = seconds, log

    def __call__(self, batch: Batch) -> Outcome:
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            with self.log.open("a") as log:
                log.write(f"{os.getpid()}\n")
            time.sleep(0.05)
        return Outcome()


class SlowButForOne(Slow):
    """Fails on the row `r1` when another process is at work."""

    def __call__(self, batch: Batch) -> Outcome:
        if "r1" not in batch["row_id"]:
            return super().__call__(batch)
        while not self.log.exists():
            time.sleep(0.05)
        raise KeyError("colour")


class Device(Block):
    """Notes what Ray gave its process: the GPUs by number, and what CUDA is told."""

    reads = ("row_id",)

    def __init__(self, name: str, *, has_model: bool = True):
        self.name, self.has_model = name, has_model
        self.adds = {f"{name} gpus": pa.list_(pa.string()), f"{name} visible": pa.string()}

    def __call__(self, batch: Batch) -> Outcome:
        import ray

        rows = len(batch["row_id"])
        gpus = [str(number) for number in ray.get_gpu_ids()]
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        return Outcome({f"{self.name} gpus": [gpus] * rows, f"{self.name} visible": [seen] * rows})


class Loading(Block):
    """Notes the device on which a network of its process would be."""

    name = "loading"
    reads = ("row_id",)
    has_model = True
    adds = {"device": pa.string()}

    def prepare(self) -> None:
        self._device, _ = device_and_batch_size("auto", None)

    def __call__(self, batch: Batch) -> Outcome:
        return Outcome({"device": [self._device] * len(batch["row_id"])})


def run(engine: Engine, stage: CountingStage, numbers: Sequence[int], **settings: Any) -> list[Failure]:
    """Run shards as the pipeline does; returns those that are set aside."""
    log = FailureLog(stage.folder, stage.name)
    return run_shards(engine, stage, numbers, log, **({"max_failed": 10, "progress": False} | settings))


def pids(log: Path) -> set[int]:
    """Processes that said in a file that they are there."""
    return set(map(int, log.read_text().split())) if log.exists() else set()


def alive(processes: Iterable[int]) -> set[int]:
    """Those of the processes that run."""
    running = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(process).status() != psutil.STATUS_ZOMBIE:
                running.add(process)
    return running


def with_environment(name: str, value: str) -> dict[int, psutil.Process]:
    """Processes that have this variable, as all have that descend from one that was given it."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(name) == value and process.pid != os.getpid():
                found[process.pid] = process
    return found


def main(engine: str, folder: str, seconds: str) -> None:
    stage = CountingStage(Path(folder), (1, 1), (Slow(float(seconds), Path(folder, "pids")),))
    engines = {"ray": partial(run_ray, resources={}), "workers": partial(run_local, workers=2, progress=False)}
    run(engines[engine], stage, [0, 1])


if __name__ == "__main__":
    # By its name, for the processes that the engines start know no `__main__` of this one.
    import engine_stages

    engine_stages.main(*sys.argv[1:])
