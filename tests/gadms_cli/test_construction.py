"""`gadms build-webperson`, as a user meets it."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import typer
import yaml
from row_tables import GOOD, ScriptedChat, answer_with, column, write_persons
from typer.testing import CliRunner, Result

from dataset_scripts.construction.blocks import BlockError
from dataset_scripts.construction.captions.chat.types import ChatConfigurationError, ChatOutageError
from dataset_scripts.construction.run.stages import CaptionStage, LostRowsError
from dataset_scripts.construction.shards import lock_folder
from dataset_scripts.publishing import dataset as publishing
from gadms_cli.construction import build_webperson
from modeling_gadms.publishing import hub
from modeling_gadms.publishing.hub import PushReport
from modeling_gadms.publishing.upload_folder import PublishReport


pytestmark = pytest.mark.slow


ROOT = Path(__file__).parents[2]
PERSONS = 3

# A second command, so that the first has a name, as in `gadms`.
app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=False)
app.command("build-webperson")(build_webperson)
app.command("other")(lambda: None)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["build-webperson", *map(str, arguments)])


def refusal(*arguments: object, code: int = 2) -> str:
    """What a refused command says: its exit code, one line of error and no traceback."""
    result = run(*arguments)
    assert result.exit_code == code, (result.output, result.exception)
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and "Traceback" not in result.output
    return errors[0]


@pytest.fixture
def settings(tmp_path) -> Path:
    """A run over three pictures of one person each."""
    write_persons(tmp_path / "pictures", PERSONS)
    path = tmp_path / "build.yaml"
    sections = {
        "run": {"output": str(tmp_path / "out"), "images_per_shard": 2},
        "sources": {"street": {"kind": "folder", "path": str(tmp_path / "pictures")}},
        "detector": {"kind": "whole_image"},
        "pose": {"kind": "row_tables:StandingPose"},
        "criteria": {"min_shorter_side": 50},
        "quality": {"min_contrast": 0, "min_sharpness": 0},
        "captioners": {"caption1": {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}},
    }
    path.write_text(yaml.safe_dump(sections))
    return path


@pytest.fixture
def chat(monkeypatch) -> ScriptedChat:
    return answer_with(monkeypatch, ScriptedChat())


def test_a_run_tells_the_account_and_where_everything_is(settings, chat, tmp_path):
    result = run("--config", settings)
    assert result.exit_code == 0, (result.output, result.exception)
    out = tmp_path / "out"
    assert "caption 1" in result.stdout and "100.0 %" in result.stdout
    assert f"3 captioned persons in {out}" in result.stdout and f"{out / 'work' / 'rejects'}" in result.stdout
    assert result.stdout.splitlines()[-1] == f'Load it: datasets.load_dataset("{out}", split="train")'
    assert (out / "README.md").is_file() and (out / "report.png").is_file()
    assert f"Pipeline report: {out / 'report.png'}" in result.stdout
    captions = [column(pq.read_table(path), "caption1") for path in sorted((out / "data").iterdir())]
    assert captions == [[GOOD, GOOD], [GOOD]]


def test_a_second_run_says_the_same_and_asks_nothing(settings, chat):
    first = run("--config", settings)
    again = run("--config", settings)
    assert again.stdout == first.stdout and len(chat.asked) == PERSONS


def test_overrides_and_the_engine_replace_the_files_settings(settings, chat, tmp_path):
    result = run("--config", settings, "--engine", "local", f"run.output={tmp_path / 'b'}", "run.images_per_shard=1")
    assert result.exit_code == 0, (result.output, result.exception)
    assert len(list((tmp_path / "b" / "data").iterdir())) == PERSONS
    assert "`engine` in section `run`" in refusal("--config", settings, "--engine", "dask")


def without_captioners(path: Path) -> None:
    sections = yaml.safe_load(path.read_text())
    del sections["captioners"]
    path.write_text(yaml.safe_dump(sections))


def test_without_captioners_a_run_ends_with_the_persons(settings, tmp_path):
    without_captioners(settings)
    result = run("--config", settings)
    assert result.exit_code == 0, (result.output, result.exception)
    assert f"3 persons in {tmp_path / 'out'}. Add section `captioners` and run again" in result.stdout


def test_a_push_without_captioners_is_refused_before_the_run(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    without_captioners(settings)
    assert "names no captioners" in refusal("--config", settings, "--push", "me/street")
    assert not (tmp_path / "out").exists()


def test_a_push_to_no_repository_is_refused_before_the_run(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    assert "me/my street" in refusal("--config", settings, "--push", "me/my street")
    assert not (tmp_path / "out").exists()


def test_a_finished_run_is_pushed_where_the_user_says(settings, chat, monkeypatch, tmp_path):
    pushed = []

    def publish(source: str, repo_id: str, *, private: bool) -> PublishReport:
        pushed.append((source, repo_id, private))
        report = PushReport("https://hub/commit/abc", "abc", "main", None, files=0, deleted=0)
        return PublishReport(repo_id, {}, (), None, report)

    def check(repo_id: str, *, repo_type: str, private: bool) -> None:
        assert not (tmp_path / "out").exists(), "it is to be known before the run"
        pushed.append(("checked", repo_type, repo_id, private))

    monkeypatch.setattr(hub, "check_push_target", check)
    monkeypatch.setattr(publishing, "publish_dataset", publish)
    result = run("--config", settings, "--push", "me/street", "--private")
    assert pushed == [("checked", "dataset", "me/street", True), (str(tmp_path / "out"), "me/street", True)]
    assert result.stdout.splitlines()[-1] == "Pushed: https://hub/commit/abc"


def test_errors_in_the_settings_are_one_line(settings, tmp_path):
    assert "none.yaml" in refusal("--config", tmp_path / "none.yaml")
    assert "did you mean `padding`" in refusal("--config", settings, "crop.pading=1")
    assert "must have the form section.key=value" in refusal("--config", settings, "crop")
    assert "is not a block" in refusal("--config", settings, "resources.sieve.num_cpus=1")


def test_errors_in_the_source_are_one_line(settings, tmp_path):
    assert "nowhere" in refusal("--config", settings, f"sources.street.path={tmp_path / 'nowhere'}")
    (tmp_path / "empty").mkdir()
    assert "empty" in refusal("--config", settings, f"sources.street.path={tmp_path / 'empty'}")


def test_a_folder_of_another_run_or_in_use_is_one_line(settings, chat, tmp_path):
    run("--config", settings)
    assert "other settings" in refusal("--config", settings, "crop.padding=0.2")
    with lock_folder(tmp_path / "out"):
        assert f"another run is using {tmp_path / 'out'}" in refusal("--config", settings)


def test_a_detector_that_is_not_there_is_one_line(settings):
    assert "Cannot import nowhere:Detector" in refusal("--config", settings, "detector.kind=nowhere:Detector")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ChatConfigurationError("no such model"), 2),
        (ChatOutageError("40 requests\nin a row"), 75),  # try again
        (RuntimeError("boom"), 2),
    ],
)
def test_what_a_captioner_raises_is_one_line(settings, monkeypatch, error, code):
    def answer(request, number):
        raise error

    answer_with(monkeypatch, ScriptedChat(answer))
    assert " ".join(str(error).split()) in refusal("--config", settings, code=code)


def test_a_run_without_a_shard_is_not_called_complete_and_not_pushed(settings, chat, monkeypatch, tmp_path):
    def read(self, number, of=CaptionStage.read):
        if number == 1:
            raise OSError("a bad sector")
        return of(self, number)

    monkeypatch.setattr(CaptionStage, "read", read)
    monkeypatch.setattr(hub, "check_push_target", lambda *_, **__: None)
    result = run("--config", settings, "--push", "me/street")
    assert result.exit_code == 3, (result.output, result.exception)
    told = result.stderr
    assert (
        "Set aside: shard 1 of stage captions, after 3 attempts. shard 1 cannot be read: OSError: a bad sector" in told
    )
    assert f"{tmp_path / 'out'} is not complete (2 persons), and is not pushed" in told
    assert "shards of captions" in result.stdout
    assert "Load it" not in result.stdout


@pytest.mark.parametrize("kind", [BlockError, LostRowsError])
def test_errors_of_the_program_that_end_a_run_are_one_line(settings, monkeypatch, kind):
    def fail(config, **_):
        raise kind("block `box` failed on rows r1 to r2")

    monkeypatch.setattr("dataset_scripts.construction.run.pipeline.build_webperson", fail)
    assert refusal("--config", settings) == "Error: block `box` failed on rows r1 to r2"


def test_help_shows_lines_that_work_as_they_stand():
    text = run("--help").stdout
    examples = [line.strip() for line in text.splitlines() if line.strip().startswith("gadms build-webperson")]
    assert len(examples) == 2
    for line in examples:
        assert (ROOT / line.split()[3]).is_file()
