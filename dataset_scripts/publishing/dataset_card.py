"""The card of a data set: what its rows tell, and what only its publisher knows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

from modeling_gadms.publishing.upload_folder import readable_size
from modeling_gadms.training.data import DatasetColumns
from modeling_gadms.training.history import dataset_name, public_arguments

from ..inspection.splits import SHARED, Inspection, SplitInspection
from ..webperson import COLUMNS as WEBPERSON_COLUMNS
from .card_metadata import TAGS, TASK_CATEGORIES, size_category
from .parquet_shards import WrittenSplit


DRAWN = "synthetic_persons"
"""The data set that shows nobody."""
_TEMPLATE = Path(__file__).with_name("dataset_card.md")
_MEANINGS = {
    "image_path": "a stable path of the image",
    "source_id": "number of the person in the release it comes from",
    "url": "where the image was found",
}
_STATISTICS = {
    "images a person": "images_per_identity",
    "captions an image": "captions_per_image",
    "words a caption": "words",
    "height, pixels": "heights",
    "width, pixels": "widths",
    "height over width": "aspects",
}


@dataclass(frozen=True)
class DatasetCardSettings:
    """What the card says that the rows do not tell.

    Args:
        license (`str`, *optional*): as the Hub calls it. Only `synthetic_persons` has one by default.
        title (`str`, *optional*): by default the name of the repository.
        provenance (`str`, *optional*): where images and captions come from, and who wrote them.
        licence_notes (`str`, *optional*): on the rights in the images.
        contact (`str`, *optional*): where persons shown ask for removal.
        language (`str`, *optional*, defaults to `"en"`): of the captions.
    """

    license: str | None = None
    title: str | None = None
    provenance: str | None = None
    licence_notes: str | None = None
    contact: str | None = None
    language: str = "en"


@dataclass(frozen=True)
class DatasetFacts:
    """Everything that a card tells.

    Attributes:
        repo_id (`str`): where the data set goes.
        source (`str`), arguments (`dict`): what it was written from, as `open_dataset` takes them.
        license (`str`): as the Hub calls it.
        by_permission (`bool`): whether it is passed on by a permission that the publisher claims.
        columns ([`DatasetColumns`]), features (`datasets.Features`): of every split.
        found ([`Inspection`]): what the rows tell.
        written (`dict[str, WrittenSplit]`): the files, by split.
        settings ([`DatasetCardSettings`]): the rest.
    """

    repo_id: str
    source: str
    arguments: dict[str, Any]
    license: str
    by_permission: bool
    columns: DatasetColumns
    features: datasets.Features
    found: Inspection
    written: dict[str, WrittenSplit]
    settings: DatasetCardSettings


def render_dataset_card(facts: DatasetFacts) -> str:
    """Make the card of a data set from `dataset_card.md`."""
    images = sum(split.rows for split in facts.written.values())
    captions = sum(split.captions for split in facts.found.splits.values())
    overlaps = facts.found.overlaps.items()
    text = DatasetCard.from_template(
        _metadata(facts, images),
        template_path=str(_TEMPLATE),
        title=_title(facts),
        repo_id=facts.repo_id,
        first_split=next(iter(facts.written)),
        columns=facts.columns,
        images=f"{images:,}",
        captions=f"{captions:,}",
        is_webperson=set(WEBPERSON_COLUMNS) <= set(facts.features) and "train" in facts.written,
        column_rows=[
            (name, _meaning(name, feature, facts.columns), _feature(feature))
            for name, feature in facts.features.items()
        ],
        split_rows=[_split_row(name, split, facts.found.splits[name]) for name, split in facts.written.items()],
        statistics=_statistics(facts),
        overlaps={SHARED[kind]: f"{overlap.count:,}" for kind, overlap in overlaps if overlap.count},
        provenance=_provenance(facts),
        licence=_licence(facts),
        is_drawn=facts.source == DRAWN,
        contact_note=f" (to {facts.settings.contact})" if facts.settings.contact else "",
    )
    return str(text).rstrip() + "\n"


def _metadata(facts: DatasetFacts, images: int) -> DatasetCardData:
    data_files = [{"split": name, "path": f"data/{name}-*.parquet"} for name in facts.written]
    card_data = DatasetCardData(
        language=[facts.settings.language],
        license=facts.license,
        pretty_name=_title(facts),
        size_categories=[size_category(images)],
        task_categories=list(TASK_CATEGORIES),
        tags=list(TAGS),
        configs=[{"config_name": "default", "data_files": data_files}],
    )
    splits = {name: datasets.SplitInfo(name, split.num_bytes, split.rows) for name, split in facts.written.items()}
    info = datasets.DatasetInfo(
        features=facts.features,
        splits=datasets.splits.SplitDict(splits),
        download_size=sum(file.stat().st_size for split in facts.written.values() for file in split.files),
        dataset_size=sum(split.num_bytes for split in facts.written.values()),
    )
    # `load_dataset` checks what it downloads against this.
    DatasetInfosDict({"default": info}).to_dataset_card_data(card_data)
    return card_data


def _title(facts: DatasetFacts) -> str:
    return facts.settings.title or facts.repo_id.partition("/")[2]


def _meaning(name: str, feature: Any, columns: DatasetColumns) -> str:
    if name == columns.image:
        return "the picture of one person"
    if name in columns.captions:
        return "a caption" if isinstance(feature, datasets.Value) else "all captions"
    if name == columns.person_id:
        return "the same number for all pictures of a person"
    return _MEANINGS.get(name, "as in the source")


def _feature(feature: Any) -> str:
    if isinstance(feature, datasets.Value):
        return f"`{feature.dtype}`"
    if isinstance(feature, datasets.ClassLabel):
        return f"class label of {feature.num_classes} names"
    if isinstance(feature, datasets.List):
        return f"list of {_feature(feature.feature)}"
    return "keys and values" if isinstance(feature, dict) else type(feature).__name__.lower()


def _split_row(name: str, split: WrittenSplit, inspected: SplitInspection) -> list[str]:
    persons = "not told apart" if inspected.identities is None else f"{inspected.identities:,}"
    size = readable_size(split.num_bytes)
    return [name, f"{split.rows:,}", f"{inspected.captions:,}", persons, size, str(len(split.files))]


def _statistics(facts: DatasetFacts) -> dict[str, list[str]]:
    """By what was counted, a distribution for each split; without what no split has."""
    rows = {
        label: [getattr(split, name) for split in facts.found.splits.values()] for label, name in _STATISTICS.items()
    }
    return {label: [str(value) for value in values] for label, values in rows.items() if None not in values}


def _provenance(facts: DatasetFacts) -> str:
    # Nothing lies nearer to where a relative name was typed than the working directory.
    near = Path.cwd() / facts.source
    name = dataset_name(facts.source, facts.arguments, near).text
    told = ", ".join(f"{key}={value}" for key, value in public_arguments(facts.arguments, near).items())
    opened = f"Written from `{name}`{f' ({told})' if told else ''} with `gadms publish dataset`."
    unknown = "Whoever published it has not said who took the pictures and who described them."
    if facts.source == DRAWN:
        unknown = "Drawn by a program, with captions that are exact but for the noise that its arguments name."
    return f"{facts.settings.provenance or unknown} {opened}"


def _licence(facts: DatasetFacts) -> str:
    parts = [f"`{facts.license}`."]
    if facts.settings.licence_notes:
        parts.append(facts.settings.licence_notes)
    if facts.by_permission:
        parts.append("Whoever published it here states that they were permitted to pass it on.")
    return " ".join(parts)
