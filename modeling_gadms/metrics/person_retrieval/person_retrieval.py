"""R@1, R@5, R@10, mAP and mINP of text-based person retrieval, as a module of the `evaluate` library."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
import torch

from .ranking import checked_person_ids
from .ranking import rank_metrics

_DESCRIPTION = """
R@1, R@5, R@10, mAP and mINP of person retrieval by cosine similarity, in percent. Every caption searches all images,
and every image searches all captions. A hit is the same person id; nothing is excluded from the ranking.
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions: caption embeddings, a list of floats for each caption; need not be normalised.
    references: person id of each caption, all integers or all strings.
    gallery_embeds: image embeddings, of shape `(num_images, projection_dim)`; need not be normalised.
    gallery_ids: person id of each image, of the type of `references`.
    image_to_text: whether images also search captions, by default `True`. Set it to `False` for a gallery with persons
        that no caption describes: the metrics of this direction are undefined there.
Returns:
    `dict[str, float]`, in percent: `r1`, `r5`, `r10`, `map` and `minp` of text-to-image search, and the same with the
    prefix `image_to_text_` for image-to-text search.
Examples:
    metric = evaluate.load("modeling_gadms/metrics/person_retrieval")  # from the root of the repository
    captions, images = [[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.1]]
    results = metric.compute(predictions=captions, references=[7, 8], gallery_embeds=images, gallery_ids=[8, 7])
    results["r1"], results["image_to_text_map"]  # (100.0, 100.0)
"""

_CITATION = """
@article{ye2022agw,
    title = {Deep Learning for Person Re-identification: A Survey and Outlook},
    author = {Ye, Mang and Shen, Jianbing and Lin, Gaojie and Xiang, Tao and Shao, Ling and Hoi, Steven C. H.},
    journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
    year = {2022},
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS_DESCRIPTION)
class PersonRetrieval(evaluate.Metric):
    """Captions are the predictions, given to `add_batch` or `compute`; the gallery is given to `compute`."""

    def _info(self) -> evaluate.MetricInfo:
        embedding = datasets.Sequence(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            # Strings first: `evaluate` uses the first match, and a string of digits also matches an integer.
            features=[
                datasets.Features({"predictions": embedding, "references": datasets.Value(kind)})
                for kind in ("string", "int64")
            ],
        )

    # `evaluate` casts to the type of a feature and would store the ids 2.5 and "2" as 2, so ids are checked first.
    def add_batch(self, *, predictions: Sequence[Sequence[float]], references: Sequence[int] | Sequence[str]) -> None:
        """Add a batch of caption embeddings (predictions) and their person ids (references)."""
        super().add_batch(predictions=predictions, references=checked_person_ids(references, "references"))

    def add(self, *, prediction: Sequence[float], reference: int | str) -> None:
        """Add one caption embedding (prediction) and its person id (reference)."""
        super().add(prediction=prediction, reference=checked_person_ids([reference], "reference")[0])

    def _compute(
        self,
        predictions: Sequence[Sequence[float]],
        references: Sequence[int] | Sequence[str],
        gallery_embeds: Sequence[Sequence[float]] | np.ndarray | torch.Tensor,
        gallery_ids: Sequence[int] | Sequence[str],
        image_to_text: bool = True,
    ) -> dict[str, float]:
        captions = _as_matrix(predictions, "predictions")
        images = _as_matrix(gallery_embeds, "gallery_embeds")
        results = rank_metrics(captions, images, references, gallery_ids).to_dict()
        if image_to_text:
            reverse = rank_metrics(images, captions, gallery_ids, references).to_dict()
            results.update({f"image_to_text_{name}": value for name, value in reverse.items()})
        return results


def _as_matrix(embeds: Sequence[Sequence[float]] | np.ndarray | torch.Tensor, name: str) -> np.ndarray | torch.Tensor:
    if isinstance(embeds, np.ndarray | torch.Tensor):
        return embeds
    lengths = {len(row) for row in embeds}
    if len(lengths) > 1:
        raise ValueError(f"{name} have rows of {min(lengths)} to {max(lengths)} numbers; all need the same length")
    return np.asarray(embeds, dtype=np.float32)
