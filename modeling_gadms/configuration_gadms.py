"""GA-DMS model configuration."""

import difflib
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, ClassVar, TypeVar, cast

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.models.clip.configuration_clip import CLIPTextConfig, CLIPVisionConfig

from .pipeline_gadms import register_pipeline


# `pipeline` loads the configuration first, also from a folder with its own code.
register_pipeline()

EncoderConfig = TypeVar("EncoderConfig", CLIPTextConfig, CLIPVisionConfig)

TOKEN_SCORES = ("gass", "cosine", "random", "none")
ALIGNMENTS = ("sdm", "itc")

# Keys that transformers writes into a configuration, or passes through it, without declaring them as fields.
_BASE_KEYS = frozenset(
    "auto_map attn_implementation _attn_implementation _commit_hash _name_or_path experts_implementation model_type "
    "name_or_path num_labels output_attentions torch_dtype use_bfloat16 use_cache".split()
)


def check_keys(given: Iterable[str], known: Iterable[str], place: str) -> None:
    """Check that all given keys are known.

    Raises:
        ValueError: naming the first unknown key, its place and the closest known key.
    """
    known = sorted(known)
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"known keys: {', '.join(known)}"
            raise ValueError(f"unknown key `{key}` in {place}; {hint}")


def _field_names(config_class: type) -> set[str]:
    return {field.name for field in fields(config_class)} | _BASE_KEYS


