"""Write and read the file in which a person reviews mined templates, and make the set of templates from it."""

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from ..captions.templates import TEMPLATE_ID, MinedOrigin, Template, TemplateSet, template_problem
from ..captions.words import folded
from .captions import StepCounts
from .mining import MiningResult, template_id


FORMAT = 1
ADDED = "added"
"""Origin of a template that the reviewer added."""
_ENTRY_KEYS = ("id", "cluster", "origin", "keep", "text", "notes")
_HEADER = """\
# Templates to review. Read each one, then set `reviewed: true` below and run the command `finish`.
#   keep    set `false` to exclude a template, or remove its entry
#   text    can be edited; placeholders are lower-case words in square brackets, such as [colored top]
#   notes   for your own use, not published
# To add a template, add an entry with your own id and a text: `- {id: mine-1, text: "The [gender] ..."}`
# Do not change `format` and `mining`, which record where the templates come from.
"""


class ReviewDrop(StrEnum):
    """Reasons for excluding a template of the review file."""

    REJECTED = "keep is false"
    REMOVED = "removed from the file"
    SURPLUS = "more than wanted"


@dataclass(frozen=True)
class ReviewEntry:
    """One template of the review file, possibly edited, or added by the reviewer: then with an id of their own."""

    id: str
    text: str
    cluster: int | None = None  # `None` for an added template
    origin: str = ADDED  # or "mined" or "variant"
    keep: bool = True
    notes: str = ""

    @property
    def is_edited(self) -> bool:
        """Whether the text of a mined template was changed."""
        return self.cluster is not None and self.id != template_id(self.text, self.origin, self.cluster)


@dataclass(frozen=True)
class Review:
    """The content of a review file."""

    reviewed: bool  # whether the reviewer has marked the file as read
    origin: MinedOrigin
    written: int  # number of templates that mining wrote into the file
    steps: tuple[StepCounts, ...]  # of mining
    mining: dict[str, Any]  # the full record of mining, including the three above
    entries: tuple[ReviewEntry, ...]  # in the order of the file


def write_review(result: MiningResult, path: str | Path) -> None:
    """Write the review file. Equal results give equal files.

    Raises:
        FileExistsError: if the file exists, as it may contain edits.
    """
    source = result.source
    origin = MinedOrigin(
        data_set=source.dataset,
        split=source.split,
        revision=source.revision,
        language_model=result.language_model,
        embedding_model=result.embedding_model,
        clusters=result.settings.clusters,
        seed=result.settings.seed,
    )
    mining = {
        "origin": asdict(origin),
        "data_set_arguments": source.arguments,
        "caption_columns": list(source.columns),
        "settings": asdict(result.settings),
        "steps": [asdict(step) for step in result.steps],
        "templates": len(result.templates),
    }
    entries = [
        {"id": one.id, "cluster": one.cluster, "origin": one.origin, "keep": True, "text": one.text, "notes": ""}
        for one in result.templates
    ]
    content = {"format": FORMAT, "reviewed": False, "mining": mining, "templates": entries}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(_HEADER + text)
    except FileExistsError as error:
        raise FileExistsError(f"{path} exists and may contain edits: name another file, or move it away") from error


