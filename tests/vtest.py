"""The pedestrian video of Debian, which tests fetch once."""

import subprocess
import sys
from pathlib import Path

from tests.waiting import PATIENCE_SECONDS


ROOT = Path(__file__).parents[1]


def vtest_video() -> Path:
    """Where `vtest.avi` is, fetched as users fetch it."""
    fetched = subprocess.run(
        [sys.executable, "examples/fetch_vtest.py"], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert fetched.returncode == 0, f"vtest.avi could not be fetched: {fetched.stderr.strip()}"
    return ROOT / fetched.stdout.strip()
