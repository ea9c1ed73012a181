"""Shared by all benchmarks: calls timed in turn, ratios within a repetition, peak memory, and the files of results.

A benchmark measures, writes `results/<claim>.json`, and makes its section of RESULTS.md from what that file holds.
Runs whose single values may be compared later go to `results/raw/<claim>.parquet`, one row a run.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any


ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "benchmarks"
"""Folder of RESULTS.md and `results/`."""
LINE = 180
"""Longest line of a file of results where a value does not need a longer one."""
DIGITS = 8
"""Significant digits of stored floats."""
PREAMBLE = """\
# Results of the benchmarks

The scripts of this folder write one section each, from the files in `results/`. Run a script to renew its section.
"""


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum.

    >>> spread([3, 1, 2])
    {'median': 2, 'min': 1, 'max': 3}
    """
    return {"median": median(values), "min": min(values), "max": max(values)}


def in_turn(
    calls: dict[str, Callable[[], Any]], repetitions: int, *, rest: float = 0.02, warm_ups: int = 1
) -> dict[str, list[float]]:
    """Time several calls in turn within each repetition, so that a slow minute affects all of them.

    Args:
        calls (`dict[str, Callable]`): calls by name.
        repetitions (`int`): number of timed repetitions.
        rest (`float`): seconds of sleep before each call: the threads of the previous one spin for a while and would
            occupy its cores.
        warm_ups (`int`): number of repetitions before them that are not timed.

    Returns:
        `dict[str, list[float]]`: seconds by name, one value a repetition.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(warm_ups + repetitions):
        for name, call in calls.items():
            time.sleep(rest)
            start = time.perf_counter()
            call()
            if repetition >= warm_ups:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(values: Sequence[float], over: Sequence[float]) -> dict[str, float]:
    """Spread of the ratios within each repetition.

    >>> ratio([2.0, 3.0, 8.0], over=[1.0, 2.0, 2.0])
    {'median': 2.0, 'min': 1.5, 'max': 4.0}
    """
    return spread([value / base for value, base in zip(values, over, strict=True)])


def peak_memory_bytes() -> int:
    """Peak resident memory of this process, with libraries (Linux only)."""
    # getrusage would also count the memory of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0]) * 1024


def machine(*libraries: str) -> dict[str, Any]:
    """Processor, cores and memory of this machine, and the versions of Python, torch and `libraries`."""
    name = re.findall(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return {
        "cpu": name[0] if name else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "python": platform.python_version(),
        **{library: version(library) for library in ("torch", *libraries)},
    }


def provenance(results: dict[str, Any]) -> str:
    """Last sentence of a section: command, seed if there is one, machine and library versions."""
    where = results["machine"]
    versions = [f"{name} {value}" for name, value in where.items() if name not in ("cpu", "cores", "memory_gb")]
    seed = f" (seed {results['seed']})" if "seed" in results else ""
    memory = f" with {where['memory_gb']} GB" if "memory_gb" in where else ""
    return (
        f"Command: `{results['command']}`{seed}. Machine: {where['cores']} cores of a shared {where['cpu']}{memory}, "
        f"no GPU{'; ' * bool(versions)}{', '.join(versions)}."
    )


def parser(description: str | None, *, quick: str | None = None) -> argparse.ArgumentParser:
    """Argument parser of a benchmark, with `--output` and, if it has a small version, `--quick`.

    Args:
        description (`str`): docstring of the script.
        quick (`str`, *optional*): help of `--quick`.
    """
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if quick:
        made.add_argument("--quick", action="store_true", help=quick)
    made.add_argument(
        "--output", type=Path, default=OUTPUT, help="folder of RESULTS.md and results/ (default: benchmarks)"
    )
    return made


def command_of(claim: str, *options: str) -> str:
    """The command that runs a benchmark.

    >>> command_of("ranking", "--quick")
    'python -m benchmarks.ranking.run --quick'
    """
    return " ".join(["python -m", module_of(claim), *options])


def module_of(claim: str) -> str:
    """The script of a claim: `run` in its folder, or the module that an underscore separates.

    >>> module_of("training_step"), module_of("cost_model")
    ('benchmarks.training_step.run', 'benchmarks.cost.model')
    """
    folder, _, name = claim.rpartition("_")
    return f"benchmarks.{folder}.{name}" if folder == "cost" else f"benchmarks.{claim}.run"


def output_of(module: str, *arguments: Any, threads: int = 2, timeout: float = 3600) -> dict[str, Any]:
    """Run a module in a process of its own; the last line of its output, parsed as JSON.

    Raises:
        RuntimeError: if it fails, with the end of its standard error.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def save(claim: str, results: dict[str, Any], report: Callable[[dict[str, Any]], str], output: Path) -> None:
    """Write `results/<claim>.json`, and from it the section of the claim in RESULTS.md, which is also printed.

    Args:
        claim (`str`): name of the file and of the section.
        results (`dict`): content of the file.
        report (`Callable`): makes the section from the content.
        output (`Path`): folder of RESULTS.md.
    """
    write_results(claim, results, output)
    section = report(read_results(claim, output))
    write_section(output / "RESULTS.md", claim, section)
    print(section)


