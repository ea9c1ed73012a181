"""What a pipeline is made of: blocks that each do one thing to a batch of rows, and the account of what they did.

A block is a callable on a batch of columns. A `Filter` judges rows one by one and answers `True` or
`(False, "reason")`. Nothing is removed by a block: a rejected row stays in the table with the name of the block and
the reason, and the blocks after it do not see it. So every count can be taken from the rows themselves.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc


Batch = dict[str, list[Any]]
"""Columns by name; all have one value a row."""
Verdict = Literal[True] | tuple[Literal[False], str] | tuple[Literal[False], str, str]
"""Keep, or drop for a reason (which is counted) and with a detail (which is for people)."""

TRAIL = pa.list_(pa.struct({"block": pa.string(), "note": pa.string()}))
ROW_SCHEMA = pa.schema(
    {
        "row_id": pa.string(),
        "shard": pa.int32(),
        "position": pa.int64(),  # of the image in its source, over all shards
        "person": pa.int32(),  # number of the person in the image; none for an image
        "trail": TRAIL,  # the blocks that the row has entered, and what they noted
        "rejected_by": pa.string(),
        "reason": pa.string(),
        "detail": pa.string(),
    }
)
"""Columns that every row has from its beginning; the others are added by the source and by the blocks."""


@dataclass(frozen=True)
class Outcome:
    """What a block did to a batch.

    Attributes:
        columns (`Batch`): the columns it adds or replaces, one value for each row of the output; with `origins` for
            the kept rows alone.
        verdicts (`Sequence[Verdict]`, *optional*): one for each row of the input; all are kept by default.
        notes (`Sequence[str | None]`, *optional*): one for each row of the input: what is to be counted beside keep
            and drop, as a caption that must be asked for again.
        origins (`Sequence[int]`, *optional*): for each row of the output the row of the input that it comes from,
            ascending, for a block that makes several rows out of one; every kept row must have one at least.
    """

    columns: Batch = field(default_factory=dict)
    verdicts: Sequence[Verdict] | None = None
    notes: Sequence[str | None] | None = None
    origins: Sequence[int] | None = None


class Block(ABC):
    """One step of a pipeline. Constructing it is cheap and pickles; `prepare` loads what it needs, in each process.

    Attributes:
        name (`str`): unique in a pipeline; stands in the funnel and in rejected rows.
        reads (`tuple[str, ...]`): the columns that it is given.
        adds (`Mapping[str, pa.DataType]`): the columns that it adds or replaces, with their types.
        batch_size (`int`, *optional*): rows of one call; none: all rows of a shard.
        has_model (`bool`): whether `prepare` loads something worth keeping in memory between batches.
        group (`str`, *optional*): blocks that follow each other and name the same group share a process under Ray, and
            with it what they load.
    """

    name: str
    reads: tuple[str, ...] = ()
    adds: Mapping[str, pa.DataType] = {}
    batch_size: int | None = 256
    has_model: bool = False
    group: str | None = None

    def prepare(self) -> None:  # noqa: B027, most blocks have nothing to load
        """Load models. Called once in every process that runs the block, before its first batch."""

    def concerns(self, table: pa.Table) -> pa.Array | None:
        """Which rows are the block's business, as booleans; the others pass by uncounted. None: all."""
        return None

    @abstractmethod
    def __call__(self, batch: Batch) -> Outcome: ...


class Filter(Block):
    """A block that keeps a row or rejects it with a reason, and changes nothing."""

    @abstractmethod
    def judge(self, row: Mapping[str, Any]) -> Verdict: ...

    def __call__(self, batch: Batch) -> Outcome:
        rows = len(batch[self.reads[0]])
        return Outcome(verdicts=[self.judge({key: batch[key][row] for key in self.reads}) for row in range(rows)])


class BlockError(RuntimeError):
    """A block that failed, which is an error of the program or its settings and not of a row; it ends the run."""


def open_rows(block: Block, table: pa.Table) -> pa.Array:
    """Which rows of a table the block is to see: those that no block has rejected and that are its business.

    Args:
        block (`Block`)
        table (`pa.Table`): rows in any state.

    Returns:
        `pa.BooleanArray`: one for each row, never null.

    Raises:
        BlockError: if the block does not say of every row whether it is its business.
    """
    alive = pc.is_null(table["rejected_by"]).combine_chunks()
    concerned = block.concerns(table)
    if concerned is None:
        return alive
    if len(concerned) != table.num_rows or concerned.null_count:
        # A null is neither true nor, inverted, false: the row would be lost.
        raise BlockError(f"block `{block.name}` must say of each of {table.num_rows} rows whether it concerns it")
    return pc.and_(alive, concerned)


