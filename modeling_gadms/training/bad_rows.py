"""Find the rows of a data set that cannot be trained on, before training: no caption, no person, no readable image."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import datasets
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from .data import DatasetColumns, decode_row_image


logger = logging.getLogger(__name__)

_CHUNK = 256
"""Rows that a thread decodes at a time."""
_NAMED = 5
"""Rows that a message names."""


@dataclass(frozen=True, order=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
        row (`int`): number in its split, or in its file.
        reason (`str`): what is wrong.
        file (`str`, *optional*): name of its file, in a stream.
    """

    row: int
    reason: str = ""
    file: str = ""

    def __str__(self) -> str:
        return f"row {self.row}{self.file and f' of {self.file}'}{self.reason and f': {self.reason}'}"


def list_rows(rows: list[BadRow]) -> str:
    """Return the first rows as text, with the number of the others."""
    more = f"; and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return "; ".join(map(str, rows[:_NAMED])) + more


def find_bad_rows(
    dataset: datasets.Dataset, columns: DatasetColumns, *, process_index: int = 0, num_processes: int = 1
) -> list[BadRow]:
    """Find all rows without a person id, with an empty caption or with an unreadable image. All images are decoded.

    Args:
        dataset ([`~datasets.Dataset`]), columns ([`DatasetColumns`]): the rows, and the names of their columns.
        process_index, num_processes (`int`): each process decodes its share of the images, and all return all rows.

    Returns:
        `list[BadRow]`: in order; of a row only the first reason.
    """
    found: dict[int, str] = {}
    person_id = columns.person_id
    names = [*columns.captions, *([person_id] if person_id else [])]
    for number, row in enumerate(dataset.select_columns(names).with_format(None)):
        try:
            columns.captions_in(row)
        except ValueError as error:
            found[number] = str(error)
        if person_id and row[person_id] is None:
            found.setdefault(number, f"`{person_id}` is missing")
    images = dataset.select_columns([columns.image]).with_format(None)

    def unreadable(rows: list[int]) -> list[tuple[int, str]]:
        faults = []
        for row in rows:
            try:
                decode_row_image(images, columns.image, row)
            except ValueError as error:
                faults.append((row, str(error)))
        return faults

    own = range(process_index, len(images), num_processes)
    chunks = [list(own[start : start + _CHUNK]) for start in range(0, len(own), _CHUNK)]
    own_faults: list[tuple[int, str]] = []
    bar = tqdm(total=len(own), desc="Checking images", unit="image", disable=process_index > 0)
    with ThreadPoolExecutor(os.cpu_count()) as threads, bar:
        for chunk, faults in zip(chunks, threads.map(unreadable, chunks), strict=True):
            own_faults += faults
            bar.update(len(chunk))
    for row, reason in gather_object(own_faults):
        found.setdefault(row, reason)
    return [BadRow(row, reason) for row, reason in sorted(found.items())]


def drop_bad_rows(
    dataset: datasets.Dataset, bad: list[BadRow], split: str, *, skip: bool, log: bool = True
) -> datasets.Dataset:
    """Return a split without its bad rows.

    Args:
        dataset ([`~datasets.Dataset`]), bad (`list[BadRow]`): a split, and the result of [`find_bad_rows`].
        split (`str`): its name, for messages.
        skip (`bool`): whether bad rows are dropped or refused.
        log (`bool`, *optional*, defaults to `True`): whether dropped rows are named in the log.

    Raises:
        ValueError: naming the first bad rows, if they are refused or all rows are bad.
    """
    if not bad:
        return dataset
    what = f"{len(bad)} of {len(dataset)} rows of the split `{split}` cannot be used: {list_rows(bad)}"
    if not skip:
        raise ValueError(f"{what}. Mend or drop them, or skip them with data.bad_rows=skip")
    if len(bad) == len(dataset):
        raise ValueError(f"{what}. No row is left")
    if log:
        logger.warning("%s. They are skipped", what)
    dropped = {fault.row for fault in bad}
    return dataset.select([row for row in range(len(dataset)) if row not in dropped])
