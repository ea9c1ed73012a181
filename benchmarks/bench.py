r"""Run the benchmarks in small and compare their ratios with the committed ones: about ten minutes on two idle cores.

    make bench                                          # all of them
    python -m benchmarks.bench ranking encoding         # some of them
    python -m benchmarks.bench --update                 # run, and write the ratios to results/quick.json

Each benchmark runs with `--quick` into a temporary folder and names the ratios to compare (`guarded`). Ratios are
taken within one run, so they are comparable between similar machines. A ratio that is more than 15 % worse than the
committed one is a regression. An apparent regression is measured again, up to twice, and the best run counts, because
noise makes a ratio worse more often than better.

Exit code: 0 if nothing is worse, 1 if there is a regression or a missing ratio, 2 if a benchmark failed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring import ROOT, machine, module_of, read_results, to_json


BENCHMARKS = ("training_step", "ranking", "encoding", "gallery", "cost_model", "cost_growth", "startup")
SKIPPED = {
    "backbones": "one step of each, no ratio to guard",
    "construction": "no small version: 18 minutes",
    "captioners": "waits for servers, no ratio to guard",
    "adapters, finetuning": "train models: 45 minutes and more",
    "image_fit": "trains models: 8 minutes, no ratio to guard",
    "exports, exclusion": "need the model of `make demo`",
    "streaming": "compares with other libraries, no ratio to guard",
    "serving": "its small version is one of the tests",
    "robustness": "measures the method, no ratio to guard",
    "scaling": "computes a plan, measures nothing",
    "caption_rules": "its bounds are a test",
}
TOLERANCE = 0.15
ATTEMPTS = 3
SECONDS_EACH = 300
"""Time limit of one run."""


@dataclass(frozen=True)
class Ratio:
    """A guarded ratio in the results of a benchmark.

    Attributes:
        value (`float`): positive.
        better (`str`): `"lower"` or `"higher"`.
    """

    value: float
    better: str

    def __post_init__(self) -> None:
        if self.better not in ("lower", "higher") or not self.value > 0:
            raise ValueError(f"a guarded ratio is positive and better 'lower' or 'higher', not {self}")

    def worsened(self, committed: "Ratio") -> float:
        """Relative change to `committed` in the worse direction; negative if this ratio is better.

        >>> round(Ratio(1.1, "lower").worsened(Ratio(1.0, "lower")), 3)
        0.1
        >>> round(Ratio(0.9, "higher").worsened(Ratio(1.0, "higher")), 3)
        0.1
        """
        change = self.value / committed.value - 1
        return change if committed.better == "lower" else -change

    def best(self, other: "Ratio") -> "Ratio":
        choose = min if self.better == "lower" else max
        return choose(self, other, key=lambda ratio: ratio.value)


Ratios = dict[str, Ratio]


class BenchmarkFailed(RuntimeError):
    """A benchmark ended with an error, or its results have no guarded ratios."""


def run(claim: str, root: Path, output: Path) -> Ratios:
    """Run a benchmark with `--quick` and return its guarded ratios by name.

    Raises:
        BenchmarkFailed: if it fails, exceeds the time limit, or writes no guarded ratios.
    """
    command = [sys.executable, "-m", module_of(claim), "--quick", "--output", str(output)]
    environment = os.environ | {"PYTHONPATH": str(root)}
    try:
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=SECONDS_EACH)
    except subprocess.TimeoutExpired as error:
        raise BenchmarkFailed(f"{claim} --quick took more than {SECONDS_EACH} seconds") from error
    if done.returncode:
        raise BenchmarkFailed(f"{claim} --quick ended with {done.returncode}:\n{done.stderr[-2000:]}")
    try:
        guarded = read_results(claim, output)["guarded"]
        ratios = {name: Ratio(**ratio) for name, ratio in guarded.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise BenchmarkFailed(f"{claim} --quick wrote no guarded ratios to {output}: {error!r}") from error
    if not ratios:
        raise BenchmarkFailed(f"{claim} guards no ratio")
    return ratios


def measure(claim: str, root: Path, committed: Ratios) -> Ratios:
    """The best ratios of up to `ATTEMPTS` runs: repeated while one of them looks like a regression."""
    best: Ratios = {}
    with tempfile.TemporaryDirectory() as folder:
        for attempt in range(ATTEMPTS):
            print(f"{claim}: run {attempt + 1}", flush=True)
            ratios = run(claim, root, Path(folder) / f"run{attempt}" / "benchmarks")
            best = {name: ratio.best(best.get(name, ratio)) for name, ratio in ratios.items()}
            if not any(_regressed(ratio, committed.get(name)) for name, ratio in best.items()):
                break
    return best


def _regressed(now: Ratio, committed: Ratio | None) -> bool:
    return committed is not None and now.worsened(committed) > TOLERANCE


def verdict(now: Ratio | None, committed: Ratio | None) -> str:
    """The verdict on a ratio: `new`, `vanished`, `REGRESSION`, `worse`, `better` or `same`."""
    if now is None:
        return "vanished"
    if committed is None:
        return "new"
    if _regressed(now, committed):
        return "REGRESSION"
    change = now.worsened(committed)
    return "same" if change == 0 else "worse" if change > 0 else "better"


def comparison(now: dict[str, Ratios], committed: dict[str, Ratios]) -> list[list[str]]:
    """One row for each ratio: name, committed value, value now, change, verdict."""
    rows = []
    for benchmark in {**now, **committed}:
        of_now, of_committed = now.get(benchmark, {}), committed.get(benchmark, {})
        for name in {**of_now, **of_committed}:
            new, old = of_now.get(name), of_committed.get(name)
            change = f"{new.value / old.value - 1:+.1%}" if new and old else ""
            values = [f"{ratio.value:.4g}" if ratio else "" for ratio in (old, new)]
            rows.append([f"{benchmark}: {name}", *values, change, verdict(new, old)])
    return rows


def aligned(rows: list[list[str]]) -> str:
    """Rows as text in aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def read_committed(path: Path) -> dict[str, Ratios]:
    """The committed ratios by benchmark; empty if the file is missing."""
    if not path.is_file():
        return {}
    guarded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["guarded"]
    return {
        benchmark: {name: Ratio(**ratio) for name, ratio in ratios.items()} for benchmark, ratios in guarded.items()
    }


