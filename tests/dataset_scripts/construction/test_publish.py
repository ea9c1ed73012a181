"""What a run publishes: a card, an account and Parquet that `load_dataset` opens, and nothing of its machine."""

import base64
import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from row_tables import GOOD, ScriptedChat, answer_with, build_config, write_persons

from dataset_scripts.construction.chat import ChatProblem, ChatReply, ChatSettings
from dataset_scripts.construction.config import BuildConfig
from dataset_scripts.construction.crop import CropSettings
from dataset_scripts.construction.detectors import DetectorSettings
from dataset_scripts.construction.funnel import Stage, format_funnel
from dataset_scripts.construction.pipeline import build_webperson
from dataset_scripts.construction.publish import (
    CardSettings,
    check_push_target,
    push_dataset,
    write_account,
    write_card,
)


ROOT = Path(__file__).parents[3]
KEY = "sk-very-secret"
PERSONS = 6


@dataclasses.dataclass(frozen=True)
class Run:
    config: BuildConfig
    stages: tuple[Stage, ...]
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
    assert report.persons == PERSONS - 1, format_funnel(report.stages)
    yield Run(config, report.stages, home)


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
    assert format_funnel(run.stages) in text
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
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (5_002_723, "1M<n<10M"), (10_000_000, "n>10M")],
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
    stages = [Stage(**stage) for stage in json.loads((run.root / "funnel.json").read_text())]
    assert tuple(stages) == run.stages
    with Image.open(run.root / "funnel.png") as picture:
        assert picture.format == "PNG" and picture.width > 1000


