"""Select the captions to mine templates from: training captions, never test captions of a benchmark."""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import datasets

from modeling_gadms.training.data import DatasetColumns

from ...loading import load_splits
from ..captions.words import COMMAND, MARKUP, folded, is_foreign_letter


LEAK = "a model must not be trained on captions derived from the test captions of a benchmark"
MIN_CAPTION_WORDS = 6
MAX_CAPTION_WORDS = 150
"""Not stated by the paper: chosen. Captions of the benchmarks have up to 96 words. Captions of fewer than six words
make no useful templates."""

_HELD_OUT = {"test", "tests", "testing", "val", "valid", "validation", "dev", "eval", "evaluation", "query", "gallery"}
_WORD = re.compile(r"\w+")
# Further commands that `COMMAND` does not match.
_MORE_COMMANDS = re.compile(
    r"\b(?:output|reply|respond|answer|repeat|write|say)\b.{0,30}\b(?:exactly|only|following|instead|sentence|words?)\b"
    r"|\b(?:act as|pretend)\b|\b(?:square|curly) brackets\b|\bplaceholders?\b"
)
_BRACKET = re.compile(r"[\[\](){}<>|]")


class CaptionDrop(StrEnum):
    """Reasons for dropping a caption."""

    EMPTY = "empty"
    FORBIDDEN = "forbidden"
    """A caption of the benchmarks to exclude."""
    DUPLICATE = "duplicate"
    PROMPT = "command, address or markup"
    """A possible prompt injection. Brackets are included, as they mark placeholders in templates."""
    FOREIGN = "another script"
    """Not Latin script."""
    TOO_SHORT = "too short"
    TOO_LONG = "too long"
    NOT_SAMPLED = "not sampled"


@dataclass(frozen=True)
class StepCounts:
    """What one step of template mining saw, kept and dropped by reason: `seen` = `kept` + the sum of `dropped`."""

    step: str
    seen: int
    kept: int
    dropped: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.seen != self.kept + sum(self.dropped.values()):
            raise ValueError(f"step {self.step}: {self.seen} seen, but {self.kept} kept and dropped {self.dropped}")

    def __str__(self) -> str:
        reasons = "".join(f"; {count} {reason}" for reason, count in sorted(self.dropped.items()))
        return f"{self.step}: {self.kept} of {self.seen}{reasons}"


@dataclass(frozen=True)
class CaptionSource:
    """Origin of captions: name, split, revision, arguments and columns of a data set, and the counts."""

    dataset: str
    split: str
    revision: str | None
    arguments: dict[str, Any]
    columns: tuple[str, ...]
    counts: StepCounts


def caption_hash(text: str) -> str:
    """Digest of the words without case, punctuation and differences of spacing or Unicode form.

    Lists of digests can be shared without the captions.
    """
    return hashlib.sha256(" ".join(_WORD.findall(folded(text))).encode()).hexdigest()


def hash_captions(dataset: datasets.Dataset, columns: Sequence[str]) -> frozenset[str]:
    """Compute `caption_hash` of all test captions of a benchmark, for `forbidden_captions`.

    Raises:
        ValueError: if a column is missing or contains no captions.
    """
    hashes = frozenset(caption_hash(text) for text in _read_captions(dataset, columns) if text)
    if not hashes:
        raise ValueError(f"found no captions to forbid in {', '.join(columns)}: name the columns of captions")
    return hashes


def text_problem(text: str) -> CaptionDrop | None:
    """Return why a caption must not be shown to a language model, or `None`.

    The prompt declares captions to be data, but a model could still follow instructions in them.
    """
    plain = folded(text)  # also normalises full-width brackets
    patterns = (MARKUP, COMMAND, _MORE_COMMANDS, _BRACKET)
    if any(pattern.search(plain) for pattern in patterns) or not plain.isprintable():
        return CaptionDrop.PROMPT
    if any(is_foreign_letter(character) for character in plain):
        return CaptionDrop.FOREIGN
    words = len(_WORD.findall(text))
    if words < MIN_CAPTION_WORDS:
        return CaptionDrop.TOO_SHORT
    return CaptionDrop.TOO_LONG if words > MAX_CAPTION_WORDS else None


