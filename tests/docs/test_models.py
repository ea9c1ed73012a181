"""The tables of docs/guides/models.md and of the default model: each cell is run on a tiny model of its family."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from modeling_gadms.encoders.default_model import DEFAULT_MODEL, WHY_DEFAULT
from modeling_gadms.encoders.encoding import encode_captions, encode_images
from modeling_gadms.encoders.families import FAMILIES
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.training.model_setup import build_model_and_processor
from modeling_gadms.training.run_config import ModelArguments
from tests.command_line import run
from tests.docs.pages import ROOT
from tests.dual_encoders import save_dual_encoder


PAGE = ROOT / "docs" / "guides" / "models.md"
SEARCH = ROOT / "docs" / "guides" / "search.md"
COLOURS = ("red", "green", "blue")
CAPTION = "A lady in purple shoes"


def table(page: Path, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, its head first."""
    below = page.read_text(encoding="utf-8").partition(f"\n{heading}\n")[2]
    lines = below[below.index("\n|") + 1 :].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]


HEAD, *ROWS = table(PAGE, "## What works with which family")
MATRIX = [(row[0], what, cell) for row in ROWS for what, cell in zip(HEAD[1:], row[1:], strict=True)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a tiny model of a family, beside three persons as files and as a data set."""
    place = tmp_path_factory.mktemp("families")
    (place / "persons").mkdir()
    persons = [Image.linear_gradient("L").resize((20, 50)).convert("RGB") for _ in COLOURS]
    for person, colour in zip(persons, COLOURS, strict=True):
        person.paste(colour, (5, 10, 15, 40))
        person.save(place / "persons" / f"{colour}.png")
    rows = {"image": persons, "caption": [f"a person in a {colour} coat" for colour in COLOURS]}
    data = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    datasets.DatasetDict(test=data).save_to_disk(place / "data")

    def folder(family: str) -> Path:
        path = place / family.replace(" ", "-")
        return path if path.is_dir() else save_dual_encoder(family, path)

    return folder


def run_cell(what: str, model: Path, out: Path, main: Callable[..., None]) -> None:
    """Run what a cell stands for, as a user does."""
    person = model.parent / "persons" / "red.png"
    explain = ("explain", person, CAPTION, "--model", model, "--out", out / "words.png")
    if what == "search":
        works(run("index", "--source", person.parent, "--gallery", out / "g", "--model", model))
        found = works(run("search", CAPTION, "--gallery", out / "g", "--json", "--out", out / "r.png"))
        scores = {Path(row["source"]).stem: row["score"] for row in json.loads(found)}
        assert scores == pytest.approx(similarities(*load_model_and_processor(model), person.parent), abs=1e-5)
    elif what == "words":
        lines = [line for line in works(run(*explain)).splitlines() if line[:1].isdigit()]
        scores, words = [float(line[:5]) for line in lines], [line[29:] for line in lines]
        assert 0 <= min(scores) < max(scores) == 1 and (out / "words.png").is_file()
        assert "".join(words).lower() == CAPTION.lower().replace(" ", "")
    elif what == "heat map":
        works(run(*explain, "--heat-map", out / "heat.png"))
        assert (out / "heat.png").is_file()
    elif what == "evaluate":
        main("--model", model, "--dataset", model.parent / "data", "--captions", "caption", "--output", out / "m.json")
        assert json.loads((out / "m.json").read_text())["text_to_image"]["r5"] == 100
    elif what == "train":
        train_one_step(model, person)
    elif what == "ONNX":
        works(run("export", model, out / "onnx", "--format", "onnx", "--int8"))
        in_torch = similarities(*load_model_and_processor(model), person.parent)
        for runtime, difference in (("onnx", 1e-4), ("onnx-int8", 0.1)):
            in_onnx = similarities(*load_model_and_processor(out / "onnx", runtime=runtime), person.parent)
            assert in_onnx == pytest.approx(in_torch, abs=difference)
    elif what == "convert":
        works(run("convert", model, out / "converted", "--image-size", "32x16"))
        load_model_and_processor(out / "converted")
    else:
        raise AssertionError(f"the page has a column {what!r} that no test runs")


def works(result: Any) -> str:
    if result.exit_code:
        raise ValueError(result.stderr)
    return str(result.stdout)


def similarities(model: Any, processor: Any, persons: Path) -> dict[str, float]:
    images = [Image.open(persons / f"{colour}.png") for colour in COLOURS]
    text = encode_captions(model, processor, [CAPTION], progress=False)[0]
    return dict(zip(COLOURS, (encode_images(model, processor, images, progress=False) @ text).tolist(), strict=True))


def train_one_step(folder: Path, person: Path) -> None:
    """Make the model that examples/train.py would train of it, and compute its gradients."""
    is_own = json.loads((folder / "config.json").read_text())["model_type"] == "gadms"
    fields = {"fusion_num_attention_heads": 2, "fusion_num_hidden_layers": 1, "score_layers": 1}
    arguments = (
        ModelArguments(from_pretrained=str(folder), config=fields)
        if is_own
        else ModelArguments(from_dual_encoder=str(folder), image_size=(32, 16), config=fields)
    )
    model, processor = build_model_and_processor(arguments, [])
    inputs = processor(images=[Image.open(person)] * 2, text=[CAPTION, "a woman with a bag"])
    model.train()(**inputs, return_loss=True).loss.backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "position" in name)


def test_the_page_has_every_family_and_no_other():
    assert [row[0] for row in ROWS] == [family.name for family in FAMILIES]
    assert {cell for _, _, cell in MATRIX} == {"yes", "no"}


@pytest.mark.parametrize(("family", "what", "cell"), MATRIX, ids=lambda value: value)
def test_a_cell_is_true(folders, tmp_path, family, what, cell, monkeypatch, capsys):
    def evaluate(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
        try:
            runpy.run_path(str(ROOT / "examples" / "evaluate.py"), run_name="__main__")
        except SystemExit as stop:
            raise ValueError(capsys.readouterr().err) from stop

    folder = folders(family)
    if cell == "yes":
        run_cell(what, folder, tmp_path, evaluate)
        return
    with pytest.raises(ValueError) as error:
        run_cell(what, folder, tmp_path, evaluate)
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    assert family in str(error.value) or kind in str(error.value), error.value


def test_how_captions_and_images_are_prepared():
    padded = {"longest": "to the longest", "max_length": "to 64 tokens"}
    places = {"eos": "EOS", "first": "the first token", "last": "the last position", "mean": "the mean of all tokens"}
    _, *rows = table(PAGE, "## How captions and images are prepared")
    assert rows == [
        [family.name, padded[family.padding], places[family.pooling], ", ".join(family.image_fits)]
        for family in FAMILIES
    ]
    assert {family.max_length for family in FAMILIES if family.padding == "max_length"} == {64}


def millions(model_class: Any, config: Any) -> int:
    with torch.device("meta"):
        return round(sum(parameter.numel() for parameter in model_class(config).parameters()) / 1e6)


def test_the_sizes_in_the_comparison_for_the_default_are_those_of_the_configurations():
    counted = {
        f"**`{DEFAULT_MODEL}`**": millions(SiglipModel, SiglipConfig(text_config={"vocab_size": 256_000})),
        "`google/siglip-base-patch16-256-multilingual`": millions(
            SiglipModel, SiglipConfig(text_config={"vocab_size": 250_000}, vision_config={"image_size": 256})
        ),
        "`google/siglip-base-patch16-224`": millions(SiglipModel, SiglipConfig()),
        "`openai/clip-vit-base-patch32`, `-patch16`": millions(CLIPModel, CLIPConfig()),
    }
    sizes = {row[0]: row[2] for row in table(SEARCH, "### The default model")}
    assert {name: int(sizes[name].split()[0]) for name in counted} == counted
    assert f"{counted[f'**`{DEFAULT_MODEL}`**']} M parameters" in WHY_DEFAULT
    assert millions(CLIPModel, CLIPConfig(vision_config={"patch_size": 16})) == 150
