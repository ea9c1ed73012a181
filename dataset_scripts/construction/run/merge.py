"""Merge runs that were built on several machines into one release, with the rows that one run would have.

All persons of all parts are compared again, in the order of the parts, by the criterion of the pipeline.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from tqdm.auto import tqdm

from ..persons.duplicates import DUPLICATE, DuplicateSettings, write_duplicates
from ..pipeline_report import PERSONS, BlockCounts, sum_counts
from ..shards import Marker, RunFolderError, StageFolder, fingerprint, lock_folder, remove_leftovers
from ..storage import Location, location, matching, read_table
from .card import CardFacts, write_card, write_report
from .facts import RunFacts
from .pipeline import DUPLICATES_FILE, BuildReport
from .stages import LostRowsError, data_file, persons_file


MERGED = "merge"
"""Name of the block in the pipeline report, and of the stage of the merged folder."""
UNCAPTIONED = "left out, as no part has captioned them"
"""Note of the pipeline report on persons that one run would keep."""
_NAMED = 5  # row ids that a message lists


class DifferentPartsError(ValueError):
    """Parts were built with different settings, or overlap: together they are not what one run gives."""


@dataclass(frozen=True)
class _Part:
    """A finished run."""

    root: Location
    facts: RunFacts
    markers: dict[str, list[Marker]]  # of each stage, by number of the shard

    @property
    def shards(self) -> int:
        return len(self.markers["captions"])


@dataclass(frozen=True)
class _Comparison:
    """What one run over all parts would find."""

    duplicates: set[str]  # row ids
    uncaptioned: list[str]  # that one run would keep, but their part dropped them


def merge_webperson(
    parts: Sequence[str | Location],
    output: str | Location,
    *,
    rows_per_file: int = 0,
    leave_out_uncaptioned: bool = False,
    progress: bool = True,
) -> BuildReport:
    """Merge finished runs into one data set. The same call resumes an interrupted one.

    The rows are those of one run over the sources of all parts, in the order of the parts: near-duplicates between
    parts are dropped, the first is kept. There is one exception. A part has not captioned what it dropped as a
    duplicate, but if its original is a duplicate of a person in an earlier part, one run would keep it.

    Args:
        parts (`Sequence[str]`): folders or URLs of runs with captions, in order.
        output (`str`): folder or URL for the release, which `gadms publish dataset` takes.
        rows_per_file (`int`, *optional*, defaults to 0): join shards until a file has this many rows; 0 keeps one file
            a shard, which then equals that of one run.
        leave_out_uncaptioned (`bool`, *optional*, defaults to `False`): leave out the persons of the exception, which
            the pipeline report counts, instead of refusing them.
        progress (`bool`): show progress bars.

    Returns:
        [`BuildReport`]

    Raises:
        DifferentPartsError: if the parts differ in a setting or version, or have a source or rows in common, or if
            there are persons of the exception.
        RunFolderError: if a part is not finished or damaged, or the output folder contains something else.
        ValueError: for less than two parts, or a negative `rows_per_file`.
    """
    if len(parts) < 2:
        raise ValueError(f"a merge needs at least two parts, not {len(parts)}")
    if rows_per_file < 0:
        raise ValueError(f"`rows_per_file` must be 0 or more, not {rows_per_file}")
    read = [_read_part(location(part)) for part in tqdm(parts, "reading parts", unit="part", disable=not progress)]
    _check_same_settings(read)
    _check_no_common_source(read)
    found = _compare(read)
    if found.uncaptioned and not leave_out_uncaptioned:
        raise DifferentPartsError(
            f"one run would keep {len(found.uncaptioned):,} persons that no part has captioned, such as "
            f"{', '.join(found.uncaptioned[:_NAMED])}: their part dropped them as duplicates of persons who are "
            "themselves duplicates in an earlier part. Leave them out (--leave-out-uncaptioned), or build the parts "
            "as one run"
        )
    root = location(output)
    with lock_folder(root):
        remove_leftovers(root)
        counts, rows = _write(read, found, root, rows_per_file, progress)
        write_report(root, counts)
        write_card(root, _card(read), counts)
    return BuildReport(root, counts, rows)


def _read_part(root: Location) -> _Part:
    """Raises RunFolderError: if the run is not finished, or one of its files is missing or damaged."""
    facts = RunFacts.read(root)
    shards = json.loads((root / "work" / "plan.json").read_text(encoding="utf-8"))["shards"]
    markers: dict[str, list[Marker]] = {}
    for stage in ("persons", "captions"):
        settings = facts.fingerprints[stage]
        read = [StageFolder(root, stage, settings).read_marker(number) for number in range(shards)]
        markers[stage] = [marker for marker in read if marker]
        if len(markers[stage]) < shards:
            raise RunFolderError(
                f"{root} is not finished: {shards - len(markers[stage])} of {shards} shards of stage {stage} are "
                "missing. Run the pipeline to its end"
            )
    return _Part(root, facts, markers)


def _check_same_settings(parts: Sequence[_Part]) -> None:
    first, *others = (_flat({"version": part.facts.version, **part.facts.settings}) for part in parts)
    for part, other in zip(parts[1:], others, strict=True):
        changed = [key for key in sorted(first | other) if first.get(key) != other.get(key)]
        if changed:
            few = "; ".join(f"{key} is {first.get(key)!r} and {other.get(key)!r}" for key in changed[:_NAMED])
            raise DifferentPartsError(f"{parts[0].root} and {part.root} were built differently: {few}")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict) and value
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _check_no_common_source(parts: Sequence[_Part]) -> None:
    """Row ids are made of the names of sources, so that one run refuses two of the same name."""
    owners: dict[str, Location] = {}
    for part in parts:
        for source in part.facts.sources:
            if source in owners:
                raise DifferentPartsError(
                    f"{owners[source]} and {part.root} both have a source named {source!r}: the parts overlap, or one "
                    "was built with a name that is taken. Row ids are made of the names: give each source its own"
                )
            owners[source] = part.root


def _compare(parts: Sequence[_Part]) -> _Comparison:
    tables = [part.root / persons_file(number) for part in parts for number in range(part.shards)]
    row_ids = pa.concat_tables([read_table(table, ["row_id"]) for table in tables])["row_id"]
    if repeated := [row_id for row_id, count in Counter(row_ids.to_pylist()).items() if count > 1]:
        raise DifferentPartsError(f"{len(repeated):,} persons are in several parts, such as {repeated[0]}")
    settings = DuplicateSettings(**parts[0].facts.settings["duplicates"])
    with tempfile.TemporaryDirectory(prefix="gadms-") as folder:
        file = Path(folder, "duplicates.parquet")
        write_duplicates(tables, file, settings)
        duplicates = set(read_table(file)["row_id"].to_pylist())
    dropped = [row for part in parts for row in read_table(part.root / DUPLICATES_FILE)["row_id"].to_pylist()]
    return _Comparison(duplicates, [row for row in dropped if row not in duplicates])


def _write(
    parts: Sequence[_Part], found: _Comparison, root: Location, rows_per_file: int, progress: bool
) -> tuple[tuple[BlockCounts, ...], int]:
    """Write the files of the release. Returns: the counts of all blocks, and the number of rows."""
    shards = [part.root / data_file(number, part.shards) for part in parts for number in range(part.shards)]
    published = [read_table(shard, ["row_id"])["row_id"].to_pylist() for shard in shards]
    kept = [sum(row not in found.duplicates for row in rows) for rows in published]
    files = list(_joined(kept, rows_per_file))
    folder = StageFolder(root, MERGED, fingerprint([part.facts.fingerprints for part in parts], rows_per_file))
    names = [data_file(number, len(files)) for number in range(len(files))]
    others = {f"data/{file.name}" for file in matching(root / "data", "*")} - set(names)
    if others or (root / "work" / "plan.json").is_file():
        raise RunFolderError(f"{root} contains something else ({min(others, default='a run')}): name another folder")
    duplicates = pa.array(sorted(found.duplicates), pa.string())
    for number, members in enumerate(tqdm(files, "writing", unit="file", disable=not progress)):
        if folder.read_marker(number):
            continue
        rows = pa.concat_tables([_without(read_table(shards[member]), duplicates) for member in members])
        seen = sum(len(published[member]) for member in members)
        dropped = {DUPLICATE: seen - rows.num_rows} if seen > rows.num_rows else {}
        counts = BlockCounts(MERGED, PERSONS, seen, rows.num_rows, dropped)
        # Reading has renamed the items of lists: the schema of the features has the names of the run.
        rows = rows.cast(datasets.Features.from_arrow_schema(rows.schema).arrow_schema).combine_chunks()
        folder.finish(number, {names[number]: rows}, (counts,))
    (merged,) = sum_counts(marker.counts for number in range(len(files)) if (marker := folder.read_marker(number)))
    persons, captions = (
        sum_counts(marker.counts for part in parts for marker in part.markers[stage])
        for stage in ("persons", "captions")
    )
    captioned = persons[-1].kept - sum(sum(block.dropped.values()) for block in captions)
    if (merged.seen, merged.kept) != (captioned, sum(kept)):
        raise LostRowsError(f"{root}: the parts count {captioned} captioned persons, but {merged.seen} were read")
    if found.uncaptioned:
        merged = replace(merged, noted={UNCAPTIONED: len(found.uncaptioned)})
    return (*persons, *captions, merged), merged.kept


def _card(parts: Sequence[_Part]) -> CardFacts:
    card = parts[0].facts.card
    sources = {name: kind for part in parts for name, kind in part.facts.sources.items()}
    return replace(card, settings=card.settings | {"sources": sources})


def _joined(rows: Sequence[int], rows_per_file: int) -> Iterator[list[int]]:
    """Numbers of the shards of each file."""
    members: list[int] = []
    joined = 0
    for number, count in enumerate(rows):
        members.append(number)
        joined += count
        if joined >= rows_per_file:
            yield members
            members, joined = [], 0
    if members:
        yield members


def _without(table: pa.Table, row_ids: pa.Array) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table["row_id"], value_set=row_ids)))
