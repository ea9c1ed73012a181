"""Captions of a batch that share rows, so that hardly any work goes to padding."""

from dataclasses import dataclass

import torch
from transformers import CLIPTextConfig


def takes_packed_captions(text_config: CLIPTextConfig) -> bool:
    """Whether the attention in use takes a mask of any shape; flash attention takes none."""
    return text_config._attn_implementation in ("sdpa", "eager")


@dataclass
class PackedCaptions:
    """A batch of captions, several in a row, none of which sees another.

    Args:
        input_ids, position_ids (`torch.LongTensor` of shape `(num_rows, width)`)
        attention_mask (`torch.FloatTensor` of shape `(num_rows, 1, width, width)`): causal, additive.
        places (`torch.LongTensor` of shape `(num_captions, sequence_length)`):
            Where each token of the batch stands in the rows laid end to end; 0 for padding.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    attention_mask: torch.Tensor
    places: torch.Tensor

    def inputs(self) -> dict[str, torch.Tensor]:
        """What [`~transformers.CLIPTextModel`] takes."""
        return {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "attention_mask": self.attention_mask,
        }

    def unpack(self, states: torch.Tensor) -> torch.Tensor:
        """Each caption's states in a row of its own again; those of padding are of some other token.

        Args:
            states (`torch.FloatTensor` of shape `(num_rows, width, hidden_size)`)

        Returns:
            `torch.FloatTensor` of shape `(num_captions, sequence_length, hidden_size)`.
        """
        return states.flatten(0, 1)[self.places]


def pack_captions(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, *, capacity: int, dtype: torch.dtype
) -> PackedCaptions:
    """Put captions into as few rows as hold them, the longest first, each into the first row with space for it.

    Args:
        input_ids (`torch.LongTensor` of shape `(num_captions, sequence_length)`)
        attention_mask (`torch.LongTensor` of shape `(num_captions, sequence_length)`): 0 for tokens that none sees.
        capacity (`int`): most tokens in a row, at least `sequence_length`.
        dtype (`torch.dtype`): of the mask.

    Returns:
        [`PackedCaptions`]
    """
    caption = torch.arange(len(input_ids), device=input_ids.device)
    position = torch.arange(input_ids.shape[1], device=input_ids.device)
    lengths = (attention_mask * (position + 1)).amax(dim=1)  # up to the last token that is seen

    used: list[int] = []  # of each row
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
        # Padding goes to one place behind the rows.
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
