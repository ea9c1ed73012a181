"""The card and the pipeline report of a run: complete, loadable, and without anything about its machine."""

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from row_tables import GOOD, ScriptedChat, answer_with, build_config, write_persons

from dataset_scripts.construction.captions import templates as shipped
from dataset_scripts.construction.captions.caption import CaptionSettings
from dataset_scripts.construction.captions.chat.types import ChatProblem, ChatReply, ChatSettings
from dataset_scripts.construction.persons.crop import CropSettings
from dataset_scripts.construction.persons.detectors import DetectorSettings
from dataset_scripts.construction.pipeline_report import BlockCounts, format_report
from dataset_scripts.construction.run.card import CardFacts, write_card, write_report
from dataset_scripts.construction.run.config import BuildConfig
from dataset_scripts.construction.run.pipeline import build_webperson
from dataset_scripts.publishing.dataset_card import DatasetCardSettings
from tests.hub_cards import check_card


KEY = "sk-very-secret"
PERSONS = 6


@dataclasses.dataclass(frozen=True)
class Run:
    config: BuildConfig
    counts: tuple[BlockCounts, ...]
    home: Path

    @property
    def root(self) -> Path:
        return self.config.root


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Iterator[Run]:
    """Six persons in two shards, one of whom nobody would describe; every setting that names a place names one."""
    home = tmp_path_factory.mktemp("home_of_somebody")
    source = write_persons(home / "pictures", PERSONS)
    templates = home / "my_templates.json"
    shutil.copy(Path(shipped.__file__).with_name("templates_en.json"), templates)
    chat = ChatSettings(
        "openai", str(home / "qwen"), "r1", base_url="http://vlm.internal:8000/v1", api_key_env="NAME_OF_A_KEY"
    )
    config = build_config(
        home / "street",
        source,
        detector=DetectorSettings("row_tables:OnePerson", options={"token": KEY, "path": str(home)}),
        captions=CaptionSettings(templates=str(templates)),
    )
    config = dataclasses.replace(config, captioners={"caption1": chat, "caption2": chat})

    def answer(request, number):
        return ChatReply(None, ChatProblem.REFUSED, "status 400") if number in (0, 4) else GOOD

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("NAME_OF_A_KEY", KEY)
        chat_model = answer_with(monkeypatch, ScriptedChat(answer))
        chat_model.name = chat.model
        report = build_webperson(config, progress=False)
    assert report.persons == PERSONS - 1, format_report(report.counts)
    yield Run(config, report.counts, home)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def card_of(run: Run) -> tuple[dict, str]:
    head, text = (run.root / "README.md").read_text(encoding="utf-8").removeprefix("---\n").split("\n---\n", 1)
    return yaml.safe_load(head), text


def written_card(run: Run, tmp_path: Path, opt_out: str | None = None, **sections) -> str:
    """The card of the same data, with sections of the configuration replaced."""
    shutil.copytree(run.root / "data", tmp_path / "other" / "data")
    settings = dataclasses.replace(run.config.run, output=str(tmp_path / "other"), opt_out=opt_out)
    config = dataclasses.replace(run.config, run=settings, **sections)
    write_card(config.root, CardFacts.of(config), [])
    return (tmp_path / "other" / "README.md").read_text(encoding="utf-8")


def test_the_cards_header_is_what_the_hub_reads(run):
    header, _ = card_of(run)
    assert header["license"] == "other" and header["language"] == ["en"] and header["pretty_name"] == "WebPerson"
    assert header["size_categories"] == ["n<1K"]
    assert header["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}
    ]
    (split,) = header["dataset_info"]["splits"]
    assert (split["name"], split["num_examples"]) == ("train", PERSONS - 1)


def test_the_card_states_how_many_there_are_and_how_to_load_them(run):
    _, text = card_of(run)
    assert "5 images of persons with 10 captions" in text and 'load_dataset("street", split="train")' in text
    assert re.search(r"\| train \| 5 \| 10 \| unknown \| [\d.]+ kB \| 2 \|", text)


def test_the_card_explains_every_published_column(run):
    _, text = card_of(run)
    table = text[text.index("## Columns") : text.index("## Splits")]
    explained = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", table, re.MULTILINE))
    assert list(explained) == pq.read_schema(run.root / "data" / "train-00000-of-00002.parquet").names
    assert explained["caption2"] == "a caption by qwen (revision r1)"
    assert "as in the source" not in explained.values()


