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
from transformers import BatchFeature
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .onnx_model import RetrievalModel
from .processors import RetrievalProcessor, family_of


PREFETCHED_BATCHES = 2
"""Batches of images that are prepared in advance; a batch of 64 images of 384x128 takes 38 MB."""

Item = TypeVar("Item")


def embedding_dim(model: RetrievalModel, processor: RetrievalProcessor) -> int:
    """Width of the embeddings of a model."""
    return family_of(processor).width(model.config)


def encode_images(
    model: RetrievalModel,
    processor: RetrievalProcessor,
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
        model ([`GADMSModel`], a model of transformers or [`OnnxModel`]):
            For a [`GADMSForPreTraining`], pass its `base_model`.
        processor ([`GADMSProcessor`] or [`DualEncoderProcessor`]): of the model, from
            [`~modeling_gadms.encoders.loading.load_model_and_processor`].
        images (`Iterable[PIL.Image.Image]`): up to `PREFETCHED_BATCHES` batches are read in advance.
        batch_size (`int`): number of images in a batch.
        progress (`bool`): show a progress bar.
        total (`int`, *optional*): number of images for the progress bar, if `images` has no length.

    Returns:
        `torch.FloatTensor` of shape `(num_images, embedding_dim)`: L2-normalised, float32, on the CPU, in input
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
        for inputs in prepared:
            outputs = model.get_image_features(**inputs.to(model.device, model.dtype))
            count = len(inputs["pixel_values"])
            embeds.append(_unit_rows(outputs, range(done, done + count), "image"))
            done += count
            bar.update(count)
    return torch.cat(embeds) if embeds else torch.empty(0, embedding_dim(model, processor))


def encode_captions(
    model: RetrievalModel,
    processor: RetrievalProcessor,
    captions: Sequence[str],
    *,
    batch_size: int = 256,
    progress: bool = True,
) -> torch.Tensor:
    """Encode captions. Captions of similar length share a batch, and are packed if the model supports it.

    The model runs on its device, in evaluation mode and without gradients. Its mode is restored afterwards.

    Args:
        model, processor: as in [`encode_images`].
        captions (`Sequence[str]`): truncated at the tokenizer's maximum length; EOS is kept.
        batch_size (`int`): number of captions in a batch.
        progress (`bool`): show a progress bar.

    Returns:
        `torch.FloatTensor` of shape `(num_captions, embedding_dim)`: L2-normalised, float32, on the CPU, in input
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
    embeds = torch.empty(len(captions), embedding_dim(model, processor))
    encode = getattr(model, "get_packed_text_features", model.get_text_features)
    with (
        _inference(model),
        tqdm(total=len(order), desc="Encoding captions", unit="caption", disable=not progress) as bar,
    ):
        for indices in _batches(order, batch_size):
            inputs = processor(text=[captions[index] for index in indices]).to(model.device)
            outputs = encode(**inputs)
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


def _prepared(processor: RetrievalProcessor, images: Iterable[Image.Image], batch_size: int) -> Iterator[BatchFeature]:
    """Yield what the image encoder takes for each batch."""
    done = 0
    for batch in _batches(images, batch_size):
        for index, image in enumerate(batch, start=done):
            if not isinstance(image, Image.Image):
                raise TypeError(
                    f"image {index} is a {type(image).__name__}, not a PIL image; "
                    "open files with modeling_gadms.media.images.load_image"
                )
        done += len(batch)
        yield processor(images=batch)


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
