"""Render a model card: `model_card.md` is the template of its text, the header contains metadata for the Hub."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ..configuration_gadms import GADMSConfig, check_keys, encoder_configs, reads_padding
from ..metrics.person_retrieval.ranking import METRIC_NAMES
from ..training.history import TrainingHistory, TrainingStage
from ..training.settings import check_types, read_settings
from .card_metrics import DIRECTIONS, Measurement, model_index


_TEMPLATE = Path(__file__).with_name("model_card.md")
_BACKBONES = {
    f"{prefix}_{kind}_model": name
    for prefix, name in (("clip", "CLIP"), ("metaclip_2", "MetaCLIP 2"), ("siglip", "SigLIP"), ("siglip2", "SigLIP 2"))
    for kind in ("text", "vision")
}
"""Names of the encoders' kinds, by `model_type`. SigLIP 2 of a fixed resolution has SigLIP's."""
_TAGS = ("person-retrieval", "text-based-person-search", "image-text-retrieval", "gadms")
_TRAINING_SETTINGS = tuple(
    "num_train_epochs max_steps global_train_batch_size per_device_train_batch_size gradient_accumulation_steps "
    "learning_rate new_module_lr_multiplier lr_scheduler_type warmup_steps warmup_ratio optim adam_epsilon "
    "weight_decay max_grad_norm bf16 fp16 masking_start contrastive_start".split()
)
_MODEL_SETTINGS = tuple(
    "token_score noise_masking masked_token_prediction alignment temperature learn_temperature mtp_weight "
    "identity_weight".split()
)
_NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class TrainingCost:
    """Hardware, time and carbon of a training, which the training record does not contain.

    Args:
        hardware (`str`, *optional*): such as `8 x A100 80 GB`.
        hours (`float`, *optional*): wall-clock time.
        emissions_grams (`float`, *optional*): grams of CO2 equivalent.
        emissions_source (`str`, *optional*): how the emissions were measured, such as `CodeCarbon`.
        location (`str`, *optional*): where the electricity came from.

    Raises:
        ValueError: for a negative number, or `emissions_source` without `emissions_grams`.
    """

    hardware: str | None = None
    hours: float | None = None
    emissions_grams: float | None = None
    emissions_source: str | None = None
    location: str | None = None

    def __post_init__(self) -> None:
        for name in ("hours", "emissions_grams"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name} = {value} must be a number of 0 or more")
        if self.emissions_source and self.emissions_grams is None:
            raise ValueError("emissions_source without emissions_grams: give emissions_grams too")

    @classmethod
    def from_file(cls, path: Path) -> "TrainingCost":
        """Read a YAML file with these keys.

        Raises:
            ValueError: for an unknown key or a value of the wrong type.
            OSError: if the file cannot be read.
        """
        keys = [field.name for field in fields(cls)]
        settings = read_settings(path, f"some of the keys {', '.join(keys)}")
        check_keys(settings, keys, str(path))
        check_types(settings, cls, str(path))
        return cls(**settings)

    def to_metadata(self) -> dict[str, Any] | None:
        """Return the card's `co2_eq_emissions`, or `None` if the emissions are unknown."""
        if self.emissions_grams is None:
            return None
        values = {
            "emissions": self.emissions_grams,
            "source": self.emissions_source,
            "geographical_location": self.location,
            "hardware_used": self.hardware,
        }
        return {key: value for key, value in values.items() if value is not None}

    def to_rows(self) -> dict[str, str]:
        """Return the rows of the card's table."""
        hours = None if self.hours is None else f"{self.hours:g} h"
        emissions = None if self.emissions_grams is None else f"{self.emissions_grams:g} g CO2 equivalent"
        if emissions and self.emissions_source:
            emissions += f" ({self.emissions_source})"
        rows = {"hardware": self.hardware, "training time": hours, "carbon": emissions, "location": self.location}
        return {name: value or _NOT_RECORDED for name, value in rows.items()}


@dataclass(frozen=True)
class AdapterFacts:
    """The facts of a card about an adapter.

    Attributes:
        method (`str`): method as named by peft, with its rank.
        auto_class (`str`): auto class that loads its base.
        base_revision (`str`, *optional*): commit of the base.
    """

    method: str
    auto_class: str
    base_revision: str | None


