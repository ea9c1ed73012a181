"""Blocks add, note and reject; no row is lost, whatever a block answers."""

import pickle
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from row_tables import column, new_rows, trails

from dataset_scripts.construction.blocks import (
    ROW_SCHEMA,
    Batch,
    Block,
    BlockError,
    Filter,
    Outcome,
    in_order,
    join,
    rows_of,
    run_batch,
    run_shard,
    selected_rows,
    stable_id,
)


class Scripted(Block):
    """Does to each row what the row's own column `script` says: `(verdict, note, copies)`."""

    name = "scripted"
    reads = ("row_id", "script")

    def __init__(self, scripts: list, batch_size: int | None, expands: bool):
        self.scripts, self.batch_size, self.expands = scripts, batch_size, expands
        self.adds = {"row_id": pa.string(), "person": pa.int32(), "seen": pa.string()} if expands else {
            "seen": pa.string()
        }  # fmt: skip

    def __call__(self, batch: Batch) -> Outcome:
        scripts = [self.scripts[number] for number in batch["script"]]
        verdicts = [verdict for verdict, _, _ in scripts]
        notes = [note for _, note, _ in scripts]
        if not self.expands:
            return Outcome({"seen": [f"saw {row_id}" for row_id in batch["row_id"]]}, verdicts, notes)
        made = [
            (row, copy)
            for row, (verdict, _, copies) in enumerate(scripts)
            for copy in range(copies if verdict is True else 0)
        ]
        columns = {
            "row_id": [f"{batch['row_id'][row]}-{copy}" for row, copy in made],
            "person": [copy for _, copy in made],
            "seen": [f"saw {batch['row_id'][row]}" for row, _ in made],
        }
        return Outcome(columns, verdicts, notes, [row for row, _ in made])


class Business(Scripted):
    """Is concerned with the rows of even number alone."""

    def selects(self, table: pa.Table) -> pa.Array:
        return pa.array([number % 2 == 0 for number in column(table, "script")], pa.bool_())


def table_of(scripts: list, dead: list[bool]) -> pa.Table:
    table = new_rows(len(scripts), pa.table({"script": pa.array(range(len(scripts)), pa.int64())}), trail=["before"])
    rejected = pa.array(["before" if is_dead else None for is_dead in dead], pa.string())
    return table.set_column(table.schema.get_field_index("rejected_by"), "rejected_by", rejected)


def row_by_row(block: Scripted, scripts: list, dead: list[bool]) -> list[dict]:
    """What is to come out, worked out one row at a time."""
    expected = []
    for number, ((verdict, note, copies), is_dead) in enumerate(zip(scripts, dead, strict=True)):
        is_concerned = not isinstance(block, Business) or number % 2 == 0
        row = {"row_id": f"r{number}", "position": number, "person": None, "trail": ["before"], "note": None}
        row |= {"rejected_by": "before" if is_dead else None, "reason": None, "detail": None, "seen": None}
        if is_dead or not is_concerned:
            expected.append(row)
            continue
        row |= {"trail": ["before", "scripted"], "note": note}
        if verdict is not True:
            row |= {"rejected_by": "scripted", "reason": verdict[1], "detail": (*verdict, None)[2]}
        saw = {"seen": f"saw r{number}"}
        if not block.expands:
            expected.append(row | saw)
        elif verdict is True:
            expected += [row | saw | {"row_id": f"r{number}-{copy}", "person": copy} for copy in range(copies)]
        else:
            expected.append(row)  # with the id that it had
    return expected


def plain(table: pa.Table) -> list[dict]:
    return [
        {
            **{
                name: row[name] for name in ("row_id", "position", "person", "rejected_by", "reason", "detail", "seen")
            },
            "trail": [step["block"] for step in row["trail"]],
            "note": row["trail"][-1]["note"],
        }
        for row in in_order(table).to_pylist()
    ]


reasons = st.sampled_from(["too small", "blurred", "no person"])
verdicts = st.one_of(
    st.just(True), st.tuples(st.just(False), reasons), st.tuples(st.just(False), reasons, st.text(max_size=3))
)
notes = st.sampled_from([None, "asked again"])
scripts = st.lists(st.tuples(verdicts, notes, st.integers(1, 3), st.booleans()), max_size=14)


