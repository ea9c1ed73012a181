"""`gadms serve` under load: 50 users search without a pause, with queries encoded in batches and one by one.

    python -m benchmarks.serving.run            # 8 minutes on two cores
    python -m benchmarks.serving.run --quick    # 20,000 persons, ten seconds of each

The gallery has 100,000 random vectors, the text encoder is that of ViT-B/16 with random weights. Server and users are
processes of their own on the same machine. A server with batches of up to 32 queries and one that encodes each query
alone run in turn. Every answer is checked: status 200 and ten persons. Writes results/serving.json and a section of
RESULTS.md.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any, cast

from benchmarks.measuring import (
    ROOT,
    command_of,
    machine,
    output_of,
    parser,
    provenance,
    ratio,
    save,
    spread,
    spread_text,
    table,
)


WORKER = "benchmarks.serving.worker"
USERS = 50
# Persons in the gallery, seconds of each run, and repetitions.
FULL = (100_000, 60, 3)
QUICK = (20_000, 10, 1)
WAYS = {"together": 32, "alone": 1}


def measure(folder: Path, way: str, seconds: float) -> dict[str, Any]:
    """Start a server, let the users search, and return their measurements."""
    command = [sys.executable, "-m", WORKER, "serve", str(folder), str(WAYS[way])]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PATH": ""}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            port = cast(IO[str], server.stdout).readline().strip()
            if not port:
                raise RuntimeError(f"{' '.join(command)} ended before it listened")
            address = f"http://127.0.0.1:{port}"
            output_of(WORKER, "load", address, 4, 1, threads=1)  # the index is read, the encoder warm
            return output_of(WORKER, "load", address, USERS, seconds, threads=1)
        finally:
            server.terminate()
            server.wait(60)


def report(results: dict[str, Any]) -> str:
    """The section of RESULTS.md."""
    rows = []
    for way, runs in results["runs"].items():
        cells = [spread_text(spread([run[name] for run in runs]), 0) for name in ("per_second", "p50_ms", "p95_ms")]
        batch = spread_text(spread([run["mean_batch"] for run in runs]))
        errors = sum(count for run in runs for answer, count in run["answers"].items() if answer != "200")
        name = f"batches of up to {WAYS[way]} queries" if WAYS[way] > 1 else "each query alone"
        rows.append([name, *cells, batch, f"{errors}"])
    headings = ["encoding", "answers/s", "p50, ms", "p95, ms", "mean batch", "errors"]
    gain = spread_text(results["together_over_alone"], 2)
    return (
        "## Serving\n\nClaim: encoding the queries of many users in batches answers more of them. "
        f"{results['users']} users search without a pause for {results['seconds']:g} seconds, a quarter of the "
        f"searches with a filter on the camera; a gallery of {results['rows']:,} random vectors. Medians of "
        f"{len(results['runs']['alone'])} runs in turn (minimum to maximum).\n\n{table(headings, rows)}\n\n"
        f"Answers a second with batches, over each query alone: {gain}.\n\nWhat falls short: the users run on the "
        "cores of the server, and searches take longer than a second with so many users; a larger machine or a GPU "
        f"was not measured.\n\n{provenance(results)}"
    )


def main(arguments: argparse.Namespace) -> None:
    rows, seconds, repetitions = QUICK if arguments.quick else FULL
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as place:
        output_of(WORKER, "make", place, rows)
        for _ in range(repetitions):
            for way in WAYS:
                runs[way].append(measure(Path(place), way, seconds))
    speeds = {way: [run["per_second"] for run in of] for way, of in runs.items()}
    results = {
        "command": command_of("serving", *["--quick"] * arguments.quick),
        "seed": 0,
        "machine": machine("fastapi", "uvicorn", "lancedb"),
        "users": USERS,
        "seconds": seconds,
        "rows": rows,
        "runs": runs,
        "together_over_alone": ratio(speeds["together"], speeds["alone"]),
    }
    save("serving", results, report, arguments.output)


if __name__ == "__main__":
    main(parser(__doc__, quick="20,000 persons, ten seconds of each").parse_args())