@dataclass(frozen=True)
class CardFacts:
    """All facts of a card.

    Attributes:
        repo_id (`str`), license (`str`): repository and license, as identifiers of the Hub.
        weights (`dict[str, str]`): SHA-256 of each weight file.
        precision (`str`), stored_parameters (`int`): dtype and number of parameters in the weight files.
        config ([`GADMSConfig`]), encoder_parameters (`int`): of the model, or of an adapter's base.
        provenance ([`TrainingHistory`])
        base_model (`str`, *optional*), datasets (`tuple[str, ...]`): Hub names.
        measurements (`tuple[Measurement, ...]`)
        cost ([`TrainingCost`])
        adapter ([`AdapterFacts`], *optional*)
    """

    repo_id: str
    license: str
    weights: dict[str, str]
    precision: str
    stored_parameters: int
    config: GADMSConfig
    encoder_parameters: int
    provenance: TrainingHistory
    base_model: str | None = None
    datasets: tuple[str, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    cost: TrainingCost = field(default_factory=TrainingCost)
    adapter: AdapterFacts | None = None


def render_card(facts: CardFacts) -> ModelCard:
    """Render the card of a model. Metrics are unrounded in its `model-index` and rounded in its text."""
    stages = tuple(reversed(facts.provenance.stages))
    text, vision = encoder_configs(facts.config)
    return ModelCard.from_template(
        _metadata(facts),
        template_path=str(_TEMPLATE),
        title=facts.repo_id.partition("/")[2],
        facts=facts,
        text=text,
        vision=vision,
        backbones=" and ".join(dict.fromkeys(_BACKBONES[config.model_type] for config in (text, vision))),
        text_is_siglip=reads_padding(text),
        auto_class=facts.adapter.auto_class if facts.adapter else "AutoModel",
        stages=[_stage_text(stage, is_first=number == 0) for number, stage in enumerate(stages)],
        settings=_settings(stages),
        settings_columns=[
            "value" if len(stages) == 1 else f"training {number}, on {stage.dataset.text}"
            for number, stage in enumerate(stages, start=1)
        ],
        results=_result_rows(facts.measurements),
        measured=[_measurement_text(measurement) for measurement in facts.measurements],
        commands=_commands(facts),
        footprint=facts.cost.to_rows(),
    )


def _metadata(facts: CardFacts) -> ModelCardData:
    results = model_index(facts.measurements)
    return ModelCardData(
        license=facts.license,
        library_name="peft" if facts.adapter else "transformers",
        pipeline_tag="zero-shot-image-classification",
        language=["en"],
        tags=[*_TAGS, *(["adapter"] if facts.adapter else [])],
        base_model=facts.base_model,
        base_model_relation=("adapter" if facts.adapter else "finetune") if facts.base_model else None,
        datasets=list(facts.datasets) or None,
        co2_eq_emissions=facts.cost.to_metadata(),
        model_name=facts.repo_id.partition("/")[2] if results else None,
        eval_results=results or None,
    )


def _stage_text(stage: TrainingStage, *, is_first: bool) -> str:
    hub_name = stage.dataset.hub_name
    linked = hub_name and "/" in hub_name
    name = f"[{hub_name}](https://huggingface.co/datasets/{hub_name})" if linked else f"`{stage.dataset.text}`"
    arguments = ", ".join(f"{key}={_plain(value)}" for key, value in stage.dataset_arguments.items())
    start = f"from {stage.start}" if is_first else "continuing the training before"
    return f"{name}{f' ({arguments})' if arguments else ''}, {start}, seed {_plain(stage.seed)}"


def _settings(stages: Sequence[TrainingStage]) -> dict[str, list[str]]:
    """Return the rows of a table with one column for each training. Settings that no training has are omitted."""
    rows: dict[str, list[str]] = {}
    for section, names in (("training", _TRAINING_SETTINGS), ("model", _MODEL_SETTINGS)):
        for name in names:
            values = [getattr(stage, section).get(name) for stage in stages]
            if any(value is not None for value in values):
                rows[name] = [_plain(value) for value in values]
    return rows


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    return value.replace("|", "\\|") if isinstance(value, str) else json.dumps(value, default=str)


def _result_rows(measurements: Sequence[Measurement]) -> list[list[str]]:
    return [
        [_plain(f"{measurement.dataset}, {measurement.config}"), measurement.split, name]
        + [f"{measurement.values[direction][metric]:.2f}" for metric in METRIC_NAMES]
        for measurement in measurements
        for direction, name in DIRECTIONS.items()
    ]


def _measurement_text(measurement: Measurement) -> str:
    counts = measurement.counts
    persons = f"{counts['identities']:,} persons"
    if measurement.person_id is None:
        persons += " (no person ids: each image counts as its own person)"
    version = f" version {measurement.version}" if measurement.version else ""
    versions = ", ".join(f"{library} {number}" for library, number in measurement.versions.items())
    return (
        f"{measurement.dataset}{version}, {measurement.config}, split {measurement.split}: {counts['captions']:,} "
        f"captions ({', '.join(f'`{name}`' for name in measurement.captions)}) and {counts['images']:,} images of "
        f"{persons}; {counts['truncated_captions']:,} captions truncated at {measurement.token_limit} tokens; in "
        f"{measurement.precision} on {measurement.device}; {versions or 'versions not recorded'}"
    )


def _commands(facts: CardFacts) -> str:
    """Return commands that repeat the measurements. `FOLDER` stands for a local folder of the reader."""
    lines = [f"hf download {facts.repo_id} --local-dir model"]
    for measurement in facts.measurements:
        dataset = measurement.dataset if measurement.hub_dataset or measurement.has_data_dir else "FOLDER"
        words = ["python", "examples/evaluate.py", "--model", "model", "--dataset", dataset]
        arguments = [f"{key}={json.dumps(value)}" for key, value in measurement.arguments.items()]
        arguments += ["data_dir=FOLDER"] if measurement.has_data_dir else []
        words += ["--dataset-args", *arguments] if arguments else []
        words += ["--split", measurement.split, "--captions", *measurement.captions]
        words += ["--person-id", measurement.person_id] if measurement.person_id else []
        lines.append(shlex.join(words))
    return "\n".join(lines)
