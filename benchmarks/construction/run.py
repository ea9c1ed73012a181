"""Speed and memory of the pipeline that builds a data set of persons, on both engines.

    python -m benchmarks.construction.run                      # all parts: about 18 minutes on two idle cores
    python -m benchmarks.construction.run --part workers       # images/s of blocks and of the whole: 4 minutes
    python -m benchmarks.construction.run --part memory        # peak memory of 2,000 to 20,000 images: 12 minutes
    python -m benchmarks.construction.run --part captions      # rows/s without the captioner: 2 minutes
    python -m benchmarks.construction.run --quick --engine local        # a test run: under a minute

Every run is a process of its own that calls `build_webperson` on frames drawn beforehand (`frames.py`). Part `workers`
finds persons with SSD-MobileNetV2 and MoveNet. Part `memory` takes each frame as a person (`whole_image`), because the
detector would need half an hour for 20,000 frames, and estimates every pose. Part `captions` asks an in-process server
that answers at once with one caption, so that only the work around a captioner remains.

Writes results/construction.json, results/raw/construction.parquet with one row a run, a section of RESULTS.md and the
figure docs/images/construction-memory.png.
"""

import argparse
import http.server
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.captioners.server import completion_handler
from benchmarks.construction.frames import FRAME_SIZE, FrameSampler, write_frames
from benchmarks.construction.report import draw_memory, report, summary
from benchmarks.measuring import (
    ROOT,
    command_of,
    figure_path,
    machine,
    parser,
    read_results,
    read_runs,
    save,
    write_runs,
)


PARTS, ENGINES = ("workers", "memory", "captions"), ("local", "ray")
LIBRARIES = ("transformers", "datasets", "pyarrow", "pillow", "opencv-python-headless", "ai-edge-litert", "ray")
SAMPLING_SECONDS = 0.2
CAPTION = "A woman with short brown hair wears a red jacket over a white shirt, blue jeans and black shoes."
# Persons are smaller here than on the web, and of drawn ones the networks are less sure.
FOUND = {"min_confidence": 0.5, "min_shorter_side": 40, "max_aspect": 4.5, "keypoint_score": 0.2}
WHOLE = {**FOUND, "min_aspect": 0.5, "min_keypoints": 0, "min_hips": 0, "min_head": 0}


@dataclass(frozen=True)
class Sizes:
    """How much is run.

    Attributes:
        pool (`int`): drawn persons that frames are pasted from.
        workers (`int`): frames of part `workers`.
        memory (`tuple[int, ...]`): frames of each run of part `memory`, ascending.
        captions (`int`): frames, and so rows, of part `captions`.
        shard, memory_shard (`int`): frames of a shard; in part `memory` as many at every size.
        repetitions (`int`): of parts `workers` and `captions`, of all configurations in turn.
        processes (`tuple[int, ...]`): numbers of workers; part `memory` takes the last.
    """

    pool: int = 200
    workers: int = 120
    memory: tuple[int, ...] = (2_000, 6_000, 20_000)
    captions: int = 200
    shard: int = 20
    memory_shard: int = 250
    repetitions: int = 2
    processes: tuple[int, ...] = (1, 2)


QUICK = Sizes(pool=4, workers=12, memory=(6, 12), captions=12, shard=3, memory_shard=3, repetitions=1, processes=(1,))


@dataclass(frozen=True)
class Run:
    """What one process did.

    Attributes:
        engine (`str`), workers (`int`): of the local engine its processes, under Ray the copies of each model.
        repetition (`int`): from 0.
        images, persons (`int`): read, and left at the end.
        rows (`int`): of the stage that was timed: images, or persons to be captioned.
        seconds (`float`): of the stage, with the start of its processes and models.
        steady_rows (`int`), steady_seconds (`float`): from when as many shards are finished as there are workers, to
            the end: without what is only done once.
        peak_mb (`float`): most memory resident at a time, over all processes; what they share counts in each.
        peak_unshared_mb (`float`): the same without what could be shared.
        blocks (`dict`): rows, seconds and calls of each block, of reading and of finishing, over all processes.
    """

    engine: str
    workers: int
    repetition: int
    images: int
    persons: int
    rows: int
    seconds: float
    steady_rows: int
    steady_seconds: float
    peak_mb: float
    peak_unshared_mb: float
    blocks: dict[str, dict[str, float]]


