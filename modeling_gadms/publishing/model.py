"""Publish a model or an adapter on the Hub, with its processor, code, training record and model card."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import validate_repo_id
from safetensors import safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..encoders.adapter_folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS, RUN_RECORD, BaseModel, read_adapter
from ..encoders.atomic_files import write_json
from ..encoders.loading import load_model_and_processor
from ..encoders.weight_files import check_weights
from ..modeling_gadms import GADMSForPreTraining, GADMSModel
from ..training.history import TrainingHistory, is_local, read_training_history
from .card_metrics import eval_results, read_measurements, weight_digests
from .hub import check_push_target, check_repo_id
from .model_card import AdapterFacts, CardFacts, TrainingCost, render_card
from .upload_folder import CARD, Excluded, PublishReport, new_upload_folder, publish_upload_folder


_PROCESSOR_CONFIG = "processor_config.json"
_CONFIGURATIONS = (
    "config.json",
    _PROCESSOR_CONFIG,
    *("added_tokens.json", "preprocessor_config.json", "special_tokens_map.json", "tokenizer_config.json"),
)
_VOCABULARY = ("merges.txt", "spiece.model", "tokenizer.json", "vocab.json")
_PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
_LOADING_NOTES = ("_name_or_path", "name_or_path", "is_local", "local_files_only")
"""Keys in which transformers records from where and how a configuration was loaded."""


@dataclass(frozen=True)
class _ModelFolder:
    """The files of a model or adapter folder by their treatment."""

    path: Path
    is_adapter: bool
    weights: tuple[str, ...]
    copied: tuple[str, ...]  # other files that are copied unchanged
    configurations: tuple[str, ...]  # copied without `_LOADING_NOTES`
    excluded: tuple[Excluded, ...]


def publish_model(
    folder: str | Path,
    repo_id: str,
    *,
    metrics: Sequence[str | Path] = (),
    license: str = "apache-2.0",
    base_model: str | None = None,
    datasets: Sequence[str] = (),
    cost: TrainingCost | None = None,
    revision: str | None = None,
    tag: str | None = None,
    private: bool = False,
    dry_run: str | Path | None = None,
) -> PublishReport:
    """Push a model or an adapter to the Hub in one commit, or only write the upload folder.

    The upload folder contains the weights, byte for byte; configuration, processor and tokenizer; the code of the
    installed version of this package; the training record without local paths; a model card; and the metrics on data
    sets of the Hub in `.eval_results/`. The model is loaded once before it is pushed.

    Args:
        folder (`str` or `Path`): folder written by `save_pretrained` or by a training.
        repo_id (`str`): `namespace/name`.
        metrics (`Sequence[str or Path]`, *optional*): metrics files of `examples/evaluate.py`, measured on exactly
            these weights, see [`~modeling_gadms.publishing.card_metrics`].
        license (`str`, *optional*, defaults to `"apache-2.0"`): license of the weights, as an identifier of the Hub.
        base_model (`str`, *optional*): Hub id of the model that training started from. By default that of the
            training record. Required for an adapter whose base is a local folder.
        datasets (`Sequence[str]`, *optional*): Hub names of the training data. By default those of the training
            record.
        cost ([`TrainingCost`], *optional*): hardware, time and carbon of the training.
        revision (`str`, *optional*): branch to push to, created if it is missing.
        tag (`str`, *optional*): tag of the commit.
        private (`bool`, *optional*, defaults to `False`): make the repository private.
        dry_run (`str` or `Path`, *optional*): write the upload folder here and push nothing.

    Returns:
        [`PublishReport`]

    Raises:
        ValueError: if the folder is not a complete GA-DMS model or does not load, metrics were measured on other
            weights, or a name is malformed.
        OSError: if a file cannot be read, or the Hub cannot be reached or refuses.
    """
    folder, dry_run = Path(folder), None if dry_run is None else Path(dry_run)
    target: dict[str, Any] = {"repo_type": "model", "revision": revision, "tag": tag, "private": private}
    check_repo_id(repo_id)
    if base_model is not None:
        check_repo_id(base_model, "base model")
    for name in datasets:
        validate_repo_id(name)
    source = _inspect_folder(folder)
    if dry_run is None:
        check_push_target(repo_id, **target)
    provenance = read_training_history(folder)
    with new_upload_folder(dry_run) as upload:
        replaced = _copy_files(source, upload)
        base = read_adapter(folder).base if source.is_adapter else None
        files = [upload / name for name in source.weights]
        digests = weight_digests(files, base)
        measurements, skipped = read_measurements([Path(file) for file in metrics], digests, folder)
        adapter = None
        if source.is_adapter:
            base_model, adapter = _write_adapter_config(source, upload, base_model)
            model = _load(folder, folder, base)  # from the source, whose configuration names the local base
        else:
            base_model = base_model or provenance.base_model
            model = _load(upload, folder, None)
        _write_record(provenance, upload, base_model if adapter else None)
        precision, stored_parameters = _check_values(files)
        facts = CardFacts(
            repo_id=repo_id,
            license=license,
            weights={name: digests[name] for name in source.weights},
            precision=precision,
            stored_parameters=stored_parameters,
            config=model.config,
            encoder_parameters=sum(parameter.numel() for parameter in model.parameters()),
            provenance=provenance,
            base_model=base_model,
            datasets=tuple(datasets) or provenance.datasets,
            measurements=tuple(measurements),
            cost=cost or TrainingCost(),
            adapter=adapter,
        )
        texts = {CARD: str(render_card(facts)).rstrip() + "\n", **eval_results(measurements, digests)}
        for name, text in texts.items():
            (upload / name).parent.mkdir(exist_ok=True)
            (upload / name).write_text(text, encoding="utf-8", newline="\n")
        return publish_upload_folder(
            upload,
            repo_id,
            sources=[folder],
            excluded=[*source.excluded, *replaced, *skipped],
            dry_run=dry_run,
            **target,
        )


def _inspect_folder(folder: Path) -> _ModelFolder:
    """Sort the files of a folder, and refuse one that is not a complete model or adapter with a processor."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: name one that a training or `save_pretrained` wrote")
    names = {path.name for path in folder.iterdir() if path.is_file()}
    is_adapter = ADAPTER_CONFIG in names and "config.json" not in names
    if not is_adapter:
        _check_config(folder, names)
    if _PROCESSOR_CONFIG not in names:
        raise ValueError(
            f"{folder} lacks a processor ({_PROCESSOR_CONFIG}), without which the model cannot be used: save it there "
            "with `processor.save_pretrained`"
        )
    weights = (ADAPTER_WEIGHTS,) if is_adapter else _weight_files(folder, names)
    if missing := [name for name in weights if name not in names]:
        pickled = sorted(name for name in names if name.endswith(_PICKLES))
        hint = f"; it contains {', '.join(pickled)}, and pickles are not published" if pickled else ""
        raise ValueError(f"{folder} lacks {missing[0]}: save the model there again, as safetensors{hint}")
    if stray := sorted(name for name in names if name.endswith(".safetensors") and name not in weights):
        raise ValueError(
            f"{folder} contains {stray[0]} besides its weights ({weights[0]}): move it elsewhere, so that it is clear "
            "which weights are published"
        )
    copied = tuple(name for name in (SAFE_WEIGHTS_INDEX_NAME, *_VOCABULARY) if name in names)
    configurations = tuple(name for name in _CONFIGURATIONS if name in names)
    known = {*weights, *copied, *configurations, RUN_RECORD, *(path.name for path in _shipped_code(is_adapter))}
    if is_adapter:
        known.add(ADAPTER_CONFIG)
    excluded = tuple(_excluded(path) for path in sorted(folder.iterdir()) if path.name not in known)
    return _ModelFolder(folder, is_adapter, weights, copied, configurations, excluded)


