"""One timed run of the pipeline; `run.py` starts it in a process of its own.

    python -m benchmarks.construction.worker <configuration.yaml> <folder for events>

Each process of the run appends a line to its own file in that folder for each call of a block and for each shard that
is read or finished. Times are of the machine's monotonic clock, so that events of several processes can be sorted.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from dataset_scripts.construction.blocks import Batch, Block, Outcome
from dataset_scripts.construction.run import pipeline
from dataset_scripts.construction.run.config import load_build_config
from dataset_scripts.construction.run.stages import CaptionStage, PersonStage


class TimedBlock(Block):
    """Times the calls of a block, without the time in which the engine passes rows to it.

    Args:
        block (`Block`): the timed block.
        events (`Path`): folder to write to.
    """

    def __init__(self, block: Block, events: Path):
        self.block, self.events = block, events
        self.name, self.reads, self.adds, self.group = block.name, block.reads, block.adds, block.group
        self.batch_size, self.has_model = block.batch_size, block.has_model

    def prepare(self) -> None:
        with timed(self.events, f"prepare {self.name}"):
            self.block.prepare()

    def __call__(self, batch: Batch) -> Outcome:
        with timed(self.events, self.name) as event:
            event["rows"] = len(batch[self.reads[0]])
            return self.block(batch)


class Timed:
    """Times the reading and the finishing of a stage, before which it stands among the base classes."""

    events: Path
    reading: ClassVar[str]
    finishing: ClassVar[str]

    def read(self, number: int) -> pa.Table:
        with timed(self.events, self.reading, shard=number) as event:
            table = super().read(number)  # type: ignore[misc]
            event["rows"] = table.num_rows
        return table

    def finish(self, number: int, table: pa.Table) -> None:
        with timed(self.events, self.finishing, shard=number, rows=table.num_rows):
            super().finish(number, table)  # type: ignore[misc]


@dataclass(frozen=True)
class TimedPersonStage(Timed, PersonStage):
    """Images to persons, timed."""

    events: Path = Path()
    reading: ClassVar[str] = "read"
    finishing: ClassVar[str] = "finish"


@dataclass(frozen=True)
class TimedCaptionStage(Timed, CaptionStage):
    """Persons to captioned persons, timed."""

    events: Path = Path()
    reading: ClassVar[str] = "read persons"
    finishing: ClassVar[str] = "finish captions"


@contextmanager
def timed(events: Path, name: str, **values: Any) -> Iterator[dict[str, Any]]:
    """Append an event for the body of the `with`: name, start, seconds and further values."""
    event: dict[str, Any] = {"name": name, "rows": 0, **values, "start": time.monotonic()}
    yield event
    event["seconds"] = time.monotonic() - event["start"]
    with (events / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps(event) + "\n")


def values_of(stage: PersonStage | CaptionStage) -> dict[str, Any]:
    """Fields of a stage, by name."""
    return {field.name: getattr(stage, field.name) for field in fields(stage)}


def main(configuration: str, folder: str) -> None:
    """Run the pipeline of a configuration file and write its events into a folder."""
    events = Path(folder)

    def person_stage(*values: Any, **named: Any) -> PersonStage:
        with timed(events, "begin persons"):
            stage = PersonStage(*values, **named)
        blocks = tuple(TimedBlock(block, events) for block in stage.blocks)
        return TimedPersonStage(**{**values_of(stage), "blocks": blocks}, events=events)

    def caption_stage(*values: Any, **named: Any) -> CaptionStage:
        with timed(events, "begin captions"):
            stage = CaptionStage(*values, **named)
        return TimedCaptionStage(**values_of(stage), events=events)

    # The pipeline looks its stages up by these names when it runs.
    pipeline.PersonStage = person_stage  # type: ignore[misc, assignment]
    pipeline.CaptionStage = caption_stage  # type: ignore[misc, assignment]
    with timed(events, "run") as event:
        event["rows"] = pipeline.build_webperson(load_build_config(configuration), progress=False).persons


if __name__ == "__main__":
    main(*sys.argv[1:])
