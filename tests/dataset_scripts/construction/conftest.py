"""The environment of img2dataset, which some tests of the construction pipeline run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def fetch_python() -> str:
    """Python of the environment of img2dataset; made as `make fetch-env` does where there is none."""
    named = os.environ.get("GADMS_FETCH_PYTHON")
    if named:
        return named
    folder = ROOT / ".venv-fetch"
    python = folder / "bin" / "python"
    # Looked for and not imported: at its import, a library of img2dataset asks the network for its newest version.
    looks = "import importlib.util, sys; sys.exit(importlib.util.find_spec('img2dataset') is None)"
    has_img2dataset = [str(python), "-I", "-c", looks]
    if not python.is_file() or subprocess.run(has_img2dataset, capture_output=True).returncode:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = ["-m", "pip", "install", "--quiet", "--requirement", str(ROOT / "constraints-fetch.txt")]
        subprocess.run([str(python), *install], check=True)
    return str(python)
