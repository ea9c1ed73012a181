"""Infer a GA-DMS configuration from the tensor shapes of a checkpoint in OpenAI's layout."""

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerBase

from ..configuration_gadms import GADMSConfig
from .openai_layout import FUSION_LAYERS, TEXT_LAYERS, VISION_LAYERS, CheckpointParts


HEAD_WIDTH = 64
"""Channels of an attention head in OpenAI's CLIP. They cannot be inferred from shapes."""
IMAGE_HEAD_WIDTHS = dict.fromkeys((384, 512, 768, 896, 1024), 64) | {1280: 80, 1408: 88, 1664: 104, 1792: 112}
TEXT_HEAD_WIDTHS = dict.fromkeys((256, 384, 512, 640, 768, 1024, 1280), 64)
"""Channels of an attention head by the width of an encoder, in OpenAI's and all of open_clip's models."""
PERSON_SIZES = ((384, 128), (256, 128), (224, 224))
"""(height, width) in pixels of images in research code."""


def infer_config(
    tensors: Mapping[str, torch.Tensor],
    parts: CheckpointParts,
    tokenizer: PreTrainedTokenizerBase,
    *,
    image_size: tuple[int, int],
    temperature: float | None,
    activation: str,
    heads: tuple[int, int],
) -> GADMSConfig:
    """Infer the configuration of a complete checkpoint.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): every tensor of `parts`.
        parts ([`~modeling_gadms.conversion.openai_layout.CheckpointParts`])
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): has the special tokens, and one token per embedding.
        image_size (`tuple[int, int]`): (height, width) in pixels.
        temperature (`float`, *optional*): by default that of [`GADMSConfig`].
        activation (`str`): of both encoders.
        heads (`tuple[int, int]`): attention heads of the image and the text encoder.

    Raises:
        ValueError: if a tensor has the wrong number of dimensions, or the width of the fusion encoder is not a
            multiple of 64.
    """

    def sizes(name: str, *dimensions: str) -> torch.Size:
        return shape_of(tensors, name, *dimensions)

    vision_width, text_width = encoder_widths(tensors, parts)
    context_length, _ = sizes(f"{parts.text_prefix}positional_embedding", "tokens", "width")
    _, projection_dim = sizes(f"{parts.text_prefix}text_projection", "width", "projection")
    fields: dict[str, Any] = {"fusion_num_attention_heads": default_fusion_heads(projection_dim)}
    if temperature is not None:
        fields["temperature"] = temperature
    if parts.classifier:
        fields["num_identities"] = sizes(f"{parts.head_prefix}classifier.weight", "identities", "width")[0]
    if parts.fusion_layers:
        name = f"{parts.head_prefix}{FUSION_LAYERS}.0.mlp.c_fc.weight"
        fields["fusion_intermediate_size"] = sizes(name, "feed-forward", "width")[0]
    if parts.fusion_layers is not None:
        fields["fusion_num_hidden_layers"] = parts.fusion_layers
        fields["fusion_num_attention_heads"] = _whole_heads("fusion encoder", projection_dim, HEAD_WIDTH)
    common = {"hidden_act": activation, "layer_norm_eps": 1e-5}
    return GADMSConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": text_width,
            "intermediate_size": sizes(f"{parts.text_prefix}{TEXT_LAYERS}.0.mlp.c_fc.weight", "feed-forward", "width")[
                0
            ],
            "num_hidden_layers": parts.text_layers,
            "num_attention_heads": heads[1],
            "max_position_embeddings": context_length,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **common,
        },
        vision_config={
            "hidden_size": vision_width,
            "intermediate_size": sizes(f"{parts.prefix}{VISION_LAYERS}.0.mlp.c_fc.weight", "feed-forward", "width")[0],
            "num_hidden_layers": parts.vision_layers,
            "num_attention_heads": heads[0],
            "image_size": image_size,
            "patch_size": patch_size_of(tensors, parts),
            **common,
        },
        projection_dim=projection_dim,
        mask_token_id=tokenizer.mask_token_id,
        score_layers=min(8, parts.text_layers),
        masked_token_prediction=parts.fusion_layers is not None,
        **fields,
    )


