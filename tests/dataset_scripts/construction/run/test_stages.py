"""What a stage writes of a shard, and that it refuses to finish one of which rows are lost."""

import io
from collections.abc import Callable

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from row_tables import GOOD, ScriptedChat, answer_with, build_config, column, run_blocks, write_persons

from dataset_scripts.construction.blocks import in_order
from dataset_scripts.construction.captions.chat.types import ChatProblem, ChatReply
from dataset_scripts.construction.persons.criteria import CriteriaSettings
from dataset_scripts.construction.persons.duplicates import DuplicateSettings, write_duplicates
from dataset_scripts.construction.run.pipeline import DUPLICATES_FILE, caption_blocks, person_blocks
from dataset_scripts.construction.run.stages import (
    REJECT_SCHEMA,
    CaptionStage,
    LostRowsError,
    PersonStage,
    data_file,
    persons_file,
    published_features,
    published_table,
    rejects_file,
    stage_counts,
)
from dataset_scripts.construction.shards import StageFolder
from dataset_scripts.construction.sources.planning import Shard, SourceSettings, plan_shards


PERSONS = 4


@pytest.fixture
def config(tmp_path):
    """Four persons, one of them in a picture that the box criteria refuse."""
    source = write_persons(tmp_path / "source", PERSONS)
    Image.new("RGB", (100, 100), "red").save(source / "person1.jpg")
    return build_config(tmp_path / "run", source, ["caption1", "caption2"])


@pytest.fixture
def person_stage(config) -> PersonStage:
    plan = plan_shards(list(config.sources.values()), PERSONS)
    return PersonStage(StageFolder(config.root, "persons", "f"), plan.shards, tuple(person_blocks(config)), 32)


@pytest.fixture
def persons(person_stage) -> pa.Table:
    return in_order(run_blocks(person_stage.blocks, person_stage.read(0)))


@pytest.fixture
def caption_stage(config, person_stage, persons) -> CaptionStage:
    person_stage.finish(0, persons)
    write_duplicates([config.root / persons_file(0)], config.root / DUPLICATES_FILE, DuplicateSettings(-1))
    folder = StageFolder(config.root, "captions", "f")
    return CaptionStage(folder, 1, tuple(config.captioners), tuple(caption_blocks(config)), 32)


@pytest.fixture
def captions(caption_stage, monkeypatch) -> pa.Table:
    """All captioned but the first person, whom the captioner will not describe."""
    table = caption_stage.read(0)
    refused = table["crop"][0].as_py()

    def answer(request, number):
        return ChatReply(None, ChatProblem.REFUSED, "status 400") if request.image == refused else GOOD

    answer_with(monkeypatch, ScriptedChat(answer))
    return in_order(run_blocks(caption_stage.blocks, table))


def row(table: pa.Table, number: int) -> pa.Table:
    return table.slice(number, 1)


def with_trail(table: pa.Table, number: int, change: Callable[[list[str]], list[str]]) -> pa.Table:
    trails = [[step["block"] for step in trail] for trail in column(table, "trail")]
    trails[number] = change(trails[number])
    values = [[{"block": name, "note": None} for name in trail] for trail in trails]
    place = table.schema.get_field_index("trail")
    return table.set_column(place, "trail", pa.array(values, table.schema.field("trail").type))


def with_value(table: pa.Table, number: int, name: str, value: object) -> pa.Table:
    values = column(table, name)
    values[number] = value
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values, table.schema.field(name).type))


INJURIES = {
    "a row is dropped": lambda table: pa.concat_tables([row(table, 0), table.slice(2)]),
    "the first row is dropped": lambda table: table.slice(1),
    "the last row is dropped": lambda table: table.slice(0, table.num_rows - 1),
    "a row is doubled": lambda table: pa.concat_tables([table, row(table, 2)]),
    "a row stands for another": lambda table: pa.concat_tables([row(table, 1), row(table, 1), table.slice(2)]),
    "two rows have one id": lambda table: with_value(table, 0, "row_id", column(table, "row_id")[1]),
    "a kept row skipped its last block": lambda table: with_trail(table, 0, lambda names: names[:-1]),
    "a row skipped its first block": lambda table: with_trail(table, 0, lambda names: names[1:]),
    "a row entered a block twice": lambda table: with_trail(table, 0, lambda names: [*names, names[-1]]),
    "a row entered blocks out of order": lambda table: with_trail(
        table, 0, lambda names: [*names[:-2], names[-1], names[-2]]
    ),
    "a row entered a block that is not there": lambda table: with_trail(table, 0, lambda names: [*names, "sieve"]),
    "a row entered such a block first": lambda table: with_trail(table, 0, lambda names: ["sieve", *names]),
    "a row entered nothing": lambda table: with_trail(table, 0, lambda names: []),
    "a row was rejected elsewhere": lambda table: with_value(table, 0, "rejected_by", "read"),
}


