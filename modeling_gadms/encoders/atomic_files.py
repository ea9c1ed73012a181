"""Write files and folders atomically, and compute their digests."""

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
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, which is moved to `path` at the end of the `with` block.

    On an error it is removed.
    """
    part = _temporary(path)
    try:
        yield part
        move_into_place(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to write to, which is moved to `path` at the end of the `with` block.

    Raises:
        FileExistsError: if `path` is a file, or a folder that is not empty.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} already exists; give a new or an empty folder")
    part = _temporary(path)
    try:
        part.mkdir()
        yield part
        part.replace(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def move_into_place(part: Path, path: Path) -> None:
    """Move a complete file to its place on the same disk; synced first, so that it also survives a power failure."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically; objects without a JSON type are written as strings."""
    write_atomically(path, json.dumps(content, indent=2, default=str) + "\n")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _temporary(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".part-{uuid.uuid4().hex[:8]}-{path.name}")
