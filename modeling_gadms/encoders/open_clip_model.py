"""Models of open_clip, the second source of dual encoders: its encoders, its tokenizer and its preprocessing."""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .families import Family, ImageFit
from .processors import DualEncoderProcessor
from .weight_files import cached_commit


CONFIG = "open_clip_config.json"
"""Configuration in the folder or the repository of a model of open_clip."""
_HUB, _FOLDER, _BUILT_IN = "hf-hub:", "local-dir:", "open-clip:"
_RESIZE_MODES: Mapping[ImageFit, str] = {"squash": "squash", "pad": "longest", "crop": "shortest"}
"""open_clip's names of the ways to fit an image."""


def is_open_clip(name: str | Path) -> bool:
    """Whether [`load_open_clip`] is to load a model.

    Args:
        name (`str` or `Path`): what the user gave. A folder counts if it has open_clip's configuration and not that of
            transformers.
    """
    if str(name).startswith((_HUB, _FOLDER, _BUILT_IN)):
        return True
    folder = Path(name).expanduser()
    return (folder / CONFIG).is_file() and not (folder / "config.json").exists()


def load_open_clip(name: str | Path, image_fit: str | None = None) -> tuple["OpenClipModel", "OpenClipProcessor"]:
    """Load a model of open_clip and its processor. The model is in evaluation mode, and on the GPU if there is one.

    Args:
        name (`str` or `Path`):
            `hf-hub:owner/name`, a repository of the Hub; `open-clip:NAME/TAG`, a model and weights that open_clip
            knows by name, such as `open-clip:ViT-B-16-quickgelu/dfn2b`; `local-dir:FOLDER` or only `FOLDER`.
        image_fit (`str`, *optional*): `"squash"`, the default, `"pad"` or `"crop"`.

    Raises:
        ImportError: if open_clip is not installed or does not import.
        FileNotFoundError: if there is no such folder.
        ValueError: if open_clip does not know the name, finds no weights, has them for another activation, or shortens
            captions at random.
    """
    open_clip = _open_clip()
    source, tag = _source(name, open_clip)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # No weights but those of the whole model: without them the encoders would be those of other models, or random.
        model = open_clip.create_model(
            source, tag, device=device, require_pretrained=True, pretrained_image=False, pretrained_text=False
        )
        tokenizer = open_clip.get_tokenizer(source)
        settings = open_clip.get_model_config(source)
    except (RuntimeError, ValueError, OSError) as error:
        raise ValueError(f"open_clip cannot load {name}: {error}") from error
    if getattr(tokenizer, "reduction_fn", None) is not None:
        raise ValueError(
            f"{name} shortens captions at random (reduction_mask in its {CONFIG}), so that a caption has no fixed "
            "embedding: give another model"
        )
    is_sigmoid = model.logit_bias is not None
    family = Family(
        name="open_clip",
        model_type="open_clip",
        pooling="eos",
        padding="max_length",
        attention_mask=False,
        probability="sigmoid" if is_sigmoid else "softmax",
        embedding_dim="embed_dim",
        cannot={
            "token scores": "its encoders do not show their attention",
            "heat maps": "its encoders do not show their attention",
            "ONNX export": "only encoders of transformers are exported",
        },
    )
    processor = OpenClipProcessor(family, tokenizer, model.visual, image_fit)
    return OpenClipModel(model, settings, source, tag).eval(), processor


def _open_clip() -> ModuleType:
    try:
        import open_clip
    except ModuleNotFoundError as error:
        raise ImportError(
            f"models of open_clip need {error.name}, which is not installed: pip install 'gadms[open-clip]'"
        ) from error
    except RuntimeError as error:  # torchvision asks for operators that it could not load
        raise ImportError(
            f"open_clip does not import ({error}): install the torchvision that belongs to PyTorch {torch.__version__}"
        ) from error
    return open_clip


def _source(name: str | Path, open_clip: ModuleType) -> tuple[str, str | None]:
    """The model as open_clip names it, and the tag of its weights."""
    text = str(name)
    if text.startswith(_HUB):
        return text, None
    if text.startswith(_BUILT_IN):
        model, _, tag = text.removeprefix(_BUILT_IN).partition("/")
        if model not in (known := open_clip.list_models()):
            close = difflib.get_close_matches(model, known, n=5, cutoff=0.4)
            raise ValueError(f"open_clip has no model {model!r}; similar ones: {', '.join(close) or 'none'}")
        if tag not in (tags := open_clip.list_pretrained_tags_by_model(model)):
            raise ValueError(f"open_clip has no weights {tag!r} of {model}; it has {', '.join(tags) or 'none'}")
        weights = open_clip.get_pretrained_cfg(model, tag)
        if weights.get("quick_gelu", False) and not open_clip.get_model_config(model).get("quick_gelu", False):
            # open_clip warns and computes other embeddings.
            raise ValueError(
                f"the weights {tag} were trained with QuickGELU, which {model} does not have: give "
                f"{_BUILT_IN}{model}-quickgelu/{tag}"
            )
        return model, tag
    folder = Path(text.removeprefix(_FOLDER)).expanduser()
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} holds no {CONFIG}: it is not the folder of a model of open_clip")
    return f"{_FOLDER}{folder.resolve()}", None


