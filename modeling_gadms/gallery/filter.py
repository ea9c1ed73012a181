"""Check filters on the columns of a gallery before they reach the table.

A filter may come from an untrusted user of a web page or an API. It is parsed, and SQL is generated only from known
safe parts: comparisons of a column with literals, joined by AND, OR and NOT.
"""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa


MAX_CHARACTERS = 2000
MAX_PARTS = 200
"""Maximum number of nodes in the syntax tree of a filter."""
BOX_SIDES = ("left", "top", "right", "bottom")
"""Sides of a person's box, in pixels, in the order of the column `box`. They share one column because each column
makes a search slower; a filter names them individually."""
_SIGNS = {"EQ": "=", "NEQ": "<>", "LT": "<", "LTE": "<=", "GT": ">", "GTE": ">="}
_NOT_FILTERABLE = ("vector", "thumbnail", "box", "content")


def check_filter(where: str, schema: pa.Schema) -> str:
    """Check a filter and rewrite it as SQL of the table.

    Allowed are `=`, `<>`, `!=`, `<`, `<=`, `>`, `>=`, `BETWEEN`, `IN`, `LIKE`, `ILIKE` and `IS [NOT] NULL` between one
    column and literals, a boolean column by itself, `AND`, `OR`, `NOT` and parentheses. Times are quoted ISO 8601;
    without a time zone they are UTC.

    Args:
        where (`str`): the filter, such as `"camera = 'gate-2' AND time > '2026-11-25 08:00'"`.
        schema (`pyarrow.Schema`): schema of the table.

    Returns:
        `str`: SQL for LanceDB.

    Raises:
        ValueError: if a part is not allowed, a column is unknown, or a literal does not match the type of its column.
        ImportError: if sqlglot is not installed.
    """
    return _Writer(where, schema).condition(_parse(where))


def passed_over(where: str, schema: pa.Schema) -> tuple[str, list[str]]:
    """Which persons a filter passes over for lack of a value, where its user might not expect it.

    As in SQL, a person without a camera meets neither `camera <> 'b'` nor its opposite, and one without a time neither
    `time < ...` nor `time >= ...`. That one without a camera does not meet `camera = 'b'` surprises nobody.

    Returns:
        `tuple`: a condition (SQL) that selects these persons, and the columns of which they may lack a value.
    """
    writer = _Writer(where, schema, equal_to_null=False)
    return f"({writer.condition(_parse(where))}) IS NULL", writer.uncertain


