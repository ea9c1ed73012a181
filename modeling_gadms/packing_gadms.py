"""Padding and packing of captions: several short captions share a row, which avoids most of the work on padding."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from .configuration_gadms import TextConfig, reads_padding


def text_encoder_inputs(
    text_config: TextConfig, input_ids: torch.Tensor, attention_mask: torch.Tensor | None
) -> dict[str, torch.Tensor | None]:
    """Captions as the text encoder reads them, however the caller has padded them.

    Args:
        text_config: configuration of the text encoder.
        input_ids (`torch.LongTensor` of shape `(num_captions, sequence_length)`): padded at the end.
        attention_mask (`torch.LongTensor` of shape `(num_captions, sequence_length)`, *optional*): 0 for padding.

    Returns:
        `dict`: arguments of the encoder. For SigLIP `input_ids` of shape `(num_captions, max_position_embeddings)`,
        with the padding token at all padding, and no mask: see [`reads_padding`].
    """
    if not reads_padding(text_config):
        return {"input_ids": input_ids, "attention_mask": attention_mask}
    padding = cast(int, text_config.pad_token_id)
    if attention_mask is not None:
        input_ids = input_ids.masked_fill(attention_mask == 0, padding)
    missing = text_config.max_position_embeddings - input_ids.shape[1]
    return {"input_ids": nn.functional.pad(input_ids, (0, missing), value=padding)}


def pooled_positions(text_config: TextConfig, input_ids: torch.Tensor) -> torch.Tensor:
    """The position at which the text encoder embeds each caption.

    Args:
        text_config: configuration of the text encoder.
        input_ids (`torch.LongTensor` of shape `(num_captions, sequence_length)`): as the encoder reads them.

    Returns:
        `torch.LongTensor` of shape `(num_captions,)`: the first EOS, or for SigLIP the last position.
    """
    if reads_padding(text_config):
        return input_ids.new_full((len(input_ids),), input_ids.shape[1] - 1)
    is_eos: torch.Tensor = input_ids == cast(int, text_config.eos_token_id)
    return is_eos.int().argmax(dim=1)


def supports_packing(text_config: TextConfig) -> bool:
    """Whether captions can share a row.

    The attention implementation must accept arbitrary masks, which flash attention does not. An encoder that reads
    padding has none to save: each caption fills a row.
    """
    return text_config._attn_implementation in ("sdpa", "eager") and not reads_padding(text_config)


@dataclass
class PackedCaptions:
    """A batch of captions, several in a row. Captions in one row do not attend to each other.

    Args:
        input_ids, position_ids (`torch.LongTensor` of shape `(num_rows, width)`)
        attention_mask (`torch.FloatTensor` of shape `(num_rows, 1, width, width)`): causal, additive.
        places (`torch.LongTensor` of shape `(num_captions, sequence_length)`):
            Index of each token of the batch in the flattened rows; 0 for padding.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    attention_mask: torch.Tensor
    places: torch.Tensor

    def inputs(self) -> dict[str, torch.Tensor]:
        """Arguments of [`~transformers.CLIPTextModel`]."""
        return {"input_ids": self.input_ids, "position_ids": self.position_ids, "attention_mask": self.attention_mask}

    def unpack(self, states: torch.Tensor) -> torch.Tensor:
        """Return each caption's states in a row of its own. Values at padding positions are undefined.

        Args:
            states (`torch.FloatTensor` of shape `(num_rows, width, hidden_size)`)

        Returns:
            `torch.FloatTensor` of shape `(num_captions, sequence_length, hidden_size)`.
        """
        return states.flatten(0, 1)[self.places]


def pack_captions(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, *, capacity: int, dtype: torch.dtype
) -> PackedCaptions:
    """Pack captions into few rows: the longest first, each into the first row with enough space (first fit).

    Args:
        input_ids (`torch.LongTensor` of shape `(num_captions, sequence_length)`)
        attention_mask (`torch.LongTensor` of shape `(num_captions, sequence_length)`): 0 for masked tokens.
        capacity (`int`): maximum number of tokens in a row, at least `sequence_length`.
        dtype (`torch.dtype`): of the additive mask.

    Returns:
        [`PackedCaptions`]
    """
    caption = torch.arange(len(input_ids), device=input_ids.device)
    position = torch.arange(input_ids.shape[1], device=input_ids.device)
    lengths = (attention_mask * (position + 1)).amax(dim=1)  # up to the last unmasked token

    used: list[int] = []  # tokens in each row
    slots = {}  # row and start of each caption
    for index, length in sorted(enumerate(lengths.tolist()), key=lambda item: -item[1]):
        row = next((row for row, tokens in enumerate(used) if tokens + length <= capacity), len(used))
        used += [0] * (row == len(used))
        slots[index] = (row, used[row])
        used[row] += length
    width = max(used)
    rows, starts = torch.tensor([slots[index] for index in range(len(slots))], device=input_ids.device).T
    places = (rows * width + starts)[:, None] + position
    is_padding = position >= lengths[:, None]

    def pack(values: torch.Tensor, filler: int) -> torch.Tensor:
        # Padding is written to one extra element after the rows, which is dropped.
        packed = values.new_full((len(used) * width + 1,), filler)
        packed.scatter_(0, places.masked_fill(is_padding, len(used) * width).flatten(), values.flatten())
        return packed[:-1].view(len(used), width)

    owner = pack(caption[:, None].masked_fill(attention_mask == 0, -1), -1)
    visible = (owner[:, :, None] == owner[:, None, :]).tril()
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return PackedCaptions(
        input_ids=pack(input_ids, 0),
        position_ids=pack(position.expand_as(input_ids), 0),
        attention_mask=mask.masked_fill(~visible, torch.finfo(dtype).min)[:, None],
        places=places.masked_fill(is_padding, 0),
    )


def stack_captions(
    first: tuple[torch.Tensor, torch.Tensor | None], second: tuple[torch.Tensor, torch.Tensor | None]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack two batches of captions, the shorter one padded at the end.

    Args:
        first, second (`tuple[torch.LongTensor, torch.LongTensor]`): `input_ids` and `attention_mask` of a batch, each
            of shape `(num_captions, sequence_length)`. Without a mask, all tokens count.

    Returns:
        `input_ids` and `attention_mask`, each of shape `(num_captions, sequence_length)` of both batches.
    """
    width = max(first[0].shape[1], second[0].shape[1])
    padded = []
    for input_ids, attention_mask in (first, second):
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        missing = (0, width - input_ids.shape[1])
        # Whatever stands at padding is not read.
        padded.append((nn.functional.pad(input_ids, missing), nn.functional.pad(mask, missing)))
    return torch.cat([input_ids for input_ids, _ in padded]), torch.cat([mask for _, mask in padded])
