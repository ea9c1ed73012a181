"""What a run publishes: a card, an account and Parquet that `load_dataset` opens, and nothing of its machine."""

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

from dataset_scripts.construction.captions.chat.types import ChatProblem, ChatReply, ChatSettings
from dataset_scripts.construction.persons.crop import CropSettings
from dataset_scripts.construction.persons.detectors import DetectorSettings
from dataset_scripts.construction.pipeline_report import BlockCounts, format_report
from dataset_scripts.construction.run.config import BuildConfig
from dataset_scripts.construction.run.pipeline import build_webperson
from dataset_scripts.publishing.construction import CardSettings, push_dataset, write_card, write_report
from tests.hub_cards import check_card
from tests.hub_client import HubClient
from tests.hub_server import HubServer


ROOT = Path(__file__).parents[3]
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
    shutil.copy(ROOT / "dataset_scripts" / "construction" / "templates_en.json", templates)
    chat = ChatSettings(
        "openai", str(home / "qwen"), "r1", base_url="http://vlm.internal:8000/v1", api_key_env="NAME_OF_A_KEY"
    )
    config = build_config(
        home / "street",
        source,
        detector=DetectorSettings("row_tables:OnePerson", options={"token": KEY, "path": str(home)}),
        captioners={"caption1": chat, "caption2": chat},
    )
    config = dataclasses.replace(config, captions=dataclasses.replace(config.captions, templates=str(templates)))

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


def written_card(run: Run, tmp_path: Path, persons: int = 5, opt_out: str | None = None, **sections) -> str:
    """A card of its own, with sections replaced."""
    settings = dataclasses.replace(run.config.run, output=str(tmp_path / "other"), opt_out=opt_out)
    write_card(dataclasses.replace(run.config, run=settings, **sections), [], persons)
    return (tmp_path / "other" / "README.md").read_text(encoding="utf-8")


def test_the_cards_header_is_what_the_hub_reads(run):
    header, _ = card_of(run)
    assert header["license"] == "other" and header["language"] == ["en"] and header["pretty_name"] == "WebPerson"
    assert header["size_categories"] == ["n<1K"]
    assert header["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}
    ]


def test_the_card_tells_how_many_there_are_and_how_to_load_them(run):
    _, text = card_of(run)
    assert "5 pictures of persons, each with 2 captions" in text and 'load_dataset("street", split="train")' in text


def test_the_card_explains_every_published_column(run):
    _, text = card_of(run)
    patterns = re.findall(r"`([a-z_0-9*]+)`", text[text.index("## Columns") : text.index("## How it was made")])
    published = pq.read_schema(run.root / "data" / "train-00000-of-00002.parquet").names
    unexplained = [name for name in published if not any(Path(name).match(pattern) for pattern in patterns)]
    assert unexplained == []
    assert [pattern for pattern in patterns if not any(Path(name).match(pattern) for name in published)] == []


def test_the_card_holds_the_account_and_settings_that_can_be_read_again(run):
    _, text = card_of(run)
    assert format_report(run.counts) in text
    settings = yaml.safe_load(text[text.index("```yaml\n") + 8 :].partition("```")[0])
    assert settings["criteria"]["min_confidence"] == 0.85 and settings["captions"]["templates"] == "my_templates.json"
    assert settings["detector"]["options"] == ["path", "token"]
    assert settings["sources"] == {"street": "folder"}


def test_nothing_in_the_card_is_left_unfilled(run):
    _, text = card_of(run)
    assert not re.search(r"\{\{|\{%|None", text) and "\n\n\n" not in text and text.endswith(".\n")


def test_lines_of_the_template_are_no_wider_than_code():
    template = ROOT / "dataset_scripts" / "construction" / "card_template.md"
    assert [line for line in template.read_text().splitlines() if len(line) > 119] == []


@pytest.mark.parametrize(
    ("persons", "size"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (5_002_723, "1M<n<10M"), (10_000_000, "10M<n<100M")],
)
def test_the_size_category_is_that_of_the_number_of_persons(run, tmp_path, persons, size):
    assert f"- {size}\n" in written_card(run, tmp_path, persons=persons)


def test_what_a_user_says_on_licence_contact_faces_and_opt_outs_is_told(run, tmp_path):
    card = CardSettings("Street: people", "cc-by-4.0", "Ask the museum.", "privacy@example.org")
    text = written_card(run, tmp_path, card=card, crop=CropSettings(blur_faces=True), opt_out="list.txt")
    assert yaml.safe_load(text.split("---")[1])["pretty_name"] == "Street: people"
    assert "license: cc-by-4.0" in text and "Ask the museum." in text and "removal (to privacy@example.org)" in text
    assert "faces that the pose estimator found are blurred" in text and "a list was honoured" in text
    assert "list.txt" not in text