def main(arguments: argparse.Namespace) -> None:
    """Run parts, and write the results."""
    sizes = QUICK if arguments.quick else Sizes()
    with tempfile.TemporaryDirectory(prefix="construction-") as folder:
        work = Path(folder)
        sampler = FrameSampler(arguments.seed, sizes.pool)
        for part in arguments.part or PARTS:
            runs = {"workers": run_workers, "memory": run_memory, "captions": run_captions}[part](
                sampler, work / part, sizes, arguments.engine
            )
            shutil.rmtree(work / part)
            # Read again each time: another part may have been run elsewhere in the meantime.
            results = read_results("construction", arguments.output)
            results[part] = {
                "command": shlex.join([*command_of("construction").split(), *sys.argv[1:]]),
                "seed": arguments.seed,
                "machine": machine(*LIBRARIES),
                "frame_size": FRAME_SIZE,
                "sizes": asdict(sizes),
                "summary": summary(part, [asdict(run) for run in runs]),
            }
            ordered = {name: results[name] for name in PARTS if name in results}
            save("construction", ordered, report, arguments.output)
            others = [row for row in read_runs("construction", arguments.output) if row["part"] != part]
            new = [{"part": part, **asdict(run)} for run in runs]
            write_runs("construction", [*others, *new], arguments.output)
            if part == "memory":
                draw_memory(results[part]["summary"], figure_path("construction-memory.png", arguments.output))


def run_workers(sampler: FrameSampler, work: Path, sizes: Sizes, engines: Sequence[str]) -> list[Run]:
    """Persons found by real models, with one and two workers."""
    write_frames(sampler, work / "frames", 0, sizes.workers)
    config = configuration([work / "frames"], sizes.shard, "ssd_mobilenet", FOUND)
    return [
        run_pipeline(config, work / "run", engine, workers, repetition)
        for repetition, engine, workers in in_turn(sizes, engines)
    ]


def run_memory(sampler: FrameSampler, work: Path, sizes: Sizes, engines: Sequence[str]) -> list[Run]:
    """More and more images in shards of one size."""
    folders, runs, drawn = [], [], 0
    for images in sizes.memory:
        folders.append(work / f"frames-{images:06d}")  # a source each: no file is written twice
        write_frames(sampler, folders[-1], drawn, images)
        drawn = images
        config = configuration(folders, sizes.memory_shard, "whole_image", WHOLE)
        runs += [run_pipeline(config, work / "run", engine, sizes.processes[-1], 0) for engine in engines]
    return runs


def run_captions(sampler: FrameSampler, work: Path, sizes: Sizes, engines: Sequence[str]) -> list[Run]:
    """Two captions for each person, from a server that takes no time; the persons are found once, before."""
    write_frames(sampler, work / "frames", 0, sizes.captions)
    config = configuration([work / "frames"], sizes.shard, "whole_image", WHOLE)
    config["duplicates"] = {"max_distance": -1}
    run_pipeline(config, work / "persons", "local", sizes.processes[-1], 0, keep=True)
    runs = []
    with answering_server() as base_url:
        captioner = {"kind": "openai", "model": "benchmark", "base_url": base_url}
        config["captioners"] = {"caption1": captioner, "caption2": captioner}
        for repetition, engine, workers in in_turn(sizes, engines):
            shutil.copytree(work / "persons", work / "run")
            runs.append(run_pipeline(config, work / "run", engine, workers, repetition))
    return runs


def in_turn(sizes: Sizes, engines: Sequence[str]) -> Iterator[tuple[int, str, int]]:
    """Repetition, engine and workers of each run, every other repetition backwards: what changes on the machine in the
    meantime then bears on all configurations alike."""
    turn = [(engine, workers) for engine in engines for workers in sizes.processes]
    for repetition in range(sizes.repetitions):
        for engine, workers in turn if repetition % 2 == 0 else reversed(turn):
            yield repetition, engine, workers


def configuration(folders: Sequence[Path], shard: int, detector: str, criteria: dict[str, float]) -> dict[str, Any]:
    """A configuration of the pipeline, without output and engine."""
    return {
        "run": {"images_per_shard": shard},
        "sources": {folder.name: {"kind": "folder", "path": str(folder)} for folder in folders},
        "detector": {"kind": detector},
        "pose": {"kind": "movenet"},
        "criteria": criteria,
    }


