"""Write the splits of a data set as Parquet shards with the images inside, and check shards."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.table import embed_table_storage
from tqdm.auto import tqdm

from ..construction.storage import Location


SHARD_BYTES = 400_000_000
"""Size of a shard before compression. Not stated: chosen near the shard size of `Dataset.push_to_hub`."""
_ROW_GROUP = 100
_ROW_GROUP_BYTES = 32_000_000
"""Maximum size of a row group. Readers load a whole row group even for a single row."""


@dataclass(frozen=True)
class WrittenSplit:
    """A split on disk.

    Attributes:
        rows (`int`): number of rows.
        num_bytes (`int`): uncompressed size.
        files (`tuple[Location, ...]`): its shards, in order.
    """

    rows: int
    num_bytes: int
    files: tuple[Location, ...]


def write_shards(
    split: datasets.Dataset, name: str, folder: Path, *, shard_bytes: int = SHARD_BYTES, progress: bool = True
) -> WrittenSplit:
    """Write a split as `<name>-00000-of-00002.parquet`, `<name>-00001-of-00002.parquet`, ...

    Args:
        split (`datasets.Dataset`): the rows. Image files that are given as paths are read.
        name (`str`): name of the split.
        folder (`Path`): output folder.
        shard_bytes (`int`, *optional*): maximum size of a shard before compression; a larger row gets a shard of its
            own. One shard is held in memory.
        progress (`bool`): show a progress bar.

    Raises:
        ValueError: if there are no rows, or `shard_bytes` is out of range.
        OSError: if an image file is missing.
    """
    if not 0 < shard_bytes < 2**31:
        raise ValueError(
            f"shard_bytes = {shard_bytes} must be positive and less than 2 GB, the limit of an Arrow column"
        )
    if len(split) == 0:
        raise ValueError(f"split `{name}` has no rows: remove it")
    folder.mkdir(parents=True, exist_ok=True)
    parts: list[Path] = []
    num_bytes = 0
    for table in _tables(split, name, shard_bytes, progress):
        part = folder / f"{name}-part-{len(parts):05d}.parquet"
        shard = datasets.Dataset(table, info=datasets.DatasetInfo(features=split.features))
        shard.to_parquet(part, batch_size=_rows_per_group(table))
        parts.append(part)
        num_bytes += table.nbytes
    # Names contain the number of shards, which is known only now.
    files = [folder / f"{name}-{number:05d}-of-{len(parts):05d}.parquet" for number in range(len(parts))]
    for part, file in zip(parts, files, strict=True):
        part.replace(file)
    return WrittenSplit(len(split), num_bytes, tuple(files))


def check_shards(files: list[Path]) -> int:
    """Read the footers of a split's shards. Returns: the number of rows.

    Raises:
        ValueError: if a file is not Parquet, has other columns than the first file, or has an empty row group, which
            some readers cannot handle.
    """
    rows = 0
    first: pa.Schema | None = None
    for file in files:
        try:
            with pq.ParquetFile(file) as content:
                schema, footer = content.schema_arrow, content.metadata
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{file} is not a Parquet file: {error}") from error
        first = first or schema
        if not schema.equals(first):
            raise ValueError(f"{file} has other columns than {files[0].name}: {', '.join(schema.names)}")
        if any(footer.row_group(number).num_rows == 0 for number in range(footer.num_row_groups)):
            raise ValueError(f"{file} has an empty row group: write the file again")
        rows += footer.num_rows
    return rows


def _tables(split: datasets.Dataset, name: str, shard_bytes: int, progress: bool) -> Iterator[pa.Table]:
    """Yield one table per shard, with the images inside."""
    schema = split.features.arrow_schema
    waiting: list[pa.Table] = []
    size = 0
    bar = tqdm(total=len(split), desc=f"Writing {name}", unit="row", disable=not progress)
    for batch in split.with_format("arrow").iter(_ROW_GROUP):
        # The metadata of the schema marks columns of images.
        embedded = embed_table_storage(batch.cast(schema))
        start = 0
        for row in range(len(embedded)):
            row_bytes = embedded.slice(row, 1).nbytes
            if size and size + row_bytes > shard_bytes:
                yield pa.concat_tables([*waiting, embedded.slice(start, row - start)]).combine_chunks()
                waiting, size, start = [], 0, row
            size += row_bytes
        waiting.append(embedded.slice(start))
        bar.update(len(embedded))
    bar.close()
    yield pa.concat_tables(waiting).combine_chunks()


def _rows_per_group(table: pa.Table) -> int:
    return max(1, min(_ROW_GROUP, _ROW_GROUP_BYTES * len(table) // max(table.nbytes, 1)))
