"""Medians of the construction benchmark, its section of RESULTS.md, and its figure."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import provenance, spread, spread_text, table


# Configurations compared within a repetition: (numerator, denominator).
RATIOS = (("local 2", "local 1"), ("ray 2", "ray 1"), ("ray 1", "local 1"), ("ray 2", "local 2"))
_Values = dict[str, Any]


def summary(part: str, runs: Sequence[_Values]) -> _Values:
    """The numbers of a part, from its runs.

    Args:
        part (`str`): `"workers"`, `"memory"` or `"captions"`.
        runs (`Sequence[dict]`): the fields of `Run`, one for each process.

    Returns:
        `dict`: of `"memory"` by engine the peaks of memory by number of images, and their ratio, largest to smallest
        number; of the others the speeds of each configuration, the ratios between configurations, and the speeds of
        blocks.
    """
    if part == "memory":
        return _memory_summary(runs)
    by_configuration: dict[str, list[_Values]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run["repetition"]):
        by_configuration[f"{run['engine']} {run['workers']}"].append(run)
    speeds = {
        name: [run["steady_rows"] / run["steady_seconds"] for run in of] for name, of in by_configuration.items()
    }
    return {
        "steady_rows_per_second": {name: spread(values) for name, values in speeds.items()},
        "whole_rows_per_second": {
            name: spread([run["rows"] / run["seconds"] for run in of]) for name, of in by_configuration.items()
        },
        "steady_ratios": {
            f"{more} / {than}": spread([a / b for a, b in zip(speeds[more], speeds[than], strict=True)])
            for more, than in RATIOS
            if more in speeds and than in speeds
        },
        "peak_mb": {name: spread([run["peak_mb"] for run in of]) for name, of in by_configuration.items()},
        "blocks": {name: _block_speeds(of) for name, of in by_configuration.items()},
    }


def _block_speeds(runs: Sequence[_Values]) -> _Values:
    """Rows of each block, milliseconds of a process for one row, and rows a second."""
    speeds = {}
    for name, first in runs[0]["blocks"].items():
        if first["rows"]:
            milliseconds = spread(
                [1000 * run["blocks"][name]["seconds"] / run["blocks"][name]["rows"] for run in runs]
            )
            speeds[name] = {
                "rows": first["rows"],
                "ms_per_row": milliseconds,
                "rows_per_second": round(1000 / max(milliseconds["median"], 1e-4), 1),
            }
    return speeds


def _memory_summary(runs: Sequence[_Values]) -> _Values:
    engines: dict[str, list[_Values]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run["images"]):
        engines[run["engine"]].append(run)
    kinds = ("peak_mb", "peak_unshared_mb")
    return {
        engine: {
            **{kind: {str(run["images"]): run[kind] for run in of} for kind in kinds},
            **{f"{kind}_ratio": round(of[-1][kind] / of[0][kind], 3) for kind in kinds},
        }
        for engine, of in engines.items()
    }


def report(results: _Values) -> str:
    """All parts as Markdown."""
    texts = {"workers": _workers_text, "memory": _memory_text, "captions": _captions_text}
    parts = [
        f"{text(results[part])}\n\n{provenance(results[part])}" for part, text in texts.items() if part in results
    ]
    return "## Construction of a data set of persons\n\n" + "\n\n".join(parts)


def draw_memory(engines: _Values, path: Path) -> None:
    """Plot peak memory over the number of images, a line an engine, from the summary of part `memory`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for engine, peaks in engines.items():
        for kind, style, label in (("peak_mb", "o-", "resident"), ("peak_unshared_mb", "o:", "unshared")):
            images = [int(number) for number in peaks[kind]]
            colour = "tab:blue" if engine == "local" else "tab:orange"
            axes.plot(images, list(peaks[kind].values()), style, color=colour, label=f"{engine}, {label}")
    axes.set(xlabel="images", ylabel="peak memory of all processes (MB)", ylim=(0, None), xlim=(0, None))
    axes.set_title("Peak memory of a build")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def _workers_text(part: _Values) -> str:
    numbers, sizes = part["summary"], part["sizes"]
    blocks: dict[str, None] = {}
    for of in numbers["blocks"].values():
        blocks |= dict.fromkeys(of)
    return "\n".join(
        [
            "### Speed",
            "",
            "Claim: a second worker speeds up the construction. "
            f"{sizes['workers']} frames of {'x'.join(map(str, part['frame_size']))} pixels with none, one or two "
            f"drawn persons, in shards of {sizes['shard']}; SSD-MobileNetV2, MoveNet, no captioners. Medians of "
            f"{sizes['repetitions']} runs (minimum to maximum), each a process of its own, all configurations in "
            "turn. Workers are processes of the local engine, or copies of each model under Ray, where the other "
            "blocks run beside them. Steady: without the start of processes and models.",
            "",
            _speed_table(numbers, "images/s"),
            "",
            "Images or persons a second of one process while it works on a block. Two workers reach twice that if "
            "each has a core of its own. What falls short: on two cores a second worker gains less than that, and "
            "under Ray, whose own processes need the cores as well, hardly anything.",
            "",
            table(
                ["block", "rows", *numbers["blocks"]],
                [
                    [
                        block,
                        f"{next(of[block]['rows'] for of in numbers['blocks'].values() if block in of):,}",
                        *(_rate(of, block) for of in numbers["blocks"].values()),
                    ]
                    for block in blocks
                ],
            ),
        ]
    )