@strict
class GADMSConfig(PreTrainedConfig):
    r"""Configuration of [`GADMSModel`] and [`GADMSForPreTraining`]. The defaults are the paper's ViT-B/16 model.

    Symbols and equation numbers refer to GA-DMS (arXiv 2509.09118). Where the released training configuration differs
    from the paper, the default is the paper's value and the released value is given in brackets.

    Args:
        text_config (`dict` or [`~transformers.CLIPTextConfig`], *optional*):
            Text encoder. Its `eos_token_id` must be the tokenizer's: for the legacy value `2`, transformers' CLIP
            pools at the largest id, which is the mask token in a masked caption.
        vision_config (`dict` or [`~transformers.CLIPVisionConfig`], *optional*):
            Image encoder. `image_size` is `(height, width)` in pixels, or one number for a square.
        projection_dim (`int`, *optional*, defaults to 512):
            Width of the shared embedding space, and of the multimodal interaction encoder.
        mask_token_id (`int`, *optional*, defaults to 49408):
            Id of the mask token. Research checkpoints reuse 49405.
        token_score (`str`, *optional*, defaults to `"gass"`):
            Relevance score of a caption token to the image: `"gass"` (eq. 1-4), `"cosine"` (cosine of token and
            image), `"random"` (no score: every caption token is masked with probability `noise_mask_rate` and
            `informative_mask_rate`, as in IRRA) or `"none"` (no masking).
        score_layers (`int`, *optional*, defaults to 8):
            L, the number of last text layers that GASS reads.
        score_scales (`tuple[int, ...]`, *optional*, defaults to `(1, 2)`):
            Window lengths, in tokens, of the multi-scale pooling in eq. 1.
        noise_masking (`bool`, *optional*, defaults to `True`):
            Whether the alignment loss uses the noise-masked caption instead of the caption.
        masked_token_prediction (`bool`, *optional*, defaults to `True`):
            Whether informative tokens are masked and predicted (the MTP term).
        noise_mask_rate (`float`, *optional*, defaults to 0.2):
            alpha_n, the maximum probability of masking a token as noise.
        informative_mask_rate (`float`, *optional*, defaults to 0.3):
            alpha_i, the maximum probability of masking a token as informative.
        mask_sharpness (`float`, *optional*, defaults to 20.0):
            lambda, the slope of both masking probabilities (released configuration; not stated in the paper).
        noise_mask_threshold (`float`, *optional*, defaults to 0.9):
            gamma_n, the irrelevance `1 - s` at which the probability is alpha_n / 2 (released configuration).
        informative_mask_threshold (`float`, *optional*, defaults to 0.1):
            gamma_i, the score `s` at which the probability is alpha_i / 2 (released configuration).
        alignment (`str`, *optional*, defaults to `"sdm"`):
            `"sdm"` (similarity distribution matching) or `"itc"` (image-text contrastive).
        temperature (`float`, *optional*, defaults to 0.02):
            tau of both alignment losses, or the initial value of a learned temperature.
        learn_temperature (`bool`, *optional*, defaults to `False`):
            Whether the temperature is trained. This helps when training starts from random weights.
        sdm_epsilon (`float`, *optional*, defaults to 1e-8):
            epsilon inside the logarithm of SDM.
        mtp_weight (`float`, *optional*, defaults to 0.4):
            beta, weight of the MTP term (released configuration: 0.3).
        identity_weight (`float`, *optional*, defaults to 1.0):
            Weight of the identity term; used only with `num_identities`. IRRA's value; not stated in the paper.
        num_identities (`int`, *optional*, defaults to 0):
            Number of training identities of the shared identity classifier (fine-tuning); 0 for no classifier.
        fusion_num_hidden_layers (`int`, *optional*, defaults to 4):
            Transformer layers of the multimodal interaction encoder, after its cross-attention.
        fusion_num_attention_heads (`int`, *optional*, defaults to 8):
            Attention heads of the multimodal interaction encoder.
        fusion_intermediate_size (`int`, *optional*, defaults to 2048):
            Feed-forward width of the multimodal interaction encoder.
        initializer_factor (`float`, *optional*, defaults to 1.0):
            Factor on the standard deviations of random weights, as in CLIP.

    Raises:
        ValueError: for an unknown key, or an image size that is neither a number nor a pair of numbers.
        huggingface_hub.errors.StrictDataclassError: for a value of the wrong type or out of range, or an image size
            that is not a multiple of the patch size.
    """

    model_type = "gadms"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {"text_config": CLIPTextConfig, "vision_config": CLIPVisionConfig}

    text_config: dict | CLIPTextConfig | None = None
    vision_config: dict | CLIPVisionConfig | None = None
    projection_dim: int = 512
    mask_token_id: int = 49408

    token_score: str = "gass"
    score_layers: int = 8
    score_scales: list[int] | tuple[int, ...] = (1, 2)

    noise_masking: bool = True
    masked_token_prediction: bool = True
    noise_mask_rate: float | int = 0.2
    informative_mask_rate: float | int = 0.3
    mask_sharpness: float | int = 20.0
    noise_mask_threshold: float | int = 0.9
    informative_mask_threshold: float | int = 0.1

    alignment: str = "sdm"
    temperature: float | int = 0.02
    learn_temperature: bool = False
    sdm_epsilon: float = 1e-8
    mtp_weight: float | int = 0.4
    identity_weight: float | int = 1.0
    num_identities: int = 0

    fusion_num_hidden_layers: int = 4
    fusion_num_attention_heads: int = 8
    fusion_intermediate_size: int = 2048
    initializer_factor: float | int = 1.0

    def __post_init__(self, **kwargs: Any) -> None:
        check_keys(kwargs, _field_names(GADMSConfig), "GADMSConfig")
        # CLIP has no mask token: ours is appended to its vocabulary as id 49408.
        text_defaults = CLIPTextConfig(vocab_size=49409)
        vision_defaults = CLIPVisionConfig(image_size=(384, 128), patch_size=16)
        self.text_config = self._sub_config("text_config", CLIPTextConfig, text_defaults)
        self.vision_config = self._sub_config("vision_config", CLIPVisionConfig, vision_defaults)
        # JSON has no tuples: convert lists, so that a loaded configuration equals the saved one.
        self.vision_config.image_size = _height_and_width(self.vision_config.image_size)
        self.score_scales = tuple(self.score_scales)
        super().__post_init__(**kwargs)
        # A saved folder contains the code of all classes, whichever of them was saved.
        self.auto_map = {
            "AutoConfig": "configuration_gadms.GADMSConfig",
            "AutoModel": "modeling_gadms.GADMSModel",
            "AutoModelForPreTraining": "modeling_gadms.GADMSForPreTraining",
            # For `pipeline("zero-shot-image-classification")`.
            "AutoModelForZeroShotImageClassification": "modeling_gadms.GADMSModel",
            "AutoProcessor": "processing_gadms.GADMSProcessor",
        }

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Overridden because the base class replaces saved values without the checks of the constructor."""
        config_dict = dict(config_dict)
        own_fields = {field.name for field in fields(cls)} - {field.name for field in fields(PreTrainedConfig)}
        for name in own_fields & kwargs.keys():
            value, saved = kwargs.pop(name), config_dict.get(name)
            config_dict[name] = {**saved, **value} if isinstance(value, dict) and isinstance(saved, dict) else value
        return super().from_dict(config_dict, **kwargs)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return cast(tuple[int, int], self.vision_config.image_size)

    @property
    def patch_grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        (height, width), side = self.image_size, cast(int, self.vision_config.patch_size)
        return height // side, width // side

    def _sub_config(self, name: str, config_class: type[EncoderConfig], defaults: EncoderConfig) -> EncoderConfig:
        value = getattr(self, name)
        if value is None:
            return defaults
        if isinstance(value, dict):
            check_keys(value, _field_names(config_class), f"GADMSConfig.{name}")
            try:
                # A partial dictionary is completed by our defaults (the paper's sizes), not by CLIP's.
                return config_class(**{**declared_settings(defaults), **value})
            except StrictDataclassError as error:
                raise StrictDataclassError(f"GADMSConfig.{name}: {' '.join(str(error).split())}") from error
        return value

    def validate_architecture(self) -> None:
        """Check ranges and relations of fields; `@strict` calls this method."""
        self._validate_encoders()
        for name in ("projection_dim", "fusion_num_attention_heads", "fusion_intermediate_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")
        if self.projection_dim % self.fusion_num_attention_heads:
            raise ValueError(
                f"projection_dim = {self.projection_dim} must be a multiple of fusion_num_attention_heads = "
                f"{self.fusion_num_attention_heads}"
            )
        for name, choices in (("token_score", TOKEN_SCORES), ("alignment", ALIGNMENTS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} = {getattr(self, name)!r} must be one of {', '.join(choices)}")
        num_layers = self.text_config.num_hidden_layers
        if not 1 <= self.score_layers <= num_layers:
            raise ValueError(f"score_layers = {self.score_layers} must lie between 1 and the {num_layers} text layers")
        if not self.score_scales or any(not isinstance(scale, int) or scale < 1 for scale in self.score_scales):
            raise ValueError(f"score_scales = {self.score_scales} must be one or more positive whole numbers")
        for name in ("noise_mask_rate", "informative_mask_rate", "noise_mask_threshold", "informative_mask_threshold"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} = {getattr(self, name)} must lie between 0 and 1")
        for name in ("mask_sharpness", "temperature", "sdm_epsilon"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} = {getattr(self, name)} must be positive")
        for name in ("mtp_weight", "identity_weight", "num_identities", "fusion_num_hidden_layers"):
            if not getattr(self, name) >= 0:  # also refuses NaN
                raise ValueError(f"{name} = {getattr(self, name)} must not be negative")

    def _validate_encoders(self) -> None:
        text, patch_size = self.text_config, self.vision_config.patch_size
        height, width = self.image_size
        if min(height, width) < 1:
            raise ValueError(f"image_size (height, width) = ({height}, {width}) must be positive")
        if not isinstance(patch_size, int) or height % patch_size or width % patch_size:
            raise ValueError(
                f"image_size (height, width) = ({height}, {width}) must be a multiple of patch_size = {patch_size}: "
                "patches would not cover the image"
            )
        if not 0 <= self.mask_token_id < text.vocab_size:
            raise ValueError(
                f"mask_token_id = {self.mask_token_id} is outside the vocabulary of {text.vocab_size} tokens; "
                "set the tokenizer's mask token, and a text_config.vocab_size that contains it"
            )
        if not isinstance(text.eos_token_id, int) or not 0 <= text.eos_token_id < text.vocab_size:
            raise ValueError(
                f"text_config.eos_token_id = {text.eos_token_id} must be one id inside the vocabulary of "
                f"{text.vocab_size} tokens: captions are embedded at that token"
            )
        if text.eos_token_id == 2 and self.mask_token_id > 2:
            raise ValueError(
                "text_config.eos_token_id = 2 makes transformers' CLIP embed captions at their largest id, which is "
                f"the mask token ({self.mask_token_id}) in a masked caption; set the tokenizer's true EOS id "
                "(49407 for OpenAI's tokenizer)"
            )
        if self.mask_token_id == text.eos_token_id:
            raise ValueError(
                f"mask_token_id = {self.mask_token_id} is also text_config.eos_token_id: a mask would end the caption"
            )


def _height_and_width(image_size: int | list[int] | tuple[int, int] | None) -> tuple[int, int]:
    if isinstance(image_size, int):
        return image_size, image_size
    if image_size is None or len(image_size) != 2:
        raise ValueError(
            f"vision_config.image_size = {image_size} must be (height, width) in pixels, or one number for a square"
        )
    height, width = image_size
    return height, width


def encoder_configs(config: GADMSConfig) -> tuple[CLIPTextConfig, CLIPVisionConfig]:
    """The configurations of the text and the image encoder, with their static types."""
    return cast(CLIPTextConfig, config.text_config), cast(CLIPVisionConfig, config.vision_config)


def declared_settings(config: PreTrainedConfig) -> dict[str, Any]:
    """The fields that the class of a configuration declares itself, without inherited and undeclared ones."""
    base = {field.name for field in fields(PreTrainedConfig)}
    return {field.name: getattr(config, field.name) for field in fields(config) if field.name not in base}


__all__ = ["GADMSConfig"]