def test_an_account_that_cannot_be_drawn_leaves_the_old_picture(tmp_path, monkeypatch):
    (tmp_path / "funnel.png").write_bytes(b"old")
    monkeypatch.setattr(Image.Image, "save", lambda *_, **__: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space"):
        write_account(tmp_path, [])
    assert (tmp_path / "funnel.png").read_bytes() == b"old"


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
    texts = {name: (run.root / name).read_bytes() for name in ("README.md", "funnel.json", "funnel.png")}
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


class FakeHub(ThreadingHTTPServer):
    """As much of the Hub as an upload asks: a repository that holds a file of an earlier build with more shards."""

    daemon_threads = True
    OLD = "data/train-00007-of-00009.parquet"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.created: list[dict] = []
        self.uploaded: dict[str, bytes] = {}  # by the digest under which Git LFS has them
        self.commits: list[list[dict]] = []
        self.tokens: set[str | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _HubHandler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/api/datasets/me/street/tree/main"):
            names = [".gitattributes", "README.md", FakeHub.OLD]
            self._reply([{"type": "file", "path": name, "size": 1, "oid": "0"} for name in names])
        else:
            self._reply({"error": f"nothing at {self.path}"}, 404)

    def do_PUT(self) -> None:
        self.server.uploaded[self.path.removeprefix("/put/")] = self._body()
        self._reply({})

    def do_POST(self) -> None:
        body = self._body()
        self.server.tokens.add(self.headers["Authorization"])
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self._reply({"url": f"{self.server.url}/datasets/me/street"})
        elif self.path == "/api/validate-yaml":
            self._reply({"errors": [], "warnings": []})
        elif self.path == "/api/datasets/me/street/preupload/main":
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith((".parquet", ".png")) else "regular" for name in names}
            self._reply({"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]})
        elif self.path == "/datasets/me/street.git/info/lfs/objects/batch":
            objects = [
                file | {"actions": {"upload": {"href": f"{self.server.url}/put/{file['oid']}"}}}
                for file in json.loads(body)["objects"]
            ]
            self._reply({"transfer": "basic", "objects": objects})
        elif self.path == "/api/datasets/me/street/commit/main":
            self.server.commits.append([json.loads(line) for line in body.splitlines()])
            url = f"{self.server.url}/datasets/me/street/commit/abc"
            self._reply({"success": True, "commitOid": "abc", "commitUrl": url})
        else:
            self._reply({"error": f"nothing at {self.path}"}, 404)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def _reply(self, value: object, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


PUSHES = """
import json, sys
from pathlib import Path
from huggingface_hub import constants
from dataset_scripts.construction.publish import push_dataset
root, hub, told = Path(sys.argv[1]), constants.ENDPOINT, {}
for name, endpoint, repo_id in (
    ("pushed", hub, "me/street"),
    ("refused", hub, "somebody_else/street"),
    ("unreachable", "http://127.0.0.1:9", "me/x"),
):
    constants.ENDPOINT = endpoint
    try:
        told[name] = push_dataset(root, repo_id, private=True)
    except OSError as error:
        told[name] = str(error)
print(json.dumps(told))
"""


@dataclasses.dataclass(frozen=True)
class Pushes:
    hub: FakeHub
    told: dict[str, str]


@pytest.fixture(scope="module")
def pushes(run, tmp_path_factory) -> Iterator[Pushes]:
    """One push that works and two that do not, by a process of its own: libraries read the environment only once."""
    leftover = run.root / "data" / ".part-0a1b2c3d-train-00000-of-00002.parquet"
    leftover.write_text("what a killed writer left")
    with FakeHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        environment = os.environ | {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": "hf_of_a_test",
            "HF_HOME": str(tmp_path_factory.mktemp("hub")),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-c", PUSHES, str(run.root)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        hub.shutdown()
        thread.join()
    leftover.unlink()
    assert done.returncode == 0, done.stderr
    yield Pushes(hub, json.loads(done.stdout.splitlines()[-1]))


def test_a_push_makes_a_private_repository_and_tells_the_address_of_its_commit(pushes):
    created = pushes.hub.created[0]
    assert (created["name"], created["type"], created["visibility"]) == ("street", "dataset", "private")
    assert pushes.told["pushed"] == f"{pushes.hub.url}/datasets/me/street/commit/abc"
    assert "Bearer hf_of_a_test" in pushes.hub.tokens


def test_a_push_is_one_commit_of_card_account_and_data_and_nothing_else(run, pushes):
    (commit,) = pushes.hub.commits
    content: dict[str, bytes] = {}
    for entry in commit:
        if entry["key"] == "file":
            content[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        elif entry["key"] == "lfsFile":
            content[entry["value"]["path"]] = pushes.hub.uploaded[entry["value"]["oid"]]
    data = [f"data/train-0000{number}-of-00002.parquet" for number in range(2)]
    assert sorted(content) == sorted(["README.md", "funnel.json", "funnel.png", *data])
    for name, uploaded in content.items():
        assert uploaded == (run.root / name).read_bytes()
    assert all(hashlib.sha256(value).hexdigest() == digest for digest, value in pushes.hub.uploaded.items())


def test_a_push_takes_the_data_of_an_earlier_build_away(pushes):
    (commit,) = pushes.hub.commits
    assert [entry["value"]["path"] for entry in commit if entry["key"] == "deletedFile"] == [FakeHub.OLD]


def test_a_hub_that_cannot_be_reached_is_an_error_that_says_the_data_are_whole(run, pushes):
    told = pushes.told["unreachable"]
    assert told.startswith("me/x was not pushed (ConnectError") and f"is whole in {run.root}: push it again" in told


def test_a_hub_that_refuses_is_an_error_that_says_why(pushes):
    told = pushes.told["refused"]
    assert told.startswith("somebody_else/street was not pushed (") and "404" in told


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("README.md", "it has no README.md"),
        ("funnel.json", "it has no funnel.json"),
        ("funnel.png", "it has no funnel.png"),
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


def test_what_could_not_be_pushed_to_is_refused_before_the_run(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    check_push_target("me/street")
    with pytest.raises(ValueError, match="me/my street"):
        check_push_target("me/my street")
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nowhere")
    with pytest.raises(ValueError, match="no token to push me/street with: run `hf auth login`"):
        check_push_target("me/street")
