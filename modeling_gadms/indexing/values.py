"""Convert the values of tables and archives to the types of a gallery's columns, exactly or not at all."""

import json
import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from pyarrow import csv

from ..gallery.filter import in_utc, parse_time
from ..media.names import escape_name


_NULLS = frozenset(csv.ConvertOptions().null_values)
"""Texts that are empty cells: "", "NA", "NaN", "NULL", ... (of columns that are not text)."""
_BOOLEANS = {"true": True, "yes": True, "y": True, "t": True, "on": True, "1": True} | {
    "false": False, "no": False, "n": False, "f": False, "off": False, "0": False
}  # fmt: skip
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST_EPOCH = 10**8
"""Smaller numbers are no times: 1973 in seconds. Days of a spreadsheet and years are smaller."""
_EPOCH_UNITS = ((10**11, 1), (10**14, 10**3), (10**17, 10**6), (10**20, 10**9))
"""Numbers below the first are seconds, then milliseconds, microseconds and nanoseconds."""
_ZONE = re.compile(r"\s*(?:UTC|GMT|Z)$|\s+(?=[+-]\d\d:?\d\d$)", re.IGNORECASE)


def is_null(value: Any) -> bool:
    """Whether a value stands for no value: `None`, and the NaN and NaT that data frames write for it."""
    if isinstance(value, Decimal):
        return value.is_nan()
    return value is None or (isinstance(value, (float, datetime)) and value != value)


def convert_value(value: Any, kind: str) -> Any:
    """Convert a value to the type of a column.

    | type | accepted beside values of the type itself |
    |---|---|
    | `string` | numbers, truth values, times; lists and mappings as JSON |
    | `integer` | numbers and texts without a fraction (`3.0`), of at most 64 bits |
    | `float` | numbers and texts, except infinities |
    | `boolean` | `true`/`false`, `yes`/`no`, `y`/`n`, `t`/`f`, `on`/`off`, `1`/`0` in any case |
    | `time` | dates; ISO 8601, also with a zone; `20261125080000`; seconds, milli-, micro- or nanoseconds since 1970 |

    Args:
        value (`Any`): from a table or a JSON file. NaN is no value; so are, except for `string`, the texts that
            pyarrow takes for it (empty, `NA`, `NULL`, ...).
        kind (`str`): a key of [`~modeling_gadms.gallery.schema.COLUMN_TYPES`].

    Returns:
        the value, or `None` for no value. Times are in UTC, and without a zone they are taken as UTC.

    Raises:
        ValueError: if the value has no exact equivalent of this type.

    >>> convert_value("3.0", "integer"), convert_value(7, "string"), convert_value("Yes", "boolean")
    (3, '7', True)
    >>> convert_value("2026-11-25 08:00 +0100", "time").isoformat(), convert_value(1764057600, "time").isoformat()
    ('2026-11-25T07:00:00+00:00', '2025-11-25T08:00:00+00:00')
    """
    if is_null(value):
        return None
    if kind != "string" and isinstance(value, str):
        value = value.strip()
        if value in _NULLS:
            return None
    try:
        return _CONVERTERS[kind](value)
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
        shown = repr(value)
        shown = shown if len(shown) <= 80 else f"{shown[:80]}..."
        raise ValueError(f"{shown} is not {'an' if kind == 'integer' else 'a'} {kind}") from None


def _string(value: Any) -> str:
    if isinstance(value, str):
        text = value
    elif isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, float):
        # Data frames turn whole numbers with gaps into floats.
        text = str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    elif isinstance(value, (int, Decimal)):
        text = str(value)
    elif isinstance(value, (datetime, date, time)):
        text = value.isoformat()
    elif isinstance(value, bytes):
        text = value.decode("utf-8", "surrogateescape")
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
    return escape_name(text)


def _integer(value: Any) -> int:
    number = _number(value)
    if number != number.to_integral_value() or not -(2**63) <= number < 2**63:
        raise ValueError
    return int(number)


def _float(value: Any) -> float:
    number = float(_number(value))
    if not math.isfinite(number):
        raise ValueError
    return number


def _number(value: Any) -> Decimal:
    """The exact value of a number or its text, which is finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal, str)) or "_" in str(value):
        raise ValueError
    number = Decimal(value)
    if not number.is_finite():
        raise ValueError
    return number


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float, Decimal)) and value in (0, 1):
        return bool(value)
    return _BOOLEANS[str(value).lower()]


def _time(value: Any) -> datetime:
    if isinstance(value, datetime):
        return in_utc(datetime.fromisoformat(value.isoformat()))  # pandas counts nanoseconds, which columns do not
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, str):
        if re.fullmatch(r"[12]\d{13}", value):
            return datetime.strptime(value, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        if re.fullmatch(r"[12]\d{7}", value) or not re.fullmatch(r"\d+(\.\d+)?", value):
            return parse_time(_ZONE.sub(lambda zone: "" if zone[0].isspace() else "Z", value))
    number = _number(value)
    for limit, unit in _EPOCH_UNITS:
        if _EARLIEST_EPOCH <= number < limit:
            return _EPOCH + timedelta(microseconds=int(number * 10**6 / unit))
    raise ValueError


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "string": _string,
    "integer": _integer,
    "float": _float,
    "boolean": _boolean,
    "time": _time,
}