def test_one_caption_is_one_caption(run, tmp_path):
    captioners = {"caption1": ChatSettings("openai", "org/model", "abc", base_url="http://h/v1")}
    text = written_card(run, tmp_path, captioners=captioners)
    assert "each with one caption" in text and "| `caption1` | a caption by org/model (revision abc) |" in text
    assert "caption2" not in text


def test_the_account_is_numbers_and_a_picture(run):
    counts = [BlockCounts(**block) for block in json.loads((run.root / "report.json").read_text())]
    assert tuple(counts) == run.counts
    with Image.open(run.root / "report.png") as picture:
        assert picture.format == "PNG" and picture.width > 1000


def test_an_account_that_cannot_be_drawn_leaves_the_old_picture(tmp_path, monkeypatch):
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


def test_card_account_and_data_tell_nothing_of_the_machine_the_server_or_a_key(run):
    texts = {name: (run.root / name).read_bytes() for name in ("README.md", "report.json", "report.png")}
    for path in (run.root / "data").iterdir():
        table = pq.read_table(path)
        texts[path.name] = repr([table.to_pylist(), table.schema.metadata]).encode() + path.read_bytes()[-20_000:]
    secrets = [
        str(run.home),
        run.home.name,
        str(Path.home()),
        KEY,
        "NAME_OF_A_KEY",
        "vlm.internal",
        ":8000",
        "127.0.0.1",
    ]
    for name, content in texts.items():
        for secret in secrets:
            assert secret.encode() not in content, f"{name} holds {secret}"


OLD = {"data/train-00007-of-00009.parquet": b"of an earlier build with more shards", "NOTES.md": b"by hand"}


@dataclasses.dataclass(frozen=True)
class Pushes:
    """A push over an earlier build, and one to somebody else's name."""

    address: str
    files: dict[str, bytes]
    history: list[str]
    refused: str


@pytest.fixture(scope="module")
def pushes(run, tmp_path_factory) -> Pushes:
    leftover = run.root / "data" / ".part-0a1b2c3d-train-00000-of-00002.parquet"
    leftover.write_text("what a killed writer left")
    push = "dataset_scripts.publishing.construction.push_dataset"
    with HubServer() as hub, HubClient(hub.environment(tmp_path_factory.mktemp("hub"))) as client:
        hub.add_token("hf_of_a_test", write=True, namespaces=["me"])
        hub.commit("me/street", OLD, private=True)
        address = client.ask(push, run.root, "me/street", token="hf_of_a_test", private=True)
        refused = client.refusal(push, run.root, "somebody_else/street", token="hf_of_a_test")
        history = hub.repositories["dataset", "me/street"].history("main")
        files = dict(hub.files("me/street"))
    leftover.unlink()
    return Pushes(address.removeprefix(hub.endpoint), files, history, refused.message)


def test_a_push_is_one_commit_and_tells_its_address(pushes):
    assert len(pushes.history) == 2
    assert pushes.address == f"/datasets/me/street/commit/{pushes.history[0]}"


def test_a_push_is_card_account_and_data_in_place_of_earlier_data_and_nothing_else(run, pushes):
    data = [f"data/train-0000{number}-of-00002.parquet" for number in range(2)]
    assert sorted(pushes.files) == sorted(["NOTES.md", "README.md", "report.json", "report.png", *data])
    for name in pushes.files.keys() - OLD.keys():
        assert pushes.files[name] == (run.root / name).read_bytes()


def test_the_hub_has_nothing_to_say_against_the_card(run):
    assert check_card((run.root / "README.md").read_text(encoding="utf-8"), "dataset") == ([], [])


def test_a_hub_that_refuses_is_an_error_that_says_why_and_that_the_data_are_whole(run, pushes):
    assert pushes.refused.startswith("somebody_else/street was not pushed (") and "403" in pushes.refused
    assert f"{run.root} is whole: use a token that may write there" in pushes.refused


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("README.md", "it has no README.md"),
        ("report.json", "it has no report.json"),
        ("report.png", "it has no report.png"),
        ("data/train-00000-of-00002.parquet", "files are missing in data"),
        ("data/train-00001-of-00002.parquet", "files are missing in data"),
        ("data", "files are missing in data"),
    ],
)
def test_a_run_that_is_not_finished_is_not_pushed(run, tmp_path, missing, told):
    root = tmp_path / "copy"
    shutil.copytree(run.root, root)
    shutil.rmtree(root / missing) if missing == "data" else (root / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"copy holds no finished run: {told}. Run the pipeline to its end"):
        push_dataset(root, "me/street")