class OpenClipModel(nn.Module):
    """A model of open_clip with the interface of the dual encoders of transformers.

    Args:
        model: of `open_clip.create_model`.
        settings (`Mapping`): its configuration, from `open_clip.get_model_config`.
        source (`str`), tag (`str`, *optional*): what it was loaded from, in open_clip's words.
    """

    def __init__(self, model: nn.Module, settings: Mapping[str, Any], source: str, tag: str | None):
        super().__init__()
        self.model: Any = model
        self.name_or_path = f"{_BUILT_IN}{source}/{tag}" if tag else source
        text, vision = settings["text_cfg"], settings["vision_cfg"]
        shared = {name: value for name, value in settings.items() if name not in ("text_cfg", "vision_cfg")}
        self.config = SimpleNamespace(
            model_type="open_clip",
            embed_dim=settings["embed_dim"],
            # The fingerprint of a model reads this field. Here it holds all settings, many of which leave no trace in
            # the weights, such as the activation and the number of heads.
            text_config=SimpleNamespace(hidden_act=json.dumps([shared, text], sort_keys=True)),
            vision_config=SimpleNamespace(hidden_act=json.dumps([shared, vision], sort_keys=True)),
            _commit_hash=cached_commit(source.removeprefix(_HUB), CONFIG) if source.startswith(_HUB) else None,
        )

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.logit_scale.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.logit_scale.dtype

    @property
    def logit_scale(self) -> torch.Tensor:
        """Logarithm of the factor of cosine similarities."""
        return self.model.logit_scale.detach()

    @property
    def logit_bias(self) -> torch.Tensor | None:
        """Bias of the logits of models that were trained with the sigmoid loss."""
        return None if self.model.logit_bias is None else self.model.logit_bias.detach()

    def get_text_features(self, input_ids: torch.Tensor) -> BaseModelOutputWithPooling:
        """Embed captions. `pooler_output` has shape `(num_captions, embed_dim)`."""
        return BaseModelOutputWithPooling(pooler_output=self.model.encode_text(input_ids))

    def get_image_features(self, pixel_values: torch.Tensor) -> BaseModelOutputWithPooling:
        """Embed images. `pooler_output` has shape `(num_images, embed_dim)`."""
        return BaseModelOutputWithPooling(pooler_output=self.model.encode_image(pixel_values))


class OpenClipProcessor(DualEncoderProcessor):
    """Prepare images and captions with the transforms and the tokenizer of open_clip.

    Args:
        family ([`Family`]): of the model.
        tokenizer: of `open_clip.get_tokenizer`.
        visual: image encoder of the model, which holds its preprocessing.
        image_fit (`str`, *optional*): `"squash"`, `"pad"` or `"crop"`; one of them is what open_clip itself does with
            images for this model (`resize_mode` of its configuration).
    """

    def __init__(self, family: Family, tokenizer: Any, visual: Any, image_fit: str | None = None):
        self.preprocessing: dict[str, Any] = visual.preprocess_cfg
        size = self.preprocessing["size"]
        super().__init__(
            family,
            _Tokenizer(tokenizer),  # type: ignore[arg-type]
            None,
            max_length=tokenizer.context_length,
            image_size=(size, size) if isinstance(size, int) else (size[0], size[1]),
            image_fit=image_fit,
        )

    def _images(self, images: list[Image.Image], return_tensors: str) -> dict[str, torch.Tensor]:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        mode = _RESIZE_MODES[self.image_fit]
        settings = {**self.preprocessing, "resize_mode": mode}
        if mode == "longest" and self.preprocessing["resize_mode"] != mode:
            # Padded with the mean, as in the other families, where the model does not say with what.
            settings["fill_color"] = tuple(round(255 * channel) for channel in self.preprocessing["mean"])
        transform = image_transform_v2(PreprocessCfg(**settings), is_train=False)
        return {"pixel_values": torch.stack([transform(image.convert("RGB")) for image in images])}


class _Tokenizer:
    """A tokenizer of open_clip, with what this package needs of the interface of transformers' tokenizers."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.model_max_length: int = tokenizer.context_length

    def __call__(
        self, text: str | Sequence[str], *, truncation: bool = False, return_length: bool = False, **_: Any
    ) -> dict[str, Any]:
        """Tokenize captions: truncated and padded, as a tensor; or whole, as lists of token ids."""
        if truncation:
            return {"input_ids": self.tokenizer([text] if isinstance(text, str) else list(text))}
        if isinstance(text, str):
            return {"input_ids": self._whole(text)}
        tokens = [self._whole(caption) for caption in text]
        return {"input_ids": tokens, **({"length": [len(each) for each in tokens]} if return_length else {})}

    def _whole(self, caption: str) -> list[int]:
        # More room than any caption takes: the last position is padding, and so are all before it that are equal.
        room = 8 + 2 * len(caption.encode())
        tokens = self.tokenizer([caption], context_length=room)[0].tolist()
        padding = tokens[-1]
        while tokens[-1] == padding:
            tokens.pop()
        end = getattr(getattr(self.tokenizer, "tokenizer", None), "eos_token_id", None)
        return [*tokens, padding] if padding == end else tokens