@pytest.mark.parametrize("injury", INJURIES)
def test_a_shard_of_images_with_lost_rows_is_not_finished(person_stage, persons, injury):
    with pytest.raises(LostRowsError, match="shard 0"):
        person_stage.finish(0, INJURIES[injury](persons))
    assert person_stage.folder.read_marker(0) is None


@pytest.mark.parametrize("skipped", ["decode", "detect", "box", "pose", "keypoints", "crop", "quality"])
def test_no_block_of_the_first_part_can_be_skipped(person_stage, persons, skipped):
    kept = column(persons, "rejected_by").index(None)
    injured = with_trail(persons, kept, lambda names: [name for name in names if name != skipped])
    with pytest.raises(LostRowsError, match="went through"):
        person_stage.finish(0, injured)


def test_a_rejected_row_cannot_have_skipped_a_block_before(person_stage, persons):
    dropped = column(persons, "rejected_by").index("box")
    injured = with_trail(persons, dropped, lambda names: [name for name in names if name != "decode"])
    with pytest.raises(LostRowsError, match="rejected by box"):
        person_stage.finish(0, injured)


def test_a_tar_that_does_not_tell_its_number_of_images_is_checked_for_gaps(person_stage, persons):
    shard = Shard(0, SourceSettings("tars", "a.tar"), 0, 1, 0, None)
    stage = PersonStage(person_stage.folder, (shard,), person_stage.blocks, 32)
    with pytest.raises(LostRowsError, match="rows do not match its 3 images"):
        stage.finish(0, INJURIES["a row is dropped"](persons))
    stage.finish(0, persons)


def test_persons_of_an_image_are_numbered_without_gaps(person_stage, persons):
    kept = column(persons, "rejected_by").index(None)
    with pytest.raises(LostRowsError, match=r"the image at position 0 has the persons \[1\]"):
        person_stage.finish(0, with_value(persons, kept, "person", 1))


def test_rows_in_any_order_are_written_in_that_of_the_source(person_stage, persons):
    person_stage.finish(0, persons.take([3, 0, 2, 1]))
    path = person_stage.folder.root / persons_file(0)
    assert column(pq.read_table(path), "source") == [f"street/person{number}.jpg" for number in (0, 2, 3)]


def test_persons_are_handed_on_without_the_whole_image_and_without_work_columns(person_stage, persons):
    person_stage.finish(0, persons)
    names = set(pq.read_schema(person_stage.folder.root / persons_file(0)).names)
    assert not names & {"image", "shard", "position", "person", "trail", "rejected_by", "reason", "detail"}
    assert {"row_id", "image_id", "crop", "image_path", "keypoints", "perceptual_hash"} <= names


def test_a_rejected_person_is_written_with_reason_place_and_thumbnail(person_stage, persons):
    person_stage.finish(0, persons)
    table = pq.read_table(person_stage.folder.root / rejects_file("persons", 0))
    assert table.schema.equals(REJECT_SCHEMA)
    (rejected,) = table.to_pylist()
    assert (rejected["rejected_by"], rejected["reason"], rejected["detail"]) == ("box", "too wide", "100x100")
    assert rejected["source"] == "street/person1.jpg" and rejected["box"] == [0, 0, 100, 100]
    with Image.open(io.BytesIO(rejected["thumbnail"])) as thumbnail:
        assert thumbnail.size == (32, 32)


