"""Programs in an interpreter that does not find this package: what a user of a saved folder has."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.waiting import PATIENCE_SECONDS


ABSENT_PACKAGE = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("modeling_gadms", "dataset_scripts"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
try:
    import modeling_gadms
except ModuleNotFoundError:
    pass
else:
    sys.exit("the package is importable: this test would prove nothing")
"""


def run_without_package(tmp_path: Path, program: str, **constants: Any) -> None:
    """Run a program elsewhere, without network, the package or anybody to answer a question.

    Args:
        tmp_path (`Path`): for its home and its working directory.
        program (`str`): its code; it fails by raising or by `sys.exit`.
        constants: what the program finds under these names; paths as text.
    """
    home = tmp_path / "home"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    values = {name: str(value) if isinstance(value, Path) else value for name, value in constants.items()}
    assignments = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    finished = subprocess.run(
        [sys.executable, "-I", "-c", ABSENT_PACKAGE + assignments + program],
        cwd=elsewhere,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env={
            "PATH": os.environ.get("PATH", ""),
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "1",
            "HOME": str(home),
            "OMP_NUM_THREADS": "1",
        },
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
