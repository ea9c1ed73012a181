"""Run files: a training run as YAML with the sections `model`, `data`, `training` and, optionally, `adapter`."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from ..configuration_gadms import GADMSConfig, check_keys
from ..encoders.adapter_folders import RUN_RECORD
from ..encoders.atomic_files import write_json
from .adapters import AdapterArguments, record_base
from .bad_rows import BadRow, list_rows
from .data import DatasetColumns
from .footprint import Footprint
from .settings import apply_overrides, check_types, field_names, read_settings
from .streaming import BadRows, StreamedPairs
from .trainer import GADMSTrainer, GADMSTrainingArguments, last_checkpoint


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelArguments:
    """Section `model`. Every key that is not listed here is a field of [`GADMSConfig`].

    Args:
        from_pretrained (`str`, *optional*): GA-DMS folder or Hub id to start from.
        from_dual_encoder (`str`, *optional*):
            Folder or Hub id of a CLIP, MetaCLIP 2, SigLIP or SigLIP 2 of transformers to start from. With neither,
            training starts from random weights.
        from_clip (`str`, *optional*): older name of `from_dual_encoder`.
        image_size (`list[int]`, *optional*): (height, width) with `from_dual_encoder`; otherwise set `vision_config`.
        vocab_size (`int`, *optional*, defaults to 2048):
            With random weights, the size of the byte-pair vocabulary learned from the training captions.
        identity_classifier (`bool`, *optional*, defaults to `False`):
            Whether to add a classifier of the training persons, and with it the identity loss. The persons in
            `data.person_id_column` are counted, unless `num_identities` is given.
        config (`dict`, *optional*): fields of [`GADMSConfig`].
    """

    from_pretrained: str | None = None
    from_dual_encoder: str | None = None
    from_clip: str | None = None
    image_size: tuple[int, int] | None = None
    vocab_size: int = 2048
    identity_classifier: bool = False
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.from_dual_encoder and self.from_clip:
            raise ValueError("model.from_clip is the older name of model.from_dual_encoder: set one of them")

    @property
    def dual_encoder(self) -> str | None:
        """The dual encoder to start from, under either name."""
        return self.from_dual_encoder or self.from_clip


@dataclass(frozen=True)
class DataArguments:
    """Section `data`.

    Args:
        dataset (`str`): `synthetic_persons`, a folder written by `save_to_disk`, or anything `load_dataset` takes.
        dataset_args (`dict`, *optional*): passed to the builder (`data_dir`, `name`, fields of the synthetic set).
        train_split, validation_split (`str`, *optional*): names of the splits.
        image_column, caption_columns, person_id_column (*optional*): see [`DatasetColumns`].
        captions_per_image, short_queries (*optional*): see [`CaptionDraw`].
        augmentation (`bool`, *optional*, defaults to `True`): flip, crop and erase training images.
        crop_padding (`int`, *optional*, defaults to 10): pixels of padding before the random crop.
        cache_images (`bool`, *optional*, defaults to `False`): keep all resized images in memory.
        streaming (`bool`, *optional*, defaults to `False`):
            Stream training rows from local or remote Parquet files: see [`StreamedPairs`].
        shuffle_buffer (`int`, *optional*, defaults to 2048): pairs that a worker shuffles together when streaming.
        bad_rows (`str`, *optional*, defaults to `"error"`):
            What becomes of rows with an unreadable image, an empty caption or no person id: `"error"` ends the run,
            `"skip"` leaves them out, and names them in the log and the run record. They are found before training;
            when streaming, when they are read.

    Raises:
        ValueError: if both `cache_images` and `streaming` are set, or `bad_rows` is neither `"error"` nor `"skip"`.
    """

    dataset: str
    dataset_args: dict[str, Any] = field(default_factory=dict)
    train_split: str = "train"
    validation_split: str | None = "validation"
    image_column: str = "image"
    caption_columns: tuple[str, ...] = ("caption1", "caption2")
    person_id_column: str | None = None
    captions_per_image: str = "one"
    short_queries: int = 0
    augmentation: bool = True
    crop_padding: int = 10
    cache_images: bool = False
    streaming: bool = False
    shuffle_buffer: int = 2048
    bad_rows: BadRows = "error"

    def __post_init__(self) -> None:
        if self.streaming and self.cache_images:
            raise ValueError("data.cache_images keeps all images, data.streaming none: set one of them")

    @property
    def columns(self) -> DatasetColumns:
        """The column names as [`DatasetColumns`]."""
        return DatasetColumns(self.image_column, self.caption_columns, self.person_id_column)


@dataclass(frozen=True)
class RunConfig:
    """A run file.

    Args:
        model ([`ModelArguments`]), data ([`DataArguments`]), training ([`GADMSTrainingArguments`]): its sections.
        adapter ([`AdapterArguments`], *optional*): train only an adapter.

    Raises:
        ValueError: if an adapter has no base or changes its base's encoders, or the persons for an identity classifier
            cannot be counted.
    """

    model: ModelArguments
    data: DataArguments
    training: GADMSTrainingArguments
    adapter: AdapterArguments | None = None

    def __post_init__(self) -> None:
        if self.model.identity_classifier and self.data.person_id_column is None:
            raise ValueError(
                "model.identity_classifier needs to know the persons: name their column as data.person_id_column"
            )
        if self.model.identity_classifier and self.data.streaming:
            raise ValueError(
                "model.identity_classifier needs all persons before training, which a stream does not provide: set "
                "data.streaming=false"
            )
        if self.adapter is not None:
            self._check_base()

    def _check_base(self) -> None:
        if source := self.model.dual_encoder:
            key = "from_dual_encoder" if self.model.from_dual_encoder else "from_clip"
            raise ValueError(
                "an adapter is trained on a GA-DMS model: convert the checkpoint first, with "
                f"`gadms convert {source} FOLDER`, and set model.from_pretrained=FOLDER instead of model.{key}"
            )
        if not self.model.from_pretrained:
            raise ValueError(
                "an adapter needs a trained base, and these weights would be random: set model.from_pretrained, or "
                "remove section `adapter`"
            )
        for name in ("text_config", "vision_config"):
            # Dropout is the only setting of an encoder that is not used after training.
            changed = sorted(set(self.model.config.get(name) or {}) - {"attention_dropout"})
            if changed:
                raise ValueError(f"model.{name}.{changed[0]} is given by the base of an adapter: remove it")

    def with_identities(self, number: int) -> "RunConfig":
        """Return the run with `model.num_identities` set to a number of persons, unless the run file sets it."""
        config = {"num_identities": number} | self.model.config
        return replace(self, model=replace(self.model, config=config))


def load_run_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run file.

    Args:
        path (`str` or `Path`): YAML file with the sections `model`, `data`, `training` and, optionally, `adapter`.
        overrides (`Sequence[str]`, *optional*):
            `section.key=value`, with the value in YAML, such as `data.dataset_args.seed=1`.

    Returns:
        [`RunConfig`]

    Raises:
        ValueError: for a file that is no mapping, an unknown key, a value of the wrong type or a malformed override,
            naming it.
        OSError: if the file cannot be read.
    """
    settings = read_settings(path, "the sections model, data and training")
    apply_overrides(settings, overrides, "training.learning_rate=1e-4")
    records: dict[str, tuple[type, ...]] = {
        "model": (ModelArguments, GADMSConfig),
        "data": (DataArguments,),
        "training": (GADMSTrainingArguments,),
        "adapter": (AdapterArguments,),
    }
    check_keys(settings, records, str(path))
    sections = {name: settings.get(name) or {} for name in records}
    for name, types in records.items():
        section, place = sections[name], f"section `{name}` of {path}"
        if not isinstance(section, dict):
            raise ValueError(f"{place} must contain keys and values; it contains {section!r}")
        check_keys(section, set().union(*map(field_names, types)) - {"config"}, place)
        for record in types:
            check_types(section, record, place)
    if "dataset" not in sections["data"]:
        raise ValueError(f"section `data` of {path} names no `dataset`")
    config = dict(sections["model"])
    own = {key: config.pop(key) for key in field_names(ModelArguments) & config.keys()}
    try:
        training = GADMSTrainingArguments(**sections["training"])
    except ImportError as error:
        raise ImportError(f"section `training` of {path}: {error}") from error
    except (ValueError, TypeError, OverflowError) as error:  # transformers does not always name the key
        raise ValueError(f"section `training` of {path}: {error}") from error
    return RunConfig(
        model=ModelArguments(**own, config=config),
        data=DataArguments(**sections["data"]),
        training=training,
        # `adapter: {}` is an adapter with the defaults. `adapter: null` is no adapter.
        adapter=AdapterArguments(**sections["adapter"]) if settings.get("adapter") is not None else None,
    )


