"""Blocks, the building units of a pipeline: each does one thing to a batch of rows.

A block is a callable that takes a batch of columns. A `Filter` judges rows one at a time and returns `True` or
`(False, "reason")`. Blocks do not remove rows: a rejected row stays in the table with the name of the block and the
reason, and later blocks do not see it. So all counts can be computed from the rows.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc


Batch = dict[str, list[Any]]
"""Columns by name, each with one value per row."""
Verdict = Literal[True] | tuple[Literal[False], str] | tuple[Literal[False], str, str]
"""Keep, or reject with a reason (which is counted) and an optional human-readable detail."""

TRAIL = pa.list_(pa.struct({"block": pa.string(), "note": pa.string()}))
ROW_SCHEMA = pa.schema(
    {
        "row_id": pa.string(),
        "shard": pa.int32(),
        "position": pa.int64(),  # number of the image over all sources
        "person": pa.int32(),  # number of the person in the image; null for an image
        "trail": TRAIL,  # the blocks that processed the row, with their notes
        "rejected_by": pa.string(),
        "reason": pa.string(),
        "detail": pa.string(),
    }
)
"""Columns that every row has; sources and blocks add the others."""


@dataclass(frozen=True)
class Outcome:
    """The result of a block on a batch.

    Attributes:
        columns (`Batch`): the columns to add or replace, with one value per output row; with `origins`, only for the
            kept rows.
        verdicts (`Sequence[Verdict]`, *optional*): one per input row; by default all rows are kept.
        notes (`Sequence[str | None]`, *optional*): one per input row. Notes are counted in addition to keep and
            reject, for example a caption that must be requested again.
        origins (`Sequence[int]`, *optional*): for a block that makes several rows out of one, the input row of each
            output row, ascending. Every kept row needs at least one output row.
    """

    columns: Batch = field(default_factory=dict)
    verdicts: Sequence[Verdict] | None = None
    notes: Sequence[str | None] | None = None
    origins: Sequence[int] | None = None


class Block(ABC):
    """One step of a pipeline. Constructing it is cheap, and it pickles; `prepare` loads its models in each process.

    Attributes:
        name (`str`): unique in a pipeline; used in the pipeline report and in rejected rows.
        reads (`tuple[str, ...]`): the columns it receives.
        adds (`Mapping[str, pa.DataType]`): the columns it adds or replaces, with their types.
        batch_size (`int`, *optional*): rows per call; `None` for all rows of a shard.
        has_model (`bool`): whether `prepare` loads something that should stay in memory between batches.
        group (`str`, *optional*): consecutive blocks of the same group share a process, and so their models, under
            Ray.
    """

    name: str
    reads: tuple[str, ...] = ()
    adds: Mapping[str, pa.DataType] = {}
    batch_size: int | None = 256
    has_model: bool = False
    group: str | None = None

    def prepare(self) -> None:  # noqa: B027, most blocks have nothing to load
        """Load models. Called once in each process that runs the block, before its first batch."""

    def selects(self, table: pa.Table) -> pa.Array | None:
        """Boolean mask of the rows to process; `None` for all. The other rows skip the block and are not counted."""
        return None

    @abstractmethod
    def __call__(self, batch: Batch) -> Outcome: ...


class Filter(Block):
    """A block that keeps or rejects each row and changes nothing else."""

    @abstractmethod
    def judge(self, row: Mapping[str, Any]) -> Verdict: ...

    def __call__(self, batch: Batch) -> Outcome:
        rows = len(batch[self.reads[0]])
        return Outcome(verdicts=[self.judge({key: batch[key][row] for key in self.reads}) for row in range(rows)])


class BlockError(RuntimeError):
    """A block failed. This is an error of the program or of a shard, not of a row; a run tries the shard again."""


class SettingsError(BlockError):
    """No row can pass with these settings. It ends the run at once."""


class OutageError(BlockError):
    """Something that the run needs, such as a server or a cluster, is away. It ends the run, which can be resumed."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again


def selected_rows(block: Block, table: pa.Table) -> pa.Array:
    """Boolean mask, without nulls, of the rows that a block processes: not rejected, and selected by the block.

    Raises:
        BlockError: if the mask of the block has another length or contains nulls.
    """
    alive = pc.is_null(table["rejected_by"]).combine_chunks()
    selected = block.selects(table)
    if selected is None:
        return alive
    if len(selected) != table.num_rows or selected.null_count:
        # A null is neither true nor, inverted, false: the row would be lost.
        raise BlockError(f"block `{block.name}` must select with one boolean per row, for {table.num_rows} rows")
    return pc.and_(alive, selected)


