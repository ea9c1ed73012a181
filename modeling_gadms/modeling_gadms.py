"""GA-DMS: a dual encoder for text-based person retrieval on CLIP or SigLIP, and its pre-training model."""

import math
import os
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoTokenizer,
    CLIPModel,
    CLIPTextModel,
    MetaClip2Model,
    MetaClip2TextModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Siglip2Model,
    Siglip2TextModel,
    SiglipModel,
    SiglipTextModel,
)
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPEncoder, CLIPEncoderLayer, CLIPPreTrainedModel
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import (
    SiglipEncoder,
    SiglipMultiheadAttentionPoolingHead,
    SiglipPreTrainedModel,
)
from transformers.utils import ModelOutput

from .configuration_gadms import (
    GADMSConfig,
    TextConfig,
    VisionConfig,
    declared_settings,
    encoder_configs,
    reads_padding,
)
from .losses_gadms import alignment_loss, identity_loss, masked_token_prediction_loss
from .masking_gadms import apply_mask, draw_mask, informative_mask_probability, noise_mask_probability
from .packing_gadms import pack_captions, pooled_positions, stack_captions, supports_packing, text_encoder_inputs
from .token_scoring_gadms import gradient_attention_scores, own_token_mask, token_image_cosine_scores


# The configuration chooses the objective, so that the paper's ablations run through the same code. Any checkpoint can
# take any branch.
# trf-ignore: TRF041 token_score, noise_masking, masked_token_prediction, num_identities, learn_temperature
# trf-ignore: TRF041 image_pooling

Model = TypeVar("Model", bound="GADMSPreTrainedModel")

DUAL_ENCODERS = (CLIPModel, MetaClip2Model, SiglipModel, Siglip2Model)
TEXT_MODELS: dict[str, Any] = {
    model.config_class.model_type: model
    for model in (CLIPTextModel, MetaClip2TextModel, SiglipTextModel, Siglip2TextModel)
}


@dataclass
class GADMSOutput(ModelOutput):
    """Output of [`GADMSModel`].

    Args:
        logits_per_image (`torch.FloatTensor` of shape `(num_images, num_captions)`):
            Cosine similarity divided by the temperature. All fields are float32 or float64, also with
            half-precision weights.
        logits_per_text (`torch.FloatTensor` of shape `(num_captions, num_images)`):
            Transpose of `logits_per_image`.
        image_embeds (`torch.FloatTensor` of shape `(num_images, projection_dim)`): L2-normalised.
        text_embeds (`torch.FloatTensor` of shape `(num_captions, projection_dim)`): L2-normalised.
    """

    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None


@dataclass
class GADMSForPreTrainingOutput(ModelOutput):
    """Output of [`GADMSForPreTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*):
            The whole objective of this batch alone, with `return_loss=True`. Over several processes the trainer
            compares all of their pairs instead.
        image_embeds (`torch.FloatTensor` of shape `(batch_size, projection_dim)`):
            L2-normalised; float32 or float64, also with half-precision weights.
        text_embeds (`torch.FloatTensor` of shape `(batch_size, projection_dim)`):
            The same for the captions, which are noise-masked if noise masking is active.
        temperature (`torch.FloatTensor` of shape `()`): tau of the alignment.
        mtp_loss (`torch.FloatTensor` of shape `()`, *optional*):
            Cross-entropy in nats, mean over the masked tokens of this batch.
        identity_loss (`torch.FloatTensor` of shape `()`, *optional*):
            Cross-entropy in nats, if the configuration has identities and `person_ids` were given.
        num_predicted_tokens (`torch.LongTensor` of shape `()`, *optional*):
            Number of tokens that `mtp_loss` averages; its weight in a mean over several processes.
        token_scores (`torch.FloatTensor` of shape `(batch_size, sequence_length)`, *optional*): in [0, 1].
        own_tokens (`torch.BoolTensor` of shape `(batch_size, sequence_length)`, *optional*):
            Caption tokens without BOS, EOS and padding. Only these are scored and masked.
        noise_mask (`torch.BoolTensor` of shape `(batch_size, sequence_length)`, *optional*)
        informative_mask (`torch.BoolTensor` of shape `(batch_size, sequence_length)`, *optional*)
        query_embeds (`torch.FloatTensor` of shape `(num_queries, projection_dim)`, *optional*): as `text_embeds`.
    """

    loss: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    temperature: torch.Tensor | None = None
    mtp_loss: torch.Tensor | None = None
    identity_loss: torch.Tensor | None = None
    num_predicted_tokens: torch.Tensor | None = None
    token_scores: torch.Tensor | None = None
    own_tokens: torch.Tensor | None = None
    noise_mask: torch.Tensor | None = None
    informative_mask: torch.Tensor | None = None
    query_embeds: torch.Tensor | None = None


