"""Run a model batch by batch, with the work before and after it in threads beside it."""

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice
from typing import Any, TypeVar, overload

from PIL import Image

from modeling_gadms.media.images import MAX_PIXELS, load_image


ROWS_PER_CALL = 1024
"""Rows of a call of a block whose model makes batches of its own: many of them, so that the model seldom waits for the
first one. Their encoded images are in memory twice."""
Item = TypeVar("Item")
Prepared = TypeVar("Prepared")
Outputs = TypeVar("Outputs")
Result = TypeVar("Result")


class StoredImages(Sequence[Image.Image]):
    """Images that are decoded when they are looked at, so that few are in memory at a time.

    Args:
        contents (`Sequence[bytes]`): files of valid images. Iterating decodes equal neighbours once.
    """

    def __init__(self, contents: Sequence[bytes]):
        self._contents = contents

    def __len__(self) -> int:
        return len(self._contents)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> "StoredImages": ...
    def __getitem__(self, index: int | slice) -> "Image.Image | StoredImages":
        if isinstance(index, slice):
            return StoredImages(self._contents[index])
        return load_image(self._contents[index])

    def pixels(self) -> Iterator[int]:
        """Pixels that iterating adds to memory at each image, by the headers of the files."""
        for content, equal in groupby(self._contents):
            with Image.open(io.BytesIO(content)) as image:
                yield image.width * image.height
            for _ in islice(equal, 1, None):
                yield 0

    def __iter__(self) -> Iterator[Image.Image]:
        for content, equal in groupby(self._contents):
            image = load_image(content)
            for _ in equal:
                yield image


def in_batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Consecutive slices of at most `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def in_decoded_batches(images: Sequence[Image.Image], size: int) -> Iterator[slice]:
    """Slices of at most `size` images and, unless it is one image, `MAX_PIXELS` pixels, for a model that needs all
    images of a batch decoded."""
    pixels = images.pixels() if isinstance(images, StoredImages) else [0] * len(images)
    start = total = 0
    for number, more in enumerate(pixels):
        total += more
        if number > start and (number - start == size or total > MAX_PIXELS):
            yield slice(start, number)
            start, total = number, more
    if images:
        yield slice(start, len(images))


def noting_sizes(images: Iterable[Image.Image], sizes: list[tuple[int, int]]) -> Iterator[Image.Image]:
    """Pass images on, and append their sizes (width, height), so that no image is decoded for its size alone."""
    for image in images:
        sizes.append(image.size)
        yield image


def overlapped(
    batches: Iterable[Item],
    prepare: Callable[[Item], Prepared],
    run: Callable[[Prepared], Outputs],
    finish: Callable[[Outputs], list[Result]],
    threads: int,
) -> list[Result]:
    """Run a model on batches, in order and in this thread; `prepare` and `finish` run in threads meanwhile.

    At most `threads + 1` batches are prepared ahead.

    Returns:
        `list[Result]`: the results of all batches, in order.
    """
    remaining = iter(batches)
    with ThreadPoolExecutor(threads) as pool:
        prepared = deque(pool.submit(prepare, batch) for batch in islice(remaining, threads + 1))
        results: list[Future[list[Result]]] = []
        try:
            while prepared:
                inputs = prepared.popleft().result()
                prepared.extend(pool.submit(prepare, batch) for batch in islice(remaining, 1))
                results.append(pool.submit(finish, run(inputs)))
            return [result for future in results for result in future.result()]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def concatenated(parts: Sequence[Any]) -> Any:
    """Join the outputs of an image processor for single images; all tensors must have the same size."""
    import torch

    joined = parts[0]
    for name in joined:
        joined[name] = torch.cat([part[name] for part in parts])
    return joined
