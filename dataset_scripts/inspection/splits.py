"""Inspect a data set: counts, caption lengths, image sizes, unreadable images, overlaps between splits."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from modeling_gadms.media.images import UnreadableImageError, load_image
from modeling_gadms.training.data import DatasetColumns


CAPTION_COLUMNS = (("captions",), ("caption1", "caption2"), ("caption1",), ("caption",), ("text",))
"""Usual caption columns, tried in order."""
SHARED = {
    "path": "the same `image_path`",
    "file": "files of the same content",
    "pixels": "images of the same pixels",
    "caption": "the same caption",
    "person": "the same person id",
}
"""Kinds of overlaps between splits. Equal captions are no problem: many persons are dressed alike."""
_MAX_NAMED = 10  # rows that a list contains
_SAMPLES = 6


@dataclass(frozen=True)
class Distribution:
    """Minimum, median, 95th percentile and maximum of some numbers."""

    minimum: float
    median: float
    percentile_95: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Distribution | None":
        """Returns: `None` if there are no numbers."""
        if not len(values):
            return None
        statistics = (min(values), np.median(values), np.percentile(values, 95), max(values))
        return cls(*map(float, statistics))

    def __str__(self) -> str:
        return " / ".join(f"{value:g}" if value == round(value) else f"{value:.2f}" for value in asdict(self).values())


@dataclass(frozen=True)
class SplitInspection:
    """Counts and statistics of one split.

    Attributes:
        images (`int`), captions (`int`): counts over all rows.
        identities (`int`, *optional*): distinct person ids, if there is such a column.
        images_per_identity, captions_per_image, words, tokens ([`Distribution`], *optional*):
            Tokens include special tokens and are counted before truncation, if a tokenizer is given.
        heights, widths, aspects ([`Distribution`], *optional*): in pixels; height divided by width.
        truncated (`int`, *optional*): captions longer than the tokenizer's limit.
        unreadable (`dict[int, str]`): rows with unreadable images, and the reasons.
        without_caption (`dict[int, str]`): rows with missing or empty captions, and the reasons.
    """

    images: int
    captions: int
    identities: int | None
    images_per_identity: Distribution | None
    captions_per_image: Distribution | None
    words: Distribution | None
    tokens: Distribution | None
    truncated: int | None
    heights: Distribution | None
    widths: Distribution | None
    aspects: Distribution | None
    unreadable: dict[int, str]
    without_caption: dict[int, str]


@dataclass(frozen=True)
class Overlap:
    """Values that occur in more than one split.

    Attributes:
        count (`int`): number of distinct values.
        examples (`tuple[str, ...]`): the first ones, each as a pair of rows.
    """

    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """A row of the contact sheet: split, person, captions and the content of the image file."""

    split: str
    row: int
    person: str
    captions: tuple[str, ...]
    content: bytes


@dataclass(frozen=True)
class Inspection:
    """Inspection of all splits of a data set.

    Attributes:
        splits (`dict[str, SplitInspection]`): by name.
        overlaps (`dict[str, Overlap]`): by the keys of `SHARED`, as far as the columns allow.
        token_limit (`int`, *optional*): maximum length of the tokenizer.
        samples (`tuple[Sample, ...]`): evenly spaced rows of each split.
    """

    splits: dict[str, SplitInspection]
    overlaps: dict[str, Overlap]
    token_limit: int | None
    samples: tuple[Sample, ...] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the inspection as plain values for JSON, without samples."""
        return {name: value for name, value in asdict(self).items() if name != "samples"}

    def to_text(self) -> str:
        """Return the inspection as text."""
        lines = ["minimum / median / 95th percentile / maximum"]
        for name, split in self.splits.items():
            lines.append(f"\n{name}: {split.images:,} images, {split.captions:,} captions")
            figures: dict[str, Any] = {}
            if split.identities is not None:
                figures |= {"persons": f"{split.identities:,}", "images per person": split.images_per_identity}
            figures |= {"captions per image": split.captions_per_image, "words per caption": split.words}
            figures["tokens per caption"] = split.tokens or "not counted: name a model with --tokenizer"
            if split.tokens and split.truncated is not None:
                figures[f"over {self.token_limit} tokens"] = f"{split.truncated:,} captions"
            figures |= {"height in pixels": split.heights, "width in pixels": split.widths}
            figures["height / width"] = split.aspects
            lines += [f"  {label:<20} {figure}" for label, figure in figures.items()]
            for label, faults in (
                ("unreadable images", split.unreadable),
                ("without a caption", split.without_caption),
            ):
                lines.append(f"  {label:<20} {len(faults):,}")
                lines += [f"    row {row}: {reason}" for row, reason in list(faults.items())[:_MAX_NAMED]]
        if len(self.splits) > 1:
            lines.append("\nacross splits")
            for key, overlap in self.overlaps.items():
                lines.append(f"  {SHARED[key]:<30} {overlap.count:,}")
                lines += [f"    {example}" for example in overlap.examples]
        return "\n".join(lines)


