"""The search examples run with the commands in their headers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.vtest import vtest_video
from tests.waiting import PATIENCE_SECONDS


ROOT = Path(__file__).parents[2]


def example(name: str, *arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


@pytest.fixture
def model_folder(tmp_path, tiny_model, processor) -> Path:
    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_search_indexes_a_folder_and_then_answers_from_the_gallery(tmp_path, model_folder):
    persons = tmp_path / "persons"
    persons.mkdir()
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (20, 50), colour).save(persons / f"{colour}.png")
    first = example("search.py", "--model", model_folder, "--source", persons, "a red coat", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("3 persons from 3 of 3 images")
    assert (tmp_path / "runs/search/result.png").is_file()
    second = example("search.py", "--model", model_folder, "a red coat", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert second.stdout == "".join(first.stdout.splitlines(keepends=True)[1:]).replace(
        "result.png", "result.png (replaces an earlier figure)"
    )


def test_fetching_the_video_without_apt_says_what_to_do(tmp_path):
    result = example("fetch_vtest.py", cwd=tmp_path, PATH="")
    assert result.returncode == 1
    assert "use --video" in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_demo_video_finds_persons_in_a_real_video_and_draws_every_answer(tmp_path, model_folder):
    video = vtest_video()
    result = example("demo_video.py", "--model", model_folder, "--video", video, "--per-second", 0.04, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    persons, _, frames = result.stdout.splitlines()[0].partition(" persons from ")
    assert int(persons) >= 12  # three to seven in each of the four frames
    assert frames == "4 of 4 images"
    for description in ("a_person_in_a_red_jacket", "a_person_in_a_black_coat", "a_person_in_a_blue_jacket_and_jeans"):
        assert Image.open(tmp_path / "runs/demo-video" / f"{description}.png").height > 300