def training_captions(
    name: str,
    split: str = "train",
    columns: DatasetColumns | None = None,
    *,
    revision: str | None = None,
    arguments: dict[str, Any] | None = None,
    forbidden_captions: Collection[str] = frozenset(),
    max_captions: int | None = None,
    seed: int = 0,
) -> tuple[list[str], CaptionSource]:
    """Select the distinct, suitable captions of a training split.

    Args:
        name (`str`): data set, as in `load_splits`.
        split (`str`, *optional*, defaults to `"train"`): `train`, or slices of it such as `train[:1%]`.
        columns ([`DatasetColumns`], *optional*): columns of captions. Other columns are not read.
        revision (`str`, *optional*): commit, tag or branch of a data set on the Hub.
        arguments (`dict`, *optional*): further arguments of the data set.
        forbidden_captions (*optional*): digests of captions to drop, from `hash_captions`.
        max_captions (`int`, *optional*): maximum number of captions, sampled with `seed`. Not stated by the paper:
            chosen, as each caption costs one request.

    Returns:
        `list[str]`, with single spaces, in the order of the data set, and [`CaptionSource`].

    Raises:
        ValueError: if the split or the rows are not training data, or a column is missing.
    """
    columns = columns or DatasetColumns()
    arguments = dict(arguments or {})
    _refuse_held_out_names(name, split, arguments)
    splits = load_splits(name, **arguments, **({"revision": revision} if revision else {}))
    if "train" not in splits:
        found = ", ".join(map(str, splits))
        raise ValueError(f"{name} has no split `train`, and only that is mined; it has {found}")
    dataset = splits["train"]
    _refuse_held_out_rows(name, dataset)
    parts = datasets.ReadInstruction.from_spec(split).to_absolute({"train": len(dataset)})
    rows = [row for part in parts for row in range(part.from_, part.to)]
    texts, counts = _fit_captions(_read_captions(dataset.select(rows), columns.captions), forbidden_captions)
    if max_captions is not None and len(texts) > max_captions:
        by_digest = sorted(texts, key=lambda text: hashlib.sha256(f"{seed} {text}".encode()).digest())
        chosen = set(by_digest[:max_captions])
        counts[CaptionDrop.NOT_SAMPLED] = len(texts) - max_captions
        texts = [text for text in texts if text in chosen]
    dropped = {reason.value: count for reason, count in counts.items()}
    report = StepCounts("captions", len(texts) + sum(dropped.values()), len(texts), dropped)
    resolved = revision or _commit_of(dataset)
    return texts, CaptionSource(name, split, resolved, arguments, columns.captions, report)


def _refuse_held_out_names(name: str, split: str, arguments: dict[str, Any]) -> None:
    for part in split.split("+"):
        if (base := part.partition("[")[0].strip()) != "train":
            raise ValueError(f"the split `{base}` of {name} is not mined, only `train` and its slices are: {LEAK}")
    # `load_dataset` calls a single file or folder `train`, whatever it contains.
    paths = [name, *_strings(arguments.get("data_files")), *_strings(arguments.get("data_dir"))]
    for path in paths:
        if held_out := sorted(_HELD_OUT.intersection(re.split(r"[^a-z]+", Path(path).name.lower()))):
            raise ValueError(
                f"{path} is called `{held_out[0]}`, and only training captions are mined: {LEAK}. If it does hold "
                "training captions, rename it"
            )


def _refuse_held_out_rows(name: str, dataset: datasets.Dataset) -> None:
    if dataset.split is not None and any(part.partition("[")[0] != "train" for part in str(dataset.split).split("+")):
        raise ValueError(f"{name} was saved from the split `{dataset.split}`, and only `train` is mined: {LEAK}")
    if "split" in dataset.column_names:
        feature = dataset.features["split"]
        values = dataset.unique("split")
        if isinstance(feature, datasets.ClassLabel):
            values = [None if value is None else feature.int2str(value) for value in values]
        if others := [value for value in values if value != "train"]:
            raise ValueError(
                f"the column `split` of {name} also holds {', '.join(map(repr, others[:5]))}, and only "
                f"rows of 'train' are mined: {LEAK}. Keep those with "
                "`dataset.filter(lambda row: row['split'] == 'train')` and save them"
            )


def _commit_of(dataset: datasets.Dataset) -> str | None:
    """The commit of a data set on the Hub, from the addresses of its files."""
    for address in dataset.info.download_checksums or {}:
        if commit := re.search(r"@([0-9a-f]{40})/", str(address)):
            return commit[1]
    return None


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return _strings(list(value.values()))
    if isinstance(value, list | tuple):
        return [text for part in value for text in _strings(part)]
    return [] if value is None else [str(value)]


def _read_captions(dataset: datasets.Dataset, columns: Sequence[str]) -> Iterator[str | None]:
    """Yield all captions row by row, `None` for empty or invalid ones."""
    columns = tuple(columns)
    DatasetColumns(image=columns[0], captions=columns).validate(dataset.column_names)
    for row in dataset.select_columns(list(columns)):
        for column in columns:
            value = row[column]
            for text in [value] if value is None or isinstance(value, str) else value or [None]:
                yield (" ".join(text.split()) or None) if isinstance(text, str) else None


def _fit_captions(
    captions: Iterator[str | None], forbidden: Collection[str]
) -> tuple[list[str], Counter[CaptionDrop]]:
    forbidden = frozenset(forbidden)
    counts: Counter[CaptionDrop] = Counter()
    fit: dict[str, str] = {}
    for text in captions:
        key = caption_hash(text) if text else ""
        if not text:
            counts[CaptionDrop.EMPTY] += 1
        elif key in forbidden:
            counts[CaptionDrop.FORBIDDEN] += 1
        elif problem := text_problem(text):
            counts[problem] += 1
        elif key in fit:
            counts[CaptionDrop.DUPLICATE] += 1
        else:
            fit[key] = text
    return list(fit.values()), counts
