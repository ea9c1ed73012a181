"""The files that a finished run or merge publishes beside its data: the data set card and the pipeline report."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import datasets
import yaml

from modeling_gadms.training.data import DatasetColumns

from ...publishing.dataset import CARD, REPORT, REPORT_FIGURE
from ...publishing.dataset_card import ConstructionFacts, DatasetCardSettings, DatasetFacts, render_dataset_card
from ...publishing.parquet_shards import WrittenSplit
from ..captions.caption import public_name
from ..pipeline_report import BlockCounts, draw_report, format_report
from ..storage import Location, atomic_file, matching, read_footer, write_atomically
from .config import BuildConfig


_TITLE = "WebPerson"
_LICENCE_NOTES = (
    "Images belong to their owners. The licence covers captions and metadata only. `url` is the address of the "
    "original image; check the terms of its site before any use."
)


def write_report(root: Location, counts: Sequence[BlockCounts]) -> None:
    """Write `report.json` and `report.png` into a run's folder."""
    write_atomically(root / REPORT, json.dumps([asdict(block) for block in counts], indent=1) + "\n")
    with atomic_file(root / REPORT_FIGURE) as part:
        draw_report(counts).save(part)


@dataclass(frozen=True)
class CardFacts:
    """What the card of a run states, apart from what its files and counts say. Can be written as JSON.

    Attributes:
        captioners (`dict[str, str]`): name and revision of the captioner of each caption column.
        settings (`dict`): the settings that determine the content, with the kinds of the sources by name.
        statements (`dict`): fields of [`DatasetCardSettings`].
        blurs_faces (`bool`), has_opt_out (`bool`): as in [`ConstructionFacts`].
    """

    captioners: dict[str, str]
    settings: dict[str, Any]
    statements: dict[str, Any]
    blurs_faces: bool
    has_opt_out: bool

    @classmethod
    def of(cls, config: BuildConfig) -> "CardFacts":
        captioners = {
            column: public_name(chat.model) + (f" (revision {chat.revision})" if chat.revision else "")
            for column, chat in config.captioners.items()
        }
        blurs_faces, has_opt_out = config.crop.blur_faces, bool(config.run.opt_out)
        return cls(captioners, _public_settings(config), asdict(config.card), blurs_faces, has_opt_out)


def write_card(root: Location, card: CardFacts, counts: Sequence[BlockCounts]) -> None:
    """Write `README.md` of a run whose data files exist: the card, with the metadata that `load_dataset` reads."""
    files = tuple(matching(root / "data", "train-*.parquet"))
    footers = [read_footer(file) for file in files]
    rows = sum(footer.num_rows for footer in footers)
    num_bytes = sum(footer.row_group(n).total_byte_size for footer in footers for n in range(footer.num_row_groups))
    stated = DatasetCardSettings(**card.statements)
    facts = DatasetFacts(
        repo_id=root.resolve().name,
        license=stated.license or "other",
        columns=DatasetColumns(captions=tuple(card.captioners)),
        features=datasets.Features.from_arrow_schema(footers[0].schema.to_arrow_schema()),
        written={"train": WrittenSplit(rows, num_bytes, files)},
        captions=rows * len(card.captioners),
        settings=replace(stated, title=stated.title or _TITLE, licence_notes=stated.licence_notes or _LICENCE_NOTES),
        construction=ConstructionFacts(
            captioners=card.captioners,
            report=format_report(counts),
            settings=yaml.safe_dump(card.settings, sort_keys=False).strip(),
            blurs_faces=card.blurs_faces,
            has_opt_out=card.has_opt_out,
        ),
    )
    write_atomically(root / CARD, render_dataset_card(facts))


def _public_settings(config: BuildConfig) -> dict[str, Any]:
    """The settings that determine the content, as plain values.

    Paths on this machine are excluded, and so are the values of user-defined options, which may be secret.
    """
    names = ("detector", "pose", "criteria", "crop", "quality", "duplicates", "captions", "rules", "match", "judge")
    sections = {name: asdict(getattr(config, name)) for name in names}
    plain: dict[str, Any] = json.loads(json.dumps(sections, default=str))
    for values in plain.values():
        for key in ("model", "weights", "graph", "templates"):
            if values.get(key):
                values[key] = public_name(values[key])
        if "options" in values:
            values["options"] = sorted(values["options"]) or None
    return {
        "sources": {name: source.kind for name, source in config.sources.items()},
        **{name: {key: value for key, value in values.items() if value is not None} for name, values in plain.items()},
    }
