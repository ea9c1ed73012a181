"""A run that is killed at random moments and resumed ends where an uninterrupted one does, to the byte."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from crash_detectors import write_frames
from engine_stages import alive, with_environment
from run_folders import contents, published_rows, rejected_rows

from tests.waiting import wait_for


# One worker of several runs them all, so that the libraries are loaded once.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
HERE = Path(__file__).parents[1]
FRAMES, FEW_FRAMES = 2000, 300
CONCURRENCY = 4
CONFIG = """
run: {output: run, images_per_shard: 80, thumbnail_height: 32}
sources: {frames: {kind: folder, path: frames}}
detector: {kind: "crash_detectors:SideBySide"}
pose: {kind: "crash_detectors:Upright"}
criteria: {min_shorter_side: 20}
quality: {min_contrast: 0, min_sharpness: 0}
"""


class Runs:
    """Runs of the pipeline as processes of their own, and the server that they ask."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.config = folder / "run.yaml"
        self.config.write_text(CONFIG)
        self.mark = uuid.uuid4().hex
        paths = os.pathsep.join([str(HERE), str(HERE.parents[2])])  # the helpers, and this checkout
        self.environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GADMS_TEST": self.mark}
        self.server = self._start("crash_server.py", str(folder / "requests.jsonl"))
        self.worker = self._start("crash_worker.py", "serve")
        self.url = f"http://127.0.0.1:{self.server.stdout.readline().strip()}/v1"
        (folder / "requests.jsonl").touch()

    def _start(self, *command: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, HERE / command[0], *command[1:]],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        for process in (self.server, self.worker):
            process.stdin.close()
            process.wait(300)
        for left in self.processes().values():
            left.kill()

    def start(self, root: Path, frames: Path, *overrides: str, captions: bool = True) -> int:
        """Start a run, or resume it; returns the process, which leads a group of its own."""
        given = [f"run.output={root}", f"sources.frames.path={frames}", *overrides]
        if captions:
            settings = {"kind": "openai", "model": "scripted", "base_url": self.url, "concurrency": CONCURRENCY}
            given += [f"captioners.caption1.{name}={value}" for name, value in settings.items()]
        self._tell(json.dumps([str(self.output(root)), str(self.config), *given]))
        return int(self.worker.stdout.readline())

    def wait(self) -> int:
        """The exit code of the run that was started last."""
        self._tell("")
        return int(self.worker.stdout.readline())

    def finish(self, root: Path, frames: Path, *, captions: bool = True) -> None:
        root.parent.mkdir(exist_ok=True)
        self.start(root, frames, captions=captions)
        assert self.wait() == 0, self.output(root).read_text()[-3000:]

    def output(self, root: Path) -> Path:
        """What the runs in a folder print."""
        return root.parent / "output.txt"

    def _tell(self, line: str) -> None:
        self.worker.stdin.write(line + "\n")
        self.worker.stdin.flush()

    def processes(self) -> dict[int, Any]:
        """What runs beside the two that always do."""
        found = with_environment("GADMS_TEST", self.mark)
        return {pid: process for pid, process in found.items() if pid not in (self.server.pid, self.worker.pid)}

    def requests(self) -> list[dict]:
        """All that the server was asked, when it has heard everything that was under way."""
        log, size = self.folder / "requests.jsonl", -1
        while size != (size := log.stat().st_size):
            time.sleep(0.2)
        return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Iterator[Runs]:
    runs = Runs(tmp_path_factory.mktemp("crashes"))
    yield runs
    runs.close()


@dataclass
class Whole:
    """A run that nothing interrupted: its files, and how often it asked each question."""

    frames: Path
    root: Path
    files: dict[str, str]
    asked: Counter[str]


def run_whole(runs: Runs, root: Path, frames: Path) -> Whole:
    before = len(runs.requests())
    runs.finish(root, frames)
    return Whole(frames, root, contents(root), Counter(request["key"] for request in runs.requests()[before:]))


