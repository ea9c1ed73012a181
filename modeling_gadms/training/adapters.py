"""Adapters: a few trained numbers beside each layer of both encoders, kept apart from a base that does not change.

LoRA learns a product of two thin matrices beside a weight; DoRA also learns the length of each of the weight's rows,
so that length and direction change apart. Both act on every linear layer of CLIP's blocks, start from the very
function of the base, are saved as the small matrices alone, and merge into the weights, so that a merged model costs
nothing more. Of the other methods that peft has, IA3 and LN-tuning only rescale what is there, and LN-tuning passes
the linear layers by; VeRA keeps its random projections either in the file or in the numbers that a version of PyTorch
draws.
"""

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import try_to_load_from_cache

from ..encoders.adapter_folders import ADAPTER_CONFIG, RUN_RECORD, Adapter, BaseModel, find_adapter, require_peft
from ..encoders.atomic_files import atomic_folder
from ..encoders.loading import load_config, refuse_missing_weights
from ..encoders.weight_files import check_weights, stored_shapes
from ..modeling_gadms import GADMSForPreTraining, GADMSModel
from ..processing_gadms import GADMSProcessor
from .trainer import NEW_MODULES


ENCODERS = {"text": "text_model", "image": "vision_model"}
TARGETS = {
    "q_proj": "self_attn",
    "k_proj": "self_attn",
    "v_proj": "self_attn",
    "out_proj": "self_attn",
    "fc1": "mlp",
    "fc2": "mlp",
}


@dataclass(frozen=True)
class AdapterArguments:
    """Section `adapter` of a run file: train an adapter on `model.from_pretrained` instead of all its weights.

    The temperature stays the base's, also where its configuration says `learn_temperature`.

    Args:
        method (`str`, *optional*, defaults to `"lora"`): `"lora"` or `"dora"`.
        rank (`int`, *optional*, defaults to 16): of the learned matrices.
        alpha (`float`, *optional*): scale of what is learned, over the rank. By default twice the rank.
        dropout (`float`, *optional*, defaults to 0.0): of the input of the learned matrices.
        encoders (`list[str]`, *optional*, defaults to both): `"text"` and `"image"`.
        targets (`list[str]`, *optional*, defaults to all):
            Layers of each block: `"q_proj"`, `"k_proj"`, `"v_proj"`, `"out_proj"`, `"fc1"`, `"fc2"`.
        train_new_modules (`bool`, *optional*, defaults to `True`):
            Whether fusion encoder and token head are trained too, and saved whole. With a base that was trained by
            GA-DMS they may stay as they are; in one that was converted from CLIP they are at random. The identity
            classifier is always new, so that it is trained and saved in either case.

    Raises:
        ValueError: for a value outside its range.
    """

    method: Literal["lora", "dora"] = "lora"
    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    encoders: tuple[str, ...] = tuple(ENCODERS)
    targets: tuple[str, ...] = tuple(TARGETS)
    train_new_modules: bool = True

    def __post_init__(self) -> None:
        if self.method not in ("lora", "dora"):
            raise ValueError(f"adapter.method = {self.method!r} must be lora or dora")
        if self.rank < 1:
            raise ValueError(f"adapter.rank = {self.rank} must be at least 1")
        if self.alpha is not None and not self.alpha > 0:
            raise ValueError(f"adapter.alpha = {self.alpha} must be positive")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"adapter.dropout = {self.dropout} must lie between 0 and 1")
        for name, values, known in (("encoders", self.encoders, ENCODERS), ("targets", self.targets, TARGETS)):
            unknown = [value for value in values if value not in known]
            repeated = [value for value, count in Counter(values).items() if count > 1]
            if not values or unknown or repeated:
                raise ValueError(f"adapter.{name} = {list(values)} must be some of {', '.join(known)}, each once")

    @property
    def layer_pattern(self) -> str:
        """Regular expression of the names of the adapted layers, in a [`GADMSForPreTraining`] or [`GADMSModel`]."""
        encoders = "|".join(ENCODERS[name] for name in self.encoders)
        targets = "|".join(f"{TARGETS[name]}\\.{name}" for name in self.targets)
        return rf"(?:gadms\.)?(?:{encoders})\.encoder\.layers\.\d+\.(?:{targets})"


def add_adapter(model: GADMSForPreTraining, arguments: AdapterArguments, base: str) -> Any:
    """Wrap a model so that only an adapter, and what is new, is trained.

    Args:
        model ([`GADMSForPreTraining`]): loaded from `base`. Its layers are replaced in place.
        arguments ([`AdapterArguments`]): which layers, and how.
        base (`str`): folder or Hub id, written down as what the adapter belongs to; of a Hub id also the commit.

    Returns:
        `peft.PeftModel`: for [`GADMSTrainer`]; what it computes is, before a step, what `model` computed.

    Raises:
        ImportError: if peft is not installed.
        ValueError: if modules would stay at random.
        OSError: if the base is gone.
    """
    peft = require_peft()
    is_folder = Path(base).is_dir()
    # `model` does not tell the commit that it was loaded from; the cache, which it went through, does.
    cached = None if is_folder else try_to_load_from_cache(base, "config.json")
    revision = Path(cached).parent.name if isinstance(cached, str) else None
    whole = sorted(name for name in NEW_MODULES if getattr(model, name) is not None)
    if not arguments.train_new_modules:
        known = {name.partition(".")[0] for name in stored_shapes(base, revision)}
        whole = [name for name in whole if name == "classifier" or name not in known]
        if random := [name for name in whole if name != "classifier"]:
            raise ValueError(f"{base} has no {random[0]}: it would stay at random; set adapter.train_new_modules=true")
    config = peft.LoraConfig(
        r=arguments.rank,
        lora_alpha=2 * arguments.rank if arguments.alpha is None else arguments.alpha,
        lora_dropout=arguments.dropout,
        target_modules=arguments.layer_pattern,
        use_dora=arguments.method == "dora",
        modules_to_save=whole or None,
    )
    wrapped = peft.get_peft_model(model, config, revision=revision)
    config.base_model_name_or_path = str(Path(base).resolve()) if is_folder else base
    return wrapped


