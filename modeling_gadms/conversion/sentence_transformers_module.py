"""A GA-DMS model as a module of sentence-transformers: captions and images into one space.

An export for sentence-transformers carries a copy of this file, which therefore imports nothing of the package.
"""

from collections.abc import Sequence
from typing import Any

from PIL import Image
from sentence_transformers.base.modality import is_image_url_or_path
from sentence_transformers.base.modules import InputModule
from transformers import AutoModel, AutoProcessor, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin


class GADMSEncoder(InputModule):
    """First module of a `SentenceTransformer`; the second normalises.

    Captions longer than the tokenizer's maximum are cut there, EOS kept.

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
        """What `SentenceTransformer.encode` takes."""
        return ["text", "image"]

    # The base class declares a field, which a property may not stand in for.
    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:  # type: ignore[override]
        """The processor's."""
        return self.processor.tokenizer

    @property
    def max_seq_length(self) -> int:
        """Tokens a caption is cut to."""
        return self.tokenizer.model_max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        positions = self.model.config.text_config.max_position_embeddings
        if not 3 <= value <= positions:
            raise ValueError(f"max_seq_length = {value} must lie between 3 and the model's {positions} positions")
        self.tokenizer.model_max_length = value

    def get_embedding_dimension(self) -> int:
        """Width of the shared space."""
        return self.model.config.projection_dim

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Prepare a batch of captions or of images; sentence-transformers does not mix them.

        Args:
            inputs (`Sequence[str]` or `Sequence[PIL.Image.Image]`): captions or images.
            prompt (`str`, *optional*): put before every caption.
            kwargs: what sentence-transformers passes to all modules; nothing here depends on it.

        Returns:
            `dict`: `pixel_values`, or `input_ids` and `attention_mask`.

        Raises:
            ValueError: for anything else, naming it, and for an empty caption.
        """
        if all(isinstance(item, Image.Image) for item in inputs):
            return dict(self.processor(images=list(inputs), return_tensors="pt"))
        for item in inputs:
            if not isinstance(item, str):
                raise ValueError(
                    f"a {type(item).__name__} is no caption (str), and a batch holds captions or images "
                    "(PIL.Image.Image)"
                )
            if is_image_url_or_path(item):
                raise ValueError(
                    f"{item!r} names an image, and would be read as a caption: open it with PIL.Image.open"
                )
        captions = [(prompt or "") + caption if caption.strip() else caption for caption in inputs]
        return dict(self.processor(text=captions, return_tensors="pt"))

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Encode a prepared batch; adds `sentence_embedding` of shape `(batch_size, projection_dim)`, in float32."""
        if "pixel_values" in features:
            outputs = self.model.get_image_features(features["pixel_values"])
        else:
            outputs = self.model.get_text_features(features["input_ids"], features["attention_mask"])
        features["sentence_embedding"] = outputs["pooler_output"].float()
        return features

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write model and processor; sentence-transformers adds this file and its own."""
        self.model.save_pretrained(output_path)
        self.processor.save_pretrained(output_path)

    @classmethod
    def load(  # type: ignore[override]  # with what `SentenceTransformer` passes beyond the base class's
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
        """Load from a folder or the Hub, as `SentenceTransformer` asks; code is trusted only if its user trusts it."""
        where = {
            "subfolder": subfolder,
            "token": token,
            "cache_dir": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
            "trust_remote_code": trust_remote_code,
        }
        model = AutoModel.from_pretrained(model_name_or_path, **where, **(model_kwargs or {}))
        processor = AutoProcessor.from_pretrained(model_name_or_path, **where, **(processor_kwargs or {}))
        return cls(model, processor)