def _check_config(folder: Path, names: Iterable[str]) -> None:
    if "config.json" not in names:
        raise ValueError(
            f"{folder} contains no model: neither config.json nor {ADAPTER_CONFIG}. Name the folder that a training "
            "or `save_pretrained` wrote, such as runs/demo/model"
        )
    config = _read_json(folder / "config.json")
    if config.get("model_type") != "gadms":
        raise ValueError(f"{folder} contains a model of type {config.get('model_type')!r}, not a GA-DMS one")
    if "auto_map" not in config:
        raise ValueError(
            f"{folder}/config.json names no code (`auto_map`): save the model there again with this package"
        )


def _weight_files(folder: Path, names: Iterable[str]) -> tuple[str, ...]:
    """Return the name of the weight file, or the shards that the index names."""
    if SAFE_WEIGHTS_INDEX_NAME not in names:
        return (SAFE_WEIGHTS_NAME,)
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    shards = set((_read_json(index).get("weight_map") or {}).values())
    if not shards or not all(isinstance(name, str) and Path(name).name == name for name in shards):
        raise ValueError(f"{index} names no weight files: save the model there again")
    return tuple(sorted(shards))


def _excluded(path: Path) -> Excluded:
    if path.is_dir():
        return Excluded(f"{path.name}/", "a folder")
    if path.name.endswith(_PICKLES):
        return Excluded(path.name, "a pickle, which can run code when it is read")
    if path.name == CARD:
        return Excluded(path.name, "a new card is written")
    return Excluded(path.name, "not part of a model")


