"""Block `match`: whether a caption fits its picture, by the similarity of any dual encoder."""

import io
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from ..blocks import Batch, Block, Outcome, Verdict
from .caption import Attempt


MISMATCH = "does not match the image"


@dataclass(frozen=True)
class MatchSettings:
    """An optional check that the paper does not have.

    Args:
        model (`str`, *optional*): folder or Hub name of a CLIP or GA-DMS model; by default there is no check.
        min_similarity (`float`, *optional*, defaults to 0.2): least cosine similarity, which differs between models:
            measure some pairs and some mismatched pairs first.
        batch_size (`int`, *optional*, defaults to 32): pairs encoded at once.

    Raises:
        ValueError: for a value out of its range.
    """

    model: str | None = None
    min_similarity: float = 0.2
    batch_size: int = 32

    def __post_init__(self) -> None:
        if not -1 <= self.min_similarity <= 1:
            raise ValueError(f"`min_similarity` is a cosine, from -1 to 1, not {self.min_similarity}")
        if self.batch_size < 1:
            raise ValueError(f"`batch_size` must be 1 or more, not {self.batch_size}")


class MatchCaption(Block):
    """Adds the similarity of picture and caption; a caption below the threshold is as none."""

    has_model = True

    def __init__(self, attempt: Attempt, settings: MatchSettings):
        self.attempt, self.settings = attempt, settings
        self.group = attempt.column
        self.name = attempt.block_name("match")
        self.batch_size = settings.batch_size
        self.reads = ("crop", attempt.column)
        self.adds = {
            f"similarity{attempt.slot}": pa.float64(),
            attempt.column: pa.string(),
        }

    def prepare(self) -> None:
        self._model, self._processor = _shared_dual_encoder(str(self.settings.model))

    def concerns(self, table: pa.Table) -> pa.Array | None:
        captioned = pc.is_valid(table[self.attempt.column]).combine_chunks()
        measured = f"similarity{self.attempt.slot}"
        if measured not in table.column_names:
            return captioned
        # The earlier attempt's captions that passed keep their similarity; those that failed have no caption.
        return pc.and_(captioned, pc.is_null(table[measured]).combine_chunks())

    def __call__(self, batch: Batch) -> Outcome:
        from modeling_gadms.encoders.encoding import encode_captions, encode_images

        images = [Image.open(io.BytesIO(crop)).convert("RGB") for crop in batch["crop"]]
        captions = batch[self.attempt.column]
        sizes: dict[str, Any] = {"batch_size": len(images), "progress": False}
        image_embeds = encode_images(self._model, self._processor, images, **sizes)
        text_embeds = encode_captions(self._model, self._processor, captions, **sizes)
        # What is stored is also what is judged, so that a row can be checked later.
        similarities = [round(value, 4) for value in (image_embeds * text_embeds).sum(dim=-1).tolist()]
        fits = [similarity >= self.settings.min_similarity for similarity in similarities]
        verdicts: list[Verdict] = []
        notes = []
        for similarity, is_fit in zip(similarities, fits, strict=True):
            verdict, note = (True, None) if is_fit else self.attempt.failure(MISMATCH, f"similarity {similarity}")
            verdicts.append(verdict)
            notes.append(note)
        columns = {
            f"similarity{self.attempt.slot}": [
                similarity if is_fit else None for similarity, is_fit in zip(similarities, fits, strict=True)
            ],
            self.attempt.column: [caption if is_fit else None for caption, is_fit in zip(captions, fits, strict=True)],
        }
        return Outcome(columns, verdicts, notes)


@cache
def _shared_dual_encoder(name: str) -> tuple[Any, Any]:
    """One model a process, for all columns and attempts."""
    return load_dual_encoder(name)


def load_dual_encoder(name: str) -> tuple[Any, Any]:
    """A GA-DMS model, or a model of transformers that embeds images and captions as CLIP does.

    Args:
        name (`str`): folder or Hub name.

    Returns:
        the model, in evaluation mode and on the GPU if there is one, and what makes its inputs, called as a processor.

    Raises:
        ValueError: if it is neither, or lacks weights.
        OSError: if nothing is found under that name.
    """
    import torch
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

    import modeling_gadms  # noqa: F401, registers the model
    from modeling_gadms.encoders.loading import load_model_and_processor, refuse_missing_weights

    if AutoConfig.from_pretrained(name).model_type == "gadms":
        return load_model_and_processor(name)
    model, loading = AutoModel.from_pretrained(name, output_loading_info=True)
    is_dual = hasattr(model, "get_image_features") and hasattr(model, "get_text_features")
    if not is_dual or not hasattr(model.config, "projection_dim"):
        kind = type(model).__name__
        raise ValueError(f"{name} is a {kind}, which does not embed images and captions as CLIP does")
    refuse_missing_weights(name, model, loading)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    image_processor = AutoImageProcessor.from_pretrained(name, backend="pil")
    tokenizer = AutoTokenizer.from_pretrained(name)

    def process(images: Any = None, text: Any = None, **arguments: Any) -> Any:
        if images is not None:
            return image_processor(images=images, return_tensors="pt")
        return tokenizer(text, **arguments)

    return model, process