@settings(deadline=None)
@given(scripts, st.sampled_from([None, 1, 3, 100]), st.booleans(), st.sampled_from([Scripted, Business]))
def test_a_shard_comes_out_as_if_every_row_were_handled_alone(rows, batch_size, expands, kind):
    dead = [is_dead for *_, is_dead in rows]
    block = kind([row[:3] for row in rows], batch_size, expands)
    done = run_shard(block, table_of(block.scripts, dead))
    assert plain(done) == row_by_row(block, block.scripts, dead)


@settings(deadline=None)
@given(scripts, st.booleans())
def test_kept_and_dropped_make_up_seen(rows, expands):
    dead = [is_dead for *_, is_dead in rows]
    block = Scripted([row[:3] for row in rows], 4, expands)
    done = run_shard(block, table_of(block.scripts, dead))
    entered = {row["position"] for row in done.to_pylist() if row["trail"][-1]["block"] == "scripted"}
    dropped = [row["position"] for row in done.to_pylist() if row["rejected_by"] == "scripted"]
    kept = {row["position"] for row in done.to_pylist() if row["rejected_by"] is None}
    assert len(entered) == dead.count(False)
    assert len(dropped) == len(set(dropped)) and not kept & set(dropped)
    assert kept | set(dropped) == entered


@settings(deadline=None)
@given(scripts, st.booleans(), st.integers(1, 14))
def test_the_bounds_of_batches_do_not_matter(rows, expands, batch_size):
    dead = [is_dead for *_, is_dead in rows]
    tables = [
        run_shard(Scripted([row[:3] for row in rows], size, expands), table_of([row[:3] for row in rows], dead))
        for size in (batch_size, None)
    ]
    assert in_order(tables[0]).equals(in_order(tables[1]))


def test_rows_that_are_not_the_blocks_business_pass_uncounted():
    block = Business([(True, None, 1)] * 4, None, expands=False)
    done = run_shard(block, table_of(block.scripts, [False] * 4))
    assert trails(done)["r1"] == [("before", None)] and trails(done)["r2"] == [("before", None), ("scripted", None)]


def test_a_block_that_replaces_a_column_leaves_it_in_other_rows():
    class Shout(Block):
        name, reads, adds = "shout", ("seen",), {"seen": pa.string()}

        def selects(self, table):
            return pc.equal(table["seen"], "a")

        def __call__(self, batch):
            return Outcome({"seen": [text.upper() for text in batch["seen"]]})

    done = in_order(run_shard(Shout(), new_rows(3, pa.table({"seen": ["a", "b", "a"]}))))
    assert column(done, "seen") == ["A", "b", "A"]


class Answers(Block):
    """Answers with a given outcome, or raises."""

    name = "odd one"
    reads = ("row_id",)
    adds = {"added": pa.int32()}

    def __init__(self, outcome: Outcome | Exception):
        self.outcome = outcome

    def __call__(self, batch: Batch) -> Outcome:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


REJECTED = (False, "bad")


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Outcome({"added": [1, 2]}), "2 values of `added` for 3 rows"),
        (Outcome({"added": [1, 2, 3]}, verdicts=[True]), "1 verdicts for 3 rows"),
        (Outcome({"added": [1, 2, 3]}, notes=[None] * 4), "4 notes for 3 rows"),
        (Outcome({}), r"adds \['added'\] but returned \[\]"),
        (Outcome({"added": [1, 2, 3], "more": [1, 2, 3]}), r"returned \['added', 'more'\]"),
        (Outcome({"added": ["x", "y", "z"]}), "`added` that is not of type int32"),
        (Outcome({"added": [1, 2, 2**40]}), "`added` that is not of type int32"),
        (Outcome({"added": [1, 2, 2**80]}), "`added` that is not of type int32"),
        (Outcome({"added": [1, 2, 3]}, notes=[None, 1, None]), "`trail` that is not of type list"),
        (Outcome({"added": [1, 2]}, origins=[0, 2]), "all kept rows and no others"),
        (Outcome({"added": [1, 2, 3, 4]}, origins=[0, 1, 2, 3]), "all kept rows and no others"),
        (Outcome({"added": [1, 2, 3]}, [True, True, REJECTED], origins=[0, 1, 2]), "all kept rows"),
        (Outcome({"added": [1, 2, 3]}, origins=[1, 0, 2]), "all kept rows"),
        *(
            (Outcome({"added": [1, 2, 3]}, verdicts=[True, verdict, True]), "returned the verdict")
            for verdict in (False, None, 1, (True, "x"), (False,), (False, ""), (False, None), (False, "a", "b", "c"))
        ),
    ],
)
def test_a_wrong_answer_of_a_block_is_an_error_that_names_it(outcome, told):
    with pytest.raises(BlockError, match=rf"block `odd one`.*{told}"):
        run_batch(Answers(outcome), new_rows(3))


