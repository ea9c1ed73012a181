"""GA-DMS processor: prepares images and tokenizes captions."""

import html
import os
import re
import string
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from transformers import (
    AutoConfig,
    AutoTokenizer,
    BatchEncoding,
    BatchFeature,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil


MASK_TOKEN = "<|mask|>"
# A tokenizer stores its truncation and padding settings, which concurrent calls would overwrite.
_TOKENIZER_LOCK = threading.Lock()
# ASCII without control characters and `&`, which ftfy and HTML do not change.
_PLAIN_TEXT = re.compile(r"[\t\n\r -%'-~]*")
_IMAGE_SETTINGS = ("resample", "image_mean", "image_std", "do_rescale", "rescale_factor", "do_normalize")


class GADMSProcessor(ProcessorMixin):
    """Prepare images of persons and captions for [`GADMSModel`].

    Images are resized to the model's size without cropping, which would cut off heads or shoes, then rescaled and
    normalised. Captions are tokenized and truncated at the tokenizer's maximum length; EOS is kept. They are padded at
    the end to the longest caption: SigLIP's model pads them on to its own length. They are plain text:
    `<|endoftext|>` in a caption does not end it. Several threads can share a processor, if they call
    [`~GADMSProcessor.tokenize`] instead of the tokenizer itself.

    Args:
        image_processor ([`~transformers.CLIPImageProcessorPil`]): with `size={"height": ..., "width": ...}`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            With EOS, padding and mask tokens. Its `split_special_tokens` is set to `True`, and its `padding_side` to
            `"right"`.
        clean_text (`bool` or `str`, *optional*, defaults to `False`):
            Whether captions are cleaned first, for models that were trained on such captions: `True` for
            [`clean_caption`], `"lower_case"` for SigLIP 2's [`lower_case`], `"canonical"` for SigLIP's [`canonical`].

    Raises:
        ValueError: if the tokenizer lacks a token, or there is no such cleaning.
    """

    def __init__(
        self,
        image_processor: CLIPImageProcessorPil,
        tokenizer: PreTrainedTokenizerBase,
        clean_text: bool | str = False,
        **kwargs: Any,
    ):
        if clean_text not in _CLEANING:
            raise ValueError(f"clean_text = {clean_text!r} must be one of {', '.join(map(repr, _CLEANING))}")
        for name in ("eos_token_id", "pad_token_id", "mask_token_id"):
            if getattr(tokenizer, name) is None:
                raise ValueError(
                    f"the tokenizer has no {name}; add the token, for example "
                    f"`tokenizer.add_special_tokens({{'mask_token': '{MASK_TOKEN}'}})`"
                )
        # Set on the tokenizer, so that it also holds for callers that count tokens.
        tokenizer.split_special_tokens = True
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        # SigLIP's tokenizers make no mask. Ours tells the caption's tokens from padding.
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
        self.clean_text = clean_text
        super().__init__(image_processor, tokenizer, **kwargs)

    @classmethod
    def from_dual_encoder(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        image_size: tuple[int, int] = (384, 128),
        **hub_kwargs: Any,
    ) -> "GADMSProcessor":
        """The processor for [`GADMSModel.from_dual_encoder`]: the model's own tokenizer with an appended mask token.

        A mask token that the tokenizer may have is not used: it has not been trained, and its place in the vocabulary
        differs between families. Images are normalised as the model's own image processor does. Captions are
        lower-cased for SigLIP 2, and for SigLIP also freed from punctuation, as in their training.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                Hub id or folder of a CLIP, MetaCLIP 2, SigLIP or SigLIP 2 of transformers.
            image_size (`tuple[int, int]`, *optional*, defaults to `(384, 128)`): (height, width) in pixels.
            hub_kwargs: passed to `from_pretrained` of configuration and tokenizer (`revision`, `token`, ...).

        Raises:
            OSError: if there is no configuration or no tokenizer.
        """
        name = pretrained_model_name_or_path
        config: Any = AutoConfig.from_pretrained(name, **hub_kwargs)
        tokenizer = AutoTokenizer.from_pretrained(name, config=config, **hub_kwargs)
        tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
        positions = config.text_config.max_position_embeddings
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
        try:
            settings, _ = CLIPImageProcessorPil.get_image_processor_dict(name, **hub_kwargs)
        except OSError:  # a model without image processor is normalised as its family
            settings = {}
        clean_text: bool | str = False
        if config.model_type.startswith("siglip"):
            settings = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} | settings
            # SigLIP and SigLIP 2 have the same configuration, and other tokenizers.
            clean_text = "canonical" if tokenizer.pad_token == "</s>" else "lower_case"
        settings = {key: value for key, value in settings.items() if key in _IMAGE_SETTINGS}
        return cls.from_tokenizer(tokenizer, image_size=image_size, clean_text=clean_text, **settings)

    @classmethod
    def from_clip(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> "GADMSProcessor":
        """Older name of [`from_dual_encoder`]."""
        return cls.from_dual_encoder(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_tokenizer(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        *,
        image_size: tuple[int, int],
        clean_text: bool | str = False,
        **image_settings: Any,
    ) -> "GADMSProcessor":
        """A processor for images of `image_size` (height, width). A missing mask token is added to the tokenizer.

        Args:
            tokenizer ([`~transformers.PreTrainedTokenizerBase`]): the model's.
            image_size (`tuple[int, int]`): (height, width) in pixels.
            clean_text (`bool` or `str`, *optional*, defaults to `False`): whether captions are cleaned first.
            image_settings: passed to [`~transformers.CLIPImageProcessorPil`] (`resample`, `image_mean`, ...).
        """
        if tokenizer.mask_token is None:
            tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
        height, width = image_size
        image_processor = CLIPImageProcessorPil(
            size={"height": height, "width": width}, do_center_crop=False, **image_settings
        )
        return cls(image_processor, tokenizer, clean_text=clean_text)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image_processor.size["height"], self.image_processor.size["width"]

    def __call__(self, images: Any = None, text: str | Sequence[str] | None = None, **kwargs: Any) -> BatchFeature:
        """Prepare images, captions or both.

        Args:
            images (`PIL.Image.Image` or a sequence of them, *optional*): of any size; converted to RGB.
            text (`str` or `Sequence[str]`, *optional*): captions.
            kwargs: passed to the tokenizer and the image processor. By default, captions are padded to the longest
                one and truncated.

        Returns:
            [`~transformers.BatchFeature`]: `pixel_values` of shape `(num_images, 3, height, width)`, `input_ids` and
            `attention_mask` of shape `(num_captions, sequence_length)`.

        Raises:
            ValueError: if a caption is empty, naming its index, or nothing is given.
            ImportError: as [`clean_caption`], if captions are cleaned.
        """
        for name, value in (("images", images), ("text", text)):
            if isinstance(value, (list, tuple)) and not value:
                raise ValueError(f"`{name}` is an empty list; give at least one item, or omit the argument")
        if text is not None:
            text = [text] if isinstance(text, str) else list(text)
            for index, caption in enumerate(text):
                if not isinstance(caption, str) or not caption.strip():
                    raise ValueError(f"caption {index} is empty ({caption!r}); give a description of the person")
            text = [self.clean(caption) for caption in text]
            # transformers refuses an option that is given both flat and in `text_kwargs`.
            for name in {"padding", "truncation"} - set(kwargs.get("text_kwargs") or ()):
                kwargs.setdefault(name, True)
        kwargs.setdefault("return_tensors", "pt")
        with nullcontext() if text is None else _TOKENIZER_LOCK:
            return super().__call__(images=images, text=text, **kwargs)

    def tokenize(self, text: str | Sequence[str], **kwargs: Any) -> BatchEncoding:
        """Call the tokenizer with its own defaults, after [`~GADMSProcessor.clean`]; thread-safe."""
        text = self.clean(text) if isinstance(text, str) else [self.clean(caption) for caption in text]
        with _TOKENIZER_LOCK:
            return self.tokenizer(text, **kwargs)

    def clean(self, caption: str) -> str:
        """The caption as it is tokenized: cleaned, if `clean_text` is set. Offsets of tokens refer to it."""
        return _CLEANING[self.clean_text](caption)


def clean_caption(caption: str) -> str:
    """Clean a caption as OpenAI's tokenizer and those derived from it do.

    ftfy repairs wrongly decoded text and straightens quotes, HTML entities become characters, whitespace becomes
    single spaces, and letters become lower case.

    Raises:
        ImportError: if the caption has characters that ftfy may change, and ftfy is not installed.
    """
    if not _PLAIN_TEXT.fullmatch(caption):
        try:
            import ftfy
        except ImportError as error:
            raise ImportError(
                f"this model needs ftfy to tokenize {caption!r} as it was trained: pip install ftfy"
            ) from error
        caption = html.unescape(html.unescape(ftfy.fix_text(caption)))
    return " ".join(caption.split()).lower()


def lower_case(caption: str) -> str:
    """Lower-case a caption character by character, as SigLIP 2's tokenizer does: a final sigma stays a sigma.

    >>> lower_case("ΟΔΟΣ"), "ΟΔΟΣ".lower()
    ('οδοσ', 'οδος')
    """
    return "".join(map(str.lower, caption))


def canonical(caption: str) -> str:
    """Lower-case a caption and remove its punctuation, as the captions of SigLIP were prepared.

    >>> canonical("A man,  with a T-shirt.")
    'a man with a tshirt'
    """
    return " ".join(caption.lower().translate(str.maketrans("", "", string.punctuation)).split())


_CLEANING: dict[bool | str, Callable[[str], str]] = {
    False: str,
    True: clean_caption,
    "lower_case": lower_case,
    "canonical": canonical,
}


__all__ = ["GADMSProcessor"]
