"""Encode images and captions as L2-normalised embeddings."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import islice
from typing import TypeVar, cast

import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..processing_gadms import GADMSProcessor
from .onnx_model import RetrievalModel


PREFETCHED_BATCHES = 2
"""Batches of images that are prepared in advance; a batch of 64 images of 384x128 takes 38 MB."""

Item = TypeVar("Item")


def encode_images(
    model: RetrievalModel,
    processor: GADMSProcessor,
    images: Iterable[Image.Image],
    *,
    batch_size: int = 64,
    progress: bool = True,
    total: int | None = None,
) -> torch.Tensor:
    """Encode images with prefetching. Only a few batches are in memory at a time.

    While a batch is encoded, a thread reads the next batches from `images` and prepares them. A generator that reads
    and decodes files runs entirely in that thread.

    The model runs on its device, in evaluation mode and without gradients. Its mode is restored afterwards.

    Args:
        model ([`GADMSModel`], [`OnnxModel`] or any model with CLIP's `get_image_features`):
            For a [`GADMSForPreTraining`], pass its `base_model`.
        processor ([`GADMSProcessor`]): the model's own processor.
        images (`Iterable[PIL.Image.Image]`): up to `PREFETCHED_BATCHES` batches are read in advance.
        batch_size (`int`): number of images in a batch.
        progress (`bool`): show a progress bar.
        total (`int`, *optional*): number of images for the progress bar, if `images` has no length.

    Returns:
        `torch.FloatTensor` of shape `(num_images, projection_dim)`: L2-normalised, float32, on the CPU, in input
        order.

    Raises:
        ValueError: if an embedding is not finite, naming the image's index, or `batch_size` is not positive.
        TypeError: if an item is not a PIL image, naming its index.
        Exception: any exception that `images` raises.
    """
    if total is None and isinstance(images, Sized):
        total = len(images)
    embeds: list[torch.Tensor] = []
    done = 0
    with (
        _inference(model),
        closing(_prefetch(_prepared(processor, images, batch_size), PREFETCHED_BATCHES)) as prepared,
        tqdm(total=total, desc="Encoding images", unit="image", disable=not progress) as bar,
    ):
        for pixel_values in prepared:
            outputs = model.get_image_features(pixel_values=pixel_values.to(model.device))
            embeds.append(_unit_rows(outputs, range(done, done + len(pixel_values)), "image"))
            done += len(pixel_values)
            bar.update(len(pixel_values))
    return torch.cat(embeds) if embeds else torch.empty(0, model.config.projection_dim)


def encode_captions(
    model: RetrievalModel,
    processor: GADMSProcessor,
    captions: Sequence[str],
    *,
    batch_size: int = 256,
    progress: bool = True,
) -> torch.Tensor:
    """Encode captions. Captions of similar length share a batch, and are packed if the model supports it.

    The model runs on its device, in evaluation mode and without gradients. Its mode is restored afterwards.

    Args:
        model ([`GADMSModel`], [`OnnxModel`] or any model with CLIP's `get_text_features`):
            For a [`GADMSForPreTraining`], pass its `base_model`.
        processor ([`GADMSProcessor`]): the model's own processor.
        captions (`Sequence[str]`): truncated at the tokenizer's maximum length; EOS is kept.
        batch_size (`int`): number of captions in a batch.
        progress (`bool`): show a progress bar.

    Returns:
        `torch.FloatTensor` of shape `(num_captions, projection_dim)`: L2-normalised, float32, on the CPU, in input
        order.

    Raises:
        ValueError: if a caption is empty or an embedding not finite, naming the caption's index, or `batch_size` is
            not positive.
        TypeError: if `captions` is one string, or an item is not a string, naming its index.
    """
    if isinstance(captions, str):
        raise TypeError(f"captions is one string ({captions!r}); give a list of captions")
    for index, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise TypeError(f"caption {index} is a {type(caption).__name__} ({caption!r}), not a string")
        if not caption.strip():
            raise ValueError(f"caption {index} is empty ({caption!r}); give a description or remove it")
    # The number of characters approximates the number of tokens, without tokenizing twice.
    order = sorted(range(len(captions)), key=lambda index: len(captions[index]))
    embeds = torch.empty(len(captions), model.config.projection_dim)
    encode = getattr(model, "get_packed_text_features", model.get_text_features)
    with (
        _inference(model),
        tqdm(total=len(order), desc="Encoding captions", unit="caption", disable=not progress) as bar,
    ):
        for indices in _batches(order, batch_size):
            inputs = processor(
                text=[captions[index] for index in indices], return_tensors="pt", padding=True, truncation=True
            ).to(model.device)
            outputs = encode(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
            embeds[indices] = _unit_rows(outputs, indices, "caption")
            bar.update(len(indices))
    return embeds


@contextmanager
def _inference(model: RetrievalModel) -> Iterator[None]:
    # Saved for each module: a frozen encoder may be in evaluation mode inside a model in training mode.
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def _prepared(processor: GADMSProcessor, images: Iterable[Image.Image], batch_size: int) -> Iterator[torch.Tensor]:
    """Yield the `pixel_values` of each batch, of shape `(batch_size, 3, height, width)`."""
    done = 0
    for batch in _batches(images, batch_size):
        for index, image in enumerate(batch, start=done):
            if not isinstance(image, Image.Image):
                raise TypeError(
                    f"image {index} is a {type(image).__name__}, not a PIL image; "
                    "open files with modeling_gadms.media.images.load_image"
                )
        done += len(batch)
        yield processor(images=batch, return_tensors="pt")["pixel_values"]


def _prefetch(items: Iterator[Item], count: int) -> Generator[Item, None, None]:
    """Yield `items`; a thread computes up to `count` of them in advance.

    Exceptions of `items` are raised here, in order. The thread ends when this generator is exhausted or closed;
    closing waits for the item that is being computed.
    """
    end = object()
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
    try:
        pending = deque(pool.submit(next, items, end) for _ in range(count))
        while (item := pending.popleft().result()) is not end:
            pending.append(pool.submit(next, items, end))
            yield cast(Item, item)
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(items: Iterable, size: int) -> Iterator[list]:
    if size < 1:
        raise ValueError(f"batch_size must be positive, not {size}")
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _unit_rows(outputs: BaseModelOutputWithPooling, indices: Sequence[int], kind: str) -> torch.Tensor:
    features: torch.Tensor = outputs["pooler_output"]
    embeds = torch.nn.functional.normalize(features.float(), dim=-1).cpu()
    finite = torch.isfinite(embeds).all(dim=-1)
    if not finite.all():
        index = indices[int(finite.logical_not().nonzero()[0])]
        raise ValueError(
            f"the embedding of {kind} {index} is not finite; the model's weights are damaged, or half precision "
            f"overflowed (the model is {features.dtype}: try float32)"
        )
    return embeds