def _shipped_code(is_adapter: bool) -> list[Path]:
    """The modules that are published with the weights. An adapter needs only the processor's."""
    return sorted(Path(__file__).parents[1].glob("processing_gadms.py" if is_adapter else "*_gadms.py"))


def _copy_files(source: _ModelFolder, upload: Path) -> list[Excluded]:
    """Copy weights, vocabulary, configurations and code. Returns the modules that were replaced."""
    for name in (*source.weights, *source.copied):
        shutil.copyfile(source.path / name, upload / name)
    for name in source.configurations:
        values = _read_json(source.path / name)
        kept = {key: value for key, value in values.items() if key not in _LOADING_NOTES}
        if kept == values:
            shutil.copyfile(source.path / name, upload / name)
        else:
            write_json(upload / name, kept)
    replaced = []
    for code in _shipped_code(source.is_adapter):
        # The model is checked with the installed code, so this is the code that goes with the weights.
        shutil.copyfile(code, upload / code.name)
        own = source.path / code.name
        if own.is_file() and own.read_bytes() != code.read_bytes():
            replaced.append(Excluded(code.name, "another version; the installed one is published"))
    return replaced


def _write_adapter_config(source: _ModelFolder, upload: Path, base_model: str | None) -> tuple[str, AdapterFacts]:
    """Write the adapter's configuration with the Hub id of its base. Returns this id and the facts for the card."""
    file = source.path / ADAPTER_CONFIG
    config = _read_json(file)
    recorded = config.get("base_model_name_or_path")
    if base_model is None:
        if not isinstance(recorded, str) or is_local(recorded, source.path):
            raise ValueError(
                f"{file} names the base {recorded!r}, which exists only on this machine: publish it first, and pass "
                "its Hub id as --base-model"
            )
        base_model = recorded
    if base_model != recorded:
        config |= {"base_model_name_or_path": base_model, "revision": None}
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])  # a set, which peft writes in random order
    write_json(upload / ADAPTER_CONFIG, config)
    method = "DoRA" if config.get("use_dora") else str(config.get("peft_type"))
    rank = f" of rank {config['r']}" if isinstance(config.get("r"), int) else ""
    is_pretraining = (config.get("auto_mapping") or {}).get("base_model_class") == GADMSForPreTraining.__name__
    auto_class = "AutoModelForPreTraining" if is_pretraining else "AutoModel"
    return base_model, AdapterFacts(method + rank, auto_class, config.get("revision"))


def _load(path: Path, folder: Path, base: BaseModel | None) -> GADMSModel:
    """Load the model from `path` and check all of its weights. Errors name `folder`, which the user gave."""
    weights, revision = (base.name, base.revision) if base else (path, None)
    try:
        model, _ = load_model_and_processor(path)
        if (model.config.architectures or [""])[0] == GADMSForPreTraining.__name__:
            # Continued training also needs the weights that retrieval does without.
            check_weights(weights, GADMSForPreTraining, model.config, revision)
    except (ValueError, OSError) as error:
        raise ValueError(f"{folder} does not load: {str(error).replace(str(path), str(folder))}") from error
    return model


def _write_record(provenance: TrainingHistory, upload: Path, base_model: str | None) -> None:
    if provenance.record is None:
        return
    record = dict(provenance.record)
    if base_model is not None and isinstance(record.get("base_model"), dict):
        record["base_model"] = record["base_model"] | {"name": base_model}
    write_json(upload / RUN_RECORD, record)


def _check_values(files: Iterable[Path]) -> tuple[str, int]:
    """Check that all weights are finite. Returns their precision, as text, and their number."""
    counts: Counter[str] = Counter()
    for file in files:
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118, not a dictionary
                values = weights.get_tensor(name)
                if not torch.isfinite(values).all():
                    raise ValueError(f"the weight {name} has values that are not finite: the training diverged")
                counts[str(values.dtype).removeprefix("torch.")] += values.numel()
    if len(counts) == 1:
        return next(iter(counts)), counts.total()
    return ", ".join(f"{dtype} ({count:,} numbers)" for dtype, count in counts.most_common()), counts.total()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must contain a JSON object, not {str(values)[:80]}")
    return values
