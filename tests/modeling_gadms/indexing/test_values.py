"""Values of tables become the declared types exactly, or are refused."""

import math
from datetime import UTC, date, datetime
from decimal import Decimal

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_gadms.gallery.schema import COLUMN_TYPES, check_values
from modeling_gadms.indexing.values import convert_value


EIGHT = datetime(2026, 11, 25, 8, tzinfo=UTC)
SECONDS = int(EIGHT.timestamp())
CASES = {
    "string": [
        ("007", "007"),
        (7, "7"),
        (7.0, "7"),  # a camera's number in a column with gaps
        (7.5, "7.5"),
        (True, "true"),
        (Decimal("1.50"), "1.50"),
        ("NA", "NA"),
        ("", ""),
        (date(2026, 11, 25), "2026-11-25"),
        (["a", 1], '["a", 1]'),
        (b"caf\xe9", r"caf\xe9"),
        ("half \ud83d", r"half \xed\xa0\xbd"),
    ],
    "integer": [
        ("3.0", 3),
        (3.0, 3),
        (" 12 ", 12),
        ("-0", 0),
        ("1e3", 1000),
        (Decimal("3.00"), 3),
        (2**63 - 1, 2**63 - 1),
        (str(-(2**63)), -(2**63)),
        ("NaN", None),
    ],
    "float": [("2.5", 2.5), (2, 2.0), (Decimal("59.90"), 59.9), ("1e-3", 0.001), ("", None), (math.nan, None)],
    "boolean": [("yes", True), ("No", False), ("TRUE", True), ("f", False), (1, True), (0.0, False), ("n/a", None)],
    "time": [
        ("2026-11-25", EIGHT.replace(hour=0)),
        (date(2026, 11, 25), EIGHT.replace(hour=0)),
        ("2026-11-25 08:00", EIGHT),
        ("2026-11-25T08:00:00Z", EIGHT),
        ("2026-11-25 08:00:00 UTC", EIGHT),
        ("2026-11-25 09:00 +0100", EIGHT),
        ("2026-11-25T09:00+01:00", EIGHT),
        ("20261125", EIGHT.replace(hour=0)),
        ("20261125080000", EIGHT),
        (SECONDS, EIGHT),
        (str(SECONDS), EIGHT),
        (SECONDS * 1000, EIGHT),
        (SECONDS * 10**6 + 250_000, EIGHT.replace(microsecond=250_000)),
        (SECONDS * 10**9 + 999, EIGHT),
        (f"{SECONDS}.5", EIGHT.replace(microsecond=500_000)),
        (pd.Timestamp("2026-11-25T09:00:00.000000001+01:00"), EIGHT),
        (pd.NaT, None),
    ],
}
REFUSED = {
    "integer": [
        "3.5",
        3.5,
        "seven",
        True,
        "1_000",
        2**63,
        2**64 - 1,
        math.inf,
        b"3",
        "1e999999999",
        "9" * 5000,
        "12,50",
    ],
    "float": ["inf", math.inf, "12,50", True, "1e400", [1.0]],
    "boolean": ["maybe", 2, []],
    "time": [
        "25.11.2026",
        "11/25/2026",
        "45986.33",
        2026,
        True,
        -SECONDS,
        10**30,
        "0001-01-01 00:00+05:00",
        "yesterday",
    ],
}


@pytest.mark.parametrize("kind", CASES)
def test_values_that_fit(kind):
    for value, expected in CASES[kind]:
        found = convert_value(value, kind)
        assert (found, type(found)) == (expected, type(expected)), value


@pytest.mark.parametrize("kind", REFUSED)
def test_values_that_do_not_fit_are_refused_by_name(kind):
    for value in REFUSED[kind]:
        with pytest.raises(ValueError, match=rf"is not an? {kind}$") as caught:
            convert_value(value, kind)
        assert repr(value)[:20] in str(caught.value)


ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.decimals()
ANYTHING |= st.datetimes() | st.dates() | st.lists(st.integers()) | st.text("0123456789.-+eE:TZ ")


@given(ANYTHING, st.sampled_from(sorted(COLUMN_TYPES)))
def test_whatever_comes_is_converted_to_what_the_gallery_takes_or_refused(value, kind):
    try:
        found = convert_value(value, kind)
    except ValueError:
        assert kind != "string"
        return
    assert check_values({"column": found}, {"column": kind}) == {"column": found}
    assert found is None or not isinstance(found, float) or math.isfinite(found)
