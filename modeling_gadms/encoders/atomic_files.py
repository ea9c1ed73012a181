"""Files that are whole or not there, and what they hold in a few digits."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write a file that is to be whole at `path` or not there: it is moved at the end of the `with`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{uuid.uuid4().hex[:8]}-{path.name}")
    yield part
    move_into_place(part, path)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Where to write a folder that is to be whole at `path` or not there: it is moved at the end of the `with`.

    Raises:
        FileExistsError: if there is something already, be it a file or a folder that is not empty.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} is there already; give a new or an empty folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        part.mkdir()
        yield part
        part.replace(path)  # of an empty folder nothing is lost
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def move_into_place(part: Path, path: Path) -> None:
    """Move a finished file to its place on the same disk, so that it is whole there also after a power cut."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file that is whole or not there at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, of which a reader finds all or nothing; what JSON cannot hold is written as its text."""
    write_atomically(path, json.dumps(content, indent=2, default=str) + "\n")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
