"""A training run as one YAML file: sections `model`, `data`, `training` and, if only an adapter is trained, `adapter`;
with overrides from the command line."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import nn

from ..configuration_gadms import GADMSConfig, check_keys
from ..encoders.adapter_folders import RUN_RECORD, BaseModel
from ..encoders.atomic_files import write_json
from .adapters import AdapterArguments, trained_base
from .data import DatasetColumns
from .footprint import Footprint
from .settings import apply_overrides, check_types, field_names, read_settings
from .trainer import GADMSTrainer, GADMSTrainingArguments, last_checkpoint


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelArguments:
    """Section `model`. Every key that is not listed here is a field of [`GADMSConfig`].

    Args:
        from_pretrained (`str`, *optional*): GA-DMS folder or Hub id to go on from.
        from_clip (`str`, *optional*): CLIP folder or Hub id to start from. Neither: random weights.
        image_size (`list[int]`, *optional*): (height, width) with `from_clip`; else it is in `vision_config`.
        vocab_size (`int`, *optional*, defaults to 2048):
            From random weights, the size of the byte-pair vocabulary learned from the training captions.
        config (`dict`, *optional*): fields of [`GADMSConfig`].
    """

    from_pretrained: str | None = None
    from_clip: str | None = None
    image_size: tuple[int, int] | None = None
    vocab_size: int = 2048
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataArguments:
    """Section `data`.

    Args:
        dataset (`str`): `synthetic_persons`, a folder written by `save_to_disk`, or anything `load_dataset` takes.
        dataset_args (`dict`, *optional*): passed to the builder (`data_dir`, `name`, fields of the synthetic set).
        train_split, validation_split (`str`, *optional*): names of the splits.
        image_column, caption_columns, person_id_column (*optional*): see [`DatasetColumns`].
        captions_per_image (`str`, *optional*, defaults to `"one"`): see [`ImageCaptionPairs`].
        augmentation (`bool`, *optional*, defaults to `True`): flip, crop and erase training images.
        crop_padding (`int`, *optional*, defaults to 10): pixels of padding before the random crop.
        cache_images (`bool`, *optional*, defaults to `False`): keep all resized images in memory.
        streaming (`bool`, *optional*, defaults to `False`):
            Read training rows from Parquet files, local or remote, as they are needed: see [`StreamedPairs`].
        shuffle_buffer (`int`, *optional*, defaults to 2048): pairs a worker shuffles together when streaming.

    Raises:
        ValueError: if images are to be cached of a stream.
    """

    dataset: str
    dataset_args: dict[str, Any] = field(default_factory=dict)
    train_split: str = "train"
    validation_split: str | None = "validation"
    image_column: str = "image"
    caption_columns: tuple[str, ...] = ("caption1", "caption2")
    person_id_column: str | None = None
    captions_per_image: str = "one"
    augmentation: bool = True
    crop_padding: int = 10
    cache_images: bool = False
    streaming: bool = False
    shuffle_buffer: int = 2048

    def __post_init__(self) -> None:
        if self.streaming and self.cache_images:
            raise ValueError("data.cache_images keeps all images, data.streaming none: set one of them")

    @property
    def columns(self) -> DatasetColumns:
        """The same as a [`DatasetColumns`]."""
        return DatasetColumns(self.image_column, self.caption_columns, self.person_id_column)


@dataclass(frozen=True)
class RunConfig:
    """A whole run.

    Args:
        model ([`ModelArguments`]), data ([`DataArguments`]), training ([`GADMSTrainingArguments`]): its sections.
        adapter ([`AdapterArguments`], *optional*): train an adapter only.

    Raises:
        ValueError: if there is an adapter and nothing that it could belong to, or encoders that are not its base's.
    """

    model: ModelArguments
    data: DataArguments
    training: GADMSTrainingArguments
    adapter: AdapterArguments | None = None

    def __post_init__(self) -> None:
        if self.adapter is None:
            return
        if self.model.from_clip:
            raise ValueError(
                "an adapter belongs to a GA-DMS model that stays as it is: convert the CLIP checkpoint first, with "
                f"`gadms convert {self.model.from_clip} FOLDER`, and set model.from_pretrained=FOLDER instead of "
                "model.from_clip"
            )
        if not self.model.from_pretrained:
            raise ValueError(
                "an adapter belongs to a model that exists, and these weights would be random: set "
                "model.from_pretrained, or leave out section `adapter`"
            )
        for name in ("text_config", "vision_config"):
            # Dropout alone is no part of what an encoder computes when it is used.
            changed = sorted(set(self.model.config.get(name) or {}) - {"attention_dropout"})
            if changed:
                raise ValueError(f"model.{name}.{changed[0]} is given by the base of an adapter: leave it out")


def load_run_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run from YAML.

    Args:
        path (`str` or `Path`): file with the sections `model`, `data` and `training`, and perhaps `adapter`.
        overrides (`Sequence[str]`, *optional*):
            `section.key=value`, the value in YAML; as `model.token_score=random` or `data.dataset_args.seed=1`.

    Returns:
        [`RunConfig`]

    Raises:
        ValueError: for a file that is no mapping, an unknown key, a value of the wrong type or a malformed override,
            naming it.
        OSError: if the file cannot be read.
    """
    settings = read_settings(path, "the sections model, data and training")
    apply_overrides(settings, overrides, "training.learning_rate=1e-4")
    names = ("model", "data", "training", "adapter")
    check_keys(settings, names, str(path))
    sections = {name: settings.get(name) or {} for name in names}
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise ValueError(f"section `{name}` of {path} must hold keys and values; it holds {section!r}")

    own_keys = field_names(ModelArguments) - {"config"}
    config_keys = field_names(GADMSConfig)
    check_keys(sections["model"], own_keys | config_keys, f"section `model` of {path}")
    check_keys(sections["data"], field_names(DataArguments), f"section `data` of {path}")
    check_keys(sections["training"], field_names(GADMSTrainingArguments), f"section `training` of {path}")
    check_keys(sections["adapter"], field_names(AdapterArguments), f"section `adapter` of {path}")
    for name, record in (
        ("model", ModelArguments),
        ("model", GADMSConfig),
        ("data", DataArguments),
        ("training", GADMSTrainingArguments),
        ("adapter", AdapterArguments),
    ):
        check_types(sections[name], record, f"section `{name}` of {path}")
    if "dataset" not in sections["data"]:
        raise ValueError(f"section `data` of {path} names no `dataset`")
    return RunConfig(
        model=ModelArguments(
            **{key: value for key, value in sections["model"].items() if key in own_keys},
            config={key: value for key, value in sections["model"].items() if key not in own_keys},
        ),
        data=DataArguments(**sections["data"]),
        training=GADMSTrainingArguments(**sections["training"]),
        # An empty section is an adapter with the defaults, `adapter: null` is none.
        adapter=AdapterArguments(**sections["adapter"]) if settings.get("adapter") is not None else None,
    )