def write_committed(path: Path, ratios: dict[str, Ratios]) -> None:
    guarded = {
        benchmark: {name: asdict(ratio) for name, ratio in of_one.items()} for benchmark, of_one in ratios.items()
    }
    content = {"command": "python -m benchmarks.bench --update", "machine": machine(), "guarded": guarded}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(content) + "\n", encoding="utf-8")


def main(arguments: argparse.Namespace) -> int:
    path = arguments.root / "benchmarks" / "results" / "quick.json"
    committed = read_committed(path)
    # Benchmarks that were not asked for do not count as missing.
    names = arguments.benchmarks or BENCHMARKS
    expected = {name: committed[name] for name in committed if not arguments.benchmarks or name in names}
    now: dict[str, Ratios] = {}
    failures: dict[str, str] = {}
    for name in names:
        try:
            now[name] = measure(name, arguments.root, {} if arguments.update else expected.get(name, {}))
        except BenchmarkFailed as error:
            failures[name] = str(error)
            expected.pop(name, None)
    rows = comparison(now, expected)
    print("\n" + aligned([["ratio", "committed", "now", "change", "verdict"], *rows]))
    for failure in failures.values():
        print(f"\nFAILED: {failure}")
    if not arguments.benchmarks:
        print("\nSkipped: " + "; ".join(f"{name} ({reason})" for name, reason in SKIPPED.items()))
    if failures:
        return 2
    if arguments.update:
        write_committed(path, {**committed, **now} if arguments.benchmarks else now)
        print(f"\nWritten to {path}")
        return 0
    return int(any(row[-1] in ("REGRESSION", "vanished") for row in rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmarks", nargs="*", help=f"default: {' '.join(BENCHMARKS)}")
    parser.add_argument("--update", action="store_true", help="write the ratios as the committed ones")
    parser.add_argument("--root", type=Path, default=ROOT, help="repository whose benchmarks are run")
    sys.exit(main(parser.parse_args()))
