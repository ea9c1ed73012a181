"""Print results as JSON."""

import json
from typing import Any

import typer


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Print a value as JSON. NaN and infinite numbers, which JSON lacks, become null, and times ISO 8601."""
    from modeling_gadms.gallery.records import json_value

    typer.echo(json.dumps(json_value(value), indent=indent, ensure_ascii=False, allow_nan=False, default=str))
