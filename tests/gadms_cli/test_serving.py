"""The command `gadms serve`: starting, answering, and stopping during indexing."""

import signal
import subprocess
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import requests
from PIL import Image

from gadms_cli import serving
from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord
from tests.command_line import refusal, run
from tests.serving_process import running_server
from tests.waiting import PATIENCE_SECONDS, wait_for


pytestmark = pytest.mark.slow


TOKEN = "a token of this test"


@pytest.fixture
def gallery(tmp_path, model, processor):
    made = PersonGallery.create(tmp_path / "gallery", model, processor)
    made.add(PersonRecord(Image.new("RGB", (16, 32), colour), f"{colour}.png") for colour in ("red", "green"))
    return tmp_path / "gallery"


@pytest.fixture
def server(gallery, tmp_path) -> Iterator[tuple[subprocess.Popen, str]]:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with running_server(gallery, "--token-file", str(tmp_path / "token")) as server:
        yield server


def test_it_answers_and_ends_in_peace(server):
    process, address = server
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = requests.post(
        f"{address}/search", json={"text": "a person in red"}, headers=headers, timeout=PATIENCE_SECONDS
    )
    assert sorted(row["source"] for row in answer.json()["results"]) == ["green.png", "red.png"]
    assert "server" not in answer.headers
    assert requests.post(f"{address}/search", json={"text": "a"}, timeout=PATIENCE_SECONDS).status_code == 401
    process.send_signal(signal.SIGTERM)
    assert process.wait(300) in (0, -signal.SIGTERM)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_job_goes_on_when_the_server_is_started_again(gallery, tmp_path, end):
    path = tmp_path / "v.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(1_500):
        writer.write(np.full((48, 64, 3), number % 255, dtype=np.uint8))
    writer.release()
    with running_server(gallery) as (process, address):
        assert "used by another server" in refusal("serve", "--gallery", gallery)
        options = {"name": "v.avi", "detect": False, "camera": "gate"}
        answer = requests.post(
            f"{address}/index", params=options, data=path.read_bytes(), timeout=PATIENCE_SECONDS
        ).json()

        def job(address: str) -> dict:
            return requests.get(f"{address}/index/{answer['id']}", timeout=PATIENCE_SECONDS).json()

        wait_for(lambda: (job(address)["progress"] or {}).get("seen", 0))
        process.send_signal(end)
        process.wait(300)
    kept = PersonGallery.open(gallery).info().cameras.get("gate", 0)
    assert kept < 1_500
    assert kept > 0 or end == signal.SIGKILL  # stopped in peace, it adds the persons that it has found
    with running_server(gallery) as (process, address):
        wait_for(lambda: job(address)["state"] == "done", told=lambda: job(address))
        report = job(address)["report"]
        assert (report["found"], report["already_there"]) == (1_500, kept)
    assert PersonGallery.open(gallery).info().cameras["gate"] == 1_500


def test_others_than_loopback_need_a_token(gallery, monkeypatch, tmp_path):
    monkeypatch.delenv("GADMS_TOKEN", raising=False)
    for host in ("0.0.0.0", "::", "192.168.1.4", "example.org", "127.0.0.1.example.org"):
        assert "give a token with --token-file or GADMS_TOKEN" in refusal(
            "serve", "--gallery", gallery, "--host", host
        )
    (tmp_path / "empty").touch()
    message = refusal("serve", "--gallery", gallery, "--token-file", tmp_path / "empty")
    assert "is empty" in message
    for token, said in ((" \n", "GADMS_TOKEN is empty"), ("a\nb", "GADMS_TOKEN contains a line break")):
        monkeypatch.setenv("GADMS_TOKEN", token)
        assert said in refusal("serve", "--gallery", gallery)
    assert "no such file" in refusal("serve", "--gallery", gallery, "--token-file", tmp_path / "nowhere").lower()


def test_the_line_end_of_the_variable_is_no_part_of_the_token(monkeypatch):
    monkeypatch.setenv("GADMS_TOKEN", f"{TOKEN}\n")
    assert serving._token(None) == TOKEN


def test_it_needs_a_gallery_and_shows_a_line_to_type(tmp_path):
    assert "There is no gallery in" in refusal("serve", "--gallery", tmp_path / "nowhere")
    assert "gadms serve --gallery my_gallery" in run("serve", "--help").stdout