def run_batch(block: Block, table: pa.Table) -> pa.Table:
    """Apply a prepared block to a batch of selected rows, with `ROW_SCHEMA` and the columns that it reads.

    Returns:
        `pa.Table`: the rows with the block's columns, notes and verdicts. Without `origins` the order is kept; with
        `origins` rejected rows come last.

    Raises:
        BlockError: if the block fails, or if its outcome does not match the rows or its declared columns. A
            `SettingsError` or `OutageError` of the block keeps its class.
    """
    rows = table.num_rows
    outcome = Outcome({name: [] for name in block.adds})
    if rows:
        batch = {name: table[name].to_pylist() for name in block.reads}
        try:
            outcome = block(batch)
        except Exception as error:
            ids = table["row_id"]
            place = f"block `{block.name}` failed on rows {ids[0]} to {ids[-1]}"
            kind = next((kind for kind in (SettingsError, OutageError) if isinstance(error, kind)), BlockError)
            raise kind(f"{place}: {type(error).__name__}: {error}") from error
    verdicts: Sequence[Verdict] = [True] * rows if outcome.verdicts is None else outcome.verdicts
    notes = [None] * rows if outcome.notes is None else outcome.notes
    _require_count(block, "verdicts", verdicts, rows)
    _require_count(block, "notes", notes, rows)
    for verdict in verdicts:
        if verdict is not True and not _is_rejection(verdict):
            raise BlockError(
                f'block `{block.name}` returned the verdict {verdict!r}: it must be True, (False, "reason") or '
                '(False, "reason", "detail")'
            )
    table = _mark(table, block.name, verdicts, notes)
    if outcome.origins is None:
        return _add_columns(block, table, outcome.columns)
    kept = [row for row, verdict in enumerate(verdicts) if verdict is True]
    if sorted(set(outcome.origins)) != kept or list(outcome.origins) != sorted(outcome.origins):
        raise BlockError(f"block `{block.name}` must return `origins` that name all kept rows and no others")
    made = _add_columns(block, table.take(pa.array(outcome.origins, pa.int64())), outcome.columns)
    # Rejected rows stay once each, with their old values even in replaced columns. The order of the source is
    # restored when the shard is written.
    rejected = table.filter(pc.is_valid(table["rejected_by"]))
    return pa.concat_tables([made, rejected], promote_options="default")


def run_batches(block: Block, selected: pa.Table) -> pa.Table:
    """Apply a block to selected rows in batches; without rows, to one empty batch."""
    rows = max(selected.num_rows, 1)
    size = block.batch_size or rows
    return join([run_batch(block, selected.slice(start, size)) for start in range(0, rows, size)])


def run_shard(block: Block, table: pa.Table, run: Callable[[Block, pa.Table], pa.Table] = run_batches) -> pa.Table:
    """Apply a prepared block to the rows of a shard that it selects; the order of the rows may change.

    `run` applies the block to the selected rows in batches of `block.batch_size`.
    """
    mask = selected_rows(block, table)
    return join([run(block, table.filter(mask)), table.filter(pc.invert(mask))])


def join(tables: Sequence[pa.Table]) -> pa.Table:
    """Concatenate tables; a column that one of them lacks is null there."""
    return pa.concat_tables(tables, promote_options="default").combine_chunks()


def in_order(table: pa.Table) -> pa.Table:
    """Sort rows by their position in the source and by the number of the person."""
    return table.sort_by([("position", "ascending"), ("person", "ascending")]).combine_chunks()


def stable_id(*parts: str) -> str:
    """An id of 20 hexadecimal digits (80 bits), which stays unique among a billion items."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]


def rows_of(batch: Batch, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Iterate over rows as tuples of the values of some columns."""
    return zip(*(batch[name] for name in names), strict=True)


def _require_count(block: Block, kind: str, values: Sequence[Any], rows: int) -> None:
    if len(values) != rows:
        raise BlockError(f"block `{block.name}` returned {len(values)} {kind} for {rows} rows")


def _is_rejection(verdict: object) -> bool:
    if not isinstance(verdict, tuple) or len(verdict) not in (2, 3) or verdict[0] is not False:
        return False
    return all(isinstance(text, str) for text in verdict[1:]) and bool(verdict[1])


def _mark(table: pa.Table, name: str, verdicts: Sequence[Verdict], notes: Sequence[str | None]) -> pa.Table:
    trails = [
        [*trail, {"block": name, "note": note}] for trail, note in zip(table["trail"].to_pylist(), notes, strict=True)
    ]
    table = _with_column(table, name, "trail", trails, TRAIL)
    for place, column in enumerate(("rejected_by", "reason", "detail")):
        values = [None if verdict is True else (name, *verdict[1:], None)[place] for verdict in verdicts]
        table = _with_column(table, name, column, values, pa.string())
    return table


def _with_column(table: pa.Table, block: str, column: str, values: Sequence[Any], kind: pa.DataType) -> pa.Table:
    try:
        array = pa.array(values, kind)
    except (ValueError, TypeError, OverflowError) as error:
        raise BlockError(f"block `{block}` returned a `{column}` that is not of type {kind}: {error}") from error
    position = table.schema.get_field_index(column)
    if position < 0:
        return table.append_column(column, array)
    return table.set_column(position, column, array)


def _add_columns(block: Block, table: pa.Table, added: Batch) -> pa.Table:
    if set(added) != set(block.adds):
        raise BlockError(f"block `{block.name}` adds {sorted(block.adds)} but returned {sorted(added)}")
    for name, kind in block.adds.items():
        _require_count(block, f"values of `{name}`", added[name], table.num_rows)
        table = _with_column(table, block.name, name, added[name], kind)
    return table