class GADMSVisionEmbeddings(nn.Module):
    """Patches of a rectangular image, with learned position embeddings; for CLIP after a class token.

    CLIP's and SigLIP's own embeddings assume a square grid and would interpolate positions in every forward pass.
    """

    def __init__(self, config: VisionConfig):
        super().__init__()
        # `GADMSConfig` ensures these types.
        self.image_size = cast(tuple[int, int], config.image_size)  # (height, width)
        patch_size = cast(int, config.patch_size)
        height, width = self.image_size
        num_patches = (height // patch_size) * (width // patch_size)
        has_class_token = not isinstance(config, SiglipVisionConfig)
        self.class_embedding = nn.Parameter(torch.empty(config.hidden_size)) if has_class_token else None
        self.patch_embedding = nn.Conv2d(
            config.num_channels, config.hidden_size, patch_size, stride=patch_size, bias=not has_class_token
        )
        self.position_embedding = nn.Embedding(num_patches + has_class_token, config.hidden_size)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        check_image_size(pixel_values, self.image_size)
        tokens = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))
        tokens = tokens.flatten(2).transpose(1, 2)  # (batch_size, num_patches, hidden_size)
        if self.class_embedding is not None:
            tokens = torch.cat([self.class_embedding.expand(len(tokens), 1, -1), tokens], dim=1)
        return tokens + self.position_embedding.weight


