"""Filters select the same rows as a Python function, and refuse everything that is not allowed."""

import fnmatch
import random
import time
from datetime import UTC, datetime, timedelta

import lancedb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_gadms.gallery.filter import MAX_CHARACTERS, check_filter, parse_time, passed_over
from modeling_gadms.gallery.records import GalleryModel
from modeling_gadms.gallery.schema import gallery_schema


START = datetime(2026, 11, 25, 8, tzinfo=UTC)
SCHEMA = gallery_schema(
    8, GalleryModel("m", "f"), {"brand": "string", "price": "float", "in_stock": "boolean", "size": "integer"}
)
SIDES = ("left", "top", "right", "bottom")
CAMERAS = ["gate-1", "gate-2", "it's 50% off", None]
ROWS = [
    {
        "id": f"{number:03}", "source": f"{number % 3}.mp4", "frame": number, "camera": camera,
        "time": START + timedelta(minutes=number) if number % 5 else None, "track": number % 4,
        "price": number / 2 if number % 7 else None, "in_stock": [True, False, None][number % 3], "size": number - 10,
        **({side: (place + 1) * number + place for place, side in enumerate(SIDES)} if number % 11 else {}),
    }
    for number, camera in enumerate(CAMERAS * 6)
]  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rows = [
        {"vector": [0.0] * 8, "thumbnail": b"", "added": START, **row}
        | {"box": [row[side] for side in SIDES] if "left" in row else None}
        for row in ROWS
    ]
    database = lancedb.connect(tmp_path_factory.mktemp("filters"))
    return database.create_table("rows", pa.Table.from_pylist(rows, schema=SCHEMA))


def kept(table, where: str) -> set[str]:
    condition = check_filter(where, table.schema)
    return {row["id"] for row in table.search().where(condition).select(["id"]).limit(100).to_list()}


def expected(condition) -> set[str]:
    return {row["id"] for row in ROWS if condition(row)}


