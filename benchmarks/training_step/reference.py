"""A literal training step, which computes the same as the package.

It does what the released code does where that costs time and memory but does not change the result: 77 padded tokens
everywhere; the caption, its noise-masked and its informative-masked version in a pass each; a backward pass for every
scored layer, with an identity matrix as the gradient of the matrix of similarities; the token head on all positions.
Adam updates one parameter after the other. The released code's defects that change the result (one head, scores scaled
over the batch, ...) are not here: the network, the scores and the losses are the package's.
"""

import torch
from torch import nn
from torch.nn import functional

from modeling_gadms.losses_gadms import similarity_distribution_matching_loss
from modeling_gadms.masking_gadms import (
    apply_mask,
    caption_token_mask,
    draw_mask,
    informative_mask_probability,
    noise_mask_probability,
)
from modeling_gadms.modeling_gadms import GADMSForPreTraining
from modeling_gadms.token_scoring_gadms import pooling_operator, scale_within_caption


class ReferenceStep:
    """The literal step on a model's weights.

    Args:
        model ([`GADMSForPreTraining`]): trained in place; its configuration says what is computed.
    """

    def __init__(self, model: GADMSForPreTraining):
        self.model = model

    def optimizer(self, **settings: float) -> torch.optim.Optimizer:
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return torch.optim.Adam(parameters, foreach=False, fused=False, **settings)

    def pad(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Captions at the text encoder's full length: (batch_size, max_position_embeddings)."""
        text_config = self.model.config.text_config
        missing = text_config.max_position_embeddings - input_ids.shape[1]
        return functional.pad(input_ids, (0, missing), value=text_config.pad_token_id)

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The objective, with masks from the global generator, drawn as the package draws them.

        Args:
            batch (`dict`): `input_ids`, `pixel_values` and `person_ids`, as
                [`~modeling_gadms.training.data.PairCollator`] makes them.

        Returns:
            `torch.FloatTensor` of shape `()`: alignment plus weighted token prediction.
        """
        model, config = self.model, self.model.config
        input_ids = self.pad(batch["input_ids"])
        length = batch["input_ids"].shape[1]  # of the longest caption: draws are made for so many tokens

        image_features = model.gadms.get_image_features(batch["pixel_values"])
        image_embeds = image_features["pooler_output"]
        scores = self.scores(input_ids, image_embeds.detach())

        own_tokens = caption_token_mask(input_ids, config.text_config.eos_token_id)
        masks = []
        for probability, rate, threshold in (
            (noise_mask_probability, config.noise_mask_rate, config.noise_mask_threshold),
            (informative_mask_probability, config.informative_mask_rate, config.informative_mask_threshold),
        ):
            chances = probability(scores[:, :length], rate=rate, sharpness=config.mask_sharpness, threshold=threshold)
            mask = draw_mask(chances, own_tokens[:, :length])
            masks.append(functional.pad(mask, (0, input_ids.shape[1] - length)))
        noise_mask, informative_mask = masks

        noise_features = model.gadms.get_text_features(apply_mask(input_ids, noise_mask, config.mask_token_id))
        alignment = similarity_distribution_matching_loss(
            image_embeds,
            noise_features["pooler_output"],
            batch["person_ids"],
            temperature=config.temperature,
            epsilon=config.sdm_epsilon,
        )
        informative_features = model.gadms.get_text_features(
            apply_mask(input_ids, informative_mask, config.mask_token_id)
        )
        # Padding is no key of the interaction encoder, so that what it does to a caption's own tokens is the same.
        eos = (input_ids == config.text_config.eos_token_id).int().argmax(dim=1)
        up_to_eos = torch.arange(input_ids.shape[1]) <= eos[:, None]
        fused = model.fusion(informative_features["last_hidden_state"], image_features["last_hidden_state"], up_to_eos)
        token_logits = model.token_head(fused)  # (batch_size, max_position_embeddings, vocab_size)
        labels = input_ids.masked_fill(~informative_mask, -100)
        prediction = functional.cross_entropy(token_logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        return alignment + config.mtp_weight * prediction

    def scores(self, input_ids: torch.Tensor, image_embeds: torch.Tensor) -> torch.Tensor:
        """GASS (GA-DMS eq. 1-4), one backward pass a layer.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): padded captions.
            image_embeds (`torch.FloatTensor` of shape `(batch_size, projection_dim)`): constants.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, sequence_length)`: in [0, 1] within each caption.
        """
        config, text_model = self.model.config, self.model.gadms.text_model
        eos = (input_ids == config.text_config.eos_token_id).int().argmax(dim=1)
        own_tokens = caption_token_mask(input_ids, config.text_config.eos_token_id)
        rows, length = torch.arange(len(input_ids)), input_ids.shape[1]

        hidden_states = text_model.embeddings(input_ids)
        taps = []  # query, key, value, attention map and output of each scored layer
        for index, layer in enumerate(text_model.encoder.layers):
            hidden_states, tap = _explicit_layer(layer, hidden_states)
            if index >= len(text_model.encoder.layers) - config.score_layers:
                taps.append(tap)
        pooled = text_model.final_layer_norm(hidden_states)[rows, eos]
        text_embeds = functional.normalize(self.model.gadms.text_projection(pooled), dim=-1)
        similarity = text_embeds @ functional.normalize(image_embeds, dim=-1).T  # (batch_size, batch_size)

        pooling = pooling_operator(eos + 1, length, config.score_scales).to(similarity.dtype)
        total = torch.zeros(input_ids.shape, dtype=similarity.dtype)
        identity = torch.eye(len(input_ids), dtype=similarity.dtype)
        for query, key, value, attention, output in taps:
            (gradient,) = torch.autograd.grad(similarity, output, grad_outputs=identity, retain_graph=True)
            with torch.no_grad():
                pooled_query = (pooling @ query)[rows, eos]
                importance = ((pooling @ key) * pooled_query[:, None]).sum(dim=-1)
                importance = scale_within_caption(importance, own_tokens)  # eq. 1
                gradient_score = (gradient[rows, eos][:, None] * importance[:, :, None] * value).sum(dim=-1)  # eq. 2
                attention_row = attention.mean(dim=1)[rows, eos]
                total += gradient_score * attention_row / attention_row.sum(dim=-1, keepdim=True)  # eq. 3
        return scale_within_caption(torch.relu(total / len(taps)), own_tokens)  # eq. 4


def _explicit_layer(layer: nn.Module, hidden_states: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """One text layer with its attention map in the open.

    Returns:
        the layer's output; query, key and value of shape `(batch_size, sequence_length, hidden_size)`, the map of
        shape `(batch_size, num_heads, sequence_length, sequence_length)`, and the heads' output, concatenated.
    """
    attention = layer.self_attn
    normed = layer.layer_norm1(hidden_states)
    query, key, value = attention.q_proj(normed), attention.k_proj(normed), attention.v_proj(normed)
    heads = [states.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for states in (query, key, value)]
    logits = heads[0] @ heads[1].transpose(2, 3) * attention.scale
    later = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
    attention_map = logits.masked_fill(later, -torch.inf).softmax(dim=-1)
    output = (attention_map @ heads[2]).transpose(1, 2).flatten(2)
    hidden_states = hidden_states + attention.out_proj(output)
    hidden_states = hidden_states + layer.mlp(layer.layer_norm2(hidden_states))
    return hidden_states, (query, key, value, attention_map, output)