def test_a_thumbnail_shows_the_person_and_not_the_image(config, tmp_path):
    image = Image.new("RGB", (400, 100), "white")
    image.paste("red", (300, 20, 320, 80))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    from dataset_scripts.construction.run.stages import _thumbnail

    seen = {"box": [300, 20, 320, 80], "confidence": 0.9, "crop": None, "image": buffer.getvalue()}
    with Image.open(io.BytesIO(_thumbnail(seen, 30, False))) as thumbnail:
        assert thumbnail.height == 30 and thumbnail.width < 20
        red, green, _ = thumbnail.getpixel((thumbnail.width // 2, 15))
        assert red > 200 and green < 60


def test_where_faces_are_blurred_they_are_so_in_the_pictures_of_rejected_persons():
    from dataset_scripts.construction.run.stages import _thumbnail

    stripes = Image.new("RGB", (40, 80), "white")
    for row in range(0, 80, 4):
        stripes.paste("black", (0, row, 40, row + 2))
    content = io.BytesIO()
    stripes.save(content, "PNG")
    seen = {"box": [0.0, 0.0, 40.0, 80.0], "confidence": 1.0, "image": content.getvalue()}
    # No stripe is left in the top quarter, and all are below.
    assert max(steepest(_thumbnail(seen, 80, True))[:18]) < 30
    assert max(steepest(_thumbnail(seen, 80, True))[24:]) > 100
    already = seen | {"crop": content.getvalue()}  # whose face was blurred when it was cut out
    assert max(steepest(_thumbnail(already, 80, True))[:18]) > 100


def steepest(jpeg: bytes) -> list[int]:
    """How much each row of a picture differs from the next, of 255."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        rows = [picture.convert("L").getpixel((20, row)) for row in range(picture.height)]
    return [abs(a - b) for a, b in zip(rows, rows[1:], strict=False)]


def test_an_image_without_a_person_has_no_thumbnail(person_stage, tmp_path):
    (tmp_path / "source" / "person0.jpg").write_text("no picture")
    table = run_blocks(person_stage.blocks, person_stage.read(0))
    person_stage.finish(0, table)
    rejects = pq.read_table(person_stage.folder.root / rejects_file("persons", 0)).to_pylist()
    assert [(row["rejected_by"], row["thumbnail"] is None, row["box"]) for row in rejects][0] == ("decode", True, None)


def test_a_crop_too_small_to_be_read_as_a_picture_has_no_thumbnail():
    from dataset_scripts.construction.run.stages import _thumbnail

    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "JPEG")
    assert _thumbnail({"box": [0, 0, 1, 1], "confidence": 1.0, "crop": buffer.getvalue()}, 30, False) is None


def test_thumbnails_can_be_left_out(person_stage, persons):
    stage = PersonStage(person_stage.folder, person_stage.shards, person_stage.blocks, 0)
    stage.finish(0, persons)
    assert column(pq.read_table(stage.folder.root / rejects_file("persons", 0)), "thumbnail") == [None]


def test_the_account_of_images_turns_into_one_of_persons_after_the_detector(person_stage, persons):
    person_stage.finish(0, persons)
    ((*counts,),) = stage_counts(person_stage.folder, [0], {})
    units = {block.block: (block.unit, block.seen, block.kept) for block in counts}
    assert units["read"] == ("images", 4, 4) and units["detect"] == ("images", 4, 4)
    assert units["box"] == ("persons", 4, 3) and units["signature"] == ("persons", 3, 3)


def test_a_stage_that_ended_without_a_shard_is_an_error(person_stage, persons):
    person_stage.finish(0, persons)
    with pytest.raises(LostRowsError, match=r"stage persons ended without shards \[1\]"):
        stage_counts(person_stage.folder, [0, 1], {})


def test_a_shard_without_any_person_is_finished_too(config, tmp_path):
    strict = build_config(tmp_path / "strict", tmp_path / "source", criteria=CriteriaSettings(min_shorter_side=10_000))
    plan = plan_shards(list(strict.sources.values()), PERSONS)
    stage = PersonStage(StageFolder(strict.root, "persons", "f"), plan.shards, tuple(person_blocks(strict)), 32)
    stage.finish(0, run_blocks(stage.blocks, stage.read(0)))
    write_duplicates([strict.root / persons_file(0)], strict.root / DUPLICATES_FILE, DuplicateSettings())
    blocks = tuple(caption_blocks(strict))
    captions = CaptionStage(StageFolder(strict.root, "captions", "f"), 1, ("caption1",), blocks, 32)
    captions.finish(0, run_blocks(blocks, captions.read(0)))
    published = pq.read_table(strict.root / data_file(0, 1))
    assert published.num_rows == 0 and published.schema.equals(published_features(["caption1"]).arrow_schema)


@pytest.mark.parametrize("injury", [name for name in INJURIES if name != "a kept row skipped its last block"])
def test_a_shard_of_persons_with_lost_rows_is_not_finished(caption_stage, captions, injury):
    with pytest.raises(LostRowsError, match="shard 0"):
        caption_stage.finish(0, INJURIES[injury](captions))
    assert caption_stage.folder.read_marker(0) is None


@pytest.mark.parametrize("empty", ["caption1", "caption2"])
def test_a_row_without_a_caption_is_never_published(caption_stage, captions, empty):
    kept = column(captions, "rejected_by").index(None)
    with pytest.raises(LostRowsError, match=f"kept rows lack {empty}"):
        caption_stage.finish(0, with_value(captions, kept, empty, None))


def test_the_published_columns_come_first_and_no_work_column_is_published(caption_stage, captions):
    caption_stage.finish(0, captions)
    path = caption_stage.folder.root / data_file(0, 1)
    names = pq.read_schema(path).names
    assert path.name == "train-00000-of-00001.parquet"
    assert names[:4] == ["image", "image_path", "caption1", "caption2"]
    assert names == list(published_features(["caption1", "caption2"]))
    work = {"crop", "shard", "position", "person", "trail", "rejected_by", "reason", "detail", "reply1", "reply2"}
    assert not set(names) & work


def test_datasets_reads_the_published_image_as_an_image(caption_stage, captions):
    caption_stage.finish(0, captions)
    path = str(caption_stage.folder.root / data_file(0, 1))
    # Not `load_dataset`, whose cache is another test's business: the schema itself holds the features.
    features = datasets.Features.from_arrow_schema(pq.read_schema(path))
    assert features == published_features(["caption1", "caption2"]) and features["image"] == datasets.Image()
    first = datasets.Dataset(pq.read_table(path))[0]
    assert isinstance(first["image"], Image.Image) and first["caption1"] == GOOD
    assert len(first["keypoints"]) == 17 and len(first["box"]) == 4


def test_a_published_image_is_the_crop_under_its_path(caption_stage, captions):
    crops = dict(zip(column(captions, "image_path"), column(captions, "crop"), strict=True))
    caption_stage.finish(0, captions)
    rows = pq.read_table(caption_stage.folder.root / data_file(0, 1)).to_pylist()
    assert len(rows) == 2
    for published in rows:
        assert published["image"] == {"bytes": crops[published["image_path"]], "path": published["image_path"]}


def test_a_row_without_a_caption_is_written_with_its_last_reason_and_picture(caption_stage, captions):
    caption_stage.finish(0, captions)
    (rejected,) = pq.read_table(caption_stage.folder.root / rejects_file("captions", 0)).to_pylist()
    assert (rejected["rejected_by"], rejected["reason"]) == ("caption 1, attempt 2", "request refused")
    assert rejected["detail"] == "status 400" and rejected["source"] == "street/person0.jpg"
    with Image.open(io.BytesIO(rejected["thumbnail"])) as thumbnail:
        assert thumbnail.height == 32


def test_journals_stay_until_the_shard_is_finished_and_go_then(caption_stage, captions):
    journals = caption_stage.folder.root / "work" / "journal"
    assert len(list(journals.iterdir())) == 2
    with pytest.raises(LostRowsError):
        caption_stage.finish(0, captions.slice(1))
    assert len(list(journals.iterdir())) == 2
    caption_stage.finish(0, captions)
    assert not list(journals.iterdir())


def test_a_similarity_that_was_not_measured_is_empty_and_no_other_column_may_lack(captions):
    kept = captions.filter(pa.array([rejected is None for rejected in column(captions, "rejected_by")]))
    table = published_table(kept, ["caption1"])
    assert column(table, "similarity1") == [None] * kept.num_rows
    with pytest.raises(KeyError, match="captioner1"):
        published_table(kept.drop_columns(["captioner1"]), ["caption1"])
