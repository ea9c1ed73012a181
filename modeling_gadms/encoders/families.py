"""The families of dual encoders: what differs between them in preparing text and images, and in the score."""

import math
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal

from tokenizers.normalizers import Lowercase
from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import PILImageResampling


ImageFit = Literal["squash", "pad", "crop", "keep"]
"""How an image is brought to the input size of a model.

- `"squash"`: resized to it, whatever its proportions;
- `"pad"`: padded to its proportions, with the colour that is normalised to zero, and resized;
- `"crop"`: resized until it covers it, and cropped at the centre;
- `"keep"`: resized in its own proportions, by a model that takes images of any.
"""
Pooling = Literal["eos", "first", "last", "mean"]
"""Where a text encoder reads the embedding of a caption: at its EOS token, at its first token, at the last position of
the batch (whether padding or not), or as the mean over its tokens."""
Score = Literal["logit_scale", "temperature"]
"""The parameter that scales cosine similarities: multiplied by `exp(logit_scale)`, with `logit_bias` added where the
model has one, or divided by `temperature`."""


class Tipsv2ImageProcessorPil(PilBackend):
    """TIPSv2's image processor for PIL images; the one in transformers needs torchvision."""

    resample = PILImageResampling.BILINEAR
    size = {"height": 448, "width": 448}
    do_resize = True
    do_rescale = True
    do_normalize = False
    do_convert_rgb = True


@dataclass(frozen=True)
class Family:
    """A family of dual encoders.

    Attributes:
        name (`str`): as its authors write it.
        model_type (`str`): `model_type` of its configurations.
        pooling (`Pooling`): where captions are pooled.
        legacy_eos (`bool`): whether an `eos_token_id` of 2 stands for the highest token, as in early CLIP files.
        padding (`str`): `"longest"`, or `"max_length"` where padding is part of what the model was trained on.
        attention_mask (`bool`): whether the text encoder takes the mask of padding.
        max_length (`int`, *optional*): maximum number of tokens, if it is lower than the model's positions.
        reserved_positions (`int`): positions of the text encoder that no token can have.
        clean (`Callable[[str], str]`, *optional*): what is done to a caption before it is tokenized.
        pad_token (`str`, *optional*): padding token, to tell families with the same `model_type` apart.
        score (`Score`): how cosine similarities become logits.
        probability (`str`): `"softmax"` over the texts, or `"sigmoid"` of each logit.
        embedding_dim (`str`): path in the configuration of the width of embeddings.
        image_fits (`tuple[ImageFit, ...]`): the supported ways to fit images, the default first.
        image_processor (`type`, *optional*): image processor for PIL images, where transformers has none.
        any_image_size (`bool`): whether the image encoder takes other sizes than that in its configuration.
        languages (`str`, *optional*): languages of the captions it was trained on, if known.
        scripts (`tuple[str, ...]`):
            Scripts of these languages, as in the names of Unicode's characters; empty if there is no limit.
        cannot (`Mapping[str, str]`): for each command or function that does not support the family, the reason.
    """

    name: str
    model_type: str
    pooling: Pooling
    legacy_eos: bool = False
    padding: Literal["longest", "max_length"] = "longest"
    attention_mask: bool = True
    max_length: int | None = None
    reserved_positions: int = 0
    clean: Callable[[str], str] | None = None
    pad_token: str | None = None
    score: Score = "logit_scale"
    probability: Literal["softmax", "sigmoid"] = "softmax"
    embedding_dim: str = "projection_dim"
    image_fits: tuple[ImageFit, ...] = ("squash", "pad", "crop")
    image_processor: type[PilBackend] | None = None
    any_image_size: bool = False
    languages: str | None = None
    scripts: tuple[str, ...] = ()
    cannot: Mapping[str, str] = field(default_factory=dict)

    def width(self, config: Any) -> int:
        """Width of the embeddings of a model with this configuration."""
        return int(attrgetter(self.embedding_dim)(config))

    def text_length(self, config: Any) -> int:
        """Maximum number of tokens of a caption, special ones included."""
        positions = int(config.text_config.max_position_embeddings) - self.reserved_positions
        return positions if self.max_length is None else min(self.max_length, positions)

    def check_fit(self, image_fit: str | None) -> ImageFit:
        """Return a way to fit images, by default the family's own.

        Raises:
            ValueError: if the family does not support it.
        """
        for known in self.image_fits:
            if image_fit in (None, known):
                return known
        raise ValueError(
            f"image_fit = {image_fit!r} is not possible with {self.name}: choose from {', '.join(self.image_fits)}"
        )

    def check_can(self, what: str) -> None:
        """Check that a command or function supports the family.

        Raises:
            ValueError: if it does not, with the reason.
        """
        if what in self.cannot:
            raise ValueError(f"{self.name} models do not support {what}: {self.cannot[what]}")

    def logits(self, model: Any, similarities: Any) -> Any:
        """The logits that a model gives to cosine similarities, as its `forward` does.

        Args:
            model: the model of transformers, with its learned scale.
            similarities (`torch.Tensor`): of any shape.
        """
        if self.score == "temperature":
            return similarities / float(model.temperature)
        bias = getattr(model, "logit_bias", None)
        scaled = similarities * math.exp(float(model.logit_scale))
        return scaled if bias is None else scaled + float(bias)