def run_batch(block: Block, table: pa.Table) -> pa.Table:
    """Apply a block to rows that are all open to it.

    Args:
        block (`Block`): prepared.
        table (`pa.Table`): `ROW_SCHEMA` and the columns that the block reads.

    Returns:
        `pa.Table`: the same rows, or several for one, with what the block added, noted and rejected. Without `origins`
        they keep their order; with them, rejected rows come last.

    Raises:
        BlockError: if the block fails, answers for another number of rows than it was given, or gives verdicts,
            columns or values other than it said.
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
            raise BlockError(f"{place}: {type(error).__name__}: {error}") from error
    verdicts = _one_a_row(block, "verdicts", outcome.verdicts, rows, True)
    for verdict in verdicts:
        if verdict is not True and not _is_rejection(verdict):
            raise BlockError(
                f'block `{block.name}` gave the verdict {verdict!r}: it must be True or (False, "reason"), with a '
                "detail after it if there is one"
            )
    notes = _one_a_row(block, "notes", outcome.notes, rows, None)
    table = _mark(table, block.name, verdicts, notes)
    kept = [row for row, verdict in enumerate(verdicts) if verdict is True]
    if outcome.origins is not None:
        if sorted(set(outcome.origins)) != kept or list(outcome.origins) != sorted(outcome.origins):
            raise BlockError(f"block `{block.name}` must give every row it keeps, and no other, rows of its own")
        dropped = [row for row, verdict in enumerate(verdicts) if verdict is not True]
        # Rejected rows stay, one each; the order of the source is restored when the shard is written. They keep what
        # they had, also in columns that the block replaces.
        before = table.take(pa.array(dropped, pa.int64()))
        added = {
            name: [*values, *(before[name].to_pylist() if name in before.column_names else [None] * len(dropped))]
            for name, values in outcome.columns.items()
        }
        table = table.take([*outcome.origins, *dropped])
    else:
        added = outcome.columns
    return _add_columns(block, table, added)


def run_batches(block: Block, opened: pa.Table) -> pa.Table:
    """Apply a block to rows that are all open to it, batch by batch; one at least."""
    size = block.batch_size or max(opened.num_rows, 1)
    return join([run_batch(block, opened.slice(start, size)) for start in range(0, max(opened.num_rows, 1), size)])


def run_shard(block: Block, table: pa.Table, run: Callable[[Block, pa.Table], pa.Table] = run_batches) -> pa.Table:
    """Apply a block to the open rows of a whole shard; the order of the rows may change.

    Args:
        block (`Block`): prepared.
        table (`pa.Table`): rows in any state.
        run (`Callable`, *optional*): how the open rows go through the block, in batches of its size.
    """
    mask = open_rows(block, table)
    return join([run(block, table.filter(mask)), table.filter(pc.invert(mask))])


def join(tables: Sequence[pa.Table]) -> pa.Table:
    """One table out of several; a column that one of them lacks is empty there."""
    return pa.concat_tables(tables, promote_options="default").combine_chunks()


def in_order(table: pa.Table) -> pa.Table:
    """The rows in the order of their source, an image's persons in their own."""
    return table.sort_by([("position", "ascending"), ("person", "ascending")]).combine_chunks()


def stable_id(*parts: str) -> str:
    """20 hexadecimal digits from the names of a thing. Of 80 bits: no two of a billion things share them by chance."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]


def rows_of(batch: Batch, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Row by row the values of some columns."""
    return zip(*(batch[name] for name in names), strict=True)


def _one_a_row(block: Block, kind: str, values: Sequence[Any] | None, rows: int, default: Any) -> Sequence[Any]:
    if values is None:
        return [default] * rows
    if len(values) != rows:
        raise BlockError(f"block `{block.name}` gave {len(values)} {kind} for {rows} rows")
    return values


def _is_rejection(verdict: object) -> bool:
    if not isinstance(verdict, tuple) or len(verdict) not in (2, 3) or verdict[0] is not False:
        return False
    return all(isinstance(text, str) for text in verdict[1:]) and bool(verdict[1])


def _mark(table: pa.Table, name: str, verdicts: Sequence[Verdict], notes: Sequence[str | None]) -> pa.Table:
    trails = [
        [*trail, {"block": name, "note": note}] for trail, note in zip(table["trail"].to_pylist(), notes, strict=True)
    ]
    rejections = [("", None, None) if verdict is True else (name, *verdict[1:], None)[:3] for verdict in verdicts]
    columns: dict[str, Sequence[Any]] = {
        "trail": trails,
        "rejected_by": [rejection[0] or None for rejection in rejections],
        "reason": [rejection[1] for rejection in rejections],
        "detail": [rejection[2] for rejection in rejections],
    }
    for column, values in columns.items():
        position = table.schema.get_field_index(column)
        table = table.set_column(position, column, _typed(name, column, values, ROW_SCHEMA.field(column).type))
    return table


def _typed(block: str, column: str, values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except (ValueError, TypeError, OverflowError) as error:
        raise BlockError(f"block `{block}` gave a `{column}` that is no {kind}: {error}") from error


def _add_columns(block: Block, table: pa.Table, added: Batch) -> pa.Table:
    if set(added) != set(block.adds):
        raise BlockError(f"block `{block.name}` adds {sorted(block.adds)} and gave {sorted(added)}")
    for name, kind in block.adds.items():
        if len(added[name]) != table.num_rows:
            raise BlockError(
                f"block `{block.name}` gave {len(added[name])} values of `{name}` for {table.num_rows} rows"
            )
        values = _typed(block.name, name, added[name], kind)
        position = table.schema.get_field_index(name)
        if position >= 0:
            table = table.set_column(position, name, values)
        else:
            table = table.append_column(name, values)
    return table