def default_fusion_heads(projection_dim: int) -> int:
    """Return the number of attention heads for a new fusion encoder."""
    return projection_dim // HEAD_WIDTH if projection_dim % HEAD_WIDTH == 0 else 1


def infer_heads(
    tensors: Mapping[str, torch.Tensor], parts: CheckpointParts, given: tuple[int, int] | None
) -> tuple[tuple[int, int], str | None]:
    """Return the attention heads of the image and the text encoder, and where they are from unless the layout tells.

    Raises:
        ValueError: if they are not given and cannot be inferred, or do not divide the widths.
    """
    widths = encoder_widths(tensors, parts)
    names = ("image encoder", "text encoder")
    if given is not None:
        for name, width, heads in zip(names, widths, given, strict=True):
            if heads < 1 or width % heads:
                raise ValueError(f"heads = {heads} of its {name} must divide its width, {width}")
        return given, "given"
    fixed = parts.layout.head_width
    if fixed is not None:
        found = [_whole_heads(name, width, fixed) for name, width in zip(names, widths, strict=True)]
        return (found[0], found[1]), None
    usual = (IMAGE_HEAD_WIDTHS.get(widths[0]), TEXT_HEAD_WIDTHS.get(widths[1]))
    if None in usual:
        raise ValueError(
            f"its encoders have widths {widths[0]} (images) and {widths[1]} (text), and neither its names nor its "
            "shapes tell their attention heads; give both numbers (--heads 12,8)"
        )
    return (widths[0] // cast(int, usual[0]), widths[1] // cast(int, usual[1])), "as open_clip has for these widths"


def encoder_widths(tensors: Mapping[str, torch.Tensor], parts: CheckpointParts) -> tuple[int, int]:
    """Return the widths of the image and the text encoder."""
    _, text_width = shape_of(tensors, f"{parts.text_prefix}token_embedding.weight", "tokens", "width")
    vision_width, *_ = shape_of(tensors, f"{parts.prefix}visual.conv1.weight", "width", "3", "side", "side")
    return vision_width, text_width


def _whole_heads(encoder: str, width: int, head_width: int) -> int:
    if width % head_width:
        raise ValueError(
            f"its {encoder} has width {width}, which is not a multiple of {head_width}, the width of CLIP's attention "
            "heads: their number cannot be inferred"
        )
    return width // head_width


def shape_of(tensors: Mapping[str, torch.Tensor], name: str, *dimensions: str) -> torch.Size:
    """Return the shape of a tensor with these dimensions.

    Raises:
        ValueError: if it has another number of dimensions, or one of them is 0.
    """
    shape = tensors[name].shape
    if len(shape) != len(dimensions) or 0 in shape:
        raise ValueError(f"`{name}` has shape {tuple(shape)}, but ({', '.join(dimensions)}) is expected")
    return shape


def patch_size_of(tensors: Mapping[str, torch.Tensor], parts: CheckpointParts) -> int:
    """Return the side of a patch in pixels.

    Raises:
        ValueError: if patches are not square or do not have three channels.
    """
    name = f"{parts.prefix}visual.conv1.weight"
    shape = shape_of(tensors, name, "width", "3", "side", "side")
    if shape[1] != 3 or shape[2] != shape[3]:
        raise ValueError(f"`{name}` has shape {tuple(shape)}, but (width, 3, side, side) is expected")
    return shape[2]


def patch_grid(argument: str, image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Return the (rows, columns) of patches in an image.

    Args:
        argument (`str`): name of the argument `image_size`, for the error message.
        image_size (`tuple[int, int]`): (height, width) in pixels.
        patch_size (`int`): side of a patch in pixels.

    Raises:
        ValueError: if the size is not a multiple of the patch size.
    """
    height, width = image_size
    if min(height, width) < 1 or height % patch_size or width % patch_size:
        raise ValueError(
            f"{argument} = {format_size(image_size)} (height x width) is not a multiple of the patch size "
            f"{patch_size}x{patch_size}; give another {argument}"
        )
    return height // patch_size, width // patch_size


def infer_patch_grid(
    num_patches: int, patch_size: int, source_image_size: tuple[int, int] | None, target_grid: tuple[int, int] | None
) -> tuple[int, int]:
    """Infer the (rows, columns) of patches of a model from their number.

    The grid is that of `source_image_size` if it is given. Otherwise it is a square, or three or two times as high as
    wide, as usual for images of persons, or else `target_grid`. A number that overlapping patches would have too is
    ambiguous.

    Args:
        num_patches (`int`)
        patch_size (`int`): side of a patch in pixels.
        source_image_size (`tuple[int, int]`, *optional*): (height, width) in pixels.
        target_grid (`tuple[int, int]`, *optional*): grid of the converted model, if it was given.

    Raises:
        ValueError: if `source_image_size` has another number of patches, or, without it, no grid or two different
            grids are possible.

    Examples:
        >>> infer_patch_grid(192, 16, None, None)
        (24, 8)
        >>> infer_patch_grid(15, 7, None, (3, 5))
        (3, 5)
    """
    if source_image_size:
        grid = patch_grid("source_image_size", source_image_size, patch_size)
        if grid[0] * grid[1] != num_patches:
            raise ValueError(
                f"source_image_size = {format_size(source_image_size)} has {format_size(grid)} patches of "
                f"{patch_size}x{patch_size}, but the model has positions for {num_patches}"
                f"{_overlaps(num_patches, patch_size, (source_image_size,))}"
            )
        return grid
    candidates = set()
    for ratio in (1, 3, 2):
        columns = math.isqrt(num_patches // ratio)
        if columns and ratio * columns * columns == num_patches:
            candidates.add((ratio * columns, columns))
            break
    if target_grid is not None and target_grid[0] * target_grid[1] == num_patches:
        candidates.add(target_grid)
    overlaps = _overlaps(num_patches, patch_size, PERSON_SIZES)
    if len(candidates) == 1:
        (grid,) = candidates
        size = (grid[0] * patch_size, grid[1] * patch_size)
        if not overlaps or size in PERSON_SIZES or grid == target_grid:
            return grid
    # With two candidates, the wrong one would scramble the positions.
    rows = [row for row in range(1, num_patches + 1) if num_patches % row == 0]
    options = ", ".join(format_size((row * patch_size, num_patches // row * patch_size)) for row in rows)
    raise ValueError(
        f"it has positions for {num_patches} patches of {patch_size}x{patch_size}, whose rows and columns cannot be "
        f"inferred{overlaps}; give source_image_size (--source-image-size), one of {options or 'none'}"
        f"{', if its patches do not overlap' if overlaps else ''}"
    )


def _overlaps(num_patches: int, patch_size: int, image_sizes: tuple[tuple[int, int], ...]) -> str:
    """Say with which stride there are as many overlapping patches, which GA-DMS does not have."""
    for height, width in image_sizes:
        for stride in range(max(1, patch_size // 2), patch_size):
            rows, columns = (height - patch_size) // stride + 1, (width - patch_size) // stride + 1
            if rows * columns == num_patches:
                return (
                    f". A stride of {stride} gives {rows}x{columns} patches on {format_size((height, width))}: "
                    "overlapping patches are not supported"
                )
    return ""


def format_size(size: tuple[int, int]) -> str:
    """Format (height, width).

    Examples:
        >>> format_size((384, 128))
        '384x128'
    """
    return f"{size[0]}x{size[1]}"
