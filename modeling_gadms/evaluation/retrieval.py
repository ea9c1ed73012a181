"""Measure retrieval: encode a data set, rank it in both directions, and report the metrics."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import datasets

from ..encoders.encoding import encode_captions, encode_images
from ..encoders.onnx_model import RetrievalModel
from ..encoders.processors import RetrievalProcessor
from ..metrics.person_retrieval.ranking import RetrievalMetrics, rank_metrics
from ..training.data import DatasetColumns, read_row_image


def metric_label(name: str) -> str:
    """Return the name of a metric in tables.

    >>> metric_label("r10"), metric_label("map"), metric_label("minp")
    ('R@10', 'mAP', 'mINP')
    """
    return {"map": "mAP", "minp": "mINP"}.get(name, f"R@{name[1:]}")


@dataclass(frozen=True)
class RetrievalReport:
    """Metrics of an evaluation, and the counts behind them.

    Attributes:
        text_to_image (`RetrievalMetrics`): captions as queries, images as gallery.
        image_to_text (`RetrievalMetrics`): images as queries, captions as gallery.
        num_images (`int`): rows of the data set.
        num_captions (`int`): captions in all caption columns.
        num_identities (`int`): distinct persons.
        num_truncated (`int`): captions truncated to `token_limit`.
        token_limit (`int`): maximum number of tokens of a caption.
        seconds (`float`): wall-clock time of encoding and ranking.
    """

    text_to_image: RetrievalMetrics
    image_to_text: RetrievalMetrics
    num_images: int
    num_captions: int
    num_identities: int
    num_truncated: int
    token_limit: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON; metrics under `text_to_image` and `image_to_text`, in percent."""
        return {
            "text_to_image": self.text_to_image.to_dict(),
            "image_to_text": self.image_to_text.to_dict(),
            "counts": {
                "images": self.num_images,
                "captions": self.num_captions,
                "identities": self.num_identities,
                "truncated_captions": self.num_truncated,
            },
            "token_limit": self.token_limit,
            "seconds": round(self.seconds, 1),
        }

    def to_table(self) -> str:
        """Return the report for people: a line for each direction, and one with the counts."""
        lines = [" " * 13 + "".join(f"{metric_label(name):>8}" for name in self.text_to_image.to_dict())]
        for direction, metrics in (("text-to-image", self.text_to_image), ("image-to-text", self.image_to_text)):
            lines.append(direction + "".join(f"{value:8.2f}" for value in metrics.to_dict().values()))
        lines.append(
            f"Percent. {self.num_captions:,} captions and {self.num_images:,} images of {self.num_identities:,} "
            f"persons, nothing excluded; {self.num_truncated:,} captions cut at {self.token_limit} tokens; "
            f"{self.seconds:.1f} s."
        )
        return "\n".join(lines)


def evaluate_retrieval(
    model: RetrievalModel,
    processor: RetrievalProcessor,
    dataset: datasets.Dataset,
    columns: DatasetColumns,
    *,
    batch_size: int = 64,
    progress: bool = True,
) -> RetrievalReport:
    """Measure text-to-image and image-to-text retrieval by the benchmarks' protocol.

    Every caption is a query against all images, and every image against all captions. A hit has the same person id.
    Nothing is excluded or re-ranked. Ties are ordered by row, as in
    [`~modeling_gadms.metrics.person_retrieval.ranking.rank_metrics`]. Images are decoded batch by batch.

    Args:
        model ([`GADMSModel`] or another dual encoder): for a [`GADMSForPreTraining`], pass its `base_model`.
        processor ([`GADMSProcessor`] or [`DualEncoderProcessor`]): the model's processor.
        dataset (`datasets.Dataset`): one split with an image per row.
        columns ([`DatasetColumns`]): columns of images, captions and person ids; without ids each row is a person.
        batch_size (`int`): images or captions encoded at once.
        progress (`bool`): whether to show progress bars.

    Returns:
        [`RetrievalReport`]

    Raises:
        ValueError: if the data set is empty or lacks a column, or a row has an unreadable image, an empty caption or
            no person id. No row is skipped.
        TypeError: if `dataset` is a dictionary of splits or a stream.
    """
    start = time.perf_counter()
    if isinstance(dataset, Mapping):
        raise TypeError(f"dataset is a dictionary of splits; pass one of {', '.join(map(str, dataset))}")
    if not isinstance(dataset, datasets.Dataset):
        raise TypeError(f"dataset is a {type(dataset).__name__}; ranks need all rows, so load it without streaming")
    if len(dataset) == 0:
        raise ValueError("the data set has no rows")
    columns.validate(dataset.column_names)
    image_ids = columns.person_ids(dataset)

    captions: list[str] = []
    caption_rows: list[int] = []
    for row_number, row in enumerate(dataset.select_columns(list(columns.captions)).with_format(None)):
        row_captions = columns.row_captions(row, row_number)
        captions += row_captions
        caption_rows += [row_number] * len(row_captions)
    caption_ids = image_ids[caption_rows]

    token_limit = processor.tokenizer.model_max_length
    num_tokens = processor.tokenize(captions, return_length=True, verbose=False)["length"]
    text_embeds = encode_captions(model, processor, captions, batch_size=batch_size, progress=progress)
    images = dataset.select_columns([columns.image]).with_format(None)
    image_embeds = encode_images(
        model,
        processor,
        (read_row_image(images, columns.image, row) for row in range(len(images))),
        batch_size=batch_size,
        progress=progress,
        total=len(images),
    )
    return RetrievalReport(
        text_to_image=rank_metrics(text_embeds, image_embeds, caption_ids, image_ids),
        image_to_text=rank_metrics(image_embeds, text_embeds, image_ids, caption_ids),
        num_images=len(image_ids),
        num_captions=len(captions),
        num_identities=len(set(image_ids.tolist())),
        num_truncated=sum(length > token_limit for length in num_tokens),
        token_limit=token_limit,
        seconds=time.perf_counter() - start,
    )
