"""The benchmark of starts finds every command, and help stays cheap."""

import argparse
import json

import pytest

from benchmarks.startup import run as startup
from benchmarks.startup.run import EMPTY, help_commands, measure, report, summary


def run(cpu_seconds: float, mb: float) -> dict[str, float]:
    return {"cpu_seconds": cpu_seconds, "mb": mb}


def test_commands_of_groups_are_found():
    commands = help_commands()
    assert commands[0] == () and ("search",) in commands and ("gallery", "add") in commands
    assert len(commands) == len(set(commands)) > 15


def test_memory_and_time_of_the_measured_process_alone_count():
    held = bytearray(300_000_000)
    empty, busy = measure("pass"), measure("data = bytearray(80_000_000); sum(range(4_000_000))")
    assert len(held) and 5 < empty["mb"] < 60
    assert 70 < busy["mb"] - empty["mb"] < 100
    assert busy["cpu_seconds"] > empty["cpu_seconds"] > 0


def test_a_program_that_fails_is_an_error():
    with pytest.raises(RuntimeError, match="no_such_module"):
        measure("import no_such_module")


def test_the_slowest_help_is_guarded_and_a_miss_is_reported():
    runs = {
        EMPTY: [run(0.02, 10.0), run(0.04, 10.0)],
        "gadms --help": [run(0.2, 30.0), run(0.1, 30.0)],
        "gadms search --help": [run(0.9, 160.0), run(0.8, 160.0)],
        "import dataset_scripts": [run(1.0, 200.0), run(1.0, 200.0)],
        "import modeling_gadms": [run(4.0, 400.0), run(4.0, 400.0)],
    }
    results = summary(runs)
    assert {name: ratio["value"] for name, ratio in results["guarded"].items()} == pytest.approx(
        {
            "help_cpu_over_empty": 40.0,
            "help_mb_over_empty": 16.0,
            "import_dataset_scripts_cpu_over_empty": 50.0,
            "import_modeling_gadms_cpu_over_empty": 200.0,
        }
    )
    text = report({"command": "c", "machine": {"cpu": "m", "cores": 2}, "repetitions": 2, **results})
    assert "missed by `gadms search --help` (0.85 s, 160 MB)." in text
    assert "| `gadms --help` | 0.15 (0.10 to 0.20) | 30 | 6.2 | 3.0 |" in text


@pytest.mark.slow
def test_every_help_is_cheap(tmp_path, monkeypatch):
    monkeypatch.setattr(startup, "QUICK", 1)
    startup.main(argparse.Namespace(quick=True, output=tmp_path))
    results = json.loads((tmp_path / "results" / "startup.json").read_text())
    helps = {name: values for name, values in results["programs"].items() if name.endswith("--help")}
    assert len(helps) == len(help_commands())
    assert all(values["mb"] <= 150 for values in helps.values())
    # A busy machine slows all programs alike.
    assert all(values["cpu_over_empty"] < 30 for values in helps.values())
    assert "<!-- startup: begin -->" in (tmp_path / "RESULTS.md").read_text()
