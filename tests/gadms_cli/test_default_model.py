"""Without `--model`, a new gallery takes the default model from the Hub, and everything later that of the gallery."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from modeling_gadms.encoders import default_model
from modeling_gadms.encoders.default_model import DEFAULT_MODEL
from tests.command_line import refusal, run
from tests.dual_encoders import save_dual_encoder
from tests.hub_server import HubServer
from tests.vtest import vtest_video


GADMS = "tests.gadms_cli.gadms_in_client.gadms"


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def errors(answer: dict) -> list[str]:
    return [line for line in answer["stderr"].splitlines() if line.startswith("Error: ")]


@pytest.mark.slow
def test_a_video_is_indexed_and_searched_with_the_model_of_the_hub(hub, client, tmp_path):
    video, gallery = vtest_video(), tmp_path / "g"
    index = ["index", "--source", video, "--gallery", gallery, "--every", 250]  # four frames
    refused = client.ask(GADMS, *index)
    assert refused["exit_code"] == 2 and len(errors(refused)) == 1
    assert f"{DEFAULT_MODEL}" in errors(refused)[0] and "hf download" in errors(refused)[0]
    assert not gallery.exists()

    folder = save_dual_encoder("SigLIP 2", tmp_path / "model")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    commit = hub.commit(DEFAULT_MODEL, files, repo_type="model")
    indexed = client.ask(GADMS, *index)
    assert indexed["exit_code"] == 0, indexed["stderr"]
    assert f"Model: {DEFAULT_MODEL}, because it understands many languages" in indexed["stderr"]
    assert "persons from 4 of 4 images" in indexed["stdout"]

    out = ["--out", tmp_path / "result.png"]
    found = [
        client.ask(GADMS, "search", "--gallery", gallery, text, "--json", *out)
        for text in ("a woman in a red coat", "eine Frau in einem roten Mantel")
    ]
    scores = [[row["score"] for row in json.loads(answer["stdout"])] for answer in found]
    assert len(scores[0]) >= 3 and scores[0] == sorted(scores[0], reverse=True) and scores[0] != scores[1]
    assert not any("Warning" in answer["stderr"] for answer in found)

    # Where examples/evaluate.py finds the weights that it measures.
    cached = Path(client.ask("modeling_gadms.evaluation.reports._folder_of", DEFAULT_MODEL))
    assert (cached / "model.safetensors").read_bytes() == files["model.safetensors"]

    more = client.ask(GADMS, "gallery", "add", gallery, "--source", video, "--every", 400)
    again = client.ask(GADMS, *index, "--overwrite")
    assert more["exit_code"] == again["exit_code"] == 0
    assert f"Model: {DEFAULT_MODEL}, which built the gallery" in again["stderr"]
    model = json.loads(client.ask(GADMS, "gallery", "info", gallery, "--json")["stdout"])["model"]
    assert (model["name"], model["family"], model["revision"]) == (DEFAULT_MODEL, "SigLIP 2", commit)


def test_without_the_hub_one_line_says_what_to_do(tmp_path, person_folder):
    command = ["index", "--source", person_folder, "--gallery", tmp_path / "g"]
    error = refusal(*command)
    for advice in ("--model FOLDER", f"hf download {DEFAULT_MODEL} --local-dir FOLDER", "HF_ENDPOINT"):
        assert advice in error
    assert not (tmp_path / "g").exists()
    assert "give its folder as the model (--model)" in refusal(*command, "--runtime", "onnx")


def test_the_model_and_runtime_of_a_gallery_that_is_replaced_are_taken_again(tmp_path, person_folder, model_folder):
    command = ["index", "--source", person_folder, "--gallery", tmp_path / "g"]
    assert run(*command, "--model", model_folder).exit_code == 3  # some of the images cannot be read
    replaced = run(*command, "--overwrite")
    assert replaced.exit_code == 3 and f"Model: {model_folder}, which built the gallery" in replaced.stderr
    assert "already a gallery of 12 persons" in refusal(*command)


def test_a_folder_with_the_name_of_the_default_is_taken(tmp_path, monkeypatch, person_folder):
    monkeypatch.chdir(tmp_path)
    save_dual_encoder("SigLIP 2", tmp_path / DEFAULT_MODEL)
    explained = run("explain", person_folder / "person00.png", "a man in a red coat", "--out", "explain.png")
    assert explained.exit_code == 0, explained.output
    model, _ = default_model.load_model_or_default()
    assert model.config.model_type == "siglip"