@pytest.mark.parametrize(
    ("where", "condition"),
    [
        ("camera = 'gate-2' and time > '2026-11-25 08:10'",
         lambda r: r["camera"] == "gate-2" and r["time"] and r["time"] > START + timedelta(minutes=10)),
        ("time >= '2026-11-25T09:12+01:00'", lambda r: r["time"] and r["time"] >= START + timedelta(minutes=12)),
        ("time < timestamp '2026-11-25 08:03'", lambda r: r["time"] and r["time"] < START + timedelta(minutes=3)),
        ("time between '2026-11-25 08:02' and '2026-11-25 08:04'",
         lambda r: r["time"] and 2 <= (r["time"] - START).seconds / 60 <= 4),
        ("left < 5", lambda r: "left" in r and r["left"] < 5),
        ("5 > left", lambda r: "left" in r and r["left"] < 5),
        ("top < 12 and right > 10", lambda r: "left" in r and r["top"] < 12 and r["right"] > 10),
        ("bottom between 11 and 23", lambda r: "left" in r and 11 <= r["bottom"] <= 23),
        ("right in (5, 29)", lambda r: r.get("right") in (5, 29)),
        ("left is null", lambda r: "left" not in r),
        ("top is not null", lambda r: "left" in r),
        ("size <= -5", lambda r: r["size"] <= -5),
        ("in_stock", lambda r: r["in_stock"]),
        ("not in_stock", lambda r: r["in_stock"] is False),
        ("in_stock is not true", lambda r: r["in_stock"] is not True),
        ("in_stock = false or price > 10.5", lambda r: r["in_stock"] is False or (r["price"] or 0) > 10.5),
        ("camera is null", lambda r: r["camera"] is None),
        ("camera IS NOT NULL", lambda r: r["camera"] is not None),
        ("camera = 'it''s 50% off'", lambda r: r["camera"] == "it's 50% off"),
        ("camera in ('gate-1', 'it''s 50% off')", lambda r: r["camera"] in ("gate-1", "it's 50% off")),
        ("camera not in ('gate-1')", lambda r: r["camera"] not in ("gate-1", None)),
        ("camera like 'gate%'", lambda r: fnmatch.fnmatchcase(r["camera"] or "", "gate*")),
        ("camera not like 'gate%'", lambda r: r["camera"] is not None and not r["camera"].startswith("gate")),
        ("camera ilike 'GATE-_'", lambda r: (r["camera"] or "").startswith("gate-")),
        ("camera <> 'gate-1'", lambda r: r["camera"] not in ("gate-1", None)),
        ('"camera" != \'gate-1\'', lambda r: r["camera"] not in ("gate-1", None)),
        ("(frame = 1 or frame = 2) and track = 1", lambda r: r["frame"] == 1),
    ],
)  # fmt: skip
def test_a_filter_keeps_the_rows_that_it_says(table, where, condition):
    rows = expected(condition)
    assert 0 < len(rows) < len(ROWS)
    assert kept(table, where) == rows


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ("colour = 'red'", "no such column. Columns: .*camera, confidence, frame"),
        ("vector = 1", "no such column"),
        ("thumbnail is null", "no such column"),
        ('camera = "gate-1"', "text in single quotes"),
        ("persons.camera = 'x'", "not allowed"),
        ("camera = gate-1", "not allowed|no such column"),
        ("camera = 'a'; drop table persons", "2 statements"),
        ("camera = 'a' -- and more", "not allowed"),
        ("camera = /* x */ 'a'", "not allowed"),
        ("id in (select id from persons)", "not allowed"),
        ("exists (select 1)", "not allowed"),
        ("lower(camera) = 'a'", "not allowed"),
        ("camera ~ '(a+)+$'", "not allowed"),
        ("camera like 'a' escape '!'", "not allowed"),
        ("price > 1 + 2", "not allowed"),
        ("case when in_stock then true end", "not allowed"),
        ("1 = 1", "not allowed"),
        ("true", "not allowed"),
        ("frame = size", "numbers without quotes"),
        ("cast(frame as text) = '1'", "not allowed"),
        ("price = '5'", "numbers without quotes"),
        ("camera = 5", "text in single quotes"),
        ("in_stock = 1", "true or false"),
        ("in_stock > true", "cannot order"),
        ("frame like '1%'", "is not a text column"),
        ("camera", "not a boolean column"),
        ("camera = null", "IS NULL"),
        ("time > 'yesterday'", "'yesterday' is not a time"),
        ("time > 5", "a time in quotes"),
        ("time > '9999-12-31T23:59-05:00'", "is not a time"),
        ("frame > 3.5", "whole numbers"),
        ("frame > 9223372036854775808", "whole numbers of less than 64 bits"),
        ("frame IN ()", "not allowed"),
        ("camera = '\udce9'", "no character"),
        ("camera = ", "is not a condition"),
        ("", "is not a condition"),
        ("drop table persons", "not allowed"),
        ("x" * (MAX_CHARACTERS + 1), "characters"),
        (" or ".join(f"size = {number}" for number in range(100)), "parts.*IN for long lists"),
        ("(" * 900 + "in_stock" + ")" * 900, "."),
    ],
)  # fmt: skip
def test_anything_else_is_refused_by_name(where, problem):
    with pytest.raises(ValueError, match=problem):
        check_filter(where, SCHEMA)


def comparisons() -> st.SearchStrategy:
    """Comparisons, both as SQL and as functions of a row."""
    signs = {
        "=": lambda a, b: a == b, "<>": lambda a, b: a != b, "<": lambda a, b: a < b, "<=": lambda a, b: a <= b,
        ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
    }  # fmt: skip

    def compare(column: str, value, sign: str):
        spelled = "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)

        def holds(row):  # as SQL has it: unknown where there is no value
            return None if row.get(column) is None else signs[sign](row[column], value)

        return f"{column} {sign} {spelled}", holds

    numbers = st.tuples(st.sampled_from(["frame", "size", "price", "left", "bottom"]), st.integers(-12, 24))
    texts = st.tuples(st.just("camera"), st.sampled_from(["gate-1", "gate-2", "it's 50% off", "", "' OR 1=1 --"]))
    return st.builds(lambda pair, sign: compare(*pair, sign), numbers | texts, st.sampled_from(sorted(signs)))


