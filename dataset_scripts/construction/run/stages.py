"""The two stages of a run, each processed shard by shard: images to persons, and persons to captioned persons.

Between the stages the persons of all shards are compared to find duplicates.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from PIL import ImageFilter

from modeling_gadms.media.detection import crop_window
from modeling_gadms.media.images import UnreadableImageError, load_image, to_jpeg

from ..blocks import ROW_SCHEMA, TRAIL, Block, in_order, join, stable_id
from ..captions.caption import journal_path
from ..persons.detect import BOX, DetectPersons, stored_box
from ..persons.estimate_pose import KEYPOINTS
from ..pipeline_report import IMAGES, PERSONS, BlockCounts, count_rows
from ..shards import Marker, StageFolder
from ..sources.planning import SOURCE_SCHEMA, Shard, read_shard
from ..storage import Location, read_footer, read_table


REJECT_SCHEMA = pa.schema(
    [
        *(SOURCE_SCHEMA.field(name) for name in ("row_id", "image_id", "source", "url", "frame", "time_seconds")),
        ("box", BOX),
        ("confidence", pa.float64()),
        ("keypoints", KEYPOINTS),
        *(SOURCE_SCHEMA.field(name) for name in ("rejected_by", "reason", "detail")),
        ("thumbnail", pa.binary()),
    ]
)
"""Columns of the files of rejected rows; columns that a row does not have are null.

