"""The command `gadms aggregate`."""

from pathlib import Path
from typing import Annotated

import typer

from .user_errors import user_errors


@user_errors()
def aggregate(
    files: Annotated[list[Path], typer.Argument(help="Metrics files of examples/evaluate.py, one for each training.")],
) -> None:
    """Average metrics over training seeds. Prints their mean and standard deviation.

    \b
    gadms aggregate runs/seed0/metrics.json runs/seed1/metrics.json runs/seed2/metrics.json
    """
    from modeling_gadms.evaluation.reports import Record, aggregate_records, read_records

    by_dataset: dict[tuple[str, str], list[Record]] = {}
    for file in files:
        for record in read_records(file):
            by_dataset.setdefault((record["dataset"]["name"], record["dataset"]["split"]), []).append(record)
    for records in by_dataset.values():
        typer.echo(aggregate_records(records).to_table())