class _Overlaps:
    """Digests of values, and the row where each was first seen."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[bytes, tuple[str, int]]] = {}
        self.shared: dict[str, dict[bytes, str]] = {}

    def add(self, kind: str, content: bytes, split: str, row: int) -> None:
        digest = hashlib.blake2b(content, digest_size=16).digest()
        first, first_row = self.seen.setdefault(kind, {}).setdefault(digest, (split, row))
        if first != split:
            self.shared.setdefault(kind, {}).setdefault(digest, f"{first} row {first_row} and {split} row {row}")

    def to_overlaps(self) -> dict[str, Overlap]:
        found = {kind: self.shared.get(kind, {}) for kind in SHARED if kind in self.seen}
        return {kind: Overlap(len(pairs), tuple(pairs.values())[:_MAX_NAMED]) for kind, pairs in found.items()}


def choose_columns(
    column_names: Sequence[str], image: str, captions: Sequence[str], person_id: str | None
) -> DatasetColumns:
    """Choose the columns: the given ones, or else the usual ones.

    Raises:
        ValueError: if a column is missing, or no usual caption column exists.
    """
    usual = next((names for names in CAPTION_COLUMNS if set(names) <= set(column_names)), ())
    if not captions and not usual:
        raise ValueError(f"no caption column was found among {', '.join(column_names)}; name it with --captions")
    person_id = person_id or ("person_id" if "person_id" in column_names else None)
    columns = DatasetColumns(image, tuple(captions) or usual, person_id)
    columns.validate(column_names)
    return columns


def inspect_splits(
    splits: datasets.DatasetDict,
    columns: DatasetColumns,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    progress: bool = True,
) -> Inspection:
    """Inspect all rows of all splits in one pass.

    Args:
        splits ([`~datasets.DatasetDict`]): the splits.
        columns ([`DatasetColumns`]): columns of images, captions and person ids.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): counts tokens and captions over its `model_max_length`.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar for each split.

    Returns:
        [`Inspection`]

    Raises:
        ValueError: if a column or a person id is missing.
    """
    overlaps = _Overlaps()
    samples: list[Sample] = []
    # transformers uses a very large number for tokenizers without a limit.
    limit = tokenizer.model_max_length if tokenizer is not None and tokenizer.model_max_length < 10**9 else None
    inspected = {}
    for name, split in splits.items():
        columns.validate(split.column_names)
        inspected[name] = _inspect(name, split, columns, tokenizer, limit, overlaps, samples, progress)
    return Inspection(inspected, overlaps.to_overlaps(), limit, tuple(samples))


def _inspect(
    name: str,
    split: datasets.Dataset,
    columns: DatasetColumns,
    tokenizer: PreTrainedTokenizerBase | None,
    limit: int | None,
    overlaps: _Overlaps,
    samples: list[Sample],
    progress: bool,
) -> SplitInspection:
    person_ids = columns.person_ids(split)
    persons, images_of = np.unique(person_ids, return_counts=True)
    has_ids = columns.person_id is not None
    captions_per_image: list[int] = []
    words: list[int] = []
    tokens: list[int] = []
    sizes: list[tuple[int, int]] = []
    unreadable: dict[int, str] = {}
    without_caption: dict[int, str] = {}
    shown = set(np.linspace(0, len(split) - 1, min(_SAMPLES, len(split)), dtype=int).tolist())
    rows = split.with_format(None).cast_column(columns.image, datasets.Image(decode=False))
    for number, row in enumerate(tqdm(rows, desc=f"Inspecting {name}", unit="row", disable=not progress)):
        own: list[str] = []
        try:
            own = columns.row_captions(row, number)
        except ValueError as error:
            without_caption[number] = str(error)
        captions_per_image.append(len(own))
        words += [len(caption.split()) for caption in own]
        if tokenizer is not None and own:
            tokens += tokenizer(own, return_length=True, verbose=False)["length"]
        for caption in own:
            overlaps.add("caption", caption.encode(), name, number)
        if has_ids:
            overlaps.add("person", str(person_ids[number]).encode(), name, number)
        if isinstance(row.get("image_path"), str):
            overlaps.add("path", row["image_path"].encode(), name, number)
        try:
            content = _content(row[columns.image])
            image = load_image(content)
        except (UnreadableImageError, OSError, TypeError) as error:
            unreadable[number] = str(error)
            continue
        overlaps.add("file", content, name, number)
        overlaps.add("pixels", str(image.size).encode() + image.tobytes(), name, number)
        sizes.append((image.height, image.width))
        if number in shown:
            samples.append(Sample(name, number, str(person_ids[number]) if has_ids else "", tuple(own), content))
    return SplitInspection(
        images=len(split),
        captions=len(words),
        identities=len(persons) if has_ids else None,
        images_per_identity=Distribution.of(images_of.tolist()) if has_ids else None,
        captions_per_image=Distribution.of(captions_per_image),
        words=Distribution.of(words),
        tokens=Distribution.of(tokens),
        truncated=sum(count > limit for count in tokens) if limit else None,
        heights=Distribution.of([height for height, _ in sizes]),
        widths=Distribution.of([width for _, width in sizes]),
        aspects=Distribution.of([height / width for height, width in sizes]),
        unreadable=unreadable,
        without_caption=without_caption,
    )


def _content(value: Any) -> bytes:
    """Return the content of an image file, which `datasets` stores in the row or at a path."""
    if value is None:
        raise TypeError("there is no image")
    return value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
