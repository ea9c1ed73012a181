"""Draw a synthetic data set with two processes, from a process of its own.

`datasets` forks its processes, and a fork of a test process with the threads of other tests can hang.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets

from dataset_scripts.loading import load_splits
from tests.waiting import PATIENCE_SECONDS


ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, sys
from dataset_scripts.loading import load_splits
name, arguments = sys.argv[1:]
load_splits(name, num_proc=2, **json.loads(arguments))
"""


def load_with_two_processes(name: str, cache_dir: Path, **fields: Any) -> datasets.DatasetDict:
    """The splits of a synthetic data set as they were written into an empty cache."""
    arguments = {"cache_dir": str(cache_dir), **fields}
    subprocess.run(
        [sys.executable, "-c", PROGRAM, name, json.dumps(arguments)], check=True, timeout=PATIENCE_SECONDS, cwd=ROOT
    )
    splits = load_splits(name, **arguments)
    assert len(splits["train"].cache_files) == 2, "each process writes a file"
    return splits
