"""Train a LoRA or DoRA adapter on both encoders, and merge it into its base model.

LoRA adds a trained product of two thin matrices to each linear layer of the encoders' blocks. DoRA also trains the
norm of each row of the weight. Before training both compute what the base computes. Only the small matrices are saved,
and they merge into the weights, so that a merged model costs nothing extra. Other methods of peft are not offered: IA3
and LN-tuning only rescale activations, and VeRA depends on random projections that are stored or drawn again.
"""

import shutil
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
TARGETS = dict.fromkeys(("q_proj", "k_proj", "v_proj", "out_proj"), "self_attn") | dict.fromkeys(("fc1", "fc2"), "mlp")


@dataclass(frozen=True)
class AdapterArguments:
    """Section `adapter` of a run file: train an adapter on `model.from_pretrained` instead of all its weights.

    The temperature is not trained, even if the base's configuration sets `learn_temperature`.

    Args:
        method (`str`, *optional*, defaults to `"lora"`): `"lora"` or `"dora"`.
        rank (`int`, *optional*, defaults to 16): rank of the trained matrices.
        alpha (`float`, *optional*): scale of their product, divided by the rank. By default twice the rank.
        dropout (`float`, *optional*, defaults to 0.0): dropout on the input of the trained matrices.
        encoders (`list[str]`, *optional*, defaults to both): `"text"` and `"image"`.
        targets (`list[str]`, *optional*, defaults to all):
            Layers of each block: `"q_proj"`, `"k_proj"`, `"v_proj"`, `"out_proj"`, `"fc1"`, `"fc2"`.
        train_new_modules (`bool`, *optional*, defaults to `True`):
            Whether the fusion encoder and the token head are also trained, and saved whole. A base trained by GA-DMS
            has them; in a base converted from CLIP they are random. The identity classifier is always new, and is
            trained and saved in either case.

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
            if not values or not known.keys() >= set(values) or len(set(values)) < len(values):
                raise ValueError(f"adapter.{name} = {list(values)} must be some of {', '.join(known)}, each once")

    @property
    def layer_pattern(self) -> str:
        """Regular expression of the adapted layers' names in a [`GADMSForPreTraining`] or [`GADMSModel`]."""
        encoders = "|".join(ENCODERS[name] for name in self.encoders)
        targets = "|".join(f"{TARGETS[name]}\\.{name}" for name in self.targets)
        return rf"(?:gadms\.)?(?:{encoders})\.encoder\.layers\.\d+\.(?:{targets})"


def add_adapter(model: GADMSForPreTraining, arguments: AdapterArguments, base: str) -> Any:
    """Wrap a model so that only an adapter and the new modules are trained.

    Args:
        model ([`GADMSForPreTraining`]): loaded from `base`. Its layers are replaced in place.
        arguments ([`AdapterArguments`]): which layers, and how.
        base (`str`): folder or Hub id. It is saved with the adapter, for a Hub id together with the commit.

    Returns:
        `peft.PeftModel`: for [`GADMSTrainer`]. Before training it computes what `model` computed.

    Raises:
        ImportError: if peft is not installed.
        ValueError: if modules would stay random, or the token head shares the token embeddings.
        OSError: if the base is missing.
    """
    peft = require_peft()
    is_folder = Path(base).is_dir()
    # The model does not know the commit that it was loaded from. The cache does.
    cached = None if is_folder else try_to_load_from_cache(base, "config.json")
    revision = Path(cached).parent.name if isinstance(cached, str) else None
    whole = sorted(name for name in NEW_MODULES if getattr(model, name) is not None)
    if not arguments.train_new_modules:
        known = {name.partition(".")[0] for name in stored_shapes(base, revision)}
        if random := [name for name in whole if name != "classifier" and name not in known]:
            raise ValueError(f"{base} has no {random[0]}: it would stay random; set adapter.train_new_modules=true")
        whole = [name for name in whole if name == "classifier"]
    if "token_head" in whole and model.config.tie_word_embeddings:
        raise ValueError(
            "the token head shares the token embeddings, which an adapter does not train: set "
            "model.tie_word_embeddings=false for a head of its own, or adapter.train_new_modules=false"
        )
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


