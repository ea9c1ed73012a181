"""Works on a gallery in a separate process that a test kills. Prints `ready` before the work and `done` after it.

python -m tests.modeling_gadms.gallery.gallery_worker <add, compact or index> <gallery> <model> [first] [last]

The work `race` is `add`, and `compactions` is `compact` again and again. Both wait for a line on standard input to
begin (`compactions` also to end), so that several processes work at once. `race` prints its counts after `done`.
"""

import sys
import threading
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image

from modeling_gadms import GADMSModel, GADMSProcessor
from modeling_gadms.gallery import person_gallery as gallery
from modeling_gadms.gallery import storage
from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord


COMMIT = 20
"""Rows in one commit, so few that some hundred persons make many commits."""
INDEX_FROM = {"add": 40, "index": 100, "compact": sys.maxsize}
RACE_COMMIT = 10


def records(numbers: range) -> Iterator[PersonRecord]:
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (32, 16, 3), dtype=np.uint8)
        yield PersonRecord(Image.fromarray(pixels), f"{number:04}.png", camera=f"gate-{number % 3}")


def main(work: str, location: str, model_folder: str, *numbers: str) -> None:
    gallery.WRITE_ROWS = RACE_COMMIT if work == "race" else COMMIT
    storage.INDEX_FROM_ROWS = INDEX_FROM.get(work, storage.INDEX_FROM_ROWS)
    model = GADMSModel.from_pretrained(model_folder).eval()
    opened = PersonGallery.open(location, model, GADMSProcessor.from_pretrained(model_folder))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if work == "add":
        opened.add(records(range(*map(int, numbers))), batch_size=5)
    elif work == "compact":
        opened.compact()
    elif work == "race":
        gallery.encode_images = lambda m, p, images, **_: torch.eye(16)[[0 for _ in images]]
        sys.stdin.readline()
        report = opened.add(records(range(*map(int, numbers))))
        sys.stdout.write(f"done\n{report.added} {report.already_there}\n")
        return
    elif work == "compactions":
        asked = threading.Event()
        sys.stdin.readline()
        threading.Thread(target=lambda: (sys.stdin.readline(), asked.set()), daemon=True).start()
        while not asked.is_set():
            opened.compact()
    else:
        opened.add([])  # indexes what is there
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
