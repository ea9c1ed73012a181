"""Block `match`: reject captions that do not fit their image, by the similarity of a dual encoder."""

import io
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from ..blocks import Batch, Outcome
from .caption import Attempt, AttemptBlock


MISMATCH = "does not match the image"


@dataclass(frozen=True)
class MatchSettings:
    """Settings of the optional `match` block, which is not in the paper.

    Args:
        model (`str`, *optional*): folder or Hub name of a CLIP or GA-DMS model; by default there is no check.
        min_similarity (`float`, *optional*, defaults to 0.2): minimum cosine similarity. Its scale depends on the
            model: measure some matching and some mismatched pairs first.
        batch_size (`int`, *optional*, defaults to 32): pairs encoded at once.

    Raises:
        ValueError: for a value out of its range.
    """

    model: str | None = None
    min_similarity: float = 0.2
    batch_size: int = 32

    def __post_init__(self) -> None:
        if not -1 <= self.min_similarity <= 1:
            raise ValueError(f"`min_similarity` is a cosine and must lie between -1 and 1, not {self.min_similarity}")
        if self.batch_size < 1:
            raise ValueError(f"`batch_size` must be 1 or more, not {self.batch_size}")


class MatchCaption(AttemptBlock):
    """Adds the similarity of image and caption; removes a caption below the threshold."""

    step = "match"
    has_model = True

    def __init__(self, attempt: Attempt, settings: MatchSettings):
        super().__init__(attempt)
        self.settings = settings
        self.batch_size = settings.batch_size
        self.reads = ("crop", attempt.column)
        self.adds = {f"similarity{attempt.slot}": pa.float64(), attempt.column: pa.string()}

    def prepare(self) -> None:
        self._model, self._processor = load_dual_encoder(str(self.settings.model))

    def selects(self, table: pa.Table) -> pa.Array | None:
        captioned = pc.is_valid(table[self.attempt.column]).combine_chunks()
        measured = f"similarity{self.attempt.slot}"
        if measured not in table.column_names:
            return captioned
        # Captions that passed in an earlier attempt already have a similarity.
        return pc.and_(captioned, pc.is_null(table[measured]).combine_chunks())

    def __call__(self, batch: Batch) -> Outcome:
        from modeling_gadms.encoders.encoding import encode_captions, encode_images

        images = [Image.open(io.BytesIO(crop)).convert("RGB") for crop in batch["crop"]]
        captions = batch[self.attempt.column]
        sizes: dict[str, Any] = {"batch_size": len(images), "progress": False}
        image_embeds = encode_images(self._model, self._processor, images, **sizes)
        text_embeds = encode_captions(self._model, self._processor, captions, **sizes)
        # The rounded value is both stored and judged, so that a row can be checked later.
        similarities = [round(value, 4) for value in (image_embeds * text_embeds).sum(dim=-1).tolist()]
        columns: Batch = {f"similarity{self.attempt.slot}": [], self.attempt.column: []}
        failures: list[tuple[str, str] | None] = []
        for caption, similarity in zip(captions, similarities, strict=True):
            fits = similarity >= self.settings.min_similarity
            columns[f"similarity{self.attempt.slot}"].append(similarity if fits else None)
            columns[self.attempt.column].append(caption if fits else None)
            failures.append(None if fits else (MISMATCH, f"similarity {similarity}"))
        return self.attempt.outcome(columns, failures)


@cache
def load_dual_encoder(name: str) -> tuple[Any, Any]:
    """Load a dual encoder of any supported family, once per process. It sees whole persons, from head to shoes.

    Returns:
        The model, in evaluation mode and on the GPU if available, and its processor.

    Raises:
        ValueError: if the model is none, or lacks weights.
        OSError: if there is no model of that name.
    """
    from modeling_gadms.encoders.loading import load_model_and_processor

    return load_model_and_processor(name)
