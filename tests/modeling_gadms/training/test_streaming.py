"""Streams of training pairs: every row once, to one process and worker alone, and again from any step on."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from modeling_gadms import GADMSForPreTraining
from modeling_gadms.training.data import DatasetColumns, ImageCaptionPairs, PairCollator
from modeling_gadms.training.streaming import BatchStream, ParquetRows, RowGroup, StreamedPairs
from modeling_gadms.training.trainer import GADMSTrainer, GADMSTrainingArguments, last_checkpoint
from tests.waiting import PATIENCE_SECONDS


pytestmark = pytest.mark.slow


SIZES = ((5, 3, 7), (0, 4), (6, 6, 1))  # rows of the row groups of three files
ROWS = 32


def encoded_image(row: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(row).integers(0, 256, (32, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def table(rows: Sequence[int], **columns: list) -> pa.Table:
    image = pa.array([{"bytes": encoded_image(row), "path": f"{row}.png"} for row in rows],
                     pa.struct([("bytes", pa.binary()), ("path", pa.string())]))  # fmt: skip
    values = {
        "image": image,
        "caption1": pa.array([f"first {row}" for row in rows], pa.string()),
        "caption2": pa.array([f"second {row}" for row in rows], pa.string()),
        "person_id": pa.array([row // 2 for row in rows], pa.int64()),
    }
    return pa.table(values | columns)


def write(folder: Path, sizes: Sequence[Sequence[int]] = SIZES, make: Callable[..., pa.Table] = table) -> list[str]:
    files, first = [], 0
    for number, groups in enumerate(sizes):
        files.append(str(folder / f"train-{number}.parquet"))
        with pq.ParquetWriter(files[-1], make([0]).schema) as writer:
            for size in groups:
                writer.write_table(make(range(first, first + size)))
                first += size
    return files


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    return write(tmp_path_factory.mktemp("stream"))


COLUMNS = DatasetColumns(person_id="person_id")


def stream(files: list[str], columns: DatasetColumns = COLUMNS, **options) -> StreamedPairs:
    return StreamedPairs(ParquetRows(files, columns, progress=False), **{"shuffle_buffer": 6, **options})


def keep(pairs: list) -> list:
    return pairs


def batches(stream: BatchStream, epoch: int = 0, *, skip: int = 0, workers: int = 0) -> list[list[dict]]:
    stream.start_at(epoch, skip)
    return list(DataLoader(stream, batch_size=None, num_workers=workers))


def rows_of(batches: list) -> list[int]:
    return [pair["image_index"] for batch in batches for pair in batch]


# ---------------------------------------------------------------------------------------------------------------------
# Pairs.
# ---------------------------------------------------------------------------------------------------------------------
def test_a_pair_holds_its_own_image_caption_and_person(files):
    seen = batches(stream(files).batches(4, keep))
    for pair in (pair for batch in seen for pair in batch):
        row = pair["image_index"]
        assert np.array_equal(pair["image"], Image.open(io.BytesIO(encoded_image(row))))
        assert pair["caption"] in (f"first {row}", f"second {row}")
        assert pair["person_id"] == row // 2
    assert sorted(rows_of(seen)) == list(range(ROWS))


def test_without_person_ids_the_row_is_the_identity(files):
    seen = batches(stream(files, DatasetColumns()).batches(4, keep))
    assert all(pair["person_id"] == pair["image_index"] for batch in seen for pair in batch)


def test_captions_are_drawn_as_they_are_with_random_access(files):
    import datasets

    image = datasets.Image()
    table = pa.concat_tables([pq.read_table(file) for file in files])
    plain = ImageCaptionPairs(datasets.Dataset(table).cast_column("image", image), COLUMNS, seed=3)
    streamed = stream(files, seed=3)
    for epoch in (0, 4):
        plain.set_epoch(epoch)
        drawn = {pair["image_index"]: pair["caption"]
                 for batch in batches(streamed.batches(4, keep), epoch) for pair in batch}  # fmt: skip
        assert drawn == {row: plain[row]["caption"] for row in range(ROWS)}


def test_queries_are_those_of_random_access(tmp_path):
    import datasets

    def make(rows: Sequence[int]) -> pa.Table:
        captions = [f"A man wears a red coat, blue jeans and boots number {row}. He has a bag." for row in rows]
        return table(rows).set_column(1, "caption1", pa.array(captions, pa.string()))

    paths = write(tmp_path, make=make)
    content = pa.concat_tables([pq.read_table(path) for path in paths])
    plain = ImageCaptionPairs(
        datasets.Dataset(content).cast_column("image", datasets.Image()), COLUMNS, seed=3, short_queries=2
    )
    seen = batches(stream(paths, seed=3, short_queries=2).batches(4, keep))
    # A data loader turns the tuples of queries into lists.
    drawn = {pair["image_index"]: [query.text for query in pair["queries"]] for batch in seen for pair in batch}
    assert drawn == {row: [query.text for query in plain[row]["queries"]] for row in range(ROWS)}


def test_every_caption_can_be_a_pair(files):
    streamed = stream(files, captions_per_image="all")
    assert len(streamed) == 2 * ROWS
    seen = batches(streamed.batches(4, keep))
    captions = sorted(pair["caption"] for batch in seen for pair in batch)
    assert captions == sorted(f"{which} {row}" for row in range(ROWS) for which in ("first", "second"))


def test_lists_of_captions_are_drawn_from(tmp_path):
    def with_lists(rows):
        return table(rows).append_column("captions", pa.array([[f"a {row}", f"b {row}"] for row in rows],
                                                              pa.list_(pa.string())))  # fmt: skip

    files = write(tmp_path, ((3, 2),), with_lists)
    columns = DatasetColumns(captions=("captions",))
    seen = batches(stream(files, columns).batches(1, keep))
    assert sorted(pair["caption"][2:] for batch in seen for pair in batch) == list("01234")
    with pytest.raises(ValueError, match="'all' needs one caption per column"):
        stream(files, columns, captions_per_image="all")


def test_all_captions_are_at_hand_for_a_vocabulary(files):
    rows = ParquetRows(files, COLUMNS, progress=False)
    assert list(rows.captions()) == [f"{which} {row}" for row in range(ROWS) for which in ("first", "second")]


# ---------------------------------------------------------------------------------------------------------------------
# The order.
# ---------------------------------------------------------------------------------------------------------------------
def literal_order(
    pairs: StreamedPairs, batch_size: int, processes: int, lanes: int, epoch: int
) -> list[list[list[int]]]:
    """For each process and lane the rows in order, by carrying out what the documentation says, row by row."""
    groups = pairs.rows.row_groups
    order = np.random.default_rng((pairs.seed, epoch)).permutation(len(groups))
    sequence = [row for index in order for row in range(groups[index].first_row,
                                                        groups[index].first_row + groups[index].num_rows)]  # fmt: skip
    steps = len(sequence) // (batch_size * processes)
    block = -(-pairs.shuffle_buffer // batch_size) * batch_size
    result = []
    for process in range(processes):
        stretch = sequence[process * steps * batch_size : (process + 1) * steps * batch_size]
        result.append([])
        for lane in range(lanes):
            own_steps = len([step for step in range(steps) if step % lanes == lane])
            own, stretch = stretch[: own_steps * batch_size], stretch[own_steps * batch_size :]
            shuffled = []
            for number, start in enumerate(range(0, len(own), block)):
                part = own[start : start + block]
                rng = np.random.default_rng((pairs.seed, epoch, process, lane, number))
                shuffled += [part[index] for index in rng.permutation(len(part))]
            result[-1].append(shuffled)
    return result


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_the_order_is_the_documented_one(files, workers):
    streamed = stream(files, seed=5)
    for epoch, process in ((0, 0), (1, 1)):
        lanes = literal_order(streamed, 2, 2, max(1, workers), epoch)[process]
        by_turns = []
        for step in range(ROWS // 4):
            lane, place = step % len(lanes), step // len(lanes)
            by_turns += lanes[lane][2 * place : 2 * place + 2]
        stream_of_one = streamed.batches(2, keep, process_index=process, num_processes=2)
        assert rows_of(batches(stream_of_one, epoch, workers=workers)) == by_turns


@settings(deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=4),
    batch_size=st.integers(1, 4),
    processes=st.integers(1, 3),
    captions=st.sampled_from(["one", "all"]),
    buffer=st.integers(1, 12),
    skip=st.integers(0, 9),
)
def test_no_pair_comes_twice_and_all_processes_make_as_many_steps(
    sizes, batch_size, processes, captions, buffer, skip
):
    rows = ParquetRows.__new__(ParquetRows)  # without files: tables are made of the numbers of the rows
    rows.columns, rows.has_caption_lists, rows.row_groups, rows.num_rows = DatasetColumns(), False, [], 0
    for file, groups in enumerate(sizes):
        for number, size in enumerate(groups):
            rows.row_groups.append(RowGroup(str(file), number, rows.num_rows, size))
            rows.num_rows += size
    rows.read = lambda group: table(range(group.first_row, group.first_row + group.num_rows))
    if rows.num_rows == 0:
        with pytest.raises(ValueError, match="no rows"):
            StreamedPairs(rows)
        return
    streamed = StreamedPairs(rows, captions_per_image=captions, shuffle_buffer=buffer)
    per_row = {"one": 1, "all": 2}[captions]
    seen, steps = [], set()
    for process in range(processes):
        of_process = streamed.batches(batch_size, keep, process_index=process, num_processes=processes)
        whole = list(of_process)
        steps.add(len(whole))
        assert all(len(batch) == batch_size for batch in whole)
        seen += [(pair["image_index"], pair["caption"]) for batch in whole for pair in batch]
        of_process.start_at(0, skip)
        again = list(of_process)
        assert [batch == {} for batch in again] == [number < skip for number in range(len(whole))]
        assert [pair["image_index"] for batch in again for pair in batch] == rows_of(whole[skip:])
    assert steps == {rows.num_rows * per_row // (batch_size * processes)}
    assert len(seen) == len(set(seen))
    assert rows.num_rows * per_row - len(seen) < batch_size * processes


def test_epochs_and_seeds_differ_and_repeat_themselves(files):
    streamed = stream(files)
    first = rows_of(batches(streamed.batches(4, keep), 0))
    assert rows_of(batches(streamed.batches(4, keep), 0)) == first
    assert rows_of(batches(streamed.batches(4, keep), 1)) != first
    assert rows_of(batches(stream(files, seed=1).batches(4, keep), 0)) != first
    assert first != sorted(first)


@pytest.mark.parametrize("workers", [0, 2])
def test_any_batch_is_a_place_to_go_on_from(files, workers):
    streamed = stream(files).batches(3, keep)
    whole = batches(streamed, 2, workers=workers)
    for skip in range(len(whole) + 1):
        rest = batches(streamed, 2, skip=skip, workers=workers)
        assert rest[:skip] == [{}] * skip
        assert rows_of(rest[skip:]) == rows_of(whole[skip:])


def test_what_was_passed_is_not_read(files, monkeypatch):
    read = []
    original = ParquetRows.read
    monkeypatch.setattr(ParquetRows, "read", lambda self, group: read.append(group) or original(self, group))
    streamed = stream(files, shuffle_buffer=1).batches(2, keep)
    batches(streamed, skip=len(streamed))
    assert read == []
    batches(streamed, skip=len(streamed) - 1)
    assert 1 <= len(read) <= 2


def test_a_row_group_is_read_once_by_the_process_that_has_it(files, monkeypatch):
    read = []
    original = ParquetRows.read
    monkeypatch.setattr(ParquetRows, "read", lambda self, group: read.append(group) or original(self, group))
    streamed = stream(files)
    batches(streamed.batches(4, keep))
    assert sorted(map(repr, read)) == sorted(repr(group) for group in streamed.rows.row_groups if group.num_rows)


def test_workers_that_stay_alive_see_the_next_epoch(files):
    streamed = stream(files).batches(4, keep)
    loader = DataLoader(streamed, batch_size=None, num_workers=2, persistent_workers=True)
    streamed.start_at(0)
    first = rows_of(list(loader))
    streamed.start_at(1)
    assert rows_of(list(loader)) != first
    streamed.start_at(0)
    assert rows_of(list(loader)) == first


# ---------------------------------------------------------------------------------------------------------------------
# What may go wrong.
# ---------------------------------------------------------------------------------------------------------------------
class Flaky(LocalFileSystem):
    """Fails the first times a file is opened."""

    protocol = "flaky"
    failures = 0
    asked: list[str] = []

    def _open(self, path, **kwargs):
        Flaky.asked.append(path)
        if Flaky.asked.count(path) <= Flaky.failures:
            raise ConnectionError("the server hung up")
        return super()._open(path, **kwargs)


@pytest.fixture
def flaky(monkeypatch):
    waits = []
    monkeypatch.setattr("modeling_gadms.training.retry.sleep", waits.append)
    monkeypatch.setattr(Flaky, "asked", [])
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    return waits


def test_a_server_that_fails_now_and_then_is_survived(files, flaky, monkeypatch):
    monkeypatch.setattr(Flaky, "failures", 2)
    streamed = stream([f"flaky://{file}" for file in files])
    assert sorted(rows_of(batches(streamed.batches(4, keep)))) == list(range(ROWS))
    assert sorted(flaky) == sorted([1, 2] * len(files)), "footers are read side by side"


def test_a_server_that_fails_for_good_is_an_error_that_names_the_file(files, flaky, monkeypatch):
    monkeypatch.setattr(Flaky, "failures", 99)
    with pytest.raises(OSError, match=r"footer of flaky.*train-0\.parquet cannot be read .*hung up.* 5 times"):
        stream([f"flaky://{files[0]}"])
    assert flaky == [1, 2, 4, 8]


def test_files_that_cannot_be_streamed_are_refused(files, tmp_path, flaky):
    with pytest.raises(ValueError, match="no Parquet files"):
        stream([])
    (tmp_path / "letter.parquet").write_text("Dear Sir or Madam")
    with pytest.raises(ValueError, match="letter.parquet is not a valid Parquet file"):
        stream([str(tmp_path / "letter.parquet")])
    with pytest.raises(FileNotFoundError):
        stream([str(tmp_path / "nowhere.parquet")])
    assert flaky == [], "what will not pass is not tried again"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (DatasetColumns(captions=("text",)), "train-0.parquet: the data set has no column `text`"),
        (DatasetColumns(person_id="caption1"), "`caption1` holds string, not person ids as whole numbers"),
        (DatasetColumns(captions=("person_id",)), "`person_id` holds int64, neither captions nor lists"),
    ],
)
def test_columns_are_checked_before_a_row_is_read(files, columns, message):
    with pytest.raises(ValueError, match=message):
        stream(files, columns)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"captions_per_image": "two"}, "captions_per_image = 'two' must be 'one' or 'all'"),
        ({"shuffle_buffer": 0}, "shuffle_buffer = 0 must be 1 or more"),
        ({"bad_rows": "drop"}, "bad_rows = 'drop' must be 'error' or 'skip'"),
    ],
)
def test_options_out_of_range_are_refused(files, options, message):
    with pytest.raises(ValueError, match=message):
        stream(files, **options)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"caption1": ["first", " "]}, "row 1 of .*train-1.parquet: `caption1` is an empty caption"),
        ({"person_id": pa.array([1, None], pa.int64())}, "row 1 of .*: `person_id` is missing"),
        ({"image": pa.array([{"bytes": encoded_image(0), "path": ""}, {"bytes": b"no", "path": ""}])},
         "row 1 of .*Cannot use the image given as 2 bytes: not an image"),
        ({"image": pa.array([{"bytes": encoded_image(0), "path": ""}, {"bytes": None, "path": "3.png"}])},
         "row 1 of .*`image` does not contain an image file"),
    ],
)  # fmt: skip
def test_a_row_at_fault_is_named_by_file_and_number(tmp_path, columns, message):
    files = write(tmp_path, ((2, 0),))
    spoiled = table([2, 3])
    for name, values in columns.items():
        values = pa.array(values) if isinstance(values, list) else values
        spoiled = spoiled.set_column(spoiled.column_names.index(name), name, values.cast(spoiled.field(name).type))
    files.append(str(tmp_path / "train-1.parquet"))
    pq.write_table(spoiled, files[-1])
    with pytest.raises(ValueError, match=message) as refused:
        batches(stream(files).batches(1, keep))
    assert len(re.findall(r"row \d+", str(refused.value))) == 1 and "data.bad_rows=skip" in str(refused.value)


BAD = [3, 4, 8, 9, 17, 31]


@pytest.fixture(scope="module")
def spoiled_files(tmp_path_factory) -> list[str]:
    """The rows of `files`, some without a caption, some with half an image."""

    def make(rows: Sequence[int]) -> pa.Table:
        made = table(rows)
        captions = [None if row in BAD[::2] else f"first {row}" for row in rows]
        images = [
            {"bytes": encoded_image(row)[: 300 if row in BAD[1::2] else None], "path": f"{row}.png"} for row in rows
        ]
        made = made.set_column(1, "caption1", pa.array(captions, pa.string()))
        return made.set_column(0, "image", pa.array(images, made.schema.field("image").type))

    return write(tmp_path_factory.mktemp("spoiled"), make=make)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_rows_are_replaced_by_rows_of_their_block_and_no_other_row_moves(files, spoiled_files, workers, caplog):
    whole = batches(stream(files).batches(4, keep), 1, workers=workers)
    streamed = stream(spoiled_files, bad_rows="skip")  # blocks of two batches
    lanes = [batches[lane :: max(1, workers)] for batches in [whole] for lane in range(max(1, workers))]
    blocks = {id(batch): sum(lane[start : start + 2], []) for lane in lanes for start in range(0, len(lane), 2)
              for batch in lane[start : start + 2]}  # fmt: skip
    got = batches(streamed.batches(4, keep), 1, workers=workers)
    for batch, expected in zip(got, whole, strict=True):
        of_block = {pair["image_index"] for pair in blocks[id(expected)]} - set(BAD)
        for pair, intended in zip(batch, expected, strict=True):
            row = intended["image_index"]
            assert pair["image_index"] == row if row not in BAD else pair["image_index"] in of_block
    assert streamed.skipped_numbers() == BAD
    assert [(fault.file, fault.row) for fault in streamed.skipped_rows()] == [
        ("train-0.parquet", 3), ("train-0.parquet", 4), ("train-0.parquet", 8), ("train-0.parquet", 9),
        ("train-1.parquet", 2), ("train-2.parquet", 12),
    ]  # fmt: skip
    for skip in range(len(whole)):
        again = batches(streamed.batches(4, keep), 1, skip=skip, workers=workers)
        assert rows_of(again[skip:]) == rows_of(got[skip:]), "whatever step a run resumes at"


def test_a_skipped_row_is_named_once_in_the_log(spoiled_files, monkeypatch):
    warnings = []
    monkeypatch.setattr("modeling_gadms.training.streaming.logger.warning", warnings.append)
    streamed = stream(spoiled_files, bad_rows="skip")
    for epoch in (0, 1):
        batches(streamed.batches(4, keep), epoch)
    assert len(warnings) == len(BAD)
    (of_nine,) = [text for text in warnings if text.startswith("row 9 of ")]
    assert "train-0.parquet is skipped: Cannot use the image given as 300 bytes" in of_nine
    captions = list(ParquetRows(spoiled_files, COLUMNS, progress=False).captions(bad_rows="skip"))
    assert len(captions) == 2 * (ROWS - len(BAD[::2]))
    with pytest.raises(ValueError, match="row 3 of .*train-0.parquet: `caption1` is an empty caption"):
        list(ParquetRows(spoiled_files, COLUMNS, progress=False).captions())


def test_a_block_with_hardly_a_good_row_repeats_it_and_one_without_is_an_error(tmp_path):
    """The last block of a process may be as small as a batch."""

    def make(rows: Sequence[int]) -> pa.Table:
        captions = [None if row % 8 else "one" for row in rows]
        return table(rows).set_column(1, "caption1", pa.array(captions, pa.string()))

    files = write(tmp_path, ((8,),), make)
    seen = batches(stream(files, shuffle_buffer=8, bad_rows="skip").batches(2, keep))
    assert [[pair["image_index"] for pair in batch] for batch in seen] == [[0, 0]] * 4
    with pytest.raises(
        ValueError, match=r"none of 2 pairs that are shuffled together can be used.*shuffle_buffer \(2\)"
    ):
        batches(stream(files, shuffle_buffer=2, bad_rows="skip").batches(2, keep))


# ---------------------------------------------------------------------------------------------------------------------
# In training.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def trainer(files, processor, tiny_config, tmp_path):
    """A trainer on the stream that notes the rows of every step."""

    class Noting(GADMSTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            self.seen.append(inputs["image_indices"].tolist())
            return super().compute_loss(model, inputs, *args, **kwargs)

    def make(stream_options: dict | None = None, **arguments) -> Noting:
        fields = {
            "output_dir": str(tmp_path / "run"),
            "per_device_train_batch_size": 4,
            "num_train_epochs": 2,
            "save_steps": 5,
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "dataloader_pin_memory": False,
        }
        made = Noting(
            GADMSForPreTraining(tiny_config()),
            GADMSTrainingArguments(**(fields | {"save_strategy": "steps"} | arguments)),
            processing_class=processor,
            train_dataset=stream(**({"files": files} | (stream_options or {}))),
        )
        made.seen = []
        return made

    return make


def test_training_takes_the_batches_of_the_stream(trainer, files, processor):
    run = trainer()
    run.train()
    expected = [batch["image_indices"].tolist() for epoch in (0, 1)
                for batch in batches(stream(files).batches(4, PairCollator(processor)), epoch)]  # fmt: skip
    assert run.seen == expected
    assert run.num_examples(run.get_train_dataloader()) == ROWS


@pytest.mark.parametrize("options", [{}, {"dataloader_num_workers": 2}, {"gradient_accumulation_steps": 3}])
def test_a_resumed_run_goes_on_at_the_next_row(trainer, options, tmp_path, monkeypatch):
    step = 5 if "gradient_accumulation_steps" not in options else 2
    whole = trainer(save_steps=step, **options)
    whole.train()
    starts = []
    original = BatchStream.start_at
    monkeypatch.setattr(BatchStream, "start_at", lambda self, *start: starts.append(start) or original(self, *start))
    resumed = trainer(save_steps=step, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
    done = step * options.get("gradient_accumulation_steps", 1)
    assert 0 < done < 8, "in the middle of the first epoch"
    assert resumed.seen == whole.seen[done:]
    assert starts == [(0, done), (1, 0)], "nothing of what was passed is read"


def test_a_run_is_not_resumed_in_another_order(trainer, tmp_path):
    trainer().train()
    checkpoint = str(tmp_path / "run" / "checkpoint-5")
    with pytest.raises(ValueError, match="per_device_train_batch_size was 4 and is 2"):
        trainer(per_device_train_batch_size=2).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match="data.shuffle_buffer was 6 and is 9"):
        trainer({"shuffle_buffer": 9}).train(resume_from_checkpoint=checkpoint)
    trainer({"shuffle_buffer": 9}, ignore_data_skip=True, max_steps=6).train(resume_from_checkpoint=checkpoint)


def test_a_bad_row_ends_a_stream_until_it_is_skipped(trainer, spoiled_files, tmp_path, monkeypatch):
    """The stopped run goes on from its checkpoint, and knows the rows that it skipped before."""
    monkeypatch.setattr("modeling_gadms.training.streaming.logger.warning", lambda text: None)
    with pytest.raises(ValueError, match=r"row \d+ of .*parquet: Cannot use the image"):
        trainer({"files": spoiled_files, "seed": 2}, save_steps=1).train()
    checkpoint = last_checkpoint(str(tmp_path / "run"))
    assert checkpoint is not None, "the row is not in the first batch"
    whole = trainer({"files": spoiled_files, "seed": 2, "bad_rows": "skip"}, output_dir=str(tmp_path / "whole"))
    whole.train()
    resumed = trainer({"files": spoiled_files, "seed": 2, "bad_rows": "skip"}, save_steps=1)
    resumed.train(resume_from_checkpoint=checkpoint)
    assert whole.seen[-len(resumed.seen) :] == resumed.seen
    for run in (whole, resumed):
        assert run.train_dataset.skipped_numbers() == BAD
    last = trainer({"files": spoiled_files, "seed": 2, "bad_rows": "skip"})
    last.train(resume_from_checkpoint=last_checkpoint(str(tmp_path / "run")))
    assert last.seen == [] and last.train_dataset.skipped_numbers() == BAD


def test_a_stream_refuses_to_keep_an_incomplete_batch(trainer):
    with pytest.raises(ValueError, match="dataloader_drop_last = False"):
        trainer(dataloader_drop_last=False)


@pytest.mark.slow
def test_two_processes_see_disjoint_rows_that_together_are_all_rows(files, tmp_path):
    """Two real processes, each with a worker, train for two epochs; one of two row groups is cut between them."""
    worker = Path(__file__).with_name("streaming_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
               str(worker), str(tmp_path), *files]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert result.returncode == 0, result.stderr[-4000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first["world_size"] == second["world_size"] == 2
    assert len(first["whole"]) == len(second["whole"]) == 2 * ROWS // 8
    for epoch in range(2):
        steps = slice(epoch * ROWS // 8, (epoch + 1) * ROWS // 8)
        of_first, of_second = (sum(rank["whole"][steps], []) for rank in (first, second))
        assert sorted(of_first + of_second) == list(range(ROWS))
    for rank in (first, second):
        assert rank["resumed"] == rank["whole"][3:]
    assert first["norm"] == second["norm"]