def _captions_text(part: _Values) -> str:
    sizes = part["sizes"]
    return "\n".join(
        [
            "### Captions without a captioner",
            "",
            f"{sizes['captions']} persons, two captions each, from a server on the same machine that answers at once: "
            "drawing templates, requests, journal, checks and writing. Rows are persons.",
            "",
            _speed_table(part["summary"], "rows/s"),
        ]
    )


def _memory_text(part: _Values) -> str:
    engines = part["summary"]
    images = list(next(iter(engines.values()))["peak_mb"])
    rows = []
    for engine, peaks in engines.items():
        for kind, label in (("peak_mb", "resident"), ("peak_unshared_mb", "unshared")):
            values = [f"{value:,.0f}" for value in peaks[kind].values()]
            rows.append([engine, label, *values, f"{peaks[f'{kind}_ratio']:.2f}"])
    headings = ["engine", "MB", *(f"{int(number):,} images" for number in images), "last / first"]
    return "\n".join(
        [
            "### Memory",
            "",
            "Claim: peak memory does not grow with the number of images. Peak memory of all processes of a run, in "
            f"shards of {part['sizes']['memory_shard']} frames, {part['sizes']['processes'][-1]} workers; each frame "
            "counts as a person (`whole_image`) with a pose by MoveNet. Shared memory, such as libraries and Ray's "
            "object store, counts once for each process under resident and not at all under unshared.",
            "",
            table(headings, rows),
            "",
            "![Peak memory over the number of images](../docs/images/construction-memory.png)",
        ]
    )


def _speed_table(numbers: _Values, unit: str) -> str:
    rows = [
        [
            name,
            spread_text(steady),
            spread_text(numbers["whole_rows_per_second"][name]),
            f"{numbers['peak_mb'][name]['median']:,.0f}",
        ]
        for name, steady in numbers["steady_rows_per_second"].items()
    ]
    speeds = table(["engine and workers", f"{unit}, steady", f"{unit}, whole", "peak MB"], rows)
    ratios = ", ".join(f"{name}: {spread_text(ratio, 2)}" for name, ratio in numbers["steady_ratios"].items())
    return f"{speeds}\n\nRatios of steady speeds within a repetition: {ratios}." if ratios else speeds


def _rate(blocks: _Values, name: str) -> str:
    return f"{blocks[name]['rows_per_second']:,.0f}" if name in blocks else "-"
