"""`pipeline("text-to-person-retrieval")`: rank persons by a description."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModel
from transformers.image_utils import load_image
from transformers.pipelines import PIPELINE_REGISTRY, Pipeline


TASK = "text-to-person-retrieval"
_BATCH_SIZE = 32


class TextToPersonRetrievalPipeline(Pipeline):
    """Rank images of persons, or the persons of a gallery, by a description.

    It is for GA-DMS models. transformers' own `pipeline("zero-shot-image-classification")` takes these and every other
    dual encoder.

    Args:
        images (`Sequence`, *optional*): files, URLs or PIL images that every call searches; they are encoded once.
        batch_size (`int`, *optional*): number of images in a batch; 32 by default.
        kwargs: passed to [`~transformers.Pipeline`].

    Raises:
        ValueError: if the model is of another family.

    Example:

        search = pipeline("text-to-person-retrieval", model="my_model", images=["a.jpg", "b.jpg"])
        search("a woman in a red coat", top_k=1)  # [{"rank": 1, "score": 0.31, "index": 1, "image": "b.jpg"}]
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False

    def __init__(
        self, *args: Any, images: Sequence[Any] | None = None, batch_size: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if self.model.config.model_type != "gadms":
            raise ValueError(
                f"{self.model.name_or_path} is a model of type {self.model.config.model_type!r}, and {TASK} is for "
                'GA-DMS models: take pipeline("zero-shot-image-classification"), or index a gallery with it, which '
                "takes any dual encoder (gadms index)"
            )
        self._image_batch_size = batch_size or _BATCH_SIZE
        self._candidates = None if images is None else self._encode_images(images, self._image_batch_size)

    def __call__(
        self,
        texts: str | list[str],
        *,
        images: Sequence[Any] | None = None,
        gallery: Any = None,
        top_k: int = 10,
        where: str | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Rank persons, the most similar first.

        Args:
            texts (`str` or `list[str]`): descriptions of persons.
            images (`Sequence`, *optional*): files, URLs or PIL images to search instead of the pipeline's own.
            gallery (`PersonGallery`, *optional*): a gallery to search instead of images, opened with its model.
            top_k (`int`): number of results for each text.
            where (`str`, *optional*): condition on columns of the gallery.
            batch_size (`int`, *optional*): number of images in a batch.

        Returns:
            `list[dict]`, or a list of such lists for several texts: `rank` from 1, `score` (cosine similarity),
            `index` of the image, and the `image` as it was given. For a gallery, the fields of its results.

        Raises:
            ValueError: if a text is empty, `top_k` is not positive, or there are no images or gallery, or both.
        """
        for text in [texts] if isinstance(texts, str) else texts:
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"The description {text!r} is empty: describe a person")
        if top_k < 1:
            raise ValueError(f"top_k must be 1 or more, not {top_k}")
        if gallery is not None:
            if images is not None:
                raise ValueError("Both images and a gallery are given: search in one of them")
            found = gallery.search([texts] if isinstance(texts, str) else list(texts), top_k, where=where)
            rows = [[result.to_dict() for result in results] for results in found]
            return rows[0] if isinstance(texts, str) else rows
        if where is not None:
            raise ValueError(f"where ({where!r}) is a condition on a gallery's columns, but no gallery is given")
        candidates = self._candidates
        if images is not None:
            candidates = self._encode_images(images, batch_size or self._image_batch_size)
        if candidates is None:
            raise ValueError("There is nothing to search in: give images=[...] or gallery=PersonGallery.open(...)")
        return super().__call__(texts, candidates=candidates, top_k=top_k, **kwargs)

    def _sanitize_parameters(
        self, candidates: Any = None, top_k: int = 10, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if kwargs:
            raise ValueError(f"The {TASK} pipeline has no option {', '.join(kwargs)}")
        return {}, {}, {"candidates": candidates, "top_k": top_k}

    def preprocess(self, input_: str, **kwargs: Any) -> dict[str, torch.Tensor]:
        return dict(self.processor(text=[input_]))

    def _forward(self, input_tensors: dict[str, torch.Tensor], **kwargs: Any) -> dict[str, torch.Tensor]:
        inputs = {name: input_tensors[name] for name in ("input_ids", "attention_mask")}
        return {"text_embeds": _unit(self.model.get_text_features(**inputs).pooler_output)}

    def postprocess(
        self,
        model_outputs: dict[str, torch.Tensor],
        candidates: tuple[list[Any], torch.Tensor] | None = None,
        top_k: int = 10,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        images, embeds = candidates or ([], torch.empty(0))
        scores = embeds @ model_outputs["text_embeds"][0].float()  # (num_images,)
        best = scores.argsort(descending=True, stable=True)[:top_k].tolist()  # ties in input order
        return [
            {"rank": rank, "score": float(scores[index]), "index": index, "image": images[index]}
            for rank, index in enumerate(best, start=1)
        ]

    def _encode_images(self, images: Sequence[Any], batch_size: int) -> tuple[list[Any], torch.Tensor]:
        """Return the images as they were given, and their embeddings: (num_images, projection_dim)."""
        if isinstance(images, str) or not isinstance(images, Sequence):
            raise ValueError(f"images is a {type(images).__name__}: give a list of files, URLs or PIL images")
        if not images:
            raise ValueError("images is empty: give at least one")
        embeds = []
        with self.device_placement(), torch.inference_mode():
            for start in range(0, len(images), batch_size):
                loaded = [load_image(image) for image in images[start : start + batch_size]]
                pixels = self.processor(images=loaded)["pixel_values"].to(self.device, self.model.dtype)
                embeds.append(_unit(self.model.get_image_features(pixels).pooler_output).cpu())
        return list(images), torch.cat(embeds)


def register_pipeline() -> None:
    """Register the task with `transformers.pipeline`, unless it is registered already."""
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            TASK, pipeline_class=TextToPersonRetrievalPipeline, pt_model=AutoModel, type="multimodal"
        )


def _unit(embeds: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(embeds.float(), dim=-1)