class GADMSPreTrainedModel(CLIPPreTrainedModel):
    """Weight initialisation and loading, on top of CLIP's."""

    # transformers reads the configuration class from this annotation.
    config: GADMSConfig  # type: ignore[assignment]
    base_model_prefix = "gadms"
    _no_split_modules = ["CLIPEncoderLayer", "GADMSVisionEmbeddings"]
    # Rounded to half precision, the temperature would scale every similarity wrongly.
    _keep_in_fp32_modules_strict = ["logit_scale"]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights. Overridden because the base class reads the first parameter, which stays float32."""
        return next(parameter.dtype for name, parameter in self.named_parameters() if "logit_scale" not in name)

    @classmethod
    def is_custom_code(cls) -> bool:
        """Tell transformers that `_init_weights` never overwrites loaded weights.

        For other custom code, transformers skips modules without own parameters. CLIP's attention is such a module,
        and its initialisation sets the scale of the projections.
        """
        return False

    @classmethod
    def from_dual_encoder(
        cls: type[Model],
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        image_size: tuple[int, int] = (384, 128),
        tokenizer: PreTrainedTokenizerBase | None = None,
        checkpoint_kwargs: dict[str, Any] | None = None,
        **config_kwargs: Any,
    ) -> Model:
        """Initialise from CLIP, MetaCLIP 2, SigLIP or SigLIP 2, with a mask token and positions for `image_size`.

        Patch positions are resized as the family itself resizes them: by bicubic interpolation, or for SigLIP 2 NaFlex
        by bilinear interpolation with antialiasing (the paper does not state how). The mask token is appended to the
        vocabulary; its embedding is the mean of the token embeddings.

        The scale and the bias of the checkpoint's similarities are not copied: `temperature` is the scale. A bias,
        which SigLIP has, would cancel in the softmax of both alignment losses, and does not change a ranking.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): Hub id or folder of a transformers model.
            image_size (`tuple[int, int]`, *optional*, defaults to `(384, 128)`): (height, width) in pixels.
            tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
                The model's tokenizer, with or without the mask token. Only SigLIP's configuration needs it, which does
                not name the ids of padding and EOS; by default it is loaded from the same place.
            checkpoint_kwargs (`dict`, *optional*): passed to `AutoModel.from_pretrained` (`revision`, `token`, ...).
            config_kwargs: fields of [`GADMSConfig`], except those that the checkpoint determines: the two encoders,
                `projection_dim`, `image_pooling` and `mask_token_id`.

        Returns:
            An instance of the class it is called on: [`GADMSModel`], or [`GADMSForPreTraining`], whose additional
            modules have random weights.

        Raises:
            ValueError: for a model of another family, an unknown key, a key that the checkpoint determines, or an
                image size that is not a multiple of the patch size.
        """
        for key in ("text_config", "vision_config", "projection_dim", "image_pooling", "mask_token_id"):
            if key in config_kwargs:
                raise ValueError(f"from_dual_encoder takes `{key}` from the checkpoint; remove this argument")
        options = checkpoint_kwargs or {}
        source: Any = AutoModel.from_pretrained(pretrained_model_name_or_path, **options)
        if not isinstance(source, DUAL_ENCODERS):
            raise ValueError(
                f"{pretrained_model_name_or_path} is a model of type {source.config.model_type!r}; GA-DMS starts from "
                "a whole dual encoder of type clip, metaclip_2, siglip or siglip2"
            )
        if tokenizer is None and isinstance(source, (SiglipModel, Siglip2Model)):
            hub_kwargs = {name: options[name] for name in ("revision", "token", "cache_dir") if name in options}
            tokenizer = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **hub_kwargs)
        text_config = _with_mask_token(source.config.text_config, tokenizer)
        vision_config = _at_image_size(source.config.vision_config, image_size)
        config = GADMSConfig(
            text_config=text_config,
            vision_config=vision_config,
            projection_dim=_embedding_width(source),
            mask_token_id=text_config["vocab_size"] - 1,
            **config_kwargs,
        )
        model = cls(config)
        state = _converted_weights(source, config.patch_grid)
        state["logit_scale"] = model.base_model.state_dict()["logit_scale"]
        model.base_model.load_state_dict(state)
        model.tie_weights()
        return model

    @classmethod
    def from_clip(
        cls: type[Model],
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        clip_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Model:
        """Older name of [`from_dual_encoder`]."""
        return cls.from_dual_encoder(pretrained_model_name_or_path, checkpoint_kwargs=clip_kwargs, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # CLIP's parts, norms, and linear and embedding layers in general
        factor = self.config.initializer_factor
        if isinstance(module, nn.MultiheadAttention):
            depth = max(1, self.config.fusion_num_hidden_layers)
            init.normal_(module.in_proj_weight, std=module.embed_dim**-0.5 * factor)
            init.normal_(module.out_proj.weight, std=module.embed_dim**-0.5 * (2 * depth) ** -0.5 * factor)
            init.zeros_(module.in_proj_bias)
        elif isinstance(module, GADMSTokenHead):
            hidden_size = module.dense.in_features
            init.normal_(module.dense.weight, std=(2 * hidden_size) ** -0.5 * factor)
            # Small, so that the initial prediction is close to uniform.
            init.normal_(module.decoder.weight, std=0.02 * factor)
        elif isinstance(module, GADMSModel):
            if isinstance(module.visual_projection, nn.Linear):
                init.normal_(module.visual_projection.weight, std=self.config.vision_config.hidden_size**-0.5 * factor)
            if module.patch_pooling is not None:
                init.normal_(module.patch_pooling.weight, std=module.patch_pooling.in_features**-0.5 * factor)
            init.normal_(module.text_projection.weight, std=self.config.text_config.hidden_size**-0.5 * factor)
            init.constant_(module.logit_scale, math.log(1 / self.config.temperature))
        elif isinstance(module, GADMSForPreTraining) and module.classifier is not None:
            init.normal_(module.classifier.weight, std=0.001)
            init.zeros_(module.classifier.bias)


class GADMSVisionModel(GADMSPreTrainedModel):
    """CLIP's image encoder on rectangular images, with the post-norm on every token. MetaCLIP 2 has the same one."""

    config: VisionConfig  # type: ignore[assignment]
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # type: ignore[assignment]  # CLIP has two
    _input_embed_layer = "patch_embedding"

    def __init__(self, config: VisionConfig):
        super().__init__(config)
        self.embeddings = GADMSVisionEmbeddings(config)
        # The misspelling is CLIP's: weights are found by name.
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = CLIPEncoder(config)  # type: ignore[arg-type]  # as CLIP itself calls it
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, GADMSVisionEmbeddings):
            std = self.config.initializer_range * self.config.initializer_factor
            class_embedding = cast(nn.Parameter, module.class_embedding)
            init.normal_(class_embedding, std=self.config.hidden_size**-0.5 * self.config.initializer_factor)
            init.normal_(module.patch_embedding.weight, std=std)
            init.normal_(module.position_embedding.weight, std=std)

    def forward(self, pixel_values: torch.Tensor) -> BaseModelOutputWithPooling:
        hidden_states = self.pre_layrnorm(self.embeddings(pixel_values))
        hidden_states = self.encoder(inputs_embeds=hidden_states).last_hidden_state
        # The interaction encoder reads the patch tokens: normalise all tokens, not the class token alone.
        hidden_states = self.post_layernorm(hidden_states)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=hidden_states[:, 0])


class GADMSSiglipVisionModel(SiglipPreTrainedModel):
    """SigLIP's image encoder on rectangular images. Its head pools the patches by attention, without a class token."""

    config: SiglipVisionConfig  # type: ignore[assignment]
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # type: ignore[assignment]  # SigLIP has two
    _input_embed_layer = "patch_embedding"

    def __init__(self, config: SiglipVisionConfig):
        super().__init__(config)
        self.embeddings = GADMSVisionEmbeddings(config)
        self.encoder = SiglipEncoder(config)  # type: ignore[arg-type]  # as SigLIP itself calls it
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.head = SiglipMultiheadAttentionPoolingHead(config)
        self.post_init()

    @classmethod
    def is_custom_code(cls) -> bool:
        """As [`GADMSPreTrainedModel.is_custom_code`]."""
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, GADMSVisionEmbeddings):
            init.normal_(module.position_embedding.weight, std=self.config.hidden_size**-0.5)

    def forward(self, pixel_values: torch.Tensor) -> BaseModelOutputWithPooling:
        hidden_states = self.encoder(inputs_embeds=self.embeddings(pixel_values)).last_hidden_state
        hidden_states = self.post_layernorm(hidden_states)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=self.head(hidden_states))


