"""`gadms` in a process that a test interrupts. Every source is one of drawn persons, each read in one second of the
clock of commits. At one of them the process prints `held` and waits for a line.

python -m tests.gadms_cli.index_worker <persons> <the one to wait at, or -1> <log of those read> <arguments>
"""

import sys
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from gadms_cli import app
from modeling_gadms.gallery import person_gallery
from modeling_gadms.indexing import indexer
from modeling_gadms.media.video import FrameSource, Item


class DrawnSource(FrameSource):
    """Persons that are drawn; `read` is called with the number of each before it is there."""

    def __init__(self, name: str, persons: int, read: Callable[[int], None] = lambda number: None):
        super().__init__(name, persons)
        self._persons, self._read = persons, read

    def _items(self) -> Generator[Item, None, None]:
        for number in range(self._persons):
            yield Item(partial(self._draw, number), f"{self.source}/{number:04}.png")

    def _draw(self, number: int) -> Image.Image:
        self._read(number)
        return Image.fromarray(np.random.default_rng(number).integers(0, 256, (32, 16, 3), dtype=np.uint8))


def main(persons: str, held: str, log: str, *arguments: str) -> None:
    now = 0.0

    def read(number: int) -> None:
        nonlocal now
        now += 1
        with Path(log).open("a") as file:
            file.write(f"{number}\n")
        if number == int(held):
            sys.stdout.write("held\n")
            sys.stdout.flush()
            sys.stdin.readline()

    person_gallery.monotonic = lambda: now
    indexer.open_source = lambda source, *_, **__: DrawnSource(str(source), int(persons), read)
    sys.argv = ["gadms", *arguments]
    app.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
