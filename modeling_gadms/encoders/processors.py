"""Prepare images and captions for a dual encoder of any family, as its record says."""

import copy
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BatchEncoding,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from ..processing_gadms import GADMSProcessor
from .families import GADMS, Family, ImageFit, find_family


class DualEncoderProcessor:
    """Prepare images and captions for a model of transformers, with the interface of [`GADMSProcessor`].

    What it returns is what the model's `get_image_features` and `get_text_features` take: no mask for SigLIP, which
    was trained without, and the shapes of images in patches for NaFlex. Captions are plain text: `<|endoftext|>` in a
    caption does not end it. Several threads can share a processor.

    Args:
        family ([`Family`]): how text and images are prepared.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its `padding_side`, `truncation_side`, `model_max_length` and `split_special_tokens` are set.
        image_processor: one of transformers that takes PIL images.
        max_length (`int`): maximum number of tokens, see [`Family.text_length`].
        image_size (`tuple[int, int]`, *optional*): (height, width) of the model's input; not for the fit `"keep"`.
        image_fit (`str`, *optional*): one of the family's; by default the first.

    Raises:
        ValueError: if the family does not support `image_fit`.
    """

    def __init__(
        self,
        family: Family,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: Any,
        *,
        max_length: int,
        image_size: tuple[int, int] | None,
        image_fit: str | None = None,
    ):
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        tokenizer.model_max_length = max_length
        tokenizer.split_special_tokens = True
        self.family = family
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.image_size = image_size
        self.image_fit: ImageFit = family.check_fit(image_fit)
        self._lock = threading.Lock()  # a tokenizer stores its truncation and padding, which other threads would see

    def with_image_fit(self, image_fit: str | None) -> "DualEncoderProcessor":
        """The same processor with another way to fit images; they share tokenizer and lock.

        Raises:
            ValueError: if the family does not support it.
        """
        other = copy.copy(self)
        other.image_fit = self.family.check_fit(image_fit)
        return other

    def __call__(
        self, images: Any = None, text: str | Sequence[str] | None = None, return_tensors: str = "pt"
    ) -> BatchFeature:
        """Prepare images, captions or both.

        Args:
            images (`PIL.Image.Image` or a sequence of them, *optional*): of any size; converted to RGB.
            text (`str` or `Sequence[str]`, *optional*): captions; truncated at the maximum length.
            return_tensors (`str`): `"pt"`.

        Returns:
            [`~transformers.BatchFeature`]: for images `pixel_values` of shape `(num_images, 3, height, width)`, or
            what a NaFlex model takes; for captions `input_ids` of shape `(num_captions, sequence_length)` and, if the
            family takes one, `attention_mask`.

        Raises:
            ValueError: if a caption is empty, naming its index, or nothing is given.
        """
        for name, value in (("images", images), ("text", text)):
            if isinstance(value, (list, tuple)) and not value:
                raise ValueError(f"`{name}` is an empty list; give at least one item, or omit the argument")
        if images is None and text is None:
            raise ValueError("give images, text or both")
        prepared: dict[str, torch.Tensor] = {}
        if text is not None:
            prepared |= self._captions([text] if isinstance(text, str) else list(text), return_tensors)
        if images is not None:
            prepared |= self._images([images] if isinstance(images, Image.Image) else list(images), return_tensors)
        return BatchFeature(prepared)

    def tokenize(self, text: str | Sequence[str], **kwargs: Any) -> BatchEncoding:
        """Call the tokenizer with its own defaults, after [`~DualEncoderProcessor.clean`]; thread-safe."""
        text = self.clean(text) if isinstance(text, str) else [self.clean(caption) for caption in text]
        with self._lock:
            return self.tokenizer(text, **kwargs)

    def clean(self, caption: str) -> str:
        """The caption as it is tokenized. Offsets of tokens refer to it."""
        return caption if self.family.clean is None else self.family.clean(caption)

    def _captions(self, captions: list[str], return_tensors: str) -> dict[str, torch.Tensor]:
        for index, caption in enumerate(captions):
            if not isinstance(caption, str) or not caption.strip():
                raise ValueError(f"caption {index} is empty ({caption!r}); give a description of the person")
        encoded = self.tokenize(
            captions, padding=self.family.padding, truncation=True, return_tensors=return_tensors,
            return_attention_mask=self.family.attention_mask, return_token_type_ids=False,
        )  # fmt: skip
        return dict(encoded)

    def _images(self, images: list[Image.Image], return_tensors: str) -> dict[str, torch.Tensor]:
        images = [image.convert("RGB") for image in images]
        if self.image_size is None:
            return dict(self.image_processor(images, return_tensors=return_tensors))
        height, width = self.image_size
        options: dict[str, Any] = {"size": {"height": height, "width": width}, "do_center_crop": False}
        if self.image_fit == "crop" and height == width:
            # The order of the models' own processors: their pixels are reproduced exactly.
            options = {"size": {"shortest_edge": height}, "do_center_crop": True, "crop_size": options["size"]}
        elif self.image_fit == "crop":
            images = [_cropped(image, height / width) for image in images]
        elif self.image_fit == "pad":
            images = [self._padded(image) for image in images]
        return dict(self.image_processor(images, do_resize=True, return_tensors=return_tensors, **options))

    def _padded(self, image: Image.Image) -> Image.Image:
        """Resize an image in its proportions, and centre it on a canvas of the model's size."""
        height, width = cast(tuple[int, int], self.image_size)
        scale = min(height / image.height, width / image.width)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        mean = self.image_processor.image_mean if self.image_processor.do_normalize else (0.5, 0.5, 0.5)
        canvas = Image.new("RGB", (width, height), tuple(round(255 * channel) for channel in mean))
        resized = image.resize(size, self.image_processor.resample)
        canvas.paste(resized, ((width - size[0]) // 2, (height - size[1]) // 2))
        return canvas


RetrievalProcessor = GADMSProcessor | DualEncoderProcessor
"""A processor of any supported model."""


def family_of(processor: RetrievalProcessor) -> Family:
    """The family of the model that a processor belongs to."""
    return getattr(processor, "family", GADMS)


def image_fit_of(processor: RetrievalProcessor) -> ImageFit:
    """How a processor fits images to the size of its model."""
    return getattr(processor, "image_fit", GADMS.image_fits[0])


def with_image_fit(processor: RetrievalProcessor, image_fit: str | None) -> RetrievalProcessor:
    """A processor that fits images in another way; `None` is the way of the given one.

    Raises:
        ValueError: if the family does not support it.
    """
    if image_fit in (None, image_fit_of(processor)):
        return processor
    family_of(processor).check_fit(image_fit)
    return cast(DualEncoderProcessor, processor).with_image_fit(image_fit)


def load_dual_encoder_processor(name: str | Path, config: PreTrainedConfig) -> DualEncoderProcessor:
    """Load tokenizer and image processor of a model of transformers, and check that they fit its configuration.

    Args:
        name (`str` or `Path`): folder or Hub name.
        config (`PreTrainedConfig`): of a supported family other than GA-DMS.

    Raises:
        ImportError: if the tokenizer needs a library that is not installed.
        ValueError: if the tokenizer or the image processor belongs to another model.
        OSError: if a file is missing.
    """
    tokenizer = AutoTokenizer.from_pretrained(name, config=config)
    family = find_family(config, tokenizer, str(name))
    # The variant for PIL images: its result does not depend on whether torchvision is installed.
    if family.image_processor is not None:
        image_processor = family.image_processor.from_pretrained(name)
    else:
        image_processor = AutoImageProcessor.from_pretrained(name, config=config, backend="pil")
    settings: Any = config
    image_size = _input_size(image_processor) if family.any_image_size else _model_size(settings.vision_config)
    processor = DualEncoderProcessor(
        family, tokenizer, image_processor, max_length=family.text_length(config), image_size=image_size
    )
    for mismatch in (_tokenizer_mismatch(processor, settings.text_config), _image_mismatch(processor, settings)):
        if mismatch:
            raise ValueError(f"{name}: {mismatch}; give the folder of one model, with its own processor")
    return processor


def _model_size(vision: Any) -> tuple[int, int] | None:
    """(height, width) that an image encoder takes; `None` if it takes patches of images in their own proportions."""
    size = getattr(vision, "image_size", None)
    return None if size is None else (size, size) if isinstance(size, int) else (size[0], size[1])


def _input_size(image_processor: Any) -> tuple[int, int]:
    """(height, width) of what an image processor makes by itself."""
    crops = getattr(image_processor, "do_center_crop", False)
    size = image_processor.crop_size if crops else image_processor.size
    side = size.get("shortest_edge")
    return (side, side) if side else (size["height"], size["width"])


def _tokenizer_mismatch(processor: DualEncoderProcessor, text: Any) -> str | None:
    """The first difference between a tokenizer and a text encoder that would give wrong embeddings."""
    tokenizer, pooling = processor.tokenizer, processor.family.pooling
    # Some embeddings are padded to a multiple of a power of two. transformers creates a tokenizer of a few tokens if
    # the vocabulary is missing.
    if text.vocab_size not in {-(-len(tokenizer) // multiple) * multiple for multiple in (1, 8, 64, 128)}:
        return f"its tokenizer has {len(tokenizer)} tokens, its model {text.vocab_size}"
    first, last = (processor.tokenize("person")["input_ids"][index] for index in (0, -1))
    if pooling == "first" and first != tokenizer.cls_token_id:
        return f"its tokenizer starts captions with token {first}, not with {tokenizer.cls_token}, where they are read"
    if pooling == "last" and last != tokenizer.eos_token_id:
        return f"its tokenizer ends captions with token {last}, not with {tokenizer.eos_token}"
    if pooling == "eos" and processor.family.legacy_eos and text.eos_token_id == 2:
        if last != len(tokenizer) - 1:
            return (
                f"its tokenizer ends captions with token {last}, its model reads them at the highest token, "
                f"{len(tokenizer) - 1} (eos_token_id = 2 of the configuration means that)"
            )
    elif pooling == "eos" and last != text.eos_token_id:
        return f"its tokenizer ends captions with token {last}, its model reads them at token {text.eos_token_id}"
    return None


def _image_mismatch(processor: DualEncoderProcessor, config: Any) -> str | None:
    """The first difference between an image processor and an image encoder that would give wrong embeddings."""
    images = processor.image_processor
    if processor.image_size is None:
        patch = config.vision_config.patch_size
        if images.patch_size != patch:
            return f"its processor makes patches of {images.patch_size} pixels, its model reads {patch}"
        return None
    if (size := _input_size(images)) != processor.image_size:
        return f"its processor makes images of {size} pixels, its model reads {processor.image_size}"
    return None


def _cropped(image: Image.Image, proportion: float) -> Image.Image:
    """The centre of an image, whose height is `proportion` times its width."""
    width = min(image.width, max(1, round(image.height / proportion)))
    height = min(image.height, max(1, round(image.width * proportion)))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