def results_file(claim: str, output: Path) -> Path:
    return output / "results" / f"{claim}.json"


def runs_file(claim: str, output: Path) -> Path:
    return output / "results" / "raw" / f"{claim}.parquet"


def read_results(claim: str, output: Path = OUTPUT) -> dict[str, Any]:
    """Content of `results/<claim>.json`; empty if the file is missing."""
    path = results_file(claim, output)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_results(claim: str, results: dict[str, Any], output: Path) -> None:
    path = results_file(claim, output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(results) + "\n", encoding="utf-8")


def read_runs(claim: str, output: Path = OUTPUT) -> list[dict[str, Any]]:
    """Rows of `results/raw/<claim>.parquet`, without the fields that a row does not have."""
    import pyarrow.parquet as pq  # here: workers measure the memory of their own libraries

    path = runs_file(claim, output)
    return [_without_nulls(row) for row in pq.read_table(path).to_pylist()] if path.is_file() else []


def write_runs(claim: str, rows: Sequence[dict[str, Any]], output: Path) -> None:
    """Write `results/raw/<claim>.parquet`, one row a run; the old file stays until the new one is complete."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from modeling_gadms.encoders.atomic_files import atomic_file

    path = runs_file(claim, output)
    # `from_pylist` alone takes its columns from the first row.
    schema = pa.schema(list(pa.array(list(rows)).type))
    with atomic_file(path) as part:
        pq.write_table(pa.Table.from_pylist(list(rows), schema), part, compression="zstd")


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


def to_json(value: Any, indent: int = 0, lead: int = 0) -> str:
    """JSON in few lines: what fits on a line stays on one, numbers and short lists share lines.

    >>> print(to_json({"seconds": {"ours": 1.0, "theirs": 2.0}}))
    {"seconds": {"ours": 1.0, "theirs": 2.0}}

    Args:
        value (`Any`): floats are rounded to `DIGITS` significant digits.
        indent (`int`): column at which the line starts.
        lead (`int`): characters between that column and the value.
    """
    if isinstance(value, float):
        return json.dumps(float(f"{value:.{DIGITS}g}"))
    if not isinstance(value, dict | list | tuple):
        return json.dumps(value)
    named = isinstance(value, dict)
    keys = [f"{json.dumps(str(key))}: " for key in value] if named else [""] * len(value)
    parts = list(value.values()) if named else list(value)
    begin, end = "{}" if named else "[]"
    entries = [key + to_json(part, indent + 1, len(key)) for key, part in zip(keys, parts, strict=True)]
    whole = begin + ", ".join(entries) + end
    if "\n" not in whole and indent + lead + len(whole) < LINE:
        return whole
    lines: list[str] = []
    may_follow = False
    for part, entry in zip(parts, entries, strict=True):
        short = _is_short(part) and "\n" not in entry
        if short and may_follow and indent + len(lines[-1]) + len(entry) < LINE - 4:
            lines[-1] += f", {entry}"
        else:
            lines.append(entry)
        may_follow = short
    pad = "\n" + " " * (indent + 1)
    return begin + pad + f",{pad}".join(lines) + "\n" + " " * indent + end


def _is_short(value: Any) -> bool:
    """Whether a value is a scalar or a list of scalars."""
    parts = value if isinstance(value, list | tuple) else [value]
    return not any(isinstance(part, dict | list | tuple) for part in parts)


def figure_path(name: str, output: Path) -> Path:
    """Where a figure goes: `docs/images/` beside the folder of RESULTS.md. The folder is created."""
    folder = output.resolve().parent / "docs" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def write_section(path: Path, name: str, text: str) -> None:
    """Replace the section of that name in RESULTS.md, or append it."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    section = f"{begin}\n{text.rstrip()}\n{end}"
    whole = path.read_text(encoding="utf-8") if path.is_file() else PREAMBLE
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if pattern.search(whole):
        whole = pattern.sub(lambda _: section, whole)
    else:
        whole = f"{whole.rstrip()}\n\n{section}\n"
    path.write_text(whole, encoding="utf-8")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned right."""
    lines = [headings, [":--", *["--:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread_text(values: dict[str, float], digits: int = 1) -> str:
    """A spread as text.

    >>> spread_text({"median": 2, "min": 1, "max": 3}, digits=0)
    '2 (1 to 3)'
    """
    middle, least, most = (f"{values[name]:,.{digits}f}" for name in ("median", "min", "max"))
    return middle if least == most else f"{middle} ({least} to {most})"
