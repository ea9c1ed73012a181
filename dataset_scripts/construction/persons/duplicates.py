"""Blocks `signature` and `duplicates`: find near-duplicate crops over all shards, and keep the first of each.

The paper does not remove duplicates, but web crawls contain many. Crops are compared by a perceptual hash and by a
coarse colour grid, because the hash ignores colour: two persons in the same pose with coats of different colours are
not duplicates.
"""

import io
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ..blocks import Batch, Block, Filter, Outcome, Verdict
from ..storage import Location, read_table


DUPLICATE = "duplicate"
HASH_BITS = 64
COLOUR_GRID = (4, 2)
"""Rows (head, torso, legs, feet) and columns (left, right) of the colour grid."""
DUPLICATE_SCHEMA = pa.schema({"row_id": pa.string(), "duplicate_of": pa.string(), "distance": pa.int32()})


@dataclass(frozen=True)
class DuplicateSettings:
    """When two crops are duplicates. Not in the paper: chosen.

    Args:
        max_distance (`int`, *optional*, defaults to 6): maximum number of differing bits, of 64, between perceptual
            hashes; -1 keeps all crops.
        max_colour_difference (`int`, *optional*, defaults to 24): maximum difference of mean colours in the grid, of
            255.

    Measured on 1,000 different drawn persons and 79 pedestrians in a video: there are no false matches up to 9 bits,
    and one (a pedestrian) at 10. Among the 499,500 pairs of drawn persons two more bits let through about five times
    as many pairs. All copies that were recompressed (JPEG quality 20) or halved are found with 4 bits. Of copies that
    were cropped 1 to 2 % tighter, 61 to 88 % are found with 4 bits, 92 to 94 % with 6 and 99 to 100 % with 8.

    Raises:
        ValueError: for a value out of its range.
    """

    max_distance: int = 6
    max_colour_difference: int = 24

    def __post_init__(self) -> None:
        if not -1 <= self.max_distance <= 15:
            raise ValueError(f"`max_distance` must lie between -1 (keep all) and 15 bits, not {self.max_distance}")
        if not 0 <= self.max_colour_difference <= 255:
            raise ValueError(f"`max_colour_difference` must lie between 0 and 255, not {self.max_colour_difference}")


class MeasureSignature(Block):
    """Adds the perceptual hash (DCT, 64 bits) and the colour grid of each crop, both hexadecimal."""

    name = "signature"
    reads = ("crop",)
    adds = {"perceptual_hash": pa.string(), "colour_grid": pa.string()}
    batch_size = 64

    def __call__(self, batch: Batch) -> Outcome:
        try:
            import imagehash
        except ImportError as error:
            raise ImportError('Duplicate detection needs ImageHash: pip install "gadms[construction]"') from error
        images = [Image.open(io.BytesIO(crop)).convert("RGB") for crop in batch["crop"]]
        return Outcome(
            {
                "perceptual_hash": [str(imagehash.phash(image)) for image in images],
                "colour_grid": [colour_grid(image).tobytes().hex() for image in images],
            }
        )


class DropDuplicates(Filter):
    """Rejects the rows listed in the file that `write_duplicates` wrote."""

    name = "duplicates"
    reads = ("row_id",)

    def __init__(self, path: Location):
        self.path = path

    def prepare(self) -> None:
        table = read_table(self.path)
        self._duplicates = dict(zip(table["row_id"].to_pylist(), table["duplicate_of"].to_pylist(), strict=True))

    def judge(self, row: Mapping[str, Any]) -> Verdict:
        original = self._duplicates.get(row["row_id"])
        return True if original is None else (False, DUPLICATE, f"of {original}")


def colour_grid(image: Image.Image) -> np.ndarray:
    """Mean colours of a coarse grid, of shape `(4 * 2 * 3,)` and type uint8."""
    rows, columns = COLOUR_GRID
    return np.asarray(image.resize((columns, rows), Image.Resampling.BOX)).reshape(-1)


def find_duplicates(hashes: np.ndarray, colours: np.ndarray, settings: DuplicateSettings) -> np.ndarray:
    """Find for each crop, in order, the first kept crop that it duplicates.

    Hashes within `max_distance` bits are equal in at least one of `max_distance + 1` bands, so only crops that share a
    band are compared; the result is exact. A larger `max_distance` gives shorter bands, which more crops share: time
    is quadratic in the number of crops, slowly growing at 6 and fast above 8.

    Args:
        hashes (`np.ndarray` of shape `(crops,)`, uint64): perceptual hashes.
        colours (`np.ndarray` of shape `(crops, 24)`, uint8): colour grids.
        settings (`DuplicateSettings`): the thresholds.

    Returns:
        `np.ndarray` of shape `(crops,)`, int64: index of the kept crop that it duplicates; -1 if it is kept.
    """
    original = np.full(len(hashes), -1, np.int64)
    if settings.max_distance < 0:
        return original
    bands = _bands(settings.max_distance + 1)
    kept: list[defaultdict[int, array[int]]] = [defaultdict(partial(array, "q")) for _ in bands]
    for index, (code, grid) in enumerate(zip(hashes, colours.astype(np.int16), strict=True)):
        buckets = [bucket[(int(code) >> shift) & mask] for bucket, (shift, mask) in zip(kept, bands, strict=True)]
        rivals = np.concatenate([np.array(bucket) for bucket in buckets])
        near = rivals[np.bitwise_count(hashes[rivals] ^ code) <= settings.max_distance]
        alike = near[np.abs(colours[near] - grid).max(axis=1) <= settings.max_colour_difference]
        if alike.size:
            original[index] = alike.min()
            continue
        for bucket in buckets:
            bucket.append(index)
    return original


def write_duplicates(tables: Sequence[Location], path: Path, settings: DuplicateSettings) -> None:
    """Compare the persons of all shards, and write the duplicates of earlier ones.

    Args:
        tables (`Sequence[Location]`): Parquet files with `row_id`, `perceptual_hash` and `colour_grid`, in order.
        path (`Path`): Parquet file to write, with `DUPLICATE_SCHEMA`.
        settings (`DuplicateSettings`): the thresholds.
    """
    columns = ["row_id", "perceptual_hash", "colour_grid"]
    table = pa.concat_tables([read_table(shard, columns) for shard in tables])
    row_ids = table["row_id"].to_pylist()
    hashes = np.array([int(code, 16) for code in table["perceptual_hash"].to_pylist()], np.uint64)
    grids = b"".join(bytes.fromhex(grid) for grid in table["colour_grid"].to_pylist())
    colours = np.frombuffer(grids, np.uint8).reshape(len(row_ids), 3 * COLOUR_GRID[0] * COLOUR_GRID[1])
    original = find_duplicates(hashes, colours, settings)
    (found,) = np.nonzero(original >= 0)
    distances = np.bitwise_count(hashes[found] ^ hashes[original[found]])
    rows = {
        "row_id": [row_ids[index] for index in found],
        "duplicate_of": [row_ids[original[index]] for index in found],
        "distance": distances.astype(np.int32),
    }
    pq.write_table(pa.table(rows, DUPLICATE_SCHEMA), path)


def _bands(number: int) -> list[tuple[int, int]]:
    """(shift, mask) of the bands, which split the hash into parts of about equal length."""
    edges = [HASH_BITS * part // number for part in range(number + 1)]
    return [(low, (1 << (high - low)) - 1) for low, high in zip(edges, edges[1:], strict=False)]