def run_pipeline(
    config: dict[str, Any], output: Path, engine: str, workers: int, repetition: int, *, keep: bool = False
) -> Run:
    """Run a configuration in a process of its own, and watch its memory."""
    copies = {"concurrency": workers}
    resources = dict.fromkeys(("detect", "pose", *config.get("captioners", ())), copies)
    if engine == "local":
        resources = {}
    config = config | {"resources": resources}
    config["run"] = config["run"] | {"output": str(output), "engine": engine, "workers": workers}
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        events, file, log = Path(folder, "events"), Path(folder, "config.yaml"), Path(folder, "log")
        events.mkdir()
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.construction.worker", str(file), str(events)]
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths}
        with log.open("w") as written:
            process = subprocess.Popen(command, env=os.environ | quiet, stdout=written, stderr=written)
        try:
            peak, unshared = watch_memory(process)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            sys.exit(f"the run on {engine} failed:\n{log.read_text()[-2000:]}")
        run = read_events(events, workers)
    if not keep:
        shutil.rmtree(output)
    run = replace(
        run,
        engine=engine,
        repetition=repetition,
        peak_mb=round(peak / 1e6, 1),
        peak_unshared_mb=round(unshared / 1e6, 1),
    )
    print(f"{engine} {workers}: {run.rows} rows in {run.seconds:.1f} s, {run.peak_mb:,.0f} MB", flush=True)
    return run


def watch_memory(process: subprocess.Popen) -> tuple[int, int]:
    """The most bytes resident in a process and all below it until it ends, and without what they can share."""
    peak = unshared = 0
    root = psutil.Process(process.pid)
    while process.poll() is None:
        resident = private = 0
        try:
            members = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            break
        for member in members:
            try:
                memory = member.memory_info()
            except psutil.NoSuchProcess:  # it has ended since it was listed
                continue
            resident += memory.rss
            private += memory.rss - memory.shared
        peak, unshared = max(peak, resident), max(unshared, private)
        time.sleep(SAMPLING_SECONDS)
    process.wait()
    return peak, unshared


def read_events(folder: Path, workers: int) -> Run:
    """What a run did, by the events that its processes wrote down; of two stages, the later one."""
    events = [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]
    named: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        named[event["name"]].append(event)
    captions = "finish captions" in named
    start = named["begin captions" if captions else "begin persons"][0]["start"]
    reads = named["read persons" if captions else "read"]
    finished = sorted(
        (event["start"] + event["seconds"], event["shard"])
        for event in named["finish captions" if captions else "finish"]
    )
    rows_of = {event["shard"]: event["rows"] for event in reads}
    first = min(workers, len(finished) - 1)
    blocks = {
        name: {
            "rows": sum(event["rows"] for event in calls),
            "seconds": round(sum(event["seconds"] for event in calls), 4),
            "calls": len(calls),
        }
        for name, calls in named.items()
        if name != "run" and not name.startswith(("begin", "prepare"))
    }
    return Run(
        engine="",
        workers=workers,
        repetition=0,
        images=sum(event["rows"] for event in named["read"]),
        persons=named["run"][0]["rows"],
        rows=sum(rows_of.values()),
        seconds=round(finished[-1][0] - start, 3),
        steady_rows=sum(rows_of[shard] for _, shard in finished[first:]),
        steady_seconds=round(finished[-1][0] - finished[first - 1][0], 3),
        peak_mb=0,
        peak_unshared_mb=0,
        blocks=blocks,
    )


@contextmanager
def answering_server() -> Iterator[str]:
    """A server on this machine that answers every question at once with the same caption; its base URL."""
    handler = completion_handler(CAPTION, lambda question: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


if __name__ == "__main__":
    options = parser(__doc__, quick="a few frames, once: no numbers to rely on")
    options.add_argument("--part", nargs="+", choices=PARTS, help="default: all")
    options.add_argument("--engine", nargs="+", choices=ENGINES, default=list(ENGINES), help="default: both")
    options.add_argument("--seed", type=int, default=0, help="seed of persons and frames (default: 0)")
    main(options.parse_args())
