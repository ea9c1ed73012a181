"""50 users search a gallery of 100,000 persons for ten seconds, and every one of them is answered."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_SECONDS


ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_under_load_every_search_is_answered_and_queries_are_encoded_together(tmp_path):
    command = [sys.executable, "-m", "benchmarks.serving.run", "--quick", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results" / "serving.json").read_text())
    assert (results["users"], results["rows"]) == (50, 100_000)
    for way in ("together", "alone"):
        (run,) = results["runs"][way]
        assert set(run["answers"]) == {"200"}, run["answers"]
        assert run["answers"]["200"] >= results["users"]  # how many more depends on the machine
    assert results["runs"]["alone"][0]["mean_batch"] == 1
    assert results["runs"]["together"][0]["mean_batch"] > 2
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| batches of up to 32 queries |" in text and "| each query alone |" in text
