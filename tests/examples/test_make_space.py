"""A Space runs from its own folder, with copies of everything it needs, and is read-only."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
import yaml

from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord
from tests.waiting import PATIENCE_SECONDS


ROOT = Path(__file__).parents[2]


def make_space(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "examples" / "make_space.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)


@pytest.fixture
def gallery(tmp_path, tiny_model, processor, images) -> Path:
    from modeling_gadms.encoders.loading import load_model_and_processor

    tiny_model().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    gallery = PersonGallery.create(tmp_path / "gallery", *load_model_and_processor(tmp_path / "model"))
    gallery.add(PersonRecord(image, f"{number}.png", camera="gate-2") for number, image in enumerate(images))
    return tmp_path / "gallery"


@pytest.mark.slow
def test_a_space_answers_when_all_that_it_was_made_of_is_gone(tmp_path, gallery):
    space = tmp_path / "space"
    made = make_space("--gallery", gallery, "--out", space, "--title", "Persons of gate 2")
    assert made.returncode == 0, made.stderr
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    gallery.rename(tmp_path / "gone")
    published = b"".join(file.read_bytes() for file in space.rglob("*") if file.is_file())
    assert str(tmp_path).encode() not in published
    card = yaml.safe_load((space / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert (card["title"], card["sdk"], card["app_file"]) == ("Persons of gate 2", "gradio", "app.py")
    pins = dict(line.split("==") for line in (space / "requirements.txt").read_text().split())
    assert {"torch", "lancedb", "transformers"} <= set(pins)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port), "PYTHONDONTWRITEBYTECODE": "1"}
    log = tmp_path / "log"
    with open(log, "w") as output:
        server = subprocess.Popen([sys.executable, "app.py"], cwd=space, env=environment, stdout=output, stderr=output)
    try:
        page = read_page(f"http://127.0.0.1:{port}/config", server, log)
    finally:
        server.terminate()
        server.wait(300)
    tabs = [part["props"]["label"] for part in page["components"] if part["type"] == "tabitem"]
    assert tabs == ["Search", "Gallery"]


def read_page(address: str, server: subprocess.Popen, log: Path) -> dict:
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        try:
            return requests.get(address, timeout=PATIENCE_SECONDS).json()
        except requests.ConnectionError:
            time.sleep(0.5)
    raise AssertionError(log.read_text())


def test_nothing_is_overwritten(tmp_path, gallery):
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "mine.txt").touch()
    made = make_space("--gallery", gallery, "--out", tmp_path / "space")
    assert made.returncode != 0 and "space already exists" in made.stderr
    assert [file.name for file in (tmp_path / "space").iterdir()] == ["mine.txt"]
