"""CPU time and peak memory of starting the command and importing the packages, over `python -c pass`.

    python -m benchmarks.startup.run            # a minute on two cores
    python -m benchmarks.startup.run --quick    # two runs each instead of five

Measures `gadms --help`, the help of every command, and the import of both packages, each in a process of its own, all
in turn within each repetition. CPU seconds are those of all threads from the start of the process, so other programs
on the machine hardly change them. Writes results/startup.json and a section of RESULTS.md.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from statistics import median
from typing import Any

import typer

from benchmarks.measuring import ROOT, command_of, machine, parser, provenance, ratio, save, spread, spread_text, table
from gadms_cli.app import app


HELP_CPU_SECONDS, HELP_MB = 0.5, 150
"""Targets of `gadms --help` and of the help of each command."""
EMPTY = "python -c pass"
IMPORTS = ("dataset_scripts", "modeling_gadms")
# At the end of the process: its CPU seconds and its peak resident memory in kB.
PROBE = """
import atexit, sys, time
def report():
    peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(f"[{time.process_time()}, {peak}]", file=sys.stderr)
atexit.register(report)
"""
Results = dict[str, Any]
# Runs of each program.
FULL, QUICK = 5, 2


def help_commands() -> list[tuple[str, ...]]:
    """Arguments of every command and group of `gadms`, the empty ones first.

    >>> [command for command in help_commands() if command[:1] == ("publish",)]
    [('publish',), ('publish', 'model'), ('publish', 'dataset')]
    """

    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield path
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, (*path, name))

    return list(walk(typer.main.get_command(app), ()))


def programs() -> dict[str, str]:
    """Python code by the name that the report shows."""
    run = "from gadms_cli.app import main; sys.argv = {arguments!r}; main()"
    codes = {EMPTY: "pass"}
    for command in help_commands():
        arguments = ["gadms", *command, "--help"]
        codes[" ".join(arguments)] = run.format(arguments=arguments)
    return codes | {f"import {name}": f"import {name}" for name in IMPORTS}


def measure(code: str) -> dict[str, float]:
    """CPU seconds and peak MB of a process that runs a line of Python.

    Raises:
        RuntimeError: if it fails.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROBE + code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"{code!r} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    seconds, kilobytes = json.loads(done.stderr.splitlines()[-1])
    return {"cpu_seconds": seconds, "mb": kilobytes / 1000}


def summary(runs: dict[str, list[dict[str, float]]]) -> Results:
    """Medians of each program, and the ratios to guard: of the slowest help and of the imports to an empty program.

    Guarded ratios are of the minimum CPU seconds, which other programs on the machine disturb least.
    """
    cpu, memory = ({name: [run[key] for run in of] for name, of in runs.items()} for key in ("cpu_seconds", "mb"))
    measured = {
        name: {
            "cpu_seconds": spread(cpu[name]),
            "mb": median(memory[name]),
            "cpu_over_empty": ratio(cpu[name], over=cpu[EMPTY])["median"],
            "mb_over_empty": ratio(memory[name], over=memory[EMPTY])["median"],
        }
        for name in runs
    }
    helps = [name for name in runs if name.endswith("--help")]
    values = {
        "help_cpu_over_empty": max(min(cpu[name]) for name in helps) / min(cpu[EMPTY]),
        "help_mb_over_empty": max(measured[name]["mb_over_empty"] for name in helps),
    }
    for name in IMPORTS:
        values[f"import_{name}_cpu_over_empty"] = min(cpu[f"import {name}"]) / min(cpu[EMPTY])
    return {
        "guarded": {name: {"value": value, "better": "lower"} for name, value in values.items()},
        "programs": measured,
    }


def report(results: Results) -> str:
    """The section of RESULTS.md."""
    measured = results["programs"]
    rows = [
        [
            f"`{name}`",
            spread_text(values["cpu_seconds"], 2),
            f"{values['mb']:,.0f}",
            f"{values['cpu_over_empty']:.1f}",
            f"{values['mb_over_empty']:.1f}",
        ]
        for name, values in measured.items()
    ]
    helps = {name: values for name, values in measured.items() if name.endswith("--help")}
    missed = [
        f"`{name}` ({values['cpu_seconds']['median']:.2f} s, {values['mb']:,.0f} MB)"
        for name, values in helps.items()
        if values["cpu_seconds"]["median"] > HELP_CPU_SECONDS or values["mb"] > HELP_MB
    ]
    verdict = f"missed by {', '.join(missed)}" if missed else f"met by all {len(helps)}"
    return "\n\n".join(
        [
            "## Start of the command",
            "Claim: the command answers `--help` at once, because it loads torch only where a model is needed. CPU "
            f"seconds and peak resident memory of a process of its own, medians (minimum to maximum) of "
            f"{results['repetitions']} runs, all programs in turn; ratios within a repetition.",
            table(["program", "CPU s", "peak MB", "CPU over empty", "memory over empty"], rows),
            f"Target of each `--help`, at most {HELP_CPU_SECONDS} CPU seconds and {HELP_MB} MB: {verdict}.",
            "What falls short: a cold disk is not measured; the first start after an installation reads the files and "
            "takes longer.",
            provenance(results),
        ]
    )


def main(arguments: argparse.Namespace) -> None:
    repetitions = QUICK if arguments.quick else FULL
    codes = programs()
    for code in codes.values():  # compiles the modules, and brings their files into memory
        measure(code)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in codes}
    for _ in range(repetitions):
        for name, code in codes.items():
            runs[name].append(measure(code))
    results = {
        "command": command_of("startup", *["--quick"] * arguments.quick),
        "machine": machine("typer"),
        "repetitions": repetitions,
        **summary(runs),
    }
    save("startup", results, report, arguments.output)


if __name__ == "__main__":
    main(parser(__doc__, quick="two runs each").parse_args())