@pytest.fixture(scope="module")
def whole(runs) -> Whole:
    frames = runs.folder / "frames"
    write_frames(frames, FRAMES)
    return run_whole(runs, runs.folder / "whole" / "webperson", frames)


def files_in(folder: Path) -> int:
    return len(os.listdir(folder)) if folder.is_dir() else 0


@dataclass(frozen=True)
class Moment:
    """When a run is killed: a while after it has come so far in one of its parts."""

    part: str
    progress: int
    seconds: float

    def has_come(self, root: Path, requests: int) -> bool:
        markers = root / "work" / "markers"
        return (
            self.progress
            <= {
                "persons": files_in(markers / "persons"),
                "compare": files_in(markers / "persons"),
                "captions": requests,
                "card": files_in(markers / "captions"),
            }[self.part]
        )


def draw_moments(rng: random.Random, whole: Whole, number: int) -> list[Moment]:
    """Moments from all over a run, in their order."""
    shards = files_in(whole.root / "data")
    parts = rng.sample(["persons", "captions", rng.choice(["compare", "card"])], 3)
    parts += rng.choices(["persons", "compare", "captions", "card"], [7, 2, 9, 2], k=max(0, number - 3))
    far = {
        "persons": lambda: rng.randrange(shards),
        "compare": lambda: shards,
        "captions": lambda: rng.randrange(1, whole.asked.total()),
        "card": lambda: shards,
    }
    moments = [Moment(part, far[part](), rng.uniform(0, 0.15)) for part in parts[:number]]
    return sorted(moments, key=lambda moment: (list(far).index(moment.part), moment.progress))


@dataclass
class Story:
    """What became of a run that was killed now and then."""

    deaths: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    lost: list[int] = field(default_factory=list)
    """For each death, how many requests had been sent and their replies not written down."""
    repeated: set[str] = field(default_factory=set)
    """Requests that were sent again though their replies had been written down."""


def written_down(root: Path, asked: set[tuple[str, str]]) -> set[str]:
    """Keys of those requests whose replies are in a journal, or part of a finished shard."""
    keys = set()
    finished = {int(marker.stem) for marker in (root / "work/markers/captions").glob("*.json")}
    for number in finished:
        crops = pq.read_table(root / f"work/persons/{number:05d}.parquet", columns=["crop"])["crop"].to_pylist()
        images = {hashlib.sha256(crop).hexdigest() for crop in crops}
        keys |= {key for key, image in asked if image in images}
    for journal in (root / "work/journal").glob("*.jsonl"):
        content = journal.read_bytes()
        lines = content[: content.rfind(b"\n") + 1].splitlines()  # the last one may be torn
        keys |= {json.loads(line)["key"] for line in lines}
    return keys


def run_with_deaths(
    runs: Runs, whole: Whole, root: Path, moments: list[Moment], kill: Callable[[int], None], *overrides: str
) -> Story:
    """Run and kill at each moment, resume, at last run to the end, and compare with the run that was not killed."""
    story, settled = Story(), set()
    before = len(runs.requests())

    def account_for_requests() -> None:
        new = runs.requests()[before + story.asked.total() :]
        story.repeated.update(settled & {request["key"] for request in new})
        story.asked.update(request["key"] for request in new)
        asked.update((request["key"], request["image"]) for request in new)
        known = written_down(root, asked)
        story.lost.append(len({request["key"] for request in new} - known))
        settled.update(known)

    asked: set[tuple[str, str]] = set()
    log = (runs.folder / "requests.jsonl").open("rb")
    log.seek(0, os.SEEK_END)
    heard = 0
    for moment in moments:
        process = runs.start(root, whole.frames, *overrides)
        polls = 0
        while not moment.has_come(root, heard) and (polls % 100 or alive({process})):
            time.sleep(0.002)
            heard += log.read().count(b"\n")
            polls += 1
        time.sleep(moment.seconds)
        kill(process)
        if runs.wait() == 0:
            break  # it came to its end before
        story.deaths += 1
        account_for_requests()
    runs.finish(root, whole.frames)
    account_for_requests()
    log.close()
    assert contents(root) == whole.files
    # What was written down was not asked again; what was under way, once for each death at the most.
    assert not story.repeated
    assert story.asked.keys() == whole.asked.keys()
    assert story.asked.total() - len(story.asked) == sum(story.lost)
    return story


