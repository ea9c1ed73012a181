"""Galleries survive killed processes, full disks, and concurrent writers."""

import os
import random
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from modeling_gadms.gallery import person_gallery as gallery
from modeling_gadms.gallery import storage
from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord
from modeling_gadms.gallery.schema import indexed_rows
from tests.modeling_gadms.gallery.gallery_worker import COMMIT, records


pytestmark = pytest.mark.slow


ROOT = Path(__file__).parents[3]
PERSONS = 240
FEW, MANY = 2, 20
"""Number of random moments at which a process is killed: in the suite and in `make torture`."""
MOMENTS = [pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.torture)]


@pytest.fixture
def place(tmp_path, model, processor) -> Path:
    PersonGallery.create(tmp_path / "gallery", model, processor)
    return tmp_path / "gallery"


@pytest.fixture
def opened(place, model, processor) -> PersonGallery:
    return PersonGallery.open(place, model, processor)


def start(work: str, place: Path, model_folder: Path, *numbers: int) -> subprocess.Popen:
    """Start a worker and wait until it is ready."""
    command = [
        sys.executable,
        "-m",
        "tests.modeling_gadms.gallery.gallery_worker",
        work,
        place,
        model_folder,
        *numbers,
    ]
    worker = subprocess.Popen(
        [str(part) for part in command], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert worker.stdout.readline() == "ready\n", worker.stderr.read()
    return worker


def seconds_of(worker: subprocess.Popen) -> float:
    begin = time.perf_counter()
    assert worker.stdout.readline() == "done\n", worker.stderr.read()
    worker.wait(300)
    return time.perf_counter() - begin


def kill_after(worker: subprocess.Popen, seconds: float) -> None:
    time.sleep(seconds)
    worker.kill()
    worker.wait(300)
    worker.stdout.close()
    worker.stderr.close()


def ids(numbers: range) -> set[str]:
    return {record.id for record in records(numbers)}


def ids_in(opened: PersonGallery) -> set[str]:
    rows = opened._table.search().select(["id"]).limit(10_000).to_list()
    assert len({row["id"] for row in rows}) == len(rows) == len(opened)
    return {row["id"] for row in rows}


def answers(opened: PersonGallery) -> list[str]:
    return [result.id for result in opened.search("a red coat", 1000)]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", MOMENTS)
def test_killed_while_adding_whole_commits_are_there_and_a_repeated_run_completes(place, opened, model_folder, kills):
    moments = random.Random(0)
    duration, first = None, 0
    for _ in range(kills):
        if duration is None:
            duration = seconds_of(start("add", place, model_folder, 0, PERSONS))
            first = PERSONS
        last = first + PERSONS
        before = len(PersonGallery.open(place))
        kill_after(start("add", place, model_folder, first, last), moments.uniform(0, duration))
        found = PersonGallery.open(place)
        assert (len(found) - before) % COMMIT == 0
        assert ids_in(found) <= ids(range(last)) and ids(range(first)) <= ids_in(found)
        assert found.verify().sound
        opened.add(records(range(first, last)))
        assert ids_in(PersonGallery.open(place)) == ids(range(last))
        first = last


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", MOMENTS)
@pytest.mark.parametrize("work", ["compact", "index"])
def test_killed_while_compacting_or_indexing_every_answer_stays(place, opened, model_folder, monkeypatch, work, kills):
    moments = random.Random(1)
    monkeypatch.setattr(gallery, "WRITE_ROWS", 10)  # many small files
    duration = None
    for kill in range(kills):
        opened.add(records(range(kill * PERSONS, (kill + 1) * PERSONS)))
        opened.remove(where=f"source < '{kill * PERSONS + 20:04}.png'")
        expected = answers(opened)
        if duration is None:
            duration = seconds_of(start(work, place, model_folder))
        kill_after(start(work, place, model_folder), moments.uniform(0, duration))
        found = PersonGallery.open(place, *opened._encoders)
        assert found.verify().sound
        assert set(answers(found)) == set(expected)
        found.compact()
        assert set(answers(PersonGallery.open(place, *opened._encoders))) == set(expected)


@pytest.mark.slow
def test_two_processes_that_add_at_once_both_succeed(place, model_folder):
    """A third of the persons is added by both."""
    one = start("add", place, model_folder, 0, 120)
    two = start("add", place, model_folder, 80, 200)
    for worker in (one, two):
        seconds_of(worker)
        assert worker.returncode == 0
    found = PersonGallery.open(place)
    assert ids_in(found) == ids(range(200)) and found.verify().sound


@pytest.mark.slow
def test_processes_that_add_the_same_persons_to_a_large_gallery_add_each_once(place, opened, model_folder):
    """With an index of ids, and while another process compacts."""
    there, new = storage.INDEX_FROM_ROWS + 2_000, 100
    now, generator = datetime.now(UTC), torch.Generator().manual_seed(0)
    drawn = torch.nn.functional.normalize(torch.randn(there, 16, generator=generator)).numpy()
    rows = [
        {"id": f"{number:024}", "source": f"{number}.jpg", "thumbnail": b"", "vector": vector, "added": now}
        for number, vector in enumerate(drawn)
    ]
    for first in range(0, there, 2_000):
        opened._table.add(pa.Table.from_pylist(rows[first : first + 2_000], schema=opened._table.schema))
    storage.index_lookups(opened._table)
    assert indexed_rows(opened._table, "id") == there

    workers = [start("compactions", place, model_folder)]
    workers += [start("race", place, model_folder, 0, new) for _ in range(3)]
    for worker in workers:
        worker.stdin.write("begin\n")
        worker.stdin.flush()
    reports = []
    for worker in workers[1:]:
        output, problems = worker.communicate(timeout=300)
        assert worker.returncode == 0, problems
        reports.append([int(number) for number in output.split()[1:]])
    _, problems = workers[0].communicate("end\n", timeout=300)
    assert workers[0].returncode == 0, problems
    assert sum(added for added, _ in reports) == new
    assert all(added + already_there == new for added, already_there in reports)
    stored = PersonGallery.open(place)._table.search().select(["id"]).limit(100_000).to_arrow()["id"].to_pylist()
    assert len(stored) == len(set(stored)) == there + new


@pytest.mark.slow
def test_a_reader_is_answered_all_through_a_compaction(place, opened, model_folder, monkeypatch):
    monkeypatch.setattr(gallery, "WRITE_ROWS", 10)
    opened.add(records(range(120)))
    expected = answers(opened)
    worker = start("compact", place, model_folder)
    asked = 0
    while worker.poll() is None or not asked:
        assert answers(opened) == expected
        asked += 1
    assert worker.returncode == 0
    assert answers(PersonGallery.open(place, *opened._encoders)) == expected


def test_a_full_disk_is_a_clear_error_and_leaves_the_gallery_readable(tmp_path, model, processor, monkeypatch):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a file system of a given size cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        monkeypatch.setattr(gallery, "WRITE_ROWS", 10)
        made = PersonGallery.create(small / "gallery", model, processor)
        noise = np.random.default_rng(0)

        def endless():
            for number in range(10_000):
                picture = Image.fromarray(noise.integers(0, 256, (128, 64, 3), dtype=np.uint8))
                yield PersonRecord(picture, f"{number}.png")

        with pytest.raises(OSError, match=f"gallery in {small}/gallery could not be written.*No space left"):
            made.add(endless())
        found = PersonGallery.open(small / "gallery", model, processor)
        assert len(found) >= 10 and len(found) % 10 == 0
        assert found.verify().sound and len(found.search("a coat", 5)) == 5
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)