def read_review(path: str | Path) -> Review:
    """Read an edited review file and check all entries.

    Raises:
        ValueError: if an entry is invalid, naming the file, the line and the id.
        FileNotFoundError: if the file does not exist.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"review file {path} does not exist: the command `mine` writes it")
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{path} is not a review file of format {FORMAT}: the command `mine` writes one")
    if not isinstance(content.get("reviewed"), bool):
        raise ValueError(f"{path}: `reviewed` is {content.get('reviewed')!r}, it must be true or false")
    rows = content.get("templates")
    if not isinstance(rows, list):
        raise ValueError(f"{path}: `templates` must be a list of entries, each with an id and a text")
    nodes = next(value for key, value in root.value if key.value == "templates").value
    entries: list[ReviewEntry] = []
    lines: dict[str, int] = {}
    texts: dict[str, str] = {}
    for row, node in zip(rows, nodes, strict=True):
        line = node.start_mark.line + 1
        try:
            entry = _entry(row)
            if entry.id in lines:
                raise ValueError(f"the id is also on line {lines[entry.id]}; give another")
            same = folded(entry.text)
            if entry.keep and texts.setdefault(same, entry.id) != entry.id:
                raise ValueError(f"the text is also that of {texts[same]}; set `keep: false` for one of them")
        except ValueError as error:
            name = row.get("id", "no id") if isinstance(row, dict) else "no id"
            raise ValueError(f"{path}, line {line} ({name}): {error}") from error
        lines[entry.id] = line
        entries.append(entry)
    try:
        mining = content["mining"]
        origin = MinedOrigin(**mining["origin"])
        steps = tuple(StepCounts(**step) for step in mining["steps"])
        written = int(mining["templates"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: `mining` is not as the command `mine` wrote it ({error}); restore it") from error
    present = sum(entry.origin != ADDED for entry in entries)
    if present > written:
        raise ValueError(f"{path}: {present} mined templates and variants, but {written} were mined; make no copies")
    return Review(content["reviewed"], origin, written, steps, mining, tuple(entries))


def finish_templates(review: Review, version: str, count: int = 1000) -> tuple[TemplateSet, StepCounts]:
    """Make the set of templates from a review, distributed evenly over the clusters.

    Added templates are chosen first. Then the clusters take turns, each in the order of the file: the template nearest
    to the centre first, variants last.

    Args:
        review ([`Review`]): the review. If it is not marked as reviewed, the version ends in `-unreviewed`.
        version (`str`): version of the set.
        count (`int`, *optional*, defaults to 1000): maximum number of templates, by default as in the paper.

    Returns:
        `TemplateSet`, in the order of the file, and [`StepCounts`].

    Raises:
        ValueError: if no template is kept, or `count` is less than 1.
    """
    if count < 1:
        raise ValueError(f"count = {count!r} must be a whole number from 1 up")
    kept = [entry for entry in review.entries if entry.keep]
    if not kept:
        raise ValueError("the review keeps no template: set `keep: true` for some")
    groups: defaultdict[int | None, list[ReviewEntry]] = defaultdict(list)
    for entry in kept:
        groups[entry.cluster].append(entry)
    # Sorting by rank within the cluster takes the clusters in turn.
    ranked = [
        (-1 if cluster is None else rank, cluster or 0, entry.id)
        for cluster, members in groups.items()
        for rank, entry in enumerate(members)
    ]
    chosen = {entry_id for _, _, entry_id in sorted(ranked)[:count]}
    templates = tuple(Template(entry.id, entry.text) for entry in kept if entry.id in chosen)
    present = sum(entry.origin != ADDED for entry in review.entries)
    dropped = {
        ReviewDrop.REJECTED.value: len(review.entries) - len(kept),
        ReviewDrop.REMOVED.value: review.written - present,
        ReviewDrop.SURPLUS.value: len(kept) - len(templates),
    }
    seen = review.written + len(review.entries) - present
    full_version = version if review.reviewed else f"{version}-unreviewed"
    return TemplateSet(full_version, templates, review.origin), StepCounts("review", seen, len(templates), dropped)


def review_record(review: Review, finished: StepCounts) -> dict[str, Any]:
    """Return the record of a set of templates for JSON: settings, counts of every step, and edits."""
    by_origin = Counter(entry.origin for entry in review.entries if entry.keep)
    return {
        "reviewed": review.reviewed,
        **review.mining,
        "steps": [asdict(step) for step in (*review.steps, finished)],
        "kept_by_origin": dict(sorted(by_origin.items())),
        "edited": sum(entry.keep and entry.is_edited for entry in review.entries),
    }


def _entry(row: Any) -> ReviewEntry:
    if not isinstance(row, dict):
        raise ValueError(f"{row!r} is not an entry: write `- {{id: ..., text: ...}}`")
    if unknown := [str(key) for key in row if key not in _ENTRY_KEYS]:
        raise ValueError(f"unknown key `{unknown[0]}`; an entry has {', '.join(_ENTRY_KEYS)}")
    for key in ("id", "text", "notes"):
        if not isinstance(row.get(key, "" if key == "notes" else None), str):
            raise ValueError(f"`{key}` is {row.get(key)!r}, it must be a text, in quotes")
    entry = ReviewEntry(**row)
    if not isinstance(entry.keep, bool):
        raise ValueError(f"`keep` is {entry.keep!r}, it must be true or false")
    if entry.origin not in ("mined", "variant", ADDED):
        raise ValueError(f"`origin` is {entry.origin!r}: added templates have no origin and no cluster")
    if not TEMPLATE_ID.fullmatch(entry.id):
        raise ValueError("the id can contain only letters, digits, '.', '_' and '-', such as mine-1")
    if entry.cluster is not None and (isinstance(entry.cluster, bool) or not isinstance(entry.cluster, int)):
        raise ValueError(f"`cluster` is {entry.cluster!r}, it must be a whole number")
    stem = None if entry.cluster is None else template_id("", entry.origin, entry.cluster).partition("-")[0]
    if (entry.origin == ADDED) != (stem is None) or (stem and not entry.id.startswith(f"{stem}-")):
        raise ValueError("id, origin and cluster are not from mining: added templates have no origin and no cluster")
    if entry.keep and (problem := template_problem(entry.text)):
        raise ValueError(f"the text {problem}: correct it or set `keep: false`. It reads {entry.text!r}")
    return entry
