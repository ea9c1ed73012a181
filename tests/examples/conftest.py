"""The example programs, run as a user runs them but in this process."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def run_program(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """A function that runs a program with arguments; gives its exit code, and what it wrote to stdout and stderr."""

    def call(program: str | Path, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(program), *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(program), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        output = capsys.readouterr()
        return code, output.out, output.err

    return call
