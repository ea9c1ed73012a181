"""What the benchmarks share: runs in turn, ratios within a run, peak memory, and the files of results."""

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any


ROOT = Path(__file__).parents[1]
PREAMBLE = """\
# Results of the benchmarks

Written by the scripts of this folder from the files in `results/`, a section each; run a script to renew its section.
"""


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most.

    >>> spread([3, 1, 2])
    {'median': 2, 'min': 1, 'max': 3}
    """
    return {"median": median(values), "min": min(values), "max": max(values)}


def in_turn(
    calls: dict[str, Callable[[], Any]], repetitions: int, *, rest: float = 0.02, warm_ups: int = 1
) -> dict[str, list[float]]:
    """Time several calls, one after the other within each repetition, so that a slow minute meets them all.

    Args:
        calls (`dict[str, Callable]`): what to time, by name.
        repetitions (`int`): how often, after those that are not counted.
        rest (`float`): seconds before each call: the threads of the one before wait actively for a while, and would
            take its cores.
        warm_ups (`int`): repetitions that are not counted.

    Returns:
        `dict[str, list[float]]`: seconds by name, one a repetition.
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
    """The most memory that this process has had resident, libraries and all. Linux alone tells."""
    # getrusage would also count the memory of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0]) * 1024


def machine(*libraries: str) -> dict[str, Any]:
    """What a measurement ran on: processor, cores, memory, and the versions of Python, torch and `libraries`."""
    name = re.findall(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return {
        "cpu": name[0] if name else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "python": platform.python_version(),
        **{library: version(library) for library in ("torch", *libraries)},
    }


def provenance(results: dict[str, Any]) -> str:
    """The sentence under a section: the command, the seed where there is one, and the machine."""
    where = results["machine"]
    libraries = ", ".join(
        f"{name} {value}" for name, value in where.items() if name not in ("cpu", "cores", "memory_gb")
    )
    seed = f" (seed {results['seed']})" if "seed" in results else ""
    return (
        f"`{results['command']}`{seed} on {where['cores']} cores of a shared {where['cpu']} with "
        f"{where['memory_gb']} GB, no GPU; {libraries}."
    )


def output_of(command: Sequence[str], *, threads: int = 2, timeout: float = 3600) -> dict[str, Any]:
    """Run a worker in a process of its own; what the last line of its output says, as JSON.

    Raises:
        RuntimeError: if it fails, with the end of what it said.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def save(name: str, results: dict[str, Any], section: str, folder: Path) -> None:
    """Write `results/<name>.json` and the section `name` of RESULTS.md under `folder`."""
    (folder / "results").mkdir(parents=True, exist_ok=True)
    content = json.dumps(results, indent=1) + "\n"
    (folder / "results" / f"{name.replace(' ', '_')}.json").write_text(content, encoding="utf-8")
    write_section(folder / "RESULTS.md", name, section)


def write_section(path: Path, name: str, text: str) -> None:
    """Write a section of the file of results in place of the one of that name, or at its end."""
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