def test_the_card_holds_the_report_and_settings_that_can_be_read_again(run):
    _, text = card_of(run)
    assert format_report(run.counts) in text and "](report.png)" in text
    settings = yaml.safe_load(text[text.index("```yaml\n") + 8 :].partition("```")[0])
    assert settings["criteria"]["min_confidence"] == 0.85 and settings["captions"]["templates"] == "my_templates.json"
    assert settings["detector"]["options"] == ["path", "token"]
    assert settings["sources"] == {"street": "folder"}


def test_nothing_in_the_card_is_left_unfilled(run):
    _, text = card_of(run)
    assert not re.search(r"\{\{|\{%|None", text) and "\n\n\n" not in text and text.endswith(".\n")


def test_statements_on_licence_contact_faces_and_opt_outs_are_in_the_card(run, tmp_path):
    card = DatasetCardSettings(
        "cc-by-4.0", "Street: people", "Taken in 2024.", "Ask the museum.", "privacy@example.org", "de"
    )
    text = written_card(run, tmp_path, card=card, crop=CropSettings(blur_faces=True), opt_out="list.txt")
    header = yaml.safe_load(text.split("---")[1])
    assert header["pretty_name"] == "Street: people" and header["language"] == ["de"]
    assert "license: cc-by-4.0" in text and "`cc-by-4.0`. Ask the museum." in text and "Taken in 2024. Made by" in text
    assert "removal (to privacy@example.org)" in text
    assert "faces that the pose estimator found\nare blurred" in text and "(a list was applied)" in text
    assert "list.txt" not in text


def test_defaults_of_the_card_say_whose_the_images_are(run):
    _, text = card_of(run)
    assert "`other`. Images belong to their owners." in text and "no list was given for this build" in text


def test_one_caption_column_is_one_caption_per_image(run, tmp_path):
    captioners = {"caption1": ChatSettings("openai", "org/model", "abc", base_url="http://h/v1")}
    text = written_card(run, tmp_path, captioners=captioners)
    assert "5 images of persons with 5 captions" in text
    assert "| `caption1` | a caption by org/model (revision abc) |" in text


def test_the_report_is_numbers_and_a_figure(run):
    counts = [BlockCounts(**block) for block in json.loads((run.root / "report.json").read_text())]
    assert tuple(counts) == run.counts
    with Image.open(run.root / "report.png") as picture:
        assert picture.format == "PNG" and picture.width > 1000


def test_a_report_that_cannot_be_drawn_leaves_the_old_figure(tmp_path, monkeypatch):
    (tmp_path / "report.png").write_bytes(b"old")
    monkeypatch.setattr(Image.Image, "save", lambda *_, **__: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space"):
        write_report(tmp_path, [])
    assert (tmp_path / "report.png").read_bytes() == b"old"


def rows_of(data: datasets.Dataset | datasets.IterableDataset) -> list[dict]:
    return list(data.cast_column("image", datasets.Image(decode=False)))


def test_the_folder_the_files_and_the_stream_give_equal_rows(run):
    files = sorted(str(path) for path in (run.root / "data").iterdir())
    rows = rows_of(datasets.load_dataset("parquet", data_files=files, split="train"))
    assert len(files) == 2 and len(rows) == PERSONS - 1
    assert rows_of(datasets.load_dataset(str(run.root), split="train")) == rows
    assert rows_of(datasets.load_dataset(str(run.root), split="train", streaming=True)) == rows


def test_images_load_as_images_and_captions_as_texts(run):
    for row in datasets.load_dataset(str(run.root), split="train", streaming=True):
        assert isinstance(row["image"], Image.Image) and row["image"].height >= 150
        assert row["caption1"] == row["caption2"] == GOOD
        assert row["captioner1"] == "qwen" and row["captioner_revision2"] == "r1"
        assert row["image_path"] == f"images/{row['row_id'][:2]}/{row['row_id']}.jpg"


def test_card_report_and_data_tell_nothing_of_the_machine_the_server_or_a_key(run):
    texts = {name: (run.root / name).read_bytes() for name in ("README.md", "report.json", "report.png")}
    for path in (run.root / "data").iterdir():
        table = pq.read_table(path)
        texts[path.name] = repr([table.to_pylist(), table.schema.metadata]).encode() + path.read_bytes()[-20_000:]
    places = [str(run.home), run.home.name, str(Path.home()), "vlm.internal", ":8000", "127.0.0.1"]
    for name, content in texts.items():
        for secret in (*places, KEY, "NAME_OF_A_KEY"):
            assert secret.encode() not in content, f"{name} holds {secret}"


def test_the_hub_has_nothing_to_say_against_the_card(run):
    assert check_card((run.root / "README.md").read_text(encoding="utf-8"), "dataset") == ([], [])