def literal(value: Any) -> str:
    """A None, bool, int, float, str or datetime as a SQL literal."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, datetime):
        return f"timestamp '{in_utc(value):%Y-%m-%d %H:%M:%S.%f}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, float) and not math.isfinite(value):
        return f"CAST('{value}' AS DOUBLE)"
    return repr(value)


def column_name(name: str) -> str:
    """A column or a side of the box in SQL. Backticks, because an additional column may have the name of a keyword."""
    if name in BOX_SIDES:
        return f"`box`[{BOX_SIDES.index(name) + 1}]"  # SQL counts from 1
    return f"`{name}`"


def in_utc(time: datetime) -> datetime:
    """Convert a time to UTC; a time without a time zone is taken as UTC.

    Raises:
        ValueError: if the time in UTC is not in the years 1 to 9999.
    """
    try:
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"the time {time.isoformat()} is not in the years 1 to 9999 of UTC") from error


def parse_time(text: str) -> datetime:
    """Parse a time in ISO 8601 and convert it to UTC.

    Raises:
        ValueError: if the text is not a time.
    """
    try:
        return in_utc(datetime.fromisoformat(text.strip()))
    except ValueError:
        raise ValueError(
            f"{text!r} is not a time: write it as '2026-11-25 08:00' or '2026-11-25T08:00+01:00'"
        ) from None


def _parse(where: str) -> Any:
    if len(where) > MAX_CHARACTERS:
        raise ValueError(f"The filter has {len(where):,} characters; the maximum is {MAX_CHARACTERS:,}")
    try:
        where.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"The filter {where!r} contains {where[error.start]!r}, which is no character") from error
    try:
        import sqlglot
        from sqlglot.errors import SqlglotError
    except ImportError as error:
        raise ImportError('Filters need sqlglot: pip install "gadms[gallery]"') from error
    problem = f"The filter {where!r} is not a condition such as \"camera = 'gate-2' AND time > '2026-11-25 08:00'\""
    try:
        statements = sqlglot.parse(where, read="postgres")
    except (SqlglotError, RecursionError) as error:
        raise ValueError(f"{problem}: {str(error).splitlines()[0]}") from error
    if len(statements) != 1 or statements[0] is None:
        raise ValueError(f"{problem}: it contains {sum(map(bool, statements))} statements")
    if (parts := sum(1 for _ in statements[0].walk())) > MAX_PARTS:
        raise ValueError(f"The filter has {parts:,} parts; the maximum is {MAX_PARTS}: use IN for long lists")
    return statements[0]


class _Writer:
    """Generates SQL from a parsed filter on the columns of a schema; `where` is its text, for error messages.

    With `equal_to_null=False`, "is equal", outside of NOT, is false for a missing value and not NULL. `uncertain` are
    the columns in comparisons that may be NULL.
    """

    def __init__(self, where: str, schema: pa.Schema, *, equal_to_null: bool = True):
        self.where = where
        self.columns = {field.name: field.type for field in schema if field.name not in _NOT_FILTERABLE}
        self.columns |= dict.fromkeys(BOX_SIDES, schema.field("box").type.value_type)
        self.uncertain: list[str] = []
        self._equal_to_null, self._negated = equal_to_null, False

    def condition(self, node: Any) -> str:
        """SQL of a boolean expression."""
        kind = type(node).__name__
        writers: dict[str, Callable[[Any], str]] = {
            "And": self._connective,
            "Or": self._connective,
            "Not": self._not,
            "Paren": lambda node: self.condition(node.this),
            **dict.fromkeys(_SIGNS, self._comparison),
            "Between": self._between,
            "In": self._in,
            "Like": self._like,
            "ILike": self._like,
            "Is": self._is,
            "Column": self._boolean_column,
        }
        if kind not in writers or node.comments:
            raise self._refusal(node)
        return writers[kind](node)

    def _connective(self, node: Any) -> str:
        self._only(node, "this", "expression")
        word = type(node).__name__.upper()
        return f"({self.condition(node.this)} {word} {self.condition(node.expression)})"

    def _not(self, node: Any) -> str:
        self._only(node, "this")
        outside, self._negated = self._negated, True
        condition = self.condition(node.this)
        self._negated = outside
        return f"(NOT {condition})"

    def _comparison(self, node: Any) -> str:
        self._only(node, "this", "expression")
        mirrored = {"LT": "GT", "LTE": "GTE", "GT": "LT", "GTE": "LTE"}
        kind, column, value = type(node).__name__, node.this, node.expression
        if type(column).__name__ != "Column":
            kind, column, value = mirrored.get(kind, kind), value, column
        name = self._column(column)
        if pa.types.is_boolean(self.columns[name]) and kind not in ("EQ", "NEQ"):
            raise ValueError(f"{name} is a boolean column, which {node.sql()!r} cannot order: compare it by = or <>")
        condition = f"{column_name(name)} {_SIGNS[kind]} {self._literal(value, name)}"
        return self._may_be_null(name, condition, equality=kind == "EQ")

    def _between(self, node: Any) -> str:
        self._only(node, "this", "low", "high")
        name = self._column(node.this)
        low, high = (self._literal(node.args[side], name) for side in ("low", "high"))
        return self._may_be_null(name, f"({column_name(name)} >= {low} AND {column_name(name)} <= {high})")

    def _in(self, node: Any) -> str:
        self._only(node, "this", "expressions")
        if not node.expressions:
            raise self._refusal(node)
        name = self._column(node.this)
        values = ", ".join(self._literal(value, name) for value in node.expressions)
        return self._may_be_null(name, f"{column_name(name)} IN ({values})", equality=True)

    def _like(self, node: Any) -> str:
        self._only(node, "this", "expression", "negate")
        name = self._column(node.this)
        if not pa.types.is_string(self.columns[name]):
            raise ValueError(f"{name} is not a text column: {node.sql()!r} needs one")
        word = type(node).__name__.upper()
        negated = "NOT " if node.args.get("negate") else ""
        condition = f"{column_name(name)} {negated}{word} {self._literal(node.expression, name)}"
        return self._may_be_null(name, condition, equality=not negated)

    def _is(self, node: Any) -> str:
        self._only(node, "this", "expression", "negate")
        name = self._column(node.this)
        negated = "NOT " if node.args.get("negate") else ""
        kind = type(node.expression).__name__
        if kind == "Boolean" and pa.types.is_boolean(self.columns[name]):
            return f"{column_name(name)} IS {negated}{literal(bool(node.expression.this))}"
        if kind != "Null":
            raise self._refusal(node)
        return f"{column_name(name)} IS {negated}NULL"

    def _boolean_column(self, node: Any) -> str:
        name = self._column(node)
        if not pa.types.is_boolean(self.columns[name]):
            raise ValueError(f'{name} is not a boolean column: compare it, as in "{name} = ..."')
        return self._may_be_null(name, column_name(name), equality=True)

    def _may_be_null(self, name: str, condition: str, equality: bool = False) -> str:
        """A comparison, which is NULL where the column is."""
        if equality and not self._negated and not self._equal_to_null:
            return f"({condition} AND {column_name(name)} IS NOT NULL)"
        if name not in self.uncertain:
            self.uncertain.append(name)
        return condition

    def _column(self, node: Any) -> str:
        if type(node).__name__ != "Column" or node.comments:
            raise self._refusal(node)
        self._only(node, "this")
        if node.name not in self.columns:
            raise ValueError(
                f"The filter {self.where!r} names {node.name!r}, but the gallery has no such column. Columns: "
                f"{', '.join(sorted(self.columns))}. Write text in single quotes"
            )
        return str(node.name)

    def _literal(self, node: Any, name: str) -> str:
        """SQL of a literal that matches the type of the column `name`."""
        kind, column = type(node).__name__, self.columns[name]
        if node.comments:
            raise self._refusal(node)
        if kind == "Cast" and pa.types.is_timestamp(column) and node.to.sql().upper().startswith("TIMESTAMP"):
            return self._literal(node.this, name)  # timestamp '2026-11-25 08:00'
        negative = kind == "Neg"
        if negative:
            node, kind = node.this, type(node.this).__name__
        if kind == "Literal" and node.is_string and not negative:
            if pa.types.is_timestamp(column):
                return literal(parse_time(node.this))
            if pa.types.is_string(column):
                return literal(node.this)
        if kind == "Literal" and not node.is_string and pa.types.is_integer(column):
            return self._integer(("-" if negative else "") + str(node.this), name)
        if kind == "Literal" and not node.is_string and pa.types.is_floating(column):
            return ("-" if negative else "") + str(node.this)
        if kind == "Boolean" and pa.types.is_boolean(column):
            return literal(bool(node.this))
        if kind in ("Literal", "Boolean", "Null", "Column"):  # a Column: double quotes, meant for text
            what = "IS NULL" if kind == "Null" else _spelled(column)
            raise ValueError(f"The filter {self.where!r} compares {name} with {node.sql()}: use {what}")
        raise self._refusal(node)

    def _integer(self, text: str, name: str) -> str:
        """SQL of a number that an integer column can have, such as 3 or 3.0."""
        number = Decimal(text)
        if abs(number) >= 2**63 or number != int(number):
            raise ValueError(
                f"The filter {self.where!r} compares {name} with {text}: use whole numbers of less than 64 bits"
            )
        return str(int(number))

    def _only(self, node: Any, *known: str) -> None:
        """Refuse properties that a later version of the parser may add to a node."""
        if any(value for key, value in node.args.items() if key not in known):
            raise self._refusal(node)

    def _refusal(self, node: Any) -> ValueError:
        return ValueError(
            f"The filter {self.where!r} contains {node.sql(comments=True)!r}, which is not allowed: compare a column "
            "with values by =, <>, <, <=, >, >=, BETWEEN, IN, LIKE or IS NULL, and join comparisons by AND, OR and NOT"
        )


def _spelled(column: pa.DataType) -> str:
    if pa.types.is_timestamp(column):
        return "a time in quotes, such as '2026-11-25 08:00'"
    if pa.types.is_string(column):
        return "text in single quotes"
    return "true or false" if pa.types.is_boolean(column) else "numbers without quotes"