class GADMSModel(GADMSPreTrainedModel):
    """Image and text encoder with a shared embedding space, for retrieval.

    Args:
        config ([`GADMSConfig`]): sizes of both encoders.
    """

    # Parts of a training checkpoint that retrieval does not use.
    _keys_to_ignore_on_load_unexpected = [r"^fusion\.", r"^token_head\.", r"^classifier\."]

    def __init__(self, config: GADMSConfig):
        super().__init__(config)
        text, vision = encoder_configs(config)
        is_siglip = reads_padding(text)
        self.text_model: PreTrainedModel = TEXT_MODELS[text.model_type]._from_config(text)
        if is_siglip:
            # Its projection is ours instead, which projects every token for the interaction encoder.
            self.text_model.head = nn.Identity()
        self.text_projection = nn.Linear(text.hidden_size, config.projection_dim, bias=is_siglip)
        self.vision_model: PreTrainedModel
        self.visual_projection: nn.Module
        if isinstance(vision, SiglipVisionConfig):
            self.vision_model = GADMSSiglipVisionModel._from_config(vision)
            self.visual_projection = nn.Identity()
        else:
            self.vision_model = GADMSVisionModel._from_config(vision)
            self.visual_projection = nn.Linear(vision.hidden_size, config.projection_dim, bias=False)
        self.patch_pooling: nn.Linear | None = None
        if config.image_pooling == "patches":
            self.patch_pooling = nn.Linear(
                math.prod(config.patch_grid) * config.projection_dim, config.projection_dim, bias=False
            )
        self.logit_scale = nn.Parameter(
            torch.tensor(math.log(1 / config.temperature)), requires_grad=config.learn_temperature
        )
        self.post_init()

    @property
    def temperature(self) -> torch.Tensor:
        """tau, of shape `()`; a learned temperature is clamped to at least 0.01, as in CLIP."""
        if not self.config.learn_temperature:
            return self.logit_scale.new_tensor(self.config.temperature, dtype=torch.float32)
        return (-self.logit_scale.float()).exp().clamp(min=0.01)

    def get_image_features(self, pixel_values: torch.Tensor) -> BaseModelOutputWithPooling:
        """Encode images.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(num_images, 3, height, width)`)

        Returns:
            [`~transformers.modeling_outputs.BaseModelOutputWithPooling`]: `pooler_output` of shape
            `(num_images, projection_dim)` is the embedding, not normalised; `last_hidden_state` of shape
            `(num_images, num_tokens, projection_dim)` are the projected tokens: the class token, which only CLIP has,
            and the patches.

        Raises:
            ValueError: if the image size differs from the configuration.
        """
        outputs = self.vision_model(pixel_values)
        outputs.last_hidden_state = self.visual_projection(outputs.last_hidden_state)
        if self.patch_pooling is not None:
            outputs.pooler_output = self.patch_pooling(outputs.last_hidden_state[:, 1:].flatten(1))
        elif not isinstance(encoder_configs(self.config)[1], SiglipVisionConfig):  # whose head has pooled already
            outputs.pooler_output = outputs.last_hidden_state[:, 0]
        return outputs

    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """Encode captions. For SigLIP they are padded here to all of its positions, so that any padding will do.

        Args:
            input_ids (`torch.LongTensor` of shape `(num_captions, sequence_length)`): padded at the end.
            attention_mask (`torch.LongTensor` of shape `(num_captions, sequence_length)`, *optional*)

        Returns:
            [`~transformers.modeling_outputs.BaseModelOutputWithPooling`]: `pooler_output` of shape
            `(num_captions, projection_dim)` is the embedding, not normalised; `last_hidden_state` of shape
            `(num_captions, sequence_length, projection_dim)` are the projected tokens.

        Raises:
            ValueError: as [`check_token_ids`].
        """
        text_config, _ = encoder_configs(self.config)
        check_token_ids(input_ids, text_config)
        outputs = self.text_model(**text_encoder_inputs(text_config, input_ids, attention_mask))
        outputs.last_hidden_state = self.text_projection(outputs.last_hidden_state[:, : input_ids.shape[1]])
        outputs.pooler_output = self.text_projection(outputs.pooler_output)
        return outputs

    def get_packed_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """As [`get_text_features`], but short captions share rows, which avoids most of the work on padding.

        In a batch padded to its longest caption, about a third of the tokens is padding. Values at padding positions
        are undefined. Captions are not packed without an `attention_mask`, if the attention implementation does not
        support custom masks, or if the encoder reads padding, as SigLIP does.
        """
        text_config, _ = encoder_configs(self.config)
        if attention_mask is None or not supports_packing(text_config):
            return self.get_text_features(input_ids, attention_mask)
        check_token_ids(input_ids, text_config)
        capacity = text_config.max_position_embeddings
        packed = pack_captions(input_ids, attention_mask, capacity=capacity, dtype=self.dtype)
        states = self.text_model(**packed.inputs()).last_hidden_state
        tokens = packed.unpack(self.text_projection(states))
        places = pooled_positions(text_config, input_ids)
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens,  # (num_captions, sequence_length, projection_dim)
            pooler_output=tokens[torch.arange(len(tokens), device=tokens.device), places],
        )

    def forward(
        self, input_ids: torch.Tensor, pixel_values: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> GADMSOutput:
        """Compare every image with every caption; their numbers may differ. Returns [`GADMSOutput`]."""
        image_embeds = _unit_length(self.get_image_features(pixel_values)["pooler_output"])
        text_embeds = _unit_length(self.get_text_features(input_ids, attention_mask)["pooler_output"])
        logits_per_text = text_embeds @ image_embeds.T / self.temperature
        return GADMSOutput(
            logits_per_image=logits_per_text.T,
            logits_per_text=logits_per_text,
            image_embeds=image_embeds,
            text_embeds=text_embeds,
        )

    def score_tokens(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        image_embeds: torch.Tensor,
        method: str | None = None,
    ) -> torch.Tensor:
        """Score the relevance of each caption token to its image.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`)
            attention_mask (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*)
            image_embeds (`torch.FloatTensor` of shape `(batch_size, projection_dim)`): row `r` belongs to caption `r`.
            method (`str`, *optional*): `"gass"` or `"cosine"`; by default `token_score` of the configuration.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, sequence_length)`: in [0, 1] within each caption, zero at
            special tokens and padding.

        Raises:
            ValueError: for a method without scores.
        """
        method = method or self.config.token_score
        arguments = (self.text_model, self.text_projection, input_ids, attention_mask, image_embeds)
        if method == "gass":
            return gradient_attention_scores(
                *arguments, num_layers=self.config.score_layers, scales=self.config.score_scales
            )
        if method == "cosine":
            return token_image_cosine_scores(*arguments)
        raise ValueError(f"method = {method!r} has no token scores; choose 'gass' or 'cosine'")


class GADMSFusionEncoder(nn.Module):
    """Multimodal interaction encoder (GA-DMS section 3.3; IRRA's layout), in the shared embedding space.

    Multi-head cross-attention with captions as queries and images as keys and values, then transformer layers over
    the caption tokens and a layer norm.
    """

    def __init__(self, config: GADMSConfig):
        super().__init__()
        layer_norm_eps = cast(float, config.text_config.layer_norm_eps)
        layer_config = CLIPTextConfig(
            hidden_size=config.projection_dim,
            intermediate_size=config.fusion_intermediate_size,
            num_attention_heads=config.fusion_num_attention_heads,
            num_hidden_layers=config.fusion_num_hidden_layers,
            hidden_act=config.text_config.hidden_act,
            layer_norm_eps=layer_norm_eps,
        )
        layer_config._attn_implementation = config._attn_implementation
        self.text_norm = nn.LayerNorm(config.projection_dim, eps=layer_norm_eps)
        self.image_norm = nn.LayerNorm(config.projection_dim, eps=layer_norm_eps)
        self.cross_attention = nn.MultiheadAttention(
            config.projection_dim, config.fusion_num_attention_heads, batch_first=True
        )
        self.layers = nn.ModuleList(CLIPEncoderLayer(layer_config) for _ in range(layer_config.num_hidden_layers))
        self.post_norm = nn.LayerNorm(config.projection_dim, eps=layer_norm_eps)

    def forward(
        self, text_tokens: torch.Tensor, image_tokens: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        images = self.image_norm(image_tokens)
        hidden_states, _ = self.cross_attention(self.text_norm(text_tokens), images, images, need_weights=False)
        padding_mask = None
        if attention_mask is not None:
            # (batch_size, 1, 1, sequence_length), additive: the form that all attention implementations accept
            padding_mask = torch.zeros_like(attention_mask, dtype=hidden_states.dtype)
            padding_mask = padding_mask.masked_fill(attention_mask == 0, torch.finfo(hidden_states.dtype).min)
            padding_mask = padding_mask[:, None, None]
        for layer in self.layers:
            hidden_states = layer(hidden_states, padding_mask)
        return self.post_norm(hidden_states)


class GADMSTokenHead(nn.Module):
    """Masked-token prediction head: an MLP with one output for each vocabulary entry.

    With `tie_word_embeddings`, the weight of its last layer is the token embedding, and its inner width that of the
    text encoder.
    """

    def __init__(self, config: GADMSConfig):
        super().__init__()
        text, _ = encoder_configs(config)
        width = text.hidden_size if config.tie_word_embeddings else config.projection_dim
        self.dense = nn.Linear(config.projection_dim, width)
        self.activation_fn = ACT2FN[text.hidden_act]
        self.layer_norm = nn.LayerNorm(width, eps=cast(float, text.layer_norm_eps))
        self.decoder = nn.Linear(width, text.vocab_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.layer_norm(self.activation_fn(self.dense(hidden_states))))


class GADMSForPreTraining(GADMSPreTrainedModel):
    """[`GADMSModel`] for training, with token scores, dual masking, token prediction and an identity classifier.

    `forward` runs the part of a training step that a distributed wrapper must see. The alignment loss compares the
    embeddings of all processes; the trainer computes it.

    Args:
        config ([`GADMSConfig`]): sizes, objective and every hyper-parameter of the method.
    """

    _tied_weights_keys = {"token_head.decoder.weight": "gadms.text_model.embeddings.token_embedding.weight"}

    def __init__(self, config: GADMSConfig):
        super().__init__(config)
        self.gadms = GADMSModel(config)
        self.fusion = GADMSFusionEncoder(config) if config.masked_token_prediction else None
        self.token_head = GADMSTokenHead(config) if config.masked_token_prediction else None
        self.classifier = nn.Linear(config.projection_dim, config.num_identities) if config.num_identities else None
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        person_ids: torch.Tensor | None = None,
        masking: bool | None = None,
        query_input_ids: torch.Tensor | None = None,
        query_attention_mask: torch.Tensor | None = None,
        return_loss: bool = False,
        image_indices: torch.Tensor | None = None,
        truncated: torch.Tensor | None = None,
        query_words: torch.Tensor | None = None,
        image_words: torch.Tensor | None = None,
    ) -> GADMSForPreTrainingOutput:
        """Encode image-caption pairs, mask the captions by their scores, and predict the masked tokens.

        A batch of [`~modeling_gadms.training.PairCollator`] can be passed as it is: `model(**batch).loss`.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): caption `r` describes image `r`.
            pixel_values (`torch.FloatTensor` of shape `(batch_size, 3, height, width)`)
            attention_mask (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*)
            person_ids (`torch.LongTensor` of shape `(batch_size,)`, *optional*): needed for the identity term.
            masking (`bool`, *optional*): whether captions are masked; by default in training mode only.
            query_input_ids (`torch.LongTensor` of shape `(num_queries, query_length)`, *optional*):
                Further texts, which are encoded and never masked.
            query_attention_mask (`torch.LongTensor` of shape `(num_queries, query_length)`, *optional*)
            return_loss (`bool`, *optional*, defaults to `False`): whether to compute the loss of this batch alone.
                Without `person_ids`, each pair is a person of its own. Queries have no part in it.
            image_indices, truncated, query_words, image_words (`torch.Tensor`, *optional*): not used.

        Returns:
            [`GADMSForPreTrainingOutput`]
        """
        config = self.config
        masking = self.training if masking is None else masking
        uses_masks = config.noise_masking or config.masked_token_prediction
        masking = masking and uses_masks and config.token_score != "none"  # scores cost a pass of the text encoder

        image_features = self.gadms.get_image_features(pixel_values)
        image_embeds: torch.Tensor = image_features["pooler_output"]

        scores = own_tokens = noise_mask = informative_mask = None
        captions, caption_attention = input_ids, attention_mask
        if masking:
            own_tokens = own_token_mask(encoder_configs(config)[0], input_ids, attention_mask)
            if config.token_score != "random":
                scores = self.gadms.score_tokens(input_ids, attention_mask, image_embeds.detach())
            if config.noise_masking:
                noise_mask = self._draw_mask(scores, own_tokens, noise=True)
                captions = apply_mask(input_ids, noise_mask, config.mask_token_id)
            if config.masked_token_prediction:
                informative_mask = self._draw_mask(scores, own_tokens, noise=False)
                # One pass over both captions: (2 * batch_size, sequence_length)
                captions = torch.cat([captions, apply_mask(input_ids, informative_mask, config.mask_token_id)])
                caption_attention = None if attention_mask is None else torch.cat([attention_mask, attention_mask])

        if query_input_ids is not None:
            captions, caption_attention = stack_captions(
                (captions, caption_attention), (query_input_ids, query_attention_mask)
            )
        text_features = self.gadms.get_packed_text_features(captions, caption_attention)
        text_embeds: torch.Tensor = text_features["pooler_output"][: len(input_ids)]
        query_embeds = None
        if query_input_ids is not None:
            query_embeds = _unit_length(text_features["pooler_output"][-len(query_input_ids) :])

        mtp_loss = num_predicted = None
        if informative_mask is not None and self.fusion is not None and self.token_head is not None:
            second = slice(len(input_ids), 2 * len(input_ids))
            masked_captions: torch.Tensor = text_features["last_hidden_state"][second, : input_ids.shape[1]]
            fused = self.fusion(masked_captions, image_features.last_hidden_state, attention_mask)
            # The head is the widest layer of the model: run it at masked positions only.
            mtp_loss = masked_token_prediction_loss(
                self.token_head(fused[informative_mask]), input_ids[informative_mask]
            )
            num_predicted = informative_mask.sum()

        classification_loss = None
        if self.classifier is not None and person_ids is not None:
            classification_loss = identity_loss(
                self.classifier(image_embeds), self.classifier(text_embeds), person_ids
            )

        image_embeds, text_embeds = _unit_length(image_embeds), _unit_length(text_embeds)
        loss = None
        if return_loss:
            persons = torch.arange(len(input_ids), device=input_ids.device) if person_ids is None else person_ids
            loss = alignment_loss(
                image_embeds,
                text_embeds,
                persons,
                alignment=config.alignment,
                epsilon=config.sdm_epsilon,
                temperature=self.gadms.temperature,
            )
            if mtp_loss is not None:
                loss = loss + config.mtp_weight * mtp_loss
            if classification_loss is not None:
                loss = loss + config.identity_weight * classification_loss

        return GADMSForPreTrainingOutput(
            loss=loss,
            image_embeds=image_embeds,
            text_embeds=text_embeds,
            temperature=self.gadms.temperature,
            mtp_loss=mtp_loss,
            identity_loss=classification_loss,
            num_predicted_tokens=num_predicted,
            token_scores=scores,
            own_tokens=own_tokens,
            noise_mask=noise_mask,
            informative_mask=informative_mask,
            query_embeds=query_embeds,
        )

    def _draw_mask(self, scores: torch.Tensor | None, own_tokens: torch.Tensor, *, noise: bool) -> torch.Tensor:
        config = self.config
        rate = config.noise_mask_rate if noise else config.informative_mask_rate
        if scores is None:  # random masking: the same probability for every token
            return draw_mask(torch.full(own_tokens.shape, rate, device=own_tokens.device), own_tokens)
        probability = noise_mask_probability if noise else informative_mask_probability
        threshold = config.noise_mask_threshold if noise else config.informative_mask_threshold
        return draw_mask(
            probability(scores, rate=rate, sharpness=config.mask_sharpness, threshold=threshold), own_tokens
        )


def check_image_size(pixel_values: torch.Tensor, image_size: tuple[int, int]) -> None:
    """Check that images have the size of the model.

    Args:
        pixel_values (`torch.FloatTensor` of shape `(num_images, 3, height, width)`)
        image_size (`tuple[int, int]`): expected (height, width) in pixels.

    Raises:
        ValueError: naming both sizes.
    """
    if tuple(pixel_values.shape[-2:]) != image_size:
        raise ValueError(
            f"pixel_values are {pixel_values.shape[-2]}x{pixel_values.shape[-1]} (height x width), but the model "
            f"expects {image_size[0]}x{image_size[1]}; prepare images with the model's own processor"
        )


def check_token_ids(input_ids: torch.Tensor, text_config: TextConfig) -> None:
    """Check the length of captions and, on the CPU, that every token is in the vocabulary.

    The vocabulary check reads the ids. On an accelerator it would synchronise the device, and a graph that is being
    compiled or exported has no ids to read.

    Args:
        input_ids (`torch.LongTensor` of shape `(num_captions, sequence_length)`)
        text_config: configuration of the text encoder.

    Raises:
        ValueError: naming the length or the ids at fault.
    """
    if input_ids.shape[-1] > text_config.max_position_embeddings:
        raise ValueError(
            f"captions of {input_ids.shape[-1]} tokens are longer than the model's "
            f"{text_config.max_position_embeddings} positions; truncate them with the model's own processor"
        )
    if torch.compiler.is_compiling() or input_ids.device.type != "cpu" or not input_ids.numel():
        return
    lowest, highest = int(input_ids.min()), int(input_ids.max())
    if lowest < 0 or highest >= text_config.vocab_size:
        raise ValueError(
            f"token ids from {lowest} to {highest} are not all in the vocabulary of {text_config.vocab_size}; "
            "prepare captions with the model's own processor"
        )


def _unit_length(embeds: torch.Tensor) -> torch.Tensor:
    # Half precision has steps of 0.001 to 0.008: differences of similarities that decide ranks would be rounded away.
    at_least_float32 = torch.promote_types(embeds.dtype, torch.float32)
    return nn.functional.normalize(embeds.to(at_least_float32), dim=-1)


def _with_mask_token(config: Any, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
    """Settings of a text encoder whose vocabulary has one token more, and the true ids of EOS and padding."""
    # OpenAI's configurations contain obsolete keys, which `GADMSConfig` would refuse. The precision is not copied
    # either: half-precision weights are loaded into a float32 model.
    settings = declared_settings(config) | {"model_type": config.model_type, "vocab_size": config.vocab_size + 1}
    if isinstance(config, CLIPTextConfig) and config.eos_token_id == 2:
        settings["eos_token_id"] = config.vocab_size - 1  # the last token of CLIP's vocabulary
    if reads_padding(config) and tokenizer is not None:
        settings |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        begins = tokenizer("person")["input_ids"][0] == tokenizer.bos_token_id
        settings["bos_token_id"] = tokenizer.bos_token_id if begins else None
    return settings


def _at_image_size(config: Any, image_size: tuple[int, int]) -> dict[str, Any]:
    """Settings of an image encoder for rectangular images. NaFlex becomes SigLIP, as all images have one size."""
    settings = declared_settings(config) | {"model_type": config.model_type, "image_size": tuple(image_size)}
    if settings.pop("num_patches", None) is not None:
        settings["model_type"] = SiglipVisionConfig.model_type
    return settings


def _embedding_width(source: Any) -> int:
    if reads_padding(source.config.text_config):
        return source.config.vision_config.hidden_size
    return source.visual_projection.out_features


def _converted_weights(source: Any, grid: tuple[int, int]) -> dict[str, torch.Tensor]:
    """The weights of a transformers dual encoder under the names of [`GADMSModel`], for a grid of patches."""
    state = source.state_dict()
    state.pop("logit_bias", None)
    token_key = "text_model.embeddings.token_embedding.weight"
    state[token_key] = append_mean_row(state[token_key])
    for name in [name for name in state if name.startswith("text_model.head.")]:
        state[name.replace("text_model.head", "text_projection")] = state.pop(name)
    position_key = "vision_model.embeddings.position_embedding.weight"
    is_naflex = isinstance(source, Siglip2Model)
    state[position_key] = resize_patch_positions(
        state[position_key], grid, class_token=not isinstance(source, (SiglipModel, Siglip2Model)), antialias=is_naflex
    )
    if is_naflex:
        # NaFlex multiplies flattened patches, of (row, column, channel), where SigLIP convolves.
        patch_key, side = "vision_model.embeddings.patch_embedding.weight", source.config.vision_config.patch_size
        state[patch_key] = state[patch_key].unflatten(1, (side, side, -1)).permute(0, 3, 1, 2)
    return state


def append_mean_row(embedding: torch.Tensor) -> torch.Tensor:
    """Append the mean of a token embedding's rows: (vocab_size + 1, hidden_size)."""
    return torch.cat([embedding, embedding.mean(dim=0, keepdim=True)])


def resize_patch_positions(
    positions: torch.Tensor,
    grid: tuple[int, int],
    source_grid: tuple[int, int] | None = None,
    *,
    class_token: bool = True,
    antialias: bool = False,
) -> torch.Tensor:
    """Interpolate the position embeddings of a patch grid to another grid; the class token's is kept.

    Args:
        positions (`torch.FloatTensor` of shape `(class_token + num_patches, hidden_size)`)
        grid (`tuple[int, int]`): rows and columns of patches.
        source_grid (`tuple[int, int]`, *optional*): grid of `positions`; a square by default.
        class_token (`bool`, *optional*, defaults to `True`): whether the first position is a class token's.
        antialias (`bool`, *optional*, defaults to `False`):
            Interpolate as SigLIP 2 NaFlex, bilinearly with antialiasing, instead of as CLIP and SigLIP, bicubically.

    Returns:
        `torch.FloatTensor` of shape `(class_token + grid[0] * grid[1], hidden_size)`.

    Raises:
        ValueError: if the positions do not fill `source_grid`, or do not form a square when it is not given.
    """
    class_position, patches = positions[:class_token], positions[class_token:]
    if source_grid is None:
        side = math.isqrt(len(patches))
        if side * side != len(patches):
            raise ValueError(f"{len(patches)} patch positions are not a square grid")
        source_grid = (side, side)
    if source_grid[0] * source_grid[1] != len(patches):
        raise ValueError(f"{len(patches)} patch positions do not fill a grid of {source_grid[0]}x{source_grid[1]}")
    if grid == source_grid:
        return positions
    patches = patches.T.reshape(1, -1, *source_grid).float()
    mode = "bilinear" if antialias else "bicubic"
    patches = nn.functional.interpolate(patches, size=grid, mode=mode, align_corners=False, antialias=antialias)
    patches = patches.flatten(2)[0].T.to(positions.dtype)
    return torch.cat([class_position, patches])


__all__ = ["GADMSForPreTraining", "GADMSModel", "GADMSPreTrainedModel"]
