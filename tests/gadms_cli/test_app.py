"""The command `gadms`: indexing, searching, and errors for users."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from modeling_gadms import GADMSProcessor
from modeling_gadms.encoders.encoding import encode_captions, encode_images
from modeling_gadms.training.tokenizer import train_tokenizer
from tests.command_line import refusal, run
from tests.waiting import PATIENCE_SECONDS


@pytest.fixture
def gallery(tmp_path, person_folder, model_folder):
    folder = tmp_path / "gallery"
    result = run("index", "--source", person_folder, "--gallery", folder, "--model", model_folder)
    assert result.exit_code == 3, result.output  # some files of the folder cannot be read
    return folder


def test_index_reports_what_became_of_every_image_and_what_to_do_next(tmp_path, person_folder, model_folder):
    result = run("index", "--source", person_folder, "--gallery", tmp_path / "g", "--model", model_folder)
    assert "12 persons from 12 of 18 images" in result.stdout
    for reason in ("missing", "empty file", "truncated", "not an image", "too large", "too small"):
        assert f"skipped 1: {reason}" in result.stdout
    assert f"gadms search --gallery {tmp_path / 'g'}" in result.stdout


def test_search_prints_rows_and_writes_a_contact_sheet(gallery, tmp_path, person_folder, model, processor):
    out = tmp_path / "new_folder" / "result.png"
    result = run("search", "--gallery", gallery, "a man in a red coat", "--top-k", 3, "--out", out)
    assert result.exit_code == 0, result.output
    files = sorted(person_folder.glob("person*.png"))
    images = encode_images(model, processor, [Image.open(file) for file in files], progress=False)
    scores = (images @ encode_captions(model, processor, ["a man in a red coat"], progress=False)[0]).tolist()
    best = sorted(zip(scores, files, strict=True), reverse=True)[:3]
    expected = [f"{rank:>4}  {score:.3f}  {file}" for rank, (score, file) in enumerate(best, start=1)]
    assert result.stdout.splitlines() == [*expected, f"Contact sheet: {out}"]
    assert Image.open(out).width > 300


def test_explain_draws_a_heat_map_on_request(tmp_path, person_folder, model_folder):
    heat = tmp_path / "heat.png"
    common = [
        person_folder / "person00.png",
        "a man in a red coat",
        "--model",
        model_folder,
        "--out",
        tmp_path / "e.png",
    ]
    assert not heat.exists() and "Heat map" not in run("explain", *common).stdout
    assert f"Heat map: {heat}" in run("explain", *common, "--heat-map", heat).stdout
    assert Image.open(heat).size == Image.open(person_folder / "person00.png").size


def test_search_prints_json_that_another_program_reads(gallery, tmp_path):
    result = run("search", "--gallery", gallery, "穿红色外套的人", "--top-k", 2, "--json", "--out", tmp_path / "r.png")
    rows = json.loads(result.stdout)
    assert [row["rank"] for row in rows] == [1, 2]
    place = {"source", "frame", "time_seconds", "box", "camera", "time", "track", "track_summary", "added"}
    assert set(rows[0]) == {"rank", "score", "id", "columns"} | place


def test_a_video_is_searched_for_persons_and_every_nth_frame_taken(tmp_path, video, model_folder, red_detector):
    arguments = ["--source", video, "--gallery", tmp_path / "g", "--model", model_folder, "--every", 5]
    result = run("index", *arguments, "--min-confidence", 0.7, "--crops-per-track", 0)
    assert result.exit_code == 0, result.output
    assert "2 persons from 2 of 4 images" in result.stdout
    assert "skipped 2: no person found" in result.stdout
    assert red_detector.made_with.min_confidence == 0.7
    found = run("search", "--gallery", tmp_path / "g", "a person", "--json", "--out", tmp_path / "r.png")
    rows = sorted(json.loads(found.stdout), key=lambda row: row["frame"])
    assert [(row["frame"], row["time_seconds"]) for row in rows] == [(10, 1.0), (15, 1.5)]
    assert [row["box"]["left"] for row in rows] == pytest.approx([40, 60], abs=3)


def test_detection_can_be_asked_for_and_declined(tmp_path, video, model_folder, red_detector):
    frames = tmp_path / "frames"
    frames.mkdir()
    Image.new("RGB", (160, 120), "gray").save(frames / "empty.png")
    red = Image.new("RGB", (160, 120), "gray")
    red.paste((255, 0, 0), (10, 10, 30, 70))
    red.save(frames / "red.png")
    common = ["--gallery", tmp_path / "g", "--model", model_folder, "--overwrite"]
    assert "1 person from 1 of 2" in run("index", "--source", frames, "--detect", *common).stdout
    assert "20 persons from 20 of 20" in run("index", "--source", video, "--no-detect", *common).stdout


def test_explain_prints_a_table_and_writes_a_picture(tmp_path, person_folder, model_folder):
    out = tmp_path / "explain.png"
    arguments = [person_folder / "person00.png", "a man in a red coat", "--model", model_folder, "--out", out]
    result = run("explain", *arguments)
    assert result.exit_code == 0, result.output
    assert [line.split()[-1] for line in result.stdout.splitlines()[:6]] == ["a", "man", "in", "a", "red", "coat"]
    assert Image.open(out).width > 300


def test_a_second_index_in_one_place_needs_overwrite(gallery, person_folder, model_folder):
    again = ["index", "--source", person_folder, "--gallery", gallery, "--model", model_folder]
    assert "already a gallery of 12 persons" in refusal(*again)
    assert run(*again, "--overwrite").exit_code == 3


def test_a_bad_source_leaves_the_old_gallery_alone(gallery, tmp_path, model_folder):
    (tmp_path / "letter.avi").write_text("Dear Sir or Madam")
    common = ["--gallery", gallery, "--model", model_folder, "--overwrite"]
    assert "letter.avi does not open as a video" in refusal("index", "--source", tmp_path / "letter.avi", *common)
    assert "nowhere.mp4 does not exist" in refusal("index", "--source", tmp_path / "nowhere.mp4", *common)
    assert run("search", "--gallery", gallery, "a person", "--out", tmp_path / "r.png").exit_code == 0


def test_a_folder_in_which_nothing_is_usable_is_an_error_after_its_report(tmp_path, model_folder):
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "empty.jpg").touch()
    arguments = ["index", "--source", folder, "--gallery", tmp_path / "g", "--model", model_folder]
    assert "No person was found in" in refusal(*arguments)
    assert "skipped 1: empty file" in run(*arguments).stdout


def test_a_search_before_any_index_names_the_command(tmp_path):
    message = refusal("search", "--gallery", tmp_path / "nowhere", "a person")
    assert f"gadms index --source PERSONS --gallery {tmp_path / 'nowhere'}" in message


def test_a_gallery_of_another_model_is_refused(gallery, tmp_path, tiny_model, processor):
    tiny_model(seed=1).save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    message = refusal("search", "--gallery", gallery, "a person", "--model", tmp_path / "other")
    assert "was built by the model" in message
    assert str(tmp_path / "other") in message


def test_empty_descriptions_and_bad_numbers_are_refused(gallery, person_folder, model_folder, tmp_path):
    out = ["--out", tmp_path / "r.png"]
    assert "is empty" in refusal("search", "--gallery", gallery, "", *out)
    assert "is empty" in refusal("explain", person_folder / "person00.png", " ", "--model", model_folder, *out)
    assert "top_k must be 1 or more" in refusal("search", "--gallery", gallery, "a person", "--top-k", 0, *out)
    assert "every must be" in refusal(
        "index", "--source", person_folder, "--gallery", gallery, "--model", model_folder, "--every", 0
    )
    assert not (tmp_path / "r.png").exists()


def test_an_unreadable_image_to_explain_is_refused_with_its_reason(person_folder, model_folder):
    assert "truncated" in refusal("explain", person_folder / "cut.png", "a person", "--model", model_folder)


def test_a_long_description_is_answered_with_a_warning_of_one_line(gallery, tmp_path):
    result = run("search", "--gallery", gallery, "red " * 500, "--out", tmp_path / "r.png")
    assert result.exit_code == 0
    (warning,) = [line for line in result.stderr.splitlines() if line.startswith("Warning: ")]
    assert "are ignored" in warning


def test_what_is_no_model_of_ours_is_refused(person_folder, tmp_path):
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    common = ["index", "--source", person_folder, "--gallery", tmp_path / "g", "--model"]
    assert "holds a model of type 'bert', not one of the supported" in refusal(*common, tmp_path / "bert")
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refusal(*common, tmp_path / "empty")


def test_a_tokenizer_of_another_model_is_refused(gallery, model_folder, person_folder, tmp_path):
    """With another tokenizer, the model would silently read other words."""
    other = train_tokenizer(["a man"], vocab_size=520, max_length=24)
    GADMSProcessor.from_tokenizer(other, image_size=(32, 16)).save_pretrained(model_folder)
    model = ["--model", model_folder]
    commands = (
        ["index", "--source", person_folder, "--gallery", tmp_path / "g", *model],
        ["search", "--gallery", gallery, "a person", "--out", tmp_path / "r.png"],
        ["explain", person_folder / "person00.png", "a person", *model, "--out", tmp_path / "r.png"],
    )
    for command in commands:
        assert f"{model_folder}: its tokenizer has {len(other)} tokens, its model" in refusal(*command)
    assert not (tmp_path / "g").exists() and not (tmp_path / "r.png").exists()


@pytest.mark.parametrize("command", ["index", "search", "explain"])
def test_help_shows_a_line_to_type(command):
    text = run(command, "--help").stdout
    assert any(line.strip().startswith(f"gadms {command} ") for line in text.splitlines())


def test_the_program_itself_searches_and_refuses_in_one_line(gallery, tmp_path):
    def gadms(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gadms_cli", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )

    found = gadms("search", "--gallery", "gallery", "a person in a red jacket")
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "result.png").is_file()
    refused = gadms("search", "--gallery", "elsewhere", "a person")
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"Error: There is no gallery in {tmp_path / 'elsewhere'}")
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "completed"),
    [("gadms gal", "gallery"), ("gadms search --wi", "--without"), ("gadms gallery ver", "verify")],
)
def test_shells_complete_commands_and_options(words, completed):
    environment = {
        **os.environ,
        "_GADMS_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    program = [sys.executable, "-c", "import sys; sys.argv = ['gadms']; from gadms_cli.app import main; main()"]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.stdout.split() == [completed]


def test_exit_codes_are_told():
    text = " ".join(run("--help").stdout.split())
    assert "Exit codes: 0 success; 1 a check failed" in text and "--install-completion" in text
