"""The model card: what is known of a model, as text for people and as metadata for the Hub."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ..configuration_gadms import GADMSConfig, check_keys, encoder_configs
from ..metrics.person_retrieval.ranking import METRIC_NAMES
from ..training.history import TrainingHistory, TrainingStage
from ..training.settings import check_types, read_settings
from .card_metrics import DIRECTIONS, Measurement, eval_results


_TEMPLATE = Path(__file__).with_name("model_card.md")
_TAGS = ("person-retrieval", "text-based-person-search", "image-text-retrieval", "gadms")
_TRAINING_SETTINGS = tuple(
    "num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps learning_rate "
    "new_module_lr_multiplier lr_scheduler_type warmup_steps warmup_ratio optim adam_epsilon weight_decay "
    "max_grad_norm bf16 fp16 masking_start contrastive_start".split()
)
_MODEL_SETTINGS = tuple(
    "token_score noise_masking masked_token_prediction alignment temperature learn_temperature mtp_weight "
    "identity_weight".split()
)
_NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class TrainingCost:
    """What a training ran on and took, which no file of a run tells. A YAML file of these keys.

    Args:
        hardware (`str`, *optional*): such as `8 x A100 80 GB`.
        hours (`float`, *optional*): of wall-clock time.
        emissions_grams (`float`, *optional*): of CO2 equivalent.
        emissions_source (`str`, *optional*): how they were found, such as `CodeCarbon`.
        location (`str`, *optional*): where the electricity came from.

    Raises:
        ValueError: for a negative number, or a source of emissions that are not given.
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
            raise ValueError("emissions_source tells how emissions were found: give emissions_grams too")

    @classmethod
    def from_file(cls, path: Path) -> "TrainingCost":
        """Read the keys from YAML.

        Raises:
            ValueError: for an unknown key or a value of the wrong type.
            OSError: if the file cannot be read.
        """
        settings = read_settings(path, f"some of the keys {', '.join(field.name for field in fields(cls))}")
        check_keys(settings, [field.name for field in fields(cls)], str(path))
        check_types(settings, cls, str(path))
        return cls(**settings)

    def to_metadata(self) -> dict[str, Any] | None:
        """Return what the Hub reads as `co2_eq_emissions`; it takes none without a number."""
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
        """Return the same for people."""
        hours = None if self.hours is None else f"{self.hours:g} h"
        emissions = None if self.emissions_grams is None else f"{self.emissions_grams:g} g CO2 equivalent"
        if emissions and self.emissions_source:
            emissions += f" ({self.emissions_source})"
        rows = {"hardware": self.hardware, "training time": hours, "carbon": emissions, "location": self.location}
        return {name: value or _NOT_RECORDED for name, value in rows.items()}


@dataclass(frozen=True)
class AdapterFacts:
    """What a card says of an adapter.

    Attributes:
        method (`str`): as peft calls it.
        auto_class (`str`): the class that loads its base.
        base_revision (`str`, *optional*): of the base.
    """

    method: str
    auto_class: str
    base_revision: str | None


@dataclass(frozen=True)
class CardFacts:
    """Everything that a card tells.

    Attributes:
        repo_id (`str`): where the model goes.
        license (`str`): as the Hub calls it.
        weights (`dict[str, str]`): SHA-256 of each file of weights.
        precision (`str`): what they are stored in.
        stored_parameters (`int`): numbers in those files.
        config ([`GADMSConfig`]): of the model, or of an adapter's base.
        encoder_parameters (`int`): numbers of the two encoders.
        provenance ([`TrainingHistory`])
        base_model (`str`, *optional*), datasets (`tuple[str, ...]`): Hub names.
        measurements (`tuple[Measurement, ...]`)
        cost ([`TrainingCost`])
        adapter ([`AdapterFacts`], *optional*): of an adapter.
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
    """Make the card of a model from `model_card.md`.

    Args:
        facts ([`CardFacts`]): what it tells.

    Returns:
        `huggingface_hub.ModelCard`: the measurements as `model-index`, exact; in its text rounded.
    """
    config, adapter, stages = facts.config, facts.adapter, tuple(reversed(facts.provenance.stages))
    text, vision = encoder_configs(config)
    height, width = config.image_size
    return ModelCard.from_template(
        _metadata(facts),
        template_path=str(_TEMPLATE),
        title=facts.repo_id.partition("/")[2],
        repo_id=facts.repo_id,
        adapter=adapter,
        auto_class=adapter.auto_class if adapter else "AutoModel",
        base_model=facts.base_model,
        vision_layers=vision.num_hidden_layers,
        text_layers=text.num_hidden_layers,
        image_size=f"{height} x {width}",
        patch_size=f"{vision.patch_size} x {vision.patch_size}",
        token_limit=text.max_position_embeddings,
        vocabulary=f"{text.vocab_size:,}",
        embedding_size=config.projection_dim,
        parameters=f"{facts.encoder_parameters:,}",
        parameters_in_files=f"{facts.stored_parameters:,}",
        precision=facts.precision,
        weights=facts.weights,
        stages=[_stage_text(stage, is_first=number == 0) for number, stage in enumerate(stages)],
        datasets=facts.datasets,
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
    results = eval_results(facts.measurements)
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
    start = f"from {stage.start}" if is_first else "going on from the training before"
    return f"{name}{f' ({arguments})' if arguments else ''}, {start}, seed {_plain(stage.seed)}"


def _settings(stages: Sequence[TrainingStage]) -> dict[str, list[str]]:
    """Rows of a table with a column for each training; settings that none of them has are left out."""
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
        persons += " (without person ids: each image is its own)"
    version = f" version {measurement.version}" if measurement.version else ""
    return (
        f"{measurement.dataset}{version}, {measurement.config}, split {measurement.split}: {counts['captions']:,} "
        f"captions ({', '.join(f'`{name}`' for name in measurement.captions)}) and {counts['images']:,} images of "
        f"{persons}; {counts['truncated_captions']:,} captions cut at {measurement.token_limit} tokens; in "
        f"{measurement.precision} on {measurement.device}; {_versions(measurement.versions)}"
    )


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{library} {version}" for library, version in versions.items()) or "versions not recorded"


def _commands(facts: CardFacts) -> str:
    """What repeats the measurements. Folders on the machine that measured are left for the reader to fill in."""
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