def combined(parts: st.SearchStrategy) -> st.SearchStrategy:
    def joined(word, one, other):
        def holds(row):
            values = {one[1](row), other[1](row)}
            decisive = word == "OR"
            return decisive if decisive in values else None if None in values else not decisive

        return f"({one[0]} {word} {other[0]})", holds

    def negated(one):
        return f"NOT {one[0]}", lambda row: None if one[1](row) is None else not one[1](row)

    return st.builds(joined, st.sampled_from(["AND", "OR"]), parts, parts) | st.builds(negated, parts)


@settings(max_examples=60, deadline=None)
@given(filter_=st.recursive(comparisons(), combined, max_leaves=5))
def test_nested_filters_follow_the_logic_of_sql(table, filter_):
    where, holds = filter_
    assert kept(table, where) == expected(lambda row: holds(row) is True)


@settings(max_examples=200, deadline=None)
@given(where=st.text(max_size=60) | st.text("cameratime='%();-*/ 0123<>,", max_size=40))
def test_no_text_gets_through_that_names_anything_but_columns_and_values(where):
    try:
        checked = check_filter(where, SCHEMA)
    except ValueError:
        return
    assert check_filter(checked.replace("`", '"'), SCHEMA) == checked


FILTERS = (
    "camera = 'gate-2' AND time > '2026-11-25 08:10'", "size <= -5 OR NOT in_stock", "5 > left", "price IS NOT NULL",
    "time BETWEEN '2026-11-25T09:12+01:00' AND timestamp '2026-11-25 08:03'", "camera NOT LIKE 'g%' AND left < 1e3",
    "camera IN ('gate-1', 'it''s 50% off') OR camera ILIKE '%_1'", "in_stock IS TRUE", "frame IN (1, 2, 3.0)",
)  # fmt: skip
PIECES = (
    *(" ".join(FILTERS).replace("(", " ( ").replace(")", " ) ").split()), *SIDES, "brand", "vector", "id", "rank", "",
    "NULL", "-", "--", "/*", "*/", ";", "''", "'", '"', "\\", "\0", "\ud800", "\U0001f600", ",", "%", "0x1f", "1e999",
    "9223372036854775808", "-1e-400", ".5", "5.", "1_0", "NaN", "'NaN'", "inf", "CAST(1 AS INT)", "'0001-01-01'",
    "'9999-12-31T23:59:59-23:59'", "'2026-02-30'", "true", "COUNT(*)", "(SELECT 1)", "||", "::int", "$1", ":a", "?",
)  # fmt: skip
"""Parts that random filters are made of."""


def random_filter(chance: random.Random) -> str:
    """Two valid filters with some parts replaced, or nonsense."""
    parts = " AND ".join(chance.choices(FILTERS, k=2)).replace("(", " ( ").replace(")", " ) ").split(" ")
    for _ in range(chance.choice([0, 1, 1, 2, 3, 8])):
        place = chance.randrange(len(parts))
        parts[place : place + chance.randrange(3)] = chance.choices(PIECES, k=chance.randrange(3))
        parts = parts or [""]
    return " ".join(parts)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seconds", [5, pytest.param(600, marks=[pytest.mark.torture, pytest.mark.slow])])
def test_every_filter_is_refused_or_sorts_everybody_into_met_unmet_and_unknown(table, seconds):
    chance, end, accepted, refused = random.Random(seconds), time.monotonic() + seconds, 0, 0
    while time.monotonic() < end or not accepted:
        where, begin = random_filter(chance), time.monotonic()
        try:
            condition = check_filter(where, SCHEMA)
        except ValueError as error:
            assert str(error)
            refused += 1
            continue
        unexpected, columns = passed_over(where, SCHEMA)
        counts = [table.count_rows(sql) for sql in (condition, f"NOT ({condition})", f"({condition}) IS NULL")]
        assert sum(counts) == len(ROWS), where
        passed = table.count_rows(unexpected)
        assert passed <= counts[2] and (columns or not passed), where
        assert len(table.search([0.1] * 8).where(condition, prefilter=True).limit(100).to_list()) == counts[0], where
        assert time.monotonic() - begin < 10, where
        accepted += 1
    assert refused > accepted > seconds


def test_times_without_a_zone_are_in_utc():
    assert parse_time("2026-11-25 08:00") == parse_time("2026-11-25T09:00+01:00") == START
