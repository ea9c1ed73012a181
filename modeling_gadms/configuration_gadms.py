"""GA-DMS model configuration."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, ClassVar, TypeAlias, cast

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.models.clip.configuration_clip import CLIPTextConfig, CLIPVisionConfig
from transformers.models.metaclip_2.configuration_metaclip_2 import MetaClip2TextConfig, MetaClip2VisionConfig
from transformers.models.siglip.configuration_siglip import SiglipTextConfig, SiglipVisionConfig
from transformers.models.siglip2.configuration_siglip2 import Siglip2TextConfig, Siglip2VisionConfig

from .pipeline_gadms import register_pipeline


# `pipeline` loads the configuration first, also from a folder with its own code.
register_pipeline()

TextConfig: TypeAlias = CLIPTextConfig | MetaClip2TextConfig | SiglipTextConfig | Siglip2TextConfig
VisionConfig: TypeAlias = CLIPVisionConfig | MetaClip2VisionConfig | SiglipVisionConfig

# Defaults of each kind of encoder where the paper's, or the tokenizer's, differ from transformers'. No dual encoder
# has a mask token: ours is appended to the vocabulary.
_PERSON_IMAGE: dict[str, Any] = {"image_size": (384, 128), "patch_size": 16}
# transformers' defaults are CLIP's ids, which lie outside SigLIP's vocabulary. SigLIP's captions have no BOS.
_SIGLIP_TOKENS: dict[str, Any] = {"vocab_size": 32001, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1}
TEXT_ENCODERS: dict[str, TextConfig] = {
    config.model_type: config
    for config in (
        CLIPTextConfig(vocab_size=49409),
        MetaClip2TextConfig(vocab_size=49409),
        SiglipTextConfig(**_SIGLIP_TOKENS),
        Siglip2TextConfig(**_SIGLIP_TOKENS),
    )
}
IMAGE_ENCODERS: dict[str, VisionConfig] = {
    config_class.model_type: config_class(**_PERSON_IMAGE)
    for config_class in (CLIPVisionConfig, MetaClip2VisionConfig, SiglipVisionConfig)
}

TOKEN_SCORES = ("gass", "cosine", "random", "none")
ALIGNMENTS = ("sdm", "itc")
IMAGE_POOLINGS = ("encoder", "patches")

_LARGE_VOCABULARY = 65_536
"""Above this number of tokens, the token head shares the token embeddings by default."""

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
            Text encoder. Its `model_type` is `"clip_text_model"` (the default), `"metaclip_2_text_model"`,
            `"siglip_text_model"` or `"siglip2_text_model"`. Its `eos_token_id` must be the tokenizer's: for the
            legacy value `2`, transformers' CLIP pools at the largest id, which is the mask token in a masked caption.
            SigLIP reads padding, so its `pad_token_id` must be the tokenizer's too; its `bos_token_id` is `None` if
            captions do not begin with that token.
        vision_config (`dict` or [`~transformers.CLIPVisionConfig`], *optional*):
            Image encoder. Its `model_type` is `"clip_vision_model"` (the default), `"metaclip_2_vision_model"` or
            `"siglip_vision_model"`, which is also that of SigLIP 2 at a fixed resolution. `image_size` is
            `(height, width)` in pixels, or one number for a square.
        projection_dim (`int`, *optional*, defaults to 512):
            Width of the shared embedding space, and of the multimodal interaction encoder. With SigLIP's image
            encoder, which has no projection, it must be the width of that encoder.
        image_pooling (`str`, *optional*, defaults to `"encoder"`):
            What the embedding of an image is made of. `"encoder"`: what the image encoder pools, CLIP's class token or
            SigLIP's attention head, as in the paper. `"patches"`: a linear map of all patch tokens, with weights of
            its own for each position, in the manner of part-based person re-identification (PCB, Sun et al., ECCV
            2018). From random weights, it learns in fewer steps which garment has a colour.
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
        tie_word_embeddings (`bool`, *optional*):
            Whether the token head predicts with the token embeddings instead of a matrix of its own. By default only
            for vocabularies of more than 65,536 tokens, where that matrix would be the largest of the model: for
            SigLIP 2's 256,000 tokens it has 197 million weights (`benchmarks/backbones`).
        initializer_factor (`float`, *optional*, defaults to 1.0):
            Factor on the standard deviations of random weights, as in CLIP.

    Raises:
        ValueError: for an unknown key, an encoder of another kind, or an image size that is neither a number nor a
            pair of numbers.
        huggingface_hub.errors.StrictDataclassError: for a value of the wrong type or out of range, or an image size
            that is not a multiple of the patch size.
    """

    model_type = "gadms"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {"text_config": CLIPTextConfig, "vision_config": CLIPVisionConfig}

    text_config: dict | PreTrainedConfig | None = None
    vision_config: dict | PreTrainedConfig | None = None
    projection_dim: int = 512
    image_pooling: str = "encoder"
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
    tie_word_embeddings: bool | None = None
    initializer_factor: float | int = 1.0

    def __post_init__(self, **kwargs: Any) -> None:
        check_keys(kwargs, _field_names(GADMSConfig), "GADMSConfig")
        self.text_config = self._sub_config("text_config", TEXT_ENCODERS)
        self.vision_config = self._sub_config("vision_config", IMAGE_ENCODERS)
        # JSON has no tuples: convert lists, so that a loaded configuration equals the saved one.
        self.vision_config.image_size = _height_and_width(self.vision_config.image_size)
        self.score_scales = tuple(self.score_scales)
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = self.text_config.vocab_size > _LARGE_VOCABULARY
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

    def _sub_config(self, name: str, known: Mapping[str, PreTrainedConfig]) -> PreTrainedConfig:
        value = getattr(self, name)
        if value is None:
            value = {}
        if not isinstance(value, (dict, PreTrainedConfig)):
            raise ValueError(f"GADMSConfig.{name} = {value!r} must be a dictionary of settings")
        # Folders of before other encoders were known may not name theirs: it is CLIP's, the first one.
        model_type = value.get("model_type", next(iter(known))) if isinstance(value, dict) else value.model_type
        if model_type == Siglip2VisionConfig.model_type:
            raise ValueError(
                f"GADMSConfig.{name}.model_type = {model_type!r} (NaFlex) reads images of any size, and here all have "
                "one: `from_dual_encoder` turns it into the 'siglip_vision_model' that computes the same at that size"
            )
        if model_type not in list(known):  # a list, as what a file holds may have no hash
            raise ValueError(f"GADMSConfig.{name}.model_type = {model_type!r} must be one of {', '.join(known)}")
        if not isinstance(value, dict):
            return value
        defaults = known[model_type]
        check_keys(value, _field_names(type(defaults)), f"GADMSConfig.{name}")
        try:
            # A partial dictionary is completed by our defaults (the paper's sizes), not by transformers'.
            return type(defaults)(**{**declared_settings(defaults), **value})
        except StrictDataclassError as error:
            raise StrictDataclassError(f"GADMSConfig.{name}: {' '.join(str(error).split())}") from error

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
        choices_of = {"token_score": TOKEN_SCORES, "alignment": ALIGNMENTS, "image_pooling": IMAGE_POOLINGS}
        for name, choices in choices_of.items():
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
        text, patch_size = encoder_configs(self)[0], self.vision_config.patch_size
        height, width = self.image_size
        if min(height, width) < 1:
            raise ValueError(f"image_size (height, width) = ({height}, {width}) must be positive")
        if not isinstance(patch_size, int) or height % patch_size or width % patch_size:
            raise ValueError(
                f"image_size (height, width) = ({height}, {width}) must be a multiple of patch_size = {patch_size}: "
                f"patches would not cover the image{_nearest_sizes(height, width, patch_size)}"
            )
        if isinstance(self.vision_config, SiglipVisionConfig):
            if self.image_pooling != "encoder":
                raise ValueError(
                    f"image_pooling = {self.image_pooling!r} would leave the head of SigLIP's image encoder unused: "
                    "take 'encoder', or an image encoder of CLIP"
                )
            if not self.vision_config.vision_use_head:
                raise ValueError(
                    "vision_config.vision_use_head = False leaves SigLIP's image encoder without embedding"
                )
            if self.projection_dim != self.vision_config.hidden_size:
                raise ValueError(
                    f"projection_dim = {self.projection_dim} must be vision_config.hidden_size = "
                    f"{self.vision_config.hidden_size}: SigLIP's image encoder has no projection"
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
        if reads_padding(text) and not (
            isinstance(text.pad_token_id, int) and 0 <= text.pad_token_id < text.vocab_size
        ):
            raise ValueError(
                f"text_config.pad_token_id = {text.pad_token_id} must be one id inside the vocabulary of "
                f"{text.vocab_size} tokens: SigLIP reads the padding of a caption"
            )
        if isinstance(text, CLIPTextConfig) and text.eos_token_id == 2 and self.mask_token_id > 2:
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


def _nearest_sizes(height: int, width: int, patch_size: Any) -> str:
    """Advice for an error: the two nearest sizes of whole patches."""
    if not isinstance(patch_size, int):
        return ""
    sizes = [
        (
            max(1, height // patch_size + more_rows) * patch_size,
            max(1, width // patch_size + more_columns) * patch_size,
        )
        for more_rows in (0, 1)
        for more_columns in (0, 1)
    ]
    nearest = sorted(set(sizes), key=lambda size: abs(size[0] - height) + abs(size[1] - width))[:2]
    return f"; the nearest sizes are {' and '.join(map(str, nearest))}"


def encoder_configs(config: GADMSConfig) -> tuple[TextConfig, VisionConfig]:
    """The configurations of the text and the image encoder, with their static types."""
    return cast(TextConfig, config.text_config), cast(VisionConfig, config.vision_config)


def reads_padding(text_config: TextConfig) -> bool:
    """Whether a text encoder is SigLIP's.

    It attends in both directions, always over all of its positions, and embeds a caption at the last one. A caption
    is padded to these positions, and its padding is read like its words: the encoder was trained so. CLIP's encoder
    attends to earlier tokens and embeds a caption at EOS, so that padding after EOS does not matter.
    """
    return isinstance(text_config, (SiglipTextConfig, Siglip2TextConfig))


def starts_with_bos(text_config: TextConfig) -> bool:
    """Whether captions begin with BOS: always for CLIP, and for SigLIP if `bos_token_id` is set."""
    return not reads_padding(text_config) or text_config.bos_token_id is not None


def declared_settings(config: PreTrainedConfig) -> dict[str, Any]:
    """The fields that the class of a configuration declares itself, without inherited and undeclared ones."""
    base = {field.name for field in fields(PreTrainedConfig)}
    return {field.name: getattr(config, field.name) for field in fields(config) if field.name not in base}


__all__ = ["GADMSConfig"]
