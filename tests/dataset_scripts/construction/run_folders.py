"""What a run left in its folder, for comparing runs."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def contents(root: Path) -> dict[str, str]:
    """SHA-256 of every file by its path, but for the lock."""
    files = [path for path in root.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def published_rows(root: Path) -> list[dict[str, Any]]:
    return pa.concat_tables([pq.read_table(file) for file in sorted(root.glob("data/*.parquet"))]).to_pylist()


def rejected_rows(root: Path, stage: str) -> list[dict[str, Any]]:
    files = sorted(root.glob(f"work/rejects/{stage}-*.parquet"))
    return pa.concat_tables([pq.read_table(file) for file in files]).to_pylist()