def save_run_record(run: RunConfig, folder: str | Path, footprint: Footprint, base: BaseModel | None) -> None:
    """Write the seed, all settings and the cost of a run beside the weights it made, for whoever measures them.

    Args:
        run ([`RunConfig`]): the run.
        folder (`str` or `Path`): of the model.
        footprint ([`Footprint`]): what training took.
        base ([`BaseModel`], *optional*): of an adapter, what it was trained on.
    """
    config = {
        "model": asdict(run.model) | run.model.config,
        "data": asdict(run.data),
        "training": run.training.to_dict(),
    }
    del config["model"]["config"]
    if run.adapter is not None:
        config["adapter"] = asdict(run.adapter)
    record = {"seed": run.training.seed, "config": config, "footprint": asdict(footprint)}
    if base is not None:
        record["base_model"] = asdict(base)
    write_json(Path(folder, RUN_RECORD), record)


def train_and_save(run: RunConfig, trainer: GADMSTrainer, *, resume: bool) -> None:
    """Train, and leave the best or last model, or adapter, in `<output_dir>/model`, with its record written last.

    Args:
        run ([`RunConfig`]): the run that `trainer` was made for.
        trainer ([`GADMSTrainer`])
        resume (`bool`): go on from the last checkpoint in the output folder, if there is one.
    """
    output_dir = str(run.training.output_dir)
    folder = str(Path(output_dir) / "model")
    model = cast(nn.Module, trainer.model)
    # Before training, which may outlast the base.
    base = trained_base(model)
    trainer.train(resume_from_checkpoint=last_checkpoint(output_dir) if resume else None)
    trainer.save_model(folder)
    trainer.save_state()
    if trainer.is_world_process_zero():
        if base is not None:
            # A card of peft, with nothing but blanks to fill in.
            Path(folder, "README.md").unlink(missing_ok=True)
        footprint = Footprint.of(model)
        logger.info("%s", footprint)
        save_run_record(run, folder, footprint, base)