def test_an_exception_in_a_block_names_block_and_rows_and_keeps_its_cause():
    cause = KeyError("colour")
    with pytest.raises(BlockError, match="block `odd one` failed on rows r2 to r3: KeyError: 'colour'") as caught:
        run_batch(Answers(cause), new_rows(4).slice(2))
    assert caught.value.__cause__ is cause


def test_an_error_of_a_block_survives_the_way_between_processes():
    with pytest.raises(BlockError) as caught:
        run_batch(Answers(ValueError("no")), new_rows(1))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


@pytest.mark.parametrize(
    "answer", [lambda rows: pa.array([True] * (rows - 1)), lambda rows: pa.array([True, None] + [False] * (rows - 2))]
)
def test_a_block_selects_with_one_boolean_per_row(answer: Callable[[int], pa.Array]):
    block = Answers(Outcome({"added": []}))
    block.selects = lambda table: answer(table.num_rows)  # type: ignore[method-assign]
    with pytest.raises(BlockError, match="`odd one` must select with one boolean per row, for 3 rows"):
        selected_rows(block, new_rows(3))


@pytest.mark.parametrize("expands", [True, False])
def test_an_empty_shard_gets_all_columns_with_their_types(expands):
    block = Scripted([], None, expands)
    done = run_shard(block, table_of([], []))
    assert done.num_rows == 0
    assert {name: done.schema.field(name).type for name in block.adds} == dict(block.adds)
    assert [done.schema.field(name).type for name in ROW_SCHEMA.names] == ROW_SCHEMA.types


def test_a_shard_whose_rows_are_all_rejected_gets_all_columns():
    block = Scripted([(True, None, 1)], None, expands=False)
    done = run_shard(block, table_of(block.scripts, [True]))
    assert column(done, "seen") == [None] and done.schema.field("seen").type == pa.string()


def test_a_filter_judges_each_row_by_the_columns_it_reads():
    class Even(Filter):
        name, reads = "even", ("script", "row_id")

        def judge(self, row):
            assert set(row) == {"script", "row_id"}
            return True if row["script"] % 2 == 0 else (False, "odd", row["row_id"])

    done = run_shard(Even(), new_rows(3, pa.table({"script": [0, 1, 2]})))
    assert column(in_order(done), "reason") == [None, "odd", None]
    assert column(in_order(done), "detail") == [None, "r1", None]


def test_rows_are_put_in_the_order_of_their_source_and_persons_of_an_image_in_theirs():
    table = pa.table({"position": [7, 3, 7, 3, 5], "person": [1, 1, 0, 0, None], "name": list("edcab")})
    assert "".join(column(in_order(table), "name")) == "adbce"


def test_a_column_that_one_table_lacks_is_empty_in_its_rows():
    joined = join([pa.table({"a": [1], "b": ["x"]}), pa.table({"a": [2]})])
    assert joined.to_pylist() == [{"a": 1, "b": "x"}, {"a": 2, "b": None}]


def test_ids_are_stable_and_differ_with_every_part():
    # printf 'crawl\na.jpg' | sha256sum | cut -c 1-20
    assert stable_id("crawl", "a.jpg") == "0b328d0dc9a00f0316c9"
    assert len({stable_id("a", "b"), stable_id("ab"), stable_id("b", "a"), stable_id("a", "b", "")}) == 4


def test_columns_are_read_row_by_row():
    assert list(rows_of({"a": [1, 2], "b": [3, 4], "c": [5, 6]}, ("c", "a"))) == [(5, 1), (6, 2)]
    with pytest.raises(ValueError, match="shorter"):
        list(rows_of({"a": [1, 2], "b": [3]}, ("a", "b")))