def kill_group(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


@pytest.mark.parametrize("deaths", [3, pytest.param(20, marks=pytest.mark.torture)])
def test_killed_at_random_moments_and_resumed_a_run_ends_in_the_same_bytes(runs, whole, deaths):
    rng = random.Random(deaths)
    died = 0
    while died < deaths:
        root = runs.folder / f"killed-{deaths}-after-{died}" / "webperson"
        root.parent.mkdir()
        story = run_with_deaths(runs, whole, root, draw_moments(rng, whole, deaths - died), kill_group)
        died += story.deaths
        assert max(story.lost) <= CONCURRENCY


def test_a_whole_run_asks_once_and_accounts_for_every_image(whole):
    assert set(whole.asked.values()) == {1}
    published, rejected = published_rows(whole.root), rejected_rows(whole.root, "persons")
    rejected += rejected_rows(whole.root, "captions")
    row_ids = Counter(row["row_id"] for row in [*published, *rejected])
    assert set(row_ids.values()) == {1}
    assert {row["source"] for row in [*published, *rejected]} == {f"frames/{n:05d}.jpg" for n in range(FRAMES)}
    assert len(published) > 500
    assert not list((whole.root / "work").glob("journal/*"))


# ---------------------------------------------------------------------------------------------------------------------
# Other deaths, of a smaller run.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def few(runs) -> Whole:
    """A run on fewer frames; beside it, one that has found the persons and asked for no caption yet."""
    frames = runs.folder / "few"
    write_frames(frames, FEW_FRAMES)
    runs.finish(runs.folder / "found" / "webperson", frames, captions=False)
    return run_whole(runs, runs.folder / "few-whole" / "webperson", frames)


def with_persons(runs: Runs, name: str) -> Path:
    """A new folder of a run that goes on with the captions."""
    root = runs.folder / name / "webperson"
    shutil.copytree(runs.folder / "found" / "webperson", root)
    return root


def wait_until_alone(runs: Runs, seconds: float = 120) -> None:
    """Wait until everything that a run started is gone."""
    wait_for(lambda: not runs.processes(), seconds, told=lambda: f"still there: {runs.processes()}")


@pytest.mark.parametrize(
    ("name", "setting", "workers"), [("workers", "run.workers=2", 2), ("ray", "run.engine=ray", 1)]
)
def test_what_a_run_started_ends_with_it_and_the_rest_is_done_by_the_next(runs, few, name, setting, workers):
    root = with_persons(runs, name)

    def kill(process: int) -> None:
        os.kill(process, signal.SIGKILL)  # and none of those that it started
        wait_until_alone(runs)

    middle = Moment("captions", few.asked.total() // 4, 0)
    story = run_with_deaths(runs, few, root, [middle], kill, setting)
    assert story.deaths == 1
    assert max(story.lost) <= CONCURRENCY * workers


def test_ctrl_c_ends_a_run_with_one_message_and_it_can_be_resumed(runs, few):
    root = with_persons(runs, "interrupted")
    middle = Moment("captions", few.asked.total() // 4, 0)
    story = run_with_deaths(runs, few, root, [middle], lambda process: os.killpg(process, signal.SIGINT))
    assert story.deaths == 1 and max(story.lost) <= CONCURRENCY
    printed = runs.output(root).read_text()
    assert printed.count("Traceback") == 1 and "KeyboardInterrupt" in printed


def test_two_runs_cannot_work_in_one_folder(runs, few):
    root = with_persons(runs, "shared")
    first = runs.start(root, few.frames)
    while not (root / "work" / "journal").exists():
        time.sleep(0.01)
    os.kill(first, signal.SIGSTOP)  # in the middle of its work
    runs.start(root, few.frames)
    assert runs.wait() == 1
    assert f"another run is using {root}" in runs.output(root).read_text()
    kill_group(first)
