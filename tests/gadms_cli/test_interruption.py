"""`gadms index` stopped or killed: what was found is kept, the old gallery is as it was, and a new run goes on."""

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modeling_gadms.gallery.person_gallery import COMMIT_SECONDS, PersonGallery
from modeling_gadms.indexing import indexer
from tests.command_line import run
from tests.gadms_cli.index_worker import DrawnSource


pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PERSONS, HELD = 80, 60
AT_MOST_LOST = 30
"""Persons, each read in a second of the clock of commits."""


@pytest.fixture
def drawn(monkeypatch):
    """Sources of drawn persons in this process, too."""
    monkeypatch.setattr(indexer, "open_source", lambda source, *_, **__: DrawnSource(str(source), PERSONS))


def start(tmp_path: Path, *arguments: object, held: int = HELD) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.gadms_cli.index_worker", PERSONS, held, tmp_path / "log", *arguments]
    return subprocess.Popen(
        [str(part) for part in command], cwd=ROOT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def read_until(stream, line: str) -> str:
    text = ""
    while line not in text:
        more = stream.readline()
        assert more, text
        text += more
    return text


def sources_in(location: Path) -> set[str]:
    gallery = PersonGallery.open(location)
    assert gallery.verify().sound
    return set(gallery.info().sources)


def test_a_run_asked_to_end_keeps_what_it_found_and_says_how_to_go_on(tmp_path, model_folder, drawn):
    place = tmp_path / "my gallery"
    worker = start(
        tmp_path, "index", "--source", "old", "--source", "new", "--gallery", place, "--model", model_folder,
        "--camera", "gate 2", "--no-detect",
    )  # fmt: skip
    assert "held" in read_until(worker.stdout, "held")
    worker.terminate()
    read_until(worker.stderr, "Stopping after this image")
    output, errors = worker.communicate("go on\n", timeout=300)
    assert worker.returncode == 128 + signal.SIGTERM, errors
    assert f"{HELD + 1} persons from {HELD + 1} of {HELD + 1} images" in output
    assert sources_in(place) == {f"old/{number:04}.png" for number in range(HELD + 1)}
    kept, command = errors.splitlines()[-1].split("; to go on: gadms ")
    assert kept == f"Kept: {HELD + 1} persons of this run in the gallery {place}"
    again = run(*shlex.split(command))
    assert again.exit_code == 0, again.output
    assert f"{HELD + 1} persons were already in the gallery" in again.stdout
    found = PersonGallery.open(place).info()
    assert (found.persons, found.cameras) == (2 * PERSONS, {"gate 2": 2 * PERSONS})


@pytest.mark.parametrize("ended", [signal.SIGINT, signal.SIGKILL])
def test_a_gallery_whose_replacement_is_stopped_is_as_it_was_and_the_repeated_command_goes_on(
    tmp_path, model, processor, model_folder, drawn, ended
):
    place = tmp_path / "g"
    assert run("index", "--source", "old", "--gallery", place, "--model", model_folder).exit_code == 0
    reader = PersonGallery.open(place, model, processor)
    before = [result.source for result in reader.search("a red coat", 5)]
    command = ["index", "--source", "new", "--gallery", place, "--model", model_folder, "--overwrite"]
    worker = start(tmp_path, *command)
    read_until(worker.stdout, "held")
    worker.send_signal(ended)
    if ended == signal.SIGINT:
        read_until(worker.stderr, "Stopping after this image")
    errors = worker.communicate("go on\n", timeout=300)[1]
    assert sources_in(place) == {f"old/{number:04}.png" for number in range(PERSONS)}
    assert [result.source for result in reader.search("a red coat", 5)] == before
    (unfinished,) = place.glob("unfinished-*")
    kept = len(sources_in(unfinished))
    if ended == signal.SIGINT:
        assert kept == HELD + 1
        told = errors.splitlines()[-1]
        assert told.startswith(
            f"The gallery {place} is as it was; {kept} persons of the new one are kept in {unfinished}"
        )
        assert told.endswith("to go on, repeat the command")
    else:
        assert HELD + 1 - kept <= COMMIT_SECONDS + 1
    again = run(*command)
    assert again.exit_code == 0, again.output
    assert f"{kept} persons were already in the gallery" in again.stdout
    assert sources_in(place) == {f"new/{number:04}.png" for number in range(PERSONS)}
    assert {result.source[:3] for result in reader.search("a red coat", 5)} <= {"old", "new"}
    assert not list(place.glob("unfinished-*"))


@pytest.mark.torture
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_at_any_moment_at_most_thirty_seconds_of_work_are_lost(tmp_path, model_folder, drawn, overwrite):
    """Twenty moments: each kill comes after a random part of the time that the whole run takes."""
    moments = random.Random(0)
    place, log = tmp_path / "g", tmp_path / "log"
    assert run("index", "--source", "old", "--gallery", place, "--model", model_folder).exit_code == 0
    old = {f"old/{number:04}.png" for number in range(PERSONS)}
    if overwrite:
        command = ["index", "--gallery", place, "--model", model_folder, "--overwrite", "--source"]
    else:
        command = ["gallery", "add", place, "--source"]
    begin = time.monotonic()
    start(tmp_path, *command, "first", held=-1).communicate(timeout=300)
    duration = time.monotonic() - begin
    for kill in range(20):
        before = sources_in(place)
        log.unlink(missing_ok=True)
        worker = start(tmp_path, *command, str(kill), held=-1)
        time.sleep(moments.uniform(0, duration))
        worker.kill()
        worker.communicate(timeout=300)
        read = len(log.read_text().splitlines()) if log.exists() else 0
        after = sources_in(place)
        new = {f"{kill}/{number:04}.png" for number in range(PERSONS)}
        if overwrite:
            assert after in (before, new)
            unfinished = list(place.glob("unfinished-*"))
            kept = len(after & new) or sum(len(sources_in(left)) for left in unfinished if any(left.glob("*.lance")))
        else:
            assert before <= after <= before | new
            kept = len(after & new)
        assert read - kept <= AT_MOST_LOST
        assert run(*command, str(kill)).exit_code == 0
        assert sources_in(place) == (new if overwrite else after | new)
        assert overwrite or old <= sources_in(place)
