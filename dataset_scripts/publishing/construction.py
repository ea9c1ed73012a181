"""Block `publish`: the data card, the account in numbers and as a picture, and the way to the Hub."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from modeling_gadms.encoders.atomic_files import replacing, write_atomically
from modeling_gadms.publishing.hub import push_folder

from ..construction.captions.caption import public_name
from ..construction.pipeline_report import BlockCounts, draw_report, format_report
from ..construction.run.stages import data_file
from .card_metadata import TAGS, TASK_CATEGORIES, size_category


if TYPE_CHECKING:
    from ..construction.run.config import BuildConfig


PUBLISHED = ("README.md", "report.json", "report.png", "data/train-*.parquet")
"""What of a run's folder goes to the Hub. Work files and rejected rows stay."""
_CARD_TEMPLATE = Path(__file__).with_name("card_template.md")


@dataclass(frozen=True)
class CardSettings:
    """What the data card says that a run cannot know.

    Args:
        title (`str`, *optional*, defaults to `"WebPerson"`): name of the data set.
        license (`str`, *optional*, defaults to `"other"`): the Hub's name of the licence of captions and metadata.
        licence_notes (`str`, *optional*): on the rights in the images; by default that they belong to their owners.
        contact (`str`, *optional*): where persons shown ask for removal; by default none is named.
    """

    title: str = "WebPerson"
    license: str = "other"
    licence_notes: str = (
        "Images belong to their owners: the licence covers captions and metadata alone. `url` tells where each image "
        "was found; check the terms of its source before any use."
    )
    contact: str = ""


def write_report(root: Path, counts: Sequence[BlockCounts]) -> None:
    """Write `report.json` and `report.png` into a run's folder."""
    write_atomically(root / "report.json", json.dumps([asdict(block) for block in counts], indent=1) + "\n")
    with replacing(root / "report.png") as part:
        draw_report(counts).save(part)


def write_card(config: "BuildConfig", counts: Sequence[BlockCounts], persons: int) -> None:
    """Write `README.md`, the data card, with what `load_dataset` needs to open the folder.

    Args:
        config (`BuildConfig`): the run.
        counts (`Sequence[BlockCounts]`): its account.
        persons (`int`): rows that are published.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    card, columns = config.card, list(config.captioners)
    card_data = DatasetCardData(
        language=["en"],
        license=card.license,
        pretty_name=card.title,
        size_categories=[size_category(persons)],
        task_categories=list(TASK_CATEGORIES),
        tags=list(TAGS),
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    )
    captioners = {
        column: public_name(chat.model) + (f" (revision {chat.revision})" if chat.revision else "")
        for column, chat in config.captioners.items()
    }
    text = DatasetCard.from_template(
        card_data,
        template_path=str(_CARD_TEMPLATE),
        title=card.title,
        persons=f"{persons:,}",
        captions="one caption" if len(columns) == 1 else f"{len(columns)} captions",
        caption_columns=columns,
        captioners=captioners,
        load_name=config.root.resolve().name,
        counts=format_report(counts),
        settings=yaml.safe_dump(_settings(config), sort_keys=False).strip(),
        licence_notes=card.licence_notes,
        face_note="; faces that the pose estimator found are blurred" if config.crop.blur_faces else "",
        contact_note=f" (to {card.contact})" if card.contact else "",
        opt_out_note="a list was honoured" if config.run.opt_out else "no list was given for this build",
    )
    write_atomically(config.root / "README.md", str(text).rstrip() + "\n")


def push_dataset(root: Path, repo_id: str, *, private: bool = False) -> str:
    """Upload a finished run to the Hub, in one commit, which replaces the data of an earlier one.

    Args:
        root (`Path`): the run's folder.
        repo_id (`str`): `namespace/name`.
        private (`bool`): make a new repository private, and refuse one that is public.

    Returns:
        `str`: the commit's address.

    Raises:
        FileNotFoundError: if the run is not finished.
        ValueError: if `repo_id` is no name of a repository, or the repository is public and should not be.
        OSError: if the Hub cannot be reached or refuses, as without a token that may write there.
    """
    _check_finished(root)
    report = push_folder(
        root,
        repo_id,
        repo_type="dataset",
        message="Build of the data set",
        files=PUBLISHED,
        # An earlier build with more shards would be read along with this one.
        replace=["data/*"],
        private=private,
    )
    return report.url


def _check_finished(root: Path) -> None:
    missing = [name for name in PUBLISHED[:3] if not (root / name).is_file()]
    shards = {path.relative_to(root).as_posix() for path in root.glob("data/train-*.parquet")}
    whole = {data_file(number, len(shards)) for number in range(len(shards))}
    if missing or not shards or shards != whole:
        lacking = f"it has no {missing[0]}" if missing else "files are missing in data"
        raise FileNotFoundError(f"{root} holds no finished run: {lacking}. Run the pipeline to its end first")


def _settings(config: "BuildConfig") -> dict[str, Any]:
    """The settings that bear on the content, as plain values.

    Places on this machine are left out, and so are the values of a user's own options, which may be anything.
    """
    sections = {
        name: asdict(getattr(config, name))
        for name in ("detector", "pose", "criteria", "crop", "quality", "duplicates", "captions", "rules", "match")
    }
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
