"""50 users search a gallery of 20,000 persons for some seconds, and every one of them is answered."""

import argparse
import json

import pytest

from benchmarks.serving import run as serving


@pytest.mark.slow
def test_under_load_every_search_is_answered_and_queries_are_encoded_together(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "QUICK", (20_000, 5, 1))
    serving.main(argparse.Namespace(quick=True, output=tmp_path))
    results = json.loads((tmp_path / "results" / "serving.json").read_text())
    assert (results["users"], results["rows"]) == (50, 20_000)
    for way in ("together", "alone"):
        (run,) = results["runs"][way]
        assert set(run["answers"]) == {"200"}, run["answers"]
        assert run["answers"]["200"] >= results["users"]  # how many more depends on the machine
    assert results["runs"]["alone"][0]["mean_batch"] == 1
    assert results["runs"]["together"][0]["mean_batch"] > 2
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| batches of up to 32 queries |" in text and "| each query alone |" in text
