"""The card of a data set: the facts that its rows give, and the statements that only its publisher can make."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

from modeling_gadms.publishing.upload_folder import readable_size
from modeling_gadms.training.data import DatasetColumns
from modeling_gadms.training.history import dataset_name, public_arguments

from ..inspection.splits import SHARED, Inspection
from ..loading import WEBPERSON_COLUMNS
from .parquet_shards import WrittenSplit


SYNTHETIC = "synthetic_persons"
"""The data set whose images show nobody, as they are drawn."""
_TEMPLATE = Path(__file__).with_name("dataset_card.md")
_TASK_CATEGORIES = ("text-to-image", "image-to-text", "zero-shot-image-classification")
_TAGS = ("person-retrieval", "text-based-person-search", "image-text-retrieval")
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")
_MEANINGS = {
    "image_path": "a stable path of the image",
    "source_id": "number of the person in the original release",
    "url": "address of the original image",
}
_CONSTRUCTION_MEANINGS = {
    "row_id": "stable name of the person",
    "image_id": "stable name of the image that the person was cropped from",
    "source": "name of the source and of the image in it",
    "frame": "number of the video frame",
    "time_seconds": "time of the video frame",
    "box": "left, top, right, bottom in pixels of the original image",
    "confidence": "score of the person detector",
    "detector": "the person detector",
    "keypoints": "17 COCO keypoints (x, y, score) in pixels of the crop",
    "pose_estimator": "the pose estimator",
    "contrast": "measured contrast of the crop",
    "sharpness": "measured sharpness of the crop",
    "perceptual_hash": "hash of the crop, for finding duplicates",
    "colour_grid": "coarse colours of the crop, for finding duplicates",
    "template": "id of the caption template",
    "captioner": "name of the captioner",
    "captioner_revision": "revision of the captioner",
    "prompt_hash": "hash of the prompt",
    "similarity": "similarity of image and caption, if it was measured",
}
"""Columns of the construction pipeline. Those of one caption column end in its number."""
_STATISTICS = {
    "images per person": "images_per_identity",
    "captions per image": "captions_per_image",
    "words per caption": "words",
    "height in pixels": "heights",
    "width in pixels": "widths",
    "height / width": "aspects",
}


@dataclass(frozen=True)
class DatasetCardSettings:
    """What the publisher of a data set states on its card.

    Args:
        license (`str`, *optional*): the Hub's identifier of the licence, such as `cc-by-4.0`. Required, except for
            `synthetic_persons` and for runs of the construction pipeline, whose default is `other`.
        title (`str`, *optional*): by default the name of the repository, and `WebPerson` for a construction run.
        provenance (`str`, *optional*): where images and captions come from, and who wrote the captions.
        licence_notes (`str`, *optional*): rights in the images.
        contact (`str`, *optional*): where persons shown can ask for removal.
        language (`str`, *optional*, defaults to `"en"`): language of the captions.
    """

    license: str | None = None
    title: str | None = None
    provenance: str | None = None
    licence_notes: str | None = None
    contact: str | None = None
    language: str = "en"


@dataclass(frozen=True)
class ConstructionFacts:
    """What a run of the construction pipeline knows about the data set that it wrote.

    Attributes:
        captioners (`dict[str, str]`): name of the captioner of each caption column.
        report (`str`): the pipeline report as text.
        settings (`str`): the settings of the run in YAML.
        blurs_faces (`bool`): whether detected faces were blurred.
        has_opt_out (`bool`): whether a list of opted-out URLs was applied.
    """

    captioners: dict[str, str]
    report: str
    settings: str
    blurs_faces: bool
    has_opt_out: bool


@dataclass(frozen=True)
class DatasetFacts:
    """Everything that a card states.

    Attributes:
        repo_id (`str`): name of the repository, or of the folder of a construction run.
        license (`str`): the Hub's identifier of the licence.
        columns ([`DatasetColumns`]), features (`datasets.Features`): the same for every split.
        written (`dict[str, WrittenSplit]`): the files, by split.
        captions (`int`): number of captions in all splits.
        settings ([`DatasetCardSettings`]): statements of the publisher.
        source (`str`), arguments (`dict`): as `load_splits` takes them. Unused for a construction run.
        by_permission (`bool`): whether it is a benchmark, published by a permission that the publisher claims.
        found ([`Inspection`], *optional*): counts and statistics. `None` for a construction run.
        construction ([`ConstructionFacts`], *optional*): for a construction run.
    """

    repo_id: str
    license: str
    columns: DatasetColumns
    features: datasets.Features
    written: dict[str, WrittenSplit]
    captions: int
    settings: DatasetCardSettings
    source: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    by_permission: bool = False
    found: Inspection | None = None
    construction: ConstructionFacts | None = None


def render_dataset_card(facts: DatasetFacts) -> str:
    """Render the card of a data set from `dataset_card.md`."""
    images = sum(split.rows for split in facts.written.values())
    overlaps = facts.found.overlaps.items() if facts.found else ()
    text = DatasetCard.from_template(
        _metadata(facts, images),
        template_path=str(_TEMPLATE),
        title=_title(facts),
        repo_id=facts.repo_id,
        first_split=next(iter(facts.written)),
        columns=facts.columns,
        images=f"{images:,}",
        captions=f"{facts.captions:,}",
        is_webperson=not facts.construction and {*WEBPERSON_COLUMNS} <= {*facts.features} and "train" in facts.written,
        column_rows=[(name, _meaning(name, facts), _feature(feature)) for name, feature in facts.features.items()],
        split_rows=_split_rows(facts),
        statistics=_statistics(facts),
        overlaps={SHARED[kind]: f"{overlap.count:,}" for kind, overlap in overlaps if overlap.count},
        provenance=_provenance(facts),
        construction=facts.construction,
        licence=_licence(facts),
        is_synthetic=facts.source == SYNTHETIC,
        contact_note=f" (to {facts.settings.contact})" if facts.settings.contact else "",
    )
    return str(text).rstrip() + "\n"


def size_category(rows: int) -> str:
    """The Hub's name for a number of rows.

    >>> size_category(999), size_category(5_002_723)
    ('n<1K', '1M<n<10M')
    """
    return next((name for power, name in enumerate(_SIZES, 3) if rows < 10**power), "10B<n<100B")


def _metadata(facts: DatasetFacts, images: int) -> DatasetCardData:
    data_files = [{"split": name, "path": f"data/{name}-*.parquet"} for name in facts.written]
    card_data = DatasetCardData(
        language=[facts.settings.language],
        license=facts.license,
        pretty_name=_title(facts),
        size_categories=[size_category(images)],
        task_categories=list(_TASK_CATEGORIES),
        tags=list(_TAGS),
        configs=[{"config_name": "default", "data_files": data_files}],
    )
    splits = {name: datasets.SplitInfo(name, split.num_bytes, split.rows) for name, split in facts.written.items()}
    info = datasets.DatasetInfo(
        features=facts.features,
        splits=datasets.splits.SplitDict(splits),
        download_size=sum(file.stat().st_size for split in facts.written.values() for file in split.files),
        dataset_size=sum(split.num_bytes for split in facts.written.values()),
    )
    # `load_dataset` checks the downloaded rows against this.
    DatasetInfosDict({"default": info}).to_dataset_card_data(card_data)
    return card_data


def _title(facts: DatasetFacts) -> str:
    return facts.settings.title or facts.repo_id.rpartition("/")[2]


def _meaning(name: str, facts: DatasetFacts) -> str:
    if name == facts.columns.image:
        return "the image of one person"
    if name in facts.columns.captions:
        if facts.construction:
            return f"a caption by {facts.construction.captioners[name]}"
        return "a caption" if isinstance(facts.features[name], datasets.Value) else "all captions"
    if name == facts.columns.person_id:
        return "the same number for all images of a person"
    if facts.construction and (meaning := _CONSTRUCTION_MEANINGS.get(name.rstrip("0123456789"))):
        return meaning
    return _MEANINGS.get(name, "as in the source")


def _feature(feature: Any) -> str:
    if isinstance(feature, datasets.Value):
        return f"`{feature.dtype}`"
    if isinstance(feature, datasets.ClassLabel):
        return f"class label of {feature.num_classes} names"
    if isinstance(feature, datasets.List):
        return f"list of {_feature(feature.feature)}"
    return "keys and values" if isinstance(feature, dict) else type(feature).__name__.lower()


def _split_rows(facts: DatasetFacts) -> list[list[str]]:
    rows = []
    for name, split in facts.written.items():
        found = facts.found.splits[name] if facts.found else None
        captions = found.captions if found else facts.captions
        persons = "unknown" if found is None or found.identities is None else f"{found.identities:,}"
        size = readable_size(split.num_bytes)
        rows.append([name, f"{split.rows:,}", f"{captions:,}", persons, size, str(len(split.files))])
    return rows


def _statistics(facts: DatasetFacts) -> dict[str, list[str]]:
    """For each measured quantity, its distribution in each split. Quantities that no split has are skipped."""
    splits = facts.found.splits.values() if facts.found else ()
    rows = {label: [getattr(split, name) for split in splits] for label, name in _STATISTICS.items()}
    return {label: [str(value) for value in values] for label, values in rows.items() if values and None not in values}


def _provenance(facts: DatasetFacts) -> str:
    stated = facts.settings.provenance
    if facts.construction:
        made = (
            "Made by person detection, pose filters, de-duplication and captioning with multimodal language models, "
            "like WebPerson ([GA-DMS, arXiv 2509.09118](https://arxiv.org/abs/2509.09118), section 3.1)."
        )
        return f"{stated} {made}" if stated else made
    # A relative source is relative to the working directory.
    near = Path.cwd() / facts.source
    name = dataset_name(facts.source, facts.arguments, near).text
    arguments = ", ".join(f"{key}={value}" for key, value in public_arguments(facts.arguments, near).items())
    command = f"Written from `{name}`{f' ({arguments})' if arguments else ''} with `gadms publish dataset`."
    unknown = "The publisher has not stated who took the images and who wrote the captions."
    if facts.source == SYNTHETIC:
        unknown = "Drawn by a program. Captions are exact, except for the noise that the arguments name."
    return f"{stated or unknown} {command}"


def _licence(facts: DatasetFacts) -> str:
    parts = [f"`{facts.license}`."]
    if facts.settings.licence_notes:
        parts.append(facts.settings.licence_notes)
    if facts.by_permission:
        parts.append("The publisher states that they have permission to redistribute this data set.")
    return " ".join(parts)
