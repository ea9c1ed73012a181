"""A sentence-transformers module that encodes captions and images with a GA-DMS model.

This file is copied into exports for sentence-transformers, so it imports nothing from this package.
"""

from collections.abc import Sequence
from typing import Any

from PIL import Image
from sentence_transformers.base.modality import is_image_url_or_path
from sentence_transformers.base.modules import InputModule
from transformers import AutoModel, AutoProcessor, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin


class GADMSEncoder(InputModule):
    """First module of a `SentenceTransformer`; the second one normalises the embeddings.

    Longer captions than the tokenizer's maximum are truncated, keeping EOS.

    Args:
        model ([`~transformers.PreTrainedModel`]): a `GADMSModel`.
        processor ([`~transformers.ProcessorMixin`]): its `GADMSProcessor`.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin):
        super().__init__()
        self.model: Any = model
        self.processor: Any = processor

    @property
    def modalities(self) -> list[Any]:
        """Inputs that `SentenceTransformer.encode` accepts."""
        return ["text", "image"]

    # The base class declares an attribute, which mypy does not let a property override.
    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:  # type: ignore[override]
        """Tokenizer of the processor."""
        return self.processor.tokenizer

    @property
    def max_seq_length(self) -> int:
        """Maximum number of tokens of a caption."""
        return self.tokenizer.model_max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        positions = self.model.config.text_config.max_position_embeddings
        if not 3 <= value <= positions:
            raise ValueError(f"max_seq_length = {value} must lie between 3 and the model's {positions} positions")
        self.tokenizer.model_max_length = value

    def get_embedding_dimension(self) -> int:
        """Dimensions of the embeddings."""
        return self.model.config.projection_dim

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Prepare a batch of captions or of images. sentence-transformers does not mix them.

        Args:
            inputs (`Sequence[str]` or `Sequence[PIL.Image.Image]`): captions or images.
            prompt (`str`, *optional*): prepended to every caption.
            kwargs: ignored; sentence-transformers passes them to all modules.

        Returns:
            `dict`: `pixel_values`, or `input_ids` and `attention_mask`.

        Raises:
            ValueError: for other inputs and for an empty caption.
        """
        if all(isinstance(item, Image.Image) for item in inputs):
            return dict(self.processor(images=list(inputs), return_tensors="pt"))
        for item in inputs:
            if not isinstance(item, str):
                raise ValueError(
                    f"a {type(item).__name__} is not a caption (str); a batch contains either captions or images "
                    "(PIL.Image.Image)"
                )
            if is_image_url_or_path(item):
                raise ValueError(f"{item!r} is the path of an image, not a caption: open it with PIL.Image.open")
        captions = [(prompt or "") + caption if caption.strip() else caption for caption in inputs]
        return dict(self.processor(text=captions, return_tensors="pt"))

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Encode a batch. Adds `sentence_embedding` of shape `(batch_size, projection_dim)` in float32."""
        if "pixel_values" in features:
            outputs = self.model.get_image_features(features["pixel_values"])
        else:
            outputs = self.model.get_text_features(features["input_ids"], features["attention_mask"])
        features["sentence_embedding"] = outputs["pooler_output"].float()
        return features

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write model and processor. sentence-transformers adds this file and its own."""
        self.model.save_pretrained(output_path)
        self.processor.save_pretrained(output_path)

    @classmethod
    def load(  # type: ignore[override]  # `SentenceTransformer` passes more arguments than the base class declares
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> "GADMSEncoder":
        """Load from a folder or the Hub. `SentenceTransformer` passes its user's `trust_remote_code`."""
        options = {
            "subfolder": subfolder,
            "token": token,
            "cache_dir": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
            "trust_remote_code": trust_remote_code,
        }
        model = AutoModel.from_pretrained(model_name_or_path, **options, **(model_kwargs or {}))
        processor = AutoProcessor.from_pretrained(model_name_or_path, **options, **(processor_kwargs or {}))
        return cls(model, processor)
