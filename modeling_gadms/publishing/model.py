"""Publish a model or an adapter: the exact folder that goes to the Hub, with a card of what is known of it."""

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

from ..encoders.adapter_folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS, RUN_RECORD, BaseModel, read_adapter
from ..encoders.atomic_files import file_digest, write_json
from ..encoders.loading import load_model_and_processor
from ..encoders.weight_files import check_weights
from ..modeling_gadms import GADMSForPreTraining, GADMSModel
from ..training.history import TrainingHistory, is_local, read_training_history
from .card_metrics import base_weights, read_measurements
from .hub import check_push_target, push_folder
from .model_card import AdapterFacts, CardFacts, TrainingCost, render_card
from .upload_folder import CARD, LeftOut, Publication, list_files, refuse_own_places, staging_folder


_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PROCESSOR_CONFIG = "processor_config.json"
_CONFIGURATIONS = (
    _PROCESSOR_CONFIG,
    *("added_tokens.json", "preprocessor_config.json", "special_tokens_map.json", "tokenizer_config.json"),
)
_VOCABULARY = ("merges.txt", "tokenizer.json", "vocab.json")
_PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
_LOADING_NOTES = ("_name_or_path", "name_or_path", "is_local", "local_files_only")
"""What transformers notes in a configuration of where and how it was loaded: nothing of the model."""


@dataclass(frozen=True)
class _Source:
    """What a folder holds, sorted.

    Attributes:
        folder (`Path`)
        is_adapter (`bool`)
        weights (`tuple[str, ...]`): files of the weights.
        copied (`tuple[str, ...]`): files that are published as they are.
        cleaned (`tuple[str, ...]`): JSON files that are published without notes on this machine.
        left_out (`tuple[LeftOut, ...]`): everything else.
    """

    folder: Path
    is_adapter: bool
    weights: tuple[str, ...]
    copied: tuple[str, ...]
    cleaned: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


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
) -> Publication:
    """Push a model or an adapter to the Hub in one commit, or make the folder that would be pushed.

    What is published: the weights, byte for byte; configuration, processor and tokenizer; the code of this package's
    version; the record of the training without places on this machine; and a card. It is loaded once before it goes.

    Args:
        folder (`str` or `Path`): as `save_pretrained` or a training wrote it.
        repo_id (`str`): `namespace/name`.
        metrics (`Sequence[str or Path]`, *optional*): files of `examples/evaluate.py`, measured on these very weights.
        license (`str`, *optional*, defaults to `"apache-2.0"`): of the weights, as the Hub calls it.
        base_model (`str`, *optional*): Hub id of the model that it goes on from; by default the training's record
            tells. An adapter whose base is a folder needs it.
        datasets (`Sequence[str]`, *optional*): names on the Hub of what it was trained on; by default the record's.
        cost ([`TrainingCost`], *optional*): hardware, time and carbon of the training.
        revision (`str`, *optional*): branch to push to, made if it is not there.
        tag (`str`, *optional*): for the commit.
        private (`bool`, *optional*, defaults to `False`): make the repository private.
        dry_run (`str` or `Path`, *optional*): new folder for what would be pushed; nothing is.

    Returns:
        [`Publication`]

    Raises:
        ValueError: if the folder holds no model of this kind, lacks weights or a processor, or does not load; if
            metrics are of other weights; or if a name is malformed.
        OSError: if a file cannot be read, or the Hub cannot be reached or refuses.
    """
    folder, dry_run = Path(folder), None if dry_run is None else Path(dry_run)
    _check_names(repo_id, base_model, datasets)
    source = _sort_folder(folder)
    if dry_run is None:
        check_push_target(repo_id, repo_type="model", revision=revision, tag=tag, private=private)
    provenance = read_training_history(folder)
    with staging_folder(dry_run) as staging:
        weights = _copy_weights(source, staging)
        base = read_adapter(folder).base if source.is_adapter else None
        measured_on = weights | (base_weights(base.weights_sha256) if base else {})
        measured = read_measurements([Path(file) for file in metrics], measured_on, folder)
        renewed = _copy_rest(source, staging)
        if source.is_adapter:
            base_model, adapter = _name_the_base(source, staging, base_model)
            model = _load(folder, folder, base)  # which is where the folder says
        else:
            base_model, adapter = base_model or provenance.base_model, None
            model = _load(staging, folder, None)
        _write_record(provenance, staging, base_model if adapter else None)
        precision, stored = _stored([staging / name for name in source.weights])
        facts = CardFacts(
            repo_id=repo_id,
            license=license,
            weights=weights,
            precision=precision,
            stored_parameters=stored,
            config=model.config,
            encoder_parameters=sum(parameter.numel() for parameter in model.parameters()),
            provenance=provenance,
            base_model=base_model,
            datasets=tuple(datasets) or provenance.datasets,
            measurements=measured.all,
            cost=cost or TrainingCost(),
            adapter=adapter,
        )
        (staging / CARD).write_text(str(render_card(facts)).rstrip() + "\n", encoding="utf-8", newline="\n")
        refuse_own_places(staging, folder)
        notes = [
            LeftOut(f"of {file}", f"measured on other weights: {count}") for file, count in measured.foreign.items()
        ]
        if measured.repeated:
            notes.append(LeftOut("of the measurements", f"given more than once: {measured.repeated}"))
        pushed = None
        if dry_run is None:
            message = f"Publish {repo_id.partition('/')[2]}"
            pushed = push_folder(
                staging, repo_id, repo_type="model", message=message, revision=revision, tag=tag, private=private
            )
        return Publication(repo_id, list_files(staging), (*source.left_out, *renewed, *notes), dry_run, pushed)