Keypoints are in pixels of the source image, or of the crop for rows that passed the block `crop`.
"""
_WORKING_COLUMNS = {*ROW_SCHEMA.names} - {"row_id"}
_SOURCE_STEPS = ("fetch", "read")  # steps of sources in the trail of a row


class LostRowsError(RuntimeError):
    """Rows were lost or duplicated: a bug of the program."""


@dataclass(frozen=True)
class PersonStage:
    """From images to persons.

    `thumbnail_height`, of the thumbnails of rejected persons, is in pixels; 0 for none. `blur_faces` blurs their top
    quarter, because keypoints may be unknown.
    """

    folder: StageFolder
    shards: tuple[Shard, ...]
    blocks: tuple[Block, ...]
    thumbnail_height: int
    blur_faces: bool = False
    name: str = "persons"

    def read(self, number: int) -> pa.Table:
        return read_shard(self.shards[number])

    def finish(self, number: int, table: pa.Table) -> None:
        table = in_order(table)
        shard = self.shards[number]
        _check_images(table, shard, number)
        _check_passage(table, _SOURCE_STEPS, self.blocks, number)
        self.folder.finish(
            number,
            {
                persons_file(number): _kept(table).drop_columns(["image", *_WORKING_COLUMNS]),
                rejects_file(self.name, number): _rejects(table, self.thumbnail_height, self.blur_faces),
            },
            count_rows(table, self._units()),
        )

    def discard(self, number: int) -> None:
        """Remove what an attempt left of a shard that is set aside."""
        for name in (persons_file(number), rejects_file(self.name, number)):
            (self.folder.root / name).unlink(missing_ok=True)

    def _units(self) -> list[tuple[str, str]]:
        """Units of the counts: images up to and including the detector, then persons."""
        names = [*_SOURCE_STEPS, *(block.name for block in self.blocks)]
        detector = names.index(DetectPersons.name)
        return [(name, IMAGES if place <= detector else PERSONS) for place, name in enumerate(names)]


@dataclass(frozen=True)
class CaptionStage:
    """From persons to captioned persons, as published."""

    folder: StageFolder
    shards: int
    columns: tuple[str, ...]  # of captions
    blocks: tuple[Block, ...]
    thumbnail_height: int
    name: str = "captions"

    def read(self, number: int) -> pa.Table:
        table = read_table(self._persons(number))
        rows = table.num_rows
        start = {
            "shard": pa.array([number] * rows, pa.int32()),
            "position": pa.array(range(rows), pa.int64()),
            "trail": pa.array([[]] * rows, TRAIL),
        }
        for name, values in start.items():
            table = table.append_column(name, values)
        return join([table, ROW_SCHEMA.empty_table()])  # the other columns of a row are null

    def finish(self, number: int, table: pa.Table) -> None:
        table = in_order(table)
        expected = read_footer(self._persons(number)).num_rows
        if table["position"].to_pylist() != list(range(expected)):
            raise LostRowsError(f"shard {number}: {expected} persons were read, but {table.num_rows} rows remain")
        _check_passage(table, (), self.blocks, number)
        kept = _kept(table)
        if lacking := [column for column in self.columns if kept[column].null_count]:
            raise LostRowsError(f"shard {number}: kept rows lack {', '.join(lacking)}")
        published = published_table(kept, self.columns)
        self.folder.finish(
            number,
            {
                data_file(number, self.shards): published,
                rejects_file(self.name, number): _rejects(table, self.thumbnail_height),
            },
            count_rows(table, [(block.name, PERSONS) for block in self.blocks]),
        )
        journals = journal_folder(self.folder.root)
        for journal in journals.glob(journal_path(journals, number, "*").name):  # of captions and of their judge
            journal.unlink()

    def discard(self, number: int) -> None:
        """Remove what an attempt left of a shard that is set aside, but for the journals of its captions."""
        for name in (data_file(number, self.shards), rejects_file(self.name, number)):
            (self.folder.root / name).unlink(missing_ok=True)

    def _persons(self, number: int) -> Location:
        return self.folder.root / persons_file(number)


def persons_file(number: int) -> str:
    """File of a shard's persons before de-duplication and captioning, relative to the run's folder."""
    return f"work/persons/{number:05d}.parquet"


def rejects_file(stage: str, number: int) -> str:
    """File of a shard's rows that a stage rejected, relative to the run's folder."""
    return f"work/rejects/{stage}-{number:05d}.parquet"


def journal_folder(root: Location) -> Path:
    """Folder of the journals of unfinished shards.

    Journals are appended to, which object stores do not offer: those of such a run are in the user's cache folder.
    """
    if isinstance(root, Path):
        return root / "work" / "journal"
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "gadms" / "journals" / stable_id(str(root))


def data_file(number: int, shards: int) -> str:
    """Name of a published shard, as the Hub names them: names sort as numbers do."""
    digits = max(5, len(str(shards)))
    return f"data/train-{number:0{digits}d}-of-{shards:0{digits}d}.parquet"


def published_features(captions: Sequence[str]) -> datasets.Features:
    """Features of the published data set: image and captions first, then the origin of each row."""
    text, number = datasets.Value("string"), datasets.Value("float64")
    features = {
        "image": datasets.Image(),
        **dict.fromkeys(("image_path", *captions, "row_id", "image_id", "source", "url"), text),
        "frame": datasets.Value("int64"),
        "time_seconds": number,
        "box": datasets.List(number, length=4),
        "confidence": number,
        "detector": text,
        "keypoints": datasets.List(datasets.List(number, length=3), length=17),
        "pose_estimator": text,
        "contrast": number,
        "sharpness": number,
        "perceptual_hash": text,
        "colour_grid": text,
    }
    for column in captions:
        slot = column.removeprefix("caption")
        for name in ("template", "captioner", "captioner_revision", "prompt_hash"):
            features[f"{name}{slot}"] = text
        features[f"similarity{slot}"] = number
    return datasets.Features(features)


def published_table(kept: pa.Table, captions: Sequence[str]) -> pa.Table:
    """Convert kept rows, with `crop` for `image`, to the columns of `published_features`.

    The features are also in the metadata of the schema, for `datasets`. Only columns of similarities may be missing,
    because that check is optional.
    """
    features = published_features(captions)
    schema = features.arrow_schema
    paths = kept["image_path"].combine_chunks()
    image_type = schema.field("image").type
    images = pa.StructArray.from_arrays(
        [kept["crop"].combine_chunks().cast(image_type.field("bytes").type), paths], fields=list(image_type)
    )
    columns = {"image": images}
    for name in schema.names[1:]:
        is_left_out = name.startswith("similarity") and name not in kept.column_names
        columns[name] = pa.nulls(kept.num_rows, pa.float64()) if is_left_out else kept[name].combine_chunks()
    return pa.table(list(columns.values()), names=list(columns)).cast(schema)


def _kept(table: pa.Table) -> pa.Table:
    return table.filter(pc.is_null(table["rejected_by"]))


def _rejects(table: pa.Table, thumbnail_height: int, blur_faces: bool = False) -> pa.Table:
    rejected = table.filter(pc.is_valid(table["rejected_by"]))
    seen = [name for name in ("box", "confidence", "crop", "image") if name in rejected.column_names]
    thumbnails = [_thumbnail(row, thumbnail_height, blur_faces) for row in rejected.select(seen).to_pylist()]
    columns = [
        rejected[field.name] if field.name in rejected.column_names else pa.nulls(rejected.num_rows, field.type)
        for field in list(REJECT_SCHEMA)[:-1]
    ]
    return pa.table([*columns, pa.array(thumbnails, pa.binary())], schema=REJECT_SCHEMA)


def _thumbnail(row: dict, height: int, blur_faces: bool) -> bytes | None:
    """A small JPEG of a person for review; `None` for a row without a box."""
    if not height or row.get("box") is None:
        return None
    try:
        if row.get("crop"):
            picture = load_image(row["crop"])
        else:
            whole = load_image(row["image"])
            picture = whole.crop(crop_window(whole.size, stored_box(row["box"], row["confidence"])))
            if blur_faces:
                head = picture.crop((0, 0, picture.width, -(-picture.height // 4)))
                picture.paste(head.filter(ImageFilter.GaussianBlur(max(picture.size) / 12)))
    except UnreadableImageError:  # a crop of one or two pixels, if the criteria allow such boxes
        return None
    picture.thumbnail((4 * height, height))
    return to_jpeg(picture, 80)


def _check_images(table: pa.Table, shard: Shard, number: int) -> None:
    """Check that each image of the shard has one row, or one row per person, numbered from 0.

    If the number of images is unknown before reading, as for tars, the loss of the last ones cannot be detected.
    """
    persons: dict[int, list[int | None]] = {}
    for position, person in zip(table["position"].to_pylist(), table["person"].to_pylist(), strict=True):
        persons.setdefault(position, []).append(person)
    expected = len(persons) if shard.expected is None else shard.expected
    if list(persons) != list(range(shard.position, shard.position + expected)):
        raise LostRowsError(f"shard {number}: rows do not match its {expected} images")
    for position, numbers in persons.items():
        if numbers != [None] and numbers != list(range(len(numbers))):
            raise LostRowsError(f"shard {number}: the image at position {position} has the persons {numbers}")


def _check_passage(table: pa.Table, sources: Sequence[str], blocks: Sequence[Block], number: int) -> None:
    """Check the trail of each row: a source step first, then blocks in order, each once, the rejecting one last.

    Blocks that select all rows must not be missing. Skipped blocks of later attempts are not checked here: kept rows
    must have all captions.
    """
    order = {name: place for place, name in enumerate([*sources, *(block.name for block in blocks)])}
    of_every_row = [block.name for block in blocks if type(block).selects is Block.selects]
    columns = (table[name].to_pylist() for name in ("row_id", "trail", "rejected_by"))
    seen: set[str] = set()
    for row_id, trail, rejected_by in zip(*columns, strict=True):
        if row_id in seen:
            raise LostRowsError(f"shard {number}: row {row_id} occurs twice")
        seen.add(row_id)
        names = [step["block"] for step in trail]
        places = [order.get(name, -1) for name in names]
        last = order.get(rejected_by, -1) if rejected_by else len(order)
        if (
            (sources and not set(names[:1]) <= set(sources))
            or places != sorted(set(places))
            or -1 in places
            or (rejected_by and names[-1:] != [rejected_by])
            or any(name not in names for name in of_every_row if order[name] <= last)
        ):
            raise LostRowsError(f"shard {number}: row {row_id} went through {names}, rejected by {rejected_by}")


def read_markers(folder: StageFolder, numbers: Iterable[int]) -> dict[int, Marker]:
    """Read the markers of the finished ones of some shards. The files of several shards are verified at a time.

    Raises:
        RunFolderError: see `StageFolder.read_marker`.
    """
    numbers = list(numbers)
    with ThreadPoolExecutor() as pool:  # to compute a digest releases the interpreter's lock
        markers = pool.map(folder.read_marker, numbers)
        return {number: marker for number, marker in zip(numbers, markers, strict=True) if marker}


def stage_counts(
    folder: StageFolder, numbers: Sequence[int], known: Mapping[int, Marker]
) -> list[tuple[BlockCounts, ...]]:
    """Block counts of finished shards of a stage.

    `known` are markers that were read before: reading a marker reads all files of its shard.

    Raises:
        LostRowsError: if a shard has no marker.
        RunFolderError: see `StageFolder.read_marker`.
    """
    markers = {**known, **read_markers(folder, [number for number in numbers if number not in known])}
    if missing := [number for number in numbers if number not in markers]:
        raise LostRowsError(f"stage {folder.stage} ended without shards {missing[:10]}")
    return [markers[number].counts for number in numbers]
