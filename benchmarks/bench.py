r"""Run the benchmarks in small and compare their ratios with the committed ones: under ten minutes on two idle cores.

    make bench                                          # all of them; what CI of a machine of its own would run
    python benchmarks/bench.py ranking encoding         # some of them
    python benchmarks/bench.py --update                 # run, and commit what came out as results/quick.json

Each runs as `python <name>.py --quick --output <temporary folder>` and names the ratios that it guards, which hold
within one run and so between machines of a kind. A ratio that is more than 15 % worse than the committed one is a
regression. What looks like one is measured again, up to twice, and the best of the runs counts: noise makes a ratio
worse more often than better.

Ends with 0 if nothing got worse, 1 with a regression or a ratio that vanished, 2 if a benchmark failed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measuring import machine


HERE = Path(__file__).parent
BENCHMARKS = ("training_step", "ranking", "encoding", "gallery", "cost_model", "cost_growth")
LEFT_OUT = {
    "construction": "has no small version: 18 minutes",
    "adapters, finetuning": "train models: 45 minutes and more",
    "inference_exports": "needs the model of `make demo`",
    "streaming": "compares with other libraries and guards no ratio",
    "serving": "its small version is one of the tests",
    "robustness": "tells how good the method is, not what it costs, and guards no ratio",
    "scaling_webperson": "plans a run on a cluster and measures nothing",
}
TOLERANCE = 0.15
ATTEMPTS = 3
SECONDS_EACH = 300
"""After which a benchmark counts as hanging."""


@dataclass(frozen=True)
class Ratio:
    """A guarded ratio, as the results of a benchmark tell it.

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
        """How much worse this is than `committed`, as a share of it; negative if it is better.

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
    """A benchmark ended with an error, or its results guard nothing."""


def run(script: Path, output: Path) -> Ratios:
    """Run a benchmark in small; the ratios that it guards, by name.

    Raises:
        BenchmarkFailed: if it fails, hangs, or writes no results that guard a ratio.
    """
    command = [sys.executable, str(script), "--quick", "--output", str(output)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_EACH)
    except subprocess.TimeoutExpired as error:
        raise BenchmarkFailed(f"{script.name} --quick took more than {SECONDS_EACH} seconds") from error
    if done.returncode:
        raise BenchmarkFailed(f"{script.name} --quick ended with {done.returncode}:\n{done.stderr[-2000:]}")
    results = output / "results" / f"{script.stem}.json"
    try:
        guarded = json.loads(results.read_text(encoding="utf-8"))["guarded"]
        ratios = {name: Ratio(**ratio) for name, ratio in guarded.items()}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise BenchmarkFailed(f"{script.name} --quick wrote no guarded ratios to {results}: {error!r}") from error
    if not ratios:
        raise BenchmarkFailed(f"{script.name} guards no ratio")
    return ratios


def measure(script: Path, committed: Ratios) -> Ratios:
    """Run a benchmark, and again while one of its ratios looks like a regression; the best of the runs."""
    best: Ratios = {}
    with tempfile.TemporaryDirectory() as folder:
        for attempt in range(ATTEMPTS):
            print(f"{script.stem}: run {attempt + 1}", flush=True)
            ratios = run(script, Path(folder) / f"run{attempt}" / "benchmarks")
            best = {name: ratio.best(best.get(name, ratio)) for name, ratio in ratios.items()}
            if not any(_regressed(ratio, committed.get(name)) for name, ratio in best.items()):
                break
    return best


def _regressed(now: Ratio, committed: Ratio | None) -> bool:
    return committed is not None and now.worsened(committed) > TOLERANCE


def verdict(now: Ratio | None, committed: Ratio | None) -> str:
    """What became of a ratio: `new`, `vanished`, `REGRESSION`, `worse`, `better` or `same`."""
    if now is None:
        return "vanished"
    if committed is None:
        return "new"
    if _regressed(now, committed):
        return "REGRESSION"
    change = now.worsened(committed)
    return "same" if change == 0 else "worse" if change > 0 else "better"


def comparison(now: dict[str, Ratios], committed: dict[str, Ratios]) -> list[list[str]]:
    """A row for each ratio of either side: name, committed, now, change, verdict."""
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
    """Rows as text, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def read_committed(path: Path) -> dict[str, Ratios]:
    """The committed ratios by benchmark; none where the file is not there yet."""
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
    content = {"command": "python benchmarks/bench.py --update", "machine": machine(), "guarded": guarded}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main(arguments: argparse.Namespace) -> int:
    path = arguments.folder / "results" / "quick.json"
    committed = read_committed(path)
    # Of a choice of benchmarks the others have not vanished.
    names = arguments.benchmarks or BENCHMARKS
    expected = {name: committed[name] for name in committed if not arguments.benchmarks or name in names}
    now: dict[str, Ratios] = {}
    failures: dict[str, str] = {}
    for name in names:
        try:
            now[name] = measure(arguments.folder / f"{name}.py", {} if arguments.update else expected.get(name, {}))
        except BenchmarkFailed as error:
            failures[name] = str(error)
            expected.pop(name, None)
    rows = comparison(now, expected)
    print("\n" + aligned([["ratio", "committed", "now", "change", "verdict"], *rows]))
    for failure in failures.values():
        print(f"\nFAILED: {failure}")
    if not arguments.benchmarks:
        print("\nLeft out: " + "; ".join(f"{name} ({reason})" for name, reason in LEFT_OUT.items()))
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
    parser.add_argument("--folder", type=Path, default=HERE, help="of the scripts, and of results/quick.json")
    sys.exit(main(parser.parse_args()))