def _check_names(repo_id: str, base_model: str | None, datasets: Sequence[str]) -> None:
    for name in (repo_id, base_model, *datasets):
        if name is not None:
            validate_repo_id(name)
    for name, what in ((repo_id, "where to publish"), (base_model, "base model")):
        if name is not None and "/" not in name:
            raise ValueError(f"{what}: {name!r} must be a name on the Hub, namespace/name")


def _sort_folder(folder: Path) -> _Source:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: name one that a training or `save_pretrained` wrote")
    names = {path.name for path in folder.iterdir() if path.is_file()}
    is_adapter = ADAPTER_CONFIG in names and "config.json" not in names
    if not is_adapter:
        _refuse_other_models(folder, names)
    if _PROCESSOR_CONFIG not in names:
        raise ValueError(
            f"{folder} lacks a processor ({_PROCESSOR_CONFIG}), without which nobody can use the model: save it there "
            "with `processor.save_pretrained`"
        )
    weights = (ADAPTER_WEIGHTS,) if is_adapter else _weight_files(folder, names)
    pickled = sorted(name for name in names if name.endswith(_PICKLES))
    if missing := [name for name in weights if name not in names]:
        hint = f"; it holds {', '.join(pickled)}, and pickles are not published" if pickled else ""
        raise ValueError(f"{folder} lacks {missing[0]}: save the model there again, as safetensors{hint}")
    stray = sorted(name for name in names if name.endswith(".safetensors") and name not in weights)
    if stray:
        raise ValueError(
            f"{folder} holds {stray[0]} beside its weights ({weights[0]}): move it elsewhere, so that it is clear "
            "which are published"
        )
    copied = [name for name in (_INDEX, *_VOCABULARY) if name in names]
    cleaned = [name for name in ("config.json", *_CONFIGURATIONS) if name in names]
    known = {*weights, *copied, *cleaned, RUN_RECORD, *([ADAPTER_CONFIG] if is_adapter else [])}
    code = {path.name for path in _shipped_code(is_adapter)}
    left_out = [_left_out(path) for path in sorted(folder.iterdir()) if path.name not in known | code]
    return _Source(folder, is_adapter, weights, tuple(copied), tuple(cleaned), tuple(left_out))


def _refuse_other_models(folder: Path, names: Iterable[str]) -> None:
    if "config.json" not in names:
        raise ValueError(
            f"{folder} holds no model: neither config.json nor {ADAPTER_CONFIG}. Name the folder that a training or "
            "`save_pretrained` wrote, such as runs/demo/model"
        )
    config = _read_json(folder / "config.json")
    if config.get("model_type") != "gadms":
        raise ValueError(f"{folder} holds a model of type {config.get('model_type')!r}, not a GA-DMS one")
    if "auto_map" not in config:
        raise ValueError(
            f"{folder}/config.json names no code (`auto_map`): save the model there again with this package"
        )


def _weight_files(folder: Path, names: Iterable[str]) -> tuple[str, ...]:
    """The files of the weights: one, or the shards that the index names."""
    if _INDEX not in names:
        return (_WEIGHTS,)
    shards = set((_read_json(folder / _INDEX).get("weight_map") or {}).values())
    if not shards or not all(isinstance(name, str) and Path(name).name == name for name in shards):
        raise ValueError(f"{folder / _INDEX} names no files of weights: save the model there again")
    return tuple(sorted(shards))