def record_base(model: Any) -> dict[str, Any] | None:
    """Return the run record's entry for the base of a model from [`add_adapter`]; `None` for any other model."""
    for config in getattr(model, "peft_config", {}).values():
        return BaseModel(config.base_model_name_or_path, config.revision).to_record()
    return None


@dataclass(frozen=True)
class MergeReport:
    """Result of [`merge_adapter`]."""

    target: Path  # the folder that was written
    model_class: str  # of the model in it
    base: str  # folder or Hub id
    layers: int  # number of merged layers
    replaced: tuple[str, ...]  # modules taken whole from the adapter
    dropped: tuple[str, ...]  # modules of the adapter that a `GADMSModel` does not have

    def to_text(self) -> str:
        """Return the report for people."""
        lines = [f"{self.layers} adapted layers merged into {self.base}, in float32"]
        if self.replaced:
            lines.append(f"taken whole from the adapter: {', '.join(self.replaced)}")
        if self.dropped:
            lines.append(f"dropped, as the base is a {self.model_class}: {', '.join(self.dropped)}")
        return "\n".join([*lines, f"{self.model_class} written to {self.target}"])


def merge_adapter(source: str | Path, target: str | Path) -> MergeReport:
    """Write a whole model from an adapter and its base.

    Args:
        source (`str` or `Path`): folder or Hub id of the adapter.
        target (`str` or `Path`):
            New or empty folder for the weights in float32, the code and the processor. The model is a
            [`GADMSForPreTraining`] if the base is one, else a [`GADMSModel`]. Nothing is written if merging fails.

    Returns:
        [`MergeReport`]

    Raises:
        ImportError: if peft is not installed.
        ValueError: if `source` is not an adapter, or does not fit its base.
        OSError: if a file is missing, or `target` already exists.
    """
    target = Path(target)
    with atomic_folder(target) as folder:
        adapter = find_adapter(source)
        if adapter is None:
            raise ValueError(f"{source} holds no adapter ({ADAPTER_CONFIG})")
        model = _load_base(adapter)
        adapter.merge_into(model)
        model.save_pretrained(folder)
        GADMSProcessor.from_pretrained(adapter.folder).save_pretrained(folder)
        if (adapter.folder / RUN_RECORD).is_file():
            shutil.copyfile(adapter.folder / RUN_RECORD, folder / RUN_RECORD)
    whole = tuple(adapter.whole_modules)
    replaced, dropped = (whole, ()) if isinstance(model, GADMSForPreTraining) else ((), whole)
    return MergeReport(target, type(model).__name__, adapter.base.name, len(adapter.layers), replaced, dropped)


def _load_base(adapter: Adapter) -> GADMSModel | GADMSForPreTraining:
    name, options = adapter.base.name, adapter.base.revision_argument
    config = load_config(name, **options)
    check_weights(name, GADMSModel, config, options.get("revision"))
    whole = adapter.whole_modules
    loading: Any = {"dtype": torch.float32, "use_safetensors": True, **options}
    if config.architectures != [GADMSForPreTraining.__name__]:
        return GADMSModel.from_pretrained(name, **loading)

    bias = adapter.weights.get("classifier.bias")
    config.num_identities = config.num_identities if bias is None else len(bias)
    config.masked_token_prediction = config.masked_token_prediction or "token_head" in whole
    # The base may lack the modules that the adapter saved whole, or have a classifier of another size.
    loading |= {"config": config, "ignore_mismatched_sizes": True, "output_loading_info": True}
    loaded: Any = GADMSForPreTraining.from_pretrained(name, **loading)
    model, info = loaded
    needed = [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]
    refuse_missing_weights(name, model, {"missing_keys": [k for k in needed if k.partition(".")[0] not in whole]})
    return model
