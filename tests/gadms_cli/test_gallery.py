"""The commands `gadms search` and `gadms gallery`."""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord, Query
from tests.command_line import refusal, run


def picture(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (32, 16, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path, model, processor):
    location = tmp_path / "gallery"
    made = PersonGallery.create(location, model, processor, columns={"price": "float", "in_stock": "boolean"})
    made.add(
        PersonRecord(picture(number), f"{number:02}.png", camera=f"gate-{number % 2}", track=number // 4)
        for number in range(12)
    )
    return location


@pytest.fixture
def opened(folder, model, processor) -> PersonGallery:
    return PersonGallery.open(folder, model, processor)


def found(result: Result) -> list[dict]:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.filterwarnings("ignore")
def test_search_takes_every_kind_of_query(folder, opened, tmp_path):
    picture(30).save(tmp_path / "query.png")
    like = opened.search("a coat", 1)[0].id
    options = ["search", "--gallery", folder, "--json", "--out", tmp_path / "r.png", "--top-k", 4]
    for arguments, query, settings in [
        (["a coat", "--where", "camera = 'gate-1'"], "a coat", {"where": "camera = 'gate-1'"}),
        (["a coat", "--no-group"], "a coat", {"group_tracks": False}),
        (["a coat", "--without", "a hat", "--without", "a bag"], Query("a coat", without=["a hat", "a bag"]), {}),
        (["--image", tmp_path / "query.png"], picture(30), {}),
        (["a coat", "--image", tmp_path / "query.png"], Query("a coat", picture(30)), {}),
        (["--like", like], Query(like=like), {}),
    ]:
        rows = found(run(*options, *arguments))
        expected = opened.search(query, 4, **settings)
        assert [row["id"] for row in rows] == [result.id for result in expected]
        assert np.allclose([row["score"] for row in rows], [result.score for result in expected], atol=1e-5)
        assert Image.open(tmp_path / "r.png").width > 300


def test_search_refuses_what_it_cannot_answer(folder, tmp_path):
    options = ["search", "--gallery", folder, "--out", tmp_path / "r.png"]
    assert "query is empty: give a text, an image" in refusal(*options)
    assert "no such column" in refusal(*options, "a coat", "--where", "colour = 'red'")
    assert "2 statements" in refusal(*options, "a coat", "--where", "camera = 'x'; drop table persons")
    assert "No person in the gallery has the id 'x'" in refusal(*options, "--like", "x")
    assert "missing" in refusal(*options, "--image", tmp_path / "none.png")
    assert not (tmp_path / "r.png").exists()


def test_info_tells_what_a_gallery_holds(folder, model_folder):
    text = run("gallery", "info", folder).stdout
    for part in (
        "12 from 12 sources",
        "gate-0 (6), gate-1 (6)",
        "price (float), in_stock (boolean)",
        str(model_folder),
    ):
        assert part in text
    values = found(run("gallery", "info", folder, "--json"))
    assert (values["persons"], values["tracks"], values["cameras"]) == (12, 12, {"gate-0": 6, "gate-1": 6})


def test_verify_exits_with_one_where_something_is_wrong(folder, opened):
    result = run("gallery", "verify", folder)
    assert (result.exit_code, result.stdout) == (0, "12 persons, all sound\n")
    row = opened._table.search().limit(1).to_list()[0]
    opened._table.add([{**row, "id": "new", "thumbnail": b"no JPEG"}])
    result = run("gallery", "verify", folder)
    assert result.exit_code == 1 and "1: the thumbnail does not decode (e.g. new)" in result.stdout
    assert json.loads(run("gallery", "verify", folder, "--json").stdout)["persons"] == 13


def test_persons_are_removed_and_columns_set(folder):
    removed = run("gallery", "remove", folder, "--where", "source < '03.png'").stdout.splitlines()
    assert removed[0] == "3 persons removed" and f"until `gadms gallery purge {folder}`" in removed[1]
    assert run("gallery", "remove", folder, "--where", "source < '03.png'").stdout == "0 persons removed\n"
    row = found(run("search", "a coat", "--gallery", folder, "--json", "--out", folder.parent / "r.png"))[0]
    assert run("gallery", "remove", folder, "--id", row["id"]).stdout.startswith("1 persons removed\n")
    settings = ["camera=yard", "time=2026-11-25 08:00", "price=9.5", "in_stock=true", "track="]
    assert run("gallery", "set", folder, *settings, "--where", "track = 2").stdout.endswith("persons changed\n")
    where = "camera = 'yard' and time = '2026-11-25 08:00' and price = 9.5 and in_stock and track is null"
    options = ["a coat", "--gallery", folder, "--json", "--out", folder.parent / "r.png"]
    rows = found(run("search", *options, "--where", where))
    assert {row["source"] for row in rows} <= {f"{number:02}.png" for number in range(8, 12)} and len(rows) >= 3


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("price", "is not an assignment: write it as column=value"),
        ("price=cheap", "the type of the column 'price' is float"),
        ("in_stock=perhaps", "the type of the column 'in_stock' is boolean"),
        ("colour=red", "no column 'colour'"),
        ("time=soon", "'soon' is not a time"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(folder, setting, problem):
    assert problem in refusal("gallery", "set", folder, setting, "--where", "track = 1")


def test_removing_needs_to_be_told_whom(folder):
    assert "one of the two" in refusal("gallery", "remove", folder)
    assert len(PersonGallery.open(folder)) == 12


def test_compacting_and_purging_report_sizes_and_what_is_kept(folder):
    pattern = r"\d\.\d MB on the disk \(\d\.\d MB before\), \d\.\d MB of current persons\n"
    assert run("gallery", "remove", folder, "--where", "track = 0").exit_code == 0
    kept = (
        r"  \d+ earlier versions, which may contain removed .* from 20\d\d-\d\d-\d\d \d\d:\d\d UTC on, purge at once\n"
    )
    assert re.fullmatch(pattern + kept, run("gallery", "compact", folder).stdout)
    for command in (["purge"], ["compact", "--keep-hours", 0]):
        result = run("gallery", command[0], folder, *command[1:])
        assert re.fullmatch(pattern, result.stdout) and not result.stderr
    result = run("gallery", "remove", folder, "--where", "source >= '06.png'", "--now")
    assert re.fullmatch("6 persons removed\n" + pattern, result.stdout)
    assert sum(path.name.endswith(".manifest") for path in folder.rglob("*")) == 1
    assert len(PersonGallery.open(folder)) == 2


def test_whom_a_filter_passes_over_is_told(folder):
    result = run("gallery", "remove", folder, "--where", "time < '2026-11-01'")
    assert (result.exit_code, result.stdout) == (0, "0 persons removed\n")
    assert result.stderr.startswith("Warning: The filter passes over 12 of 12 persons, who have no time;")
    assert run("gallery", "remove", folder, "--where", "added < '2026-11-01'").stderr == ""


@pytest.mark.parametrize("sheet", ["taken/r.png", "r.unknown", "."])
def test_results_are_printed_even_if_the_sheet_cannot_be_written(folder, tmp_path, sheet):
    (tmp_path / "taken").write_text("a file")
    result = run("search", "a coat", "--gallery", folder, "--out", tmp_path / sheet, "--json")
    assert result.exit_code == 2 and len(json.loads(result.stdout)) == 10
    assert "Error: " in result.stderr and "Traceback" not in result.output
    result = run("search", "a coat", "--gallery", folder, "--out", tmp_path / sheet)
    assert result.exit_code == 2 and len(result.stdout.splitlines()) == 10


def test_nothing_that_is_printed_as_json_has_values_that_json_lacks(folder, opened, model_folder, person_folder):
    infinite = {"price": float("inf"), "in_stock": None}
    opened.add([PersonRecord(picture(50), "50.png", time_seconds=float("nan"), columns=infinite)])
    opened.update({"price": float("nan")}, where="source = '01.png'")
    assert run("gallery", "set", folder, "price=nan", "--where", "source = '02.png'").exit_code == 0
    assert run("gallery", "set", folder, "price=-inf", "--where", "source = '03.png'").exit_code == 0
    sheet = ("--out", folder.parent / "r.png")
    commands = [
        ["search", "a coat", "--gallery", folder, "--json", *sheet, "--top-k", 20],
        ["gallery", "info", folder, "--json"],
        ["gallery", "verify", folder, "--json"],
        ["gallery", "add", folder, "--source", person_folder, "--json"],
    ]
    answers = [json.loads(run(*command).stdout, parse_constant=pytest.fail) for command in commands]
    prices = {row["source"]: row["columns"]["price"] for row in answers[0]}
    assert all(price is None for price in prices.values()) and prices.keys() >= {"50.png", "01.png"}
    assert sorted(row["source"] for row in found(run(*commands[0], "--where", "price > 0 or price < 0"))) == [
        "03.png", "50.png",
    ]  # fmt: skip
    assert answers[1]["changed"].endswith("+00:00")


def test_exports_go_by_the_ending_of_the_name(folder, tmp_path):
    assert run("gallery", "export", folder, tmp_path / "persons.csv").stdout.startswith("12 persons written to")
    with (tmp_path / "persons.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 12
    assert run("gallery", "export", folder, tmp_path / "all.parquet").exit_code == 0
    assert run("gallery", "export", folder, tmp_path / "pictures").exit_code == 0
    assert len(list((tmp_path / "pictures").glob("*.jpg"))) == 12
    assert "Unknown export format 'xlsx'" in refusal("gallery", "export", folder, tmp_path / "persons.xlsx")


def test_a_place_without_a_gallery_is_refused(tmp_path):
    for command in (["info"], ["verify"], ["compact"], ["remove", "--where", "track = 1"]):
        assert "There is no gallery in" in refusal("gallery", command[0], tmp_path / "none", *command[1:])