def train_and_save(
    run: RunConfig, trainer: GADMSTrainer, *, resume: bool, skipped: Mapping[str, Sequence[BadRow]] | None = None
) -> None:
    """Train, and save the best or last model or adapter to `<output_dir>/model`. The run record is written last.

    Args:
        run ([`RunConfig`]): the run that `trainer` was made for.
        trainer ([`GADMSTrainer`])
        resume (`bool`): resume from the last checkpoint in the output folder, if there is one.
        skipped (`dict[str, list[BadRow]]`, *optional*):
            Rows that were left out before training, by split, for the run record. Those of a stream are added.

    Raises:
        FloatingPointError: if the loss or a weight is NaN or infinite; no model is saved then.
    """
    output_dir = str(run.training.output_dir)
    folder = Path(output_dir, "model")
    model = cast(nn.Module, trainer.model)
    base = record_base(model)  # before training: the base may change or disappear before the end
    trainer.train(resume_from_checkpoint=last_checkpoint(output_dir) if resume else None)
    trainer.save_model(str(folder))
    trainer.save_state()
    if not trainer.is_world_process_zero():
        return
    footprint = Footprint.of(model)
    logger.info("%s", footprint)
    own = asdict(run.model)
    config = {"model": own | own.pop("config"), "data": asdict(run.data), "training": run.training.to_dict()}
    if run.adapter is not None:
        config["adapter"] = asdict(run.adapter)
    record = {"seed": run.training.seed, "config": config, "footprint": asdict(footprint)}
    all_skipped = dict(skipped or {})
    if isinstance(trainer.train_dataset, StreamedPairs):
        all_skipped[run.data.train_split] = rows = trainer.train_dataset.skipped_rows()
        if rows:
            logger.warning("%d rows were skipped: %s", len(rows), list_rows(rows))
    record["skipped_rows"] = {split: [asdict(row) for row in rows] for split, rows in all_skipped.items()}
    if base is not None:
        record["base_model"] = base
        (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    write_json(folder / RUN_RECORD, record)