def _left_out(path: Path) -> LeftOut:
    if path.is_dir():
        return LeftOut(f"{path.name}/", "a folder")
    if path.name.endswith(_PICKLES):
        return LeftOut(path.name, "a pickle, which can run code when it is read")
    if path.name == CARD:
        return LeftOut(path.name, "the card is made anew")
    return LeftOut(path.name, "no part of a model")


def _shipped_code(is_adapter: bool) -> list[Path]:
    """The code that a repository names: of an adapter, which is loaded into another model, the processor's alone."""
    return sorted(Path(__file__).parent.glob("processing_gadms.py" if is_adapter else "*_gadms.py"))


def _copy_weights(source: _Source, staging: Path) -> dict[str, str]:
    """Copies them, and gives the digests of the copies."""
    for name in source.weights:
        shutil.copyfile(source.folder / name, staging / name)
    return {name: file_digest(staging / name) for name in source.weights}


def _copy_rest(source: _Source, staging: Path) -> list[LeftOut]:
    for name in source.copied:
        shutil.copyfile(source.folder / name, staging / name)
    for name in source.cleaned:
        values = _read_json(source.folder / name)
        kept = {key: value for key, value in values.items() if key not in _LOADING_NOTES}
        if kept == values:
            shutil.copyfile(source.folder / name, staging / name)
        else:
            (staging / name).write_text(_dump(kept), encoding="utf-8")
    renewed = []
    for code in _shipped_code(source.is_adapter):
        # What was loaded to check the model is the code of this package: no other goes with the weights.
        shutil.copyfile(code, staging / code.name)
        own = source.folder / code.name
        if own.is_file() and own.read_bytes() != code.read_bytes():
            renewed.append(LeftOut(code.name, "of another version; the one that is installed is published"))
    return renewed


def _name_the_base(source: _Source, staging: Path, base_model: str | None) -> tuple[str, AdapterFacts]:
    """Writes the adapter's configuration with the name of its base on the Hub."""
    place = source.folder / ADAPTER_CONFIG
    config = _read_json(place)
    told = config.get("base_model_name_or_path")
    if base_model is None:
        if not isinstance(told, str) or is_local(told, source.folder):
            raise ValueError(
                f"{place} names the base {told!r}, which nobody else has: publish that first, and name it as "
                "--base-model"
            )
        base_model = told
    if base_model != told:
        config |= {"base_model_name_or_path": base_model, "revision": None}
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])  # a set, which peft writes in any order
    (staging / ADAPTER_CONFIG).write_text(_dump(config), encoding="utf-8")
    method = "DoRA" if config.get("use_dora") else str(config.get("peft_type"))
    rank = f" of rank {config['r']}" if isinstance(config.get("r"), int) else ""
    trained = (config.get("auto_mapping") or {}).get("base_model_class") == "GADMSForPreTraining"
    auto_class = "AutoModelForPreTraining" if trained else "AutoModel"
    return base_model, AdapterFacts(method + rank, auto_class, config.get("revision"))


def _load(place: Path, folder: Path, base: BaseModel | None) -> GADMSModel:
    """Loads what is published, as whoever downloads it will; errors tell of the folder that it was made from."""
    weights, revision = (base.name, base.revision) if base else (place, None)
    try:
        model, _ = load_model_and_processor(place)
        if (model.config.architectures or [""])[0] == GADMSForPreTraining.__name__:
            # Whoever trains on finds what retrieval does without.
            check_weights(weights, GADMSForPreTraining, model.config, revision)
    except (ValueError, OSError) as error:
        raise ValueError(f"{folder} does not load: {str(error).replace(str(place), str(folder))}") from error
    return model


def _write_record(provenance: TrainingHistory, staging: Path, base_model: str | None) -> None:
    if provenance.record is None:
        return
    record = dict(provenance.record)
    if base_model is not None and isinstance(record.get("base_model"), dict):
        record["base_model"] = record["base_model"] | {"name": base_model}
    write_json(staging / RUN_RECORD, record)


def _stored(files: Iterable[Path]) -> tuple[str, int]:
    """What weights are stored in, and how many numbers they are; all of them are looked at."""
    counts: Counter[str] = Counter()
    for file in files:
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118, it is no dictionary
                values = weights.get_tensor(name)
                if not torch.isfinite(values).all():
                    raise ValueError(f"the weight {name} has values that are not finite: the training diverged")
                counts[str(values.dtype).removeprefix("torch.")] += values.numel()
    kinds = counts.most_common()
    if len(kinds) == 1:
        return kinds[0][0], kinds[0][1]
    return ", ".join(f"{kind} ({count:,} numbers)" for kind, count in kinds), counts.total()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} should hold keys and values; it holds {str(values)[:80]}")
    return values


def _dump(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