def lower_case(text: str) -> str:
    """Lower-case a caption as the normaliser of SigLIP 2's tokenizer does."""
    return Lowercase().normalize_str(text)


def canonical(text: str) -> str:
    """Lower-case a caption and remove its punctuation, as SigLIP's captions were prepared.

    >>> canonical("A man,  with a T-shirt.")
    'a man with a tshirt'
    """
    return " ".join(text.lower().translate(str.maketrans("", "", string.punctuation)).split())


_NO_EXPLANATION = "their token scores and heat maps are defined for GA-DMS only"
_CLIP_LIKE: dict[str, Any] = {"languages": "English", "scripts": ("LATIN",), "cannot": {"explain": _NO_EXPLANATION}}
_MULTILINGUAL: dict[str, Any] = {"languages": "many languages", "cannot": {"explain": _NO_EXPLANATION}}
_SIGLIP: dict[str, Any] = {
    "pooling": "last",
    "padding": "max_length",
    "attention_mask": False,
    "max_length": 64,
    "probability": "sigmoid",
    "embedding_dim": "vision_config.hidden_size",
}

GADMS = Family("GA-DMS", "gadms", pooling="eos", score="temperature", image_fits=("squash",))
FAMILIES = (
    GADMS,
    Family("CLIP", "clip", pooling="eos", legacy_eos=True, **_CLIP_LIKE),
    Family("CLIPSeg", "clipseg", pooling="eos", legacy_eos=True, any_image_size=True, **_CLIP_LIKE),
    Family("MetaCLIP 2", "metaclip_2", pooling="eos", **_MULTILINGUAL),
    Family("SigLIP", "siglip", pad_token="</s>", clean=canonical, **_SIGLIP, cannot={"explain": _NO_EXPLANATION}),
    Family("SigLIP 2", "siglip", pad_token="<pad>", clean=lower_case, **_SIGLIP, **_MULTILINGUAL),
    Family("SigLIP 2 NaFlex", "siglip2", clean=lower_case, image_fits=("keep",), **_SIGLIP, **_MULTILINGUAL),
    Family(
        "ALIGN", "align", pooling="first", max_length=64, score="temperature", any_image_size=True, **_CLIP_LIKE
    ),  # fmt: skip
    Family(
        "Chinese-CLIP",
        "chinese_clip",
        pooling="first",
        languages="Chinese",
        scripts=("CJK",),
        cannot={"explain": _NO_EXPLANATION},
    ),
    # XLM-RoBERTa numbers positions from its padding token, 1, on.
    Family("AltCLIP", "altclip", pooling="first", reserved_positions=2, **_MULTILINGUAL),
    Family(
        "TIPSv2",
        "tipsv2",
        pooling="mean",
        clean=lower_case,
        score="temperature",
        embedding_dim="vision_config.hidden_size",
        image_processor=Tipsv2ImageProcessorPil,
        any_image_size=True,
        **_CLIP_LIKE,
    ),
)
"""The supported families, as `gadms index` and everything else that loads a model takes them."""

UNSUPPORTED = {
    "blip": "its published weights have no projections for BlipModel's embeddings; their retrieval head is another "
    "class, BlipForImageTextRetrieval, which compares an image with a text jointly",
    "blip-2": "it gives 32 embeddings for an image and takes the best of them for each text, and a gallery has one "
    "embedding for an image",
    "videoprism": "it encodes clips of several frames, and a gallery consists of single images",
}
"""The other members of transformers' zero-shot image classification, by `model_type`, with the reason."""


def find_families(config: PreTrainedConfig, name: str) -> list[Family]:
    """The families of a configuration: several only if their tokenizer tells them apart.

    Args:
        config (`PreTrainedConfig`): of any model.
        name (`str`): what was loaded, for the error.

    Raises:
        ValueError: if there is none, with those that are supported.
    """
    if found := [family for family in FAMILIES if family.model_type == config.model_type]:
        return found
    reason = f"; it does not fit: {UNSUPPORTED[config.model_type]}" if config.model_type in UNSUPPORTED else ""
    known = ", ".join(family.name for family in FAMILIES)
    raise ValueError(
        f"{name} holds a model of type {config.model_type!r}, not one of the supported dual encoders of images and "
        f"captions{reason}. Give a model of one of these families: {known}. `gadms convert` reads checkpoints of "
        "other code bases"
    )


def find_family(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, name: str) -> Family:
    """The family of a configuration and its tokenizer.

    Raises:
        ValueError: as [`find_families`], or if the tokenizer belongs to none.
    """
    candidates = find_families(config, name)
    for family in candidates:
        if family.pad_token in (None, tokenizer.pad_token):
            return family
    expected = " or ".join(f"{family.pad_token} ({family.name})" for family in candidates)
    raise ValueError(
        f"{name}: its tokenizer pads with {tokenizer.pad_token!r}, not with {expected}: it belongs to another model"
    )