def trained_base(model: Any) -> BaseModel | None:
    """The base that a trained adapter belongs to; `None` for a model that is none of [`add_adapter`]."""
    for config in getattr(model, "peft_config", {}).values():
        return BaseModel.of(config.base_model_name_or_path, config.revision)
    return None


@dataclass(frozen=True)
class MergeReport:
    """What became of an adapter.

    Attributes:
        target (`Path`): the folder that was written.
        model_class (`str`): class of the model in it.
        base (`str`): folder or Hub id of the base.
        layers (`int`): adapted layers that were merged.
        replaced (`tuple[str, ...]`): modules that were taken from the adapter whole.
        left_out (`tuple[str, ...]`): modules of the adapter that the base's class, a retrieval model, does not have.
    """

    target: Path
    model_class: str
    base: str
    layers: int
    replaced: tuple[str, ...]
    left_out: tuple[str, ...]

    def to_text(self) -> str:
        """Return the report for people."""
        lines = [f"{self.layers} adapted layers merged into {self.base}, in float32"]
        if self.replaced:
            lines.append(f"taken from the adapter whole: {', '.join(self.replaced)}")
        if self.left_out:
            lines.append(f"left out, as the base is a {self.model_class}: {', '.join(self.left_out)}")
        return "\n".join([*lines, f"{self.model_class} written to {self.target}"])


def merge_adapter(source: str | Path, target: str | Path) -> MergeReport:
    """Write a whole model from an adapter and its base.

    Args:
        source (`str` or `Path`): folder or Hub id of the adapter.
        target (`str` or `Path`): folder to write, with weights in float32, code and processor: a
            [`GADMSForPreTraining`] if the base is one, else a [`GADMSModel`]. It is whole or not there.

    Returns:
        [`MergeReport`]

    Raises:
        ImportError: if peft is not installed.
        ValueError: if `source` is no adapter, or none that fits its base.
        OSError: if a file is missing, or `target` is there already.
    """
    target = Path(target)
    with atomic_folder(target) as folder:
        adapter = find_adapter(source)
        if adapter is None:
            raise ValueError(f"{source} holds no adapter ({ADAPTER_CONFIG})")
        model, replaced, left_out = _merged_model(adapter)
        model.save_pretrained(folder)
        GADMSProcessor.from_pretrained(adapter.folder).save_pretrained(folder)
        if (adapter.folder / RUN_RECORD).is_file():
            shutil.copyfile(adapter.folder / RUN_RECORD, folder / RUN_RECORD)
    return MergeReport(target, type(model).__name__, adapter.base.name, len(adapter.layers), replaced, left_out)


def _merged_model(
    adapter: Adapter,
) -> tuple[GADMSModel | GADMSForPreTraining, tuple[str, ...], tuple[str, ...]]:
    """The base with the adapter in it, the modules that were replaced, and those that found no place."""
    name, options = adapter.base.name, adapter.base.revision_argument
    config = load_config(name, **options)
    check_weights(name, GADMSModel, config, **options)
    whole = adapter.whole_modules
    loading: Any = {"dtype": torch.float32, "use_safetensors": True, **options}
    if config.architectures != [GADMSForPreTraining.__name__]:
        encoders = GADMSModel.from_pretrained(name, **loading)
        adapter.merge_into(encoders)
        return encoders, (), tuple(sorted(whole))

    if "classifier" in whole:
        config.num_identities = len(whole["classifier"].get("bias", ()))
    config.masked_token_prediction = config.masked_token_prediction or "token_head" in whole
    # Of what the adapter holds whole, the base may have another size, as a classifier of other persons, or nothing.
    loading |= {"config": config, "ignore_mismatched_sizes": True, "output_loading_info": True}
    loaded: Any = GADMSForPreTraining.from_pretrained(name, **loading)
    model, info = loaded
    needed = [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]
    refuse_missing_weights(name, model, {"missing_keys": [k for k in needed if k.partition(".")[0] not in whole]})
    adapter.merge_into(model.gadms)
    for module_name, weights in whole.items():
        module = getattr(model, module_name, None)
        if not isinstance(module, torch.nn.Module):
            raise ValueError(f"{adapter.folder} holds weights of {module_name}, which no GA-DMS model has")
        try:
            module.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(
                f"the {module_name} of {adapter.folder} does not fit its base {name}: {' '.join(str(error).split())}"
            ) from error
    return model, tuple(sorted(whole)), ()
