"""A model is run batch by batch while the next batches are prepared, and large images are not all in memory."""

import threading

import numpy as np
import pytest
from PIL import Image

from dataset_scripts.construction.persons import batches
from dataset_scripts.construction.persons.batches import StoredImages, in_decoded_batches, overlapped
from modeling_gadms.media.images import load_image, to_jpeg


def contents() -> list[bytes]:
    """Three images of 32x64, of which the second comes twice."""
    rng = np.random.default_rng(0)
    files = [to_jpeg(Image.fromarray(rng.integers(0, 255, (64, 32, 3), np.uint8)), 90) for _ in range(3)]
    return [files[0], files[1], files[1], files[2]]


@pytest.mark.parametrize(
    ("limit", "sizes"), [(2048, [1, 2, 1]), (4096, [3, 1]), (6143, [3, 1]), (6144, [4]), (1, [1] * 4)]
)
def test_decoded_batches_keep_within_the_pixel_limit(monkeypatch, limit, sizes):
    monkeypatch.setattr(batches, "MAX_PIXELS", limit)
    images = StoredImages(contents())
    cut = [images[part] for part in in_decoded_batches(images, 9)]
    assert [len(part) for part in cut] == sizes
    decoded = [np.asarray(image) for part in cut for image in part]
    expected = [np.asarray(load_image(content)) for content in contents()]
    assert np.array_equal(decoded, expected)
    assert np.array_equal(images[2], expected[2])


def test_decoded_batches_have_at_most_the_chosen_number_of_images():
    images = StoredImages(contents())
    assert list(in_decoded_batches(images, 3)) == [slice(0, 3), slice(3, 4)]
    assert list(in_decoded_batches(list(images), 3)) == [slice(0, 3), slice(3, 4)]
    assert list(in_decoded_batches(StoredImages([]), 3)) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_the_next_batches_are_prepared_while_the_model_runs(threads):
    """The model waits for the preparation of as many later batches as there may be: with one after the other it would
    wait in vain."""
    ready = [threading.Event() for _ in range(20)]
    started = []

    def prepare(batch: int) -> int:
        started.append(batch)
        ready[batch].set()
        return batch

    def run(batch: int) -> int:
        for ahead in range(batch + 1, min(batch + threads + 2, 20)):
            assert ready[ahead].wait(60), f"batch {ahead} is not prepared while batch {batch} runs"
        assert max(started) <= batch + threads + 1  # and no more are in memory
        return 10 * batch

    finished = []

    def finish(outputs: int) -> list[int]:
        finished.append(threading.current_thread())
        return [outputs, outputs + 1]

    results = overlapped(range(20), prepare, run, finish, threads)
    assert results == [value for batch in range(20) for value in (10 * batch, 10 * batch + 1)]
    assert threading.current_thread() not in finished


@pytest.mark.parametrize("where", ["prepare", "run", "finish"])
def test_an_error_anywhere_is_raised(where):
    def step(name: str):
        def act(value):
            if name == where and value == 2:
                raise KeyError("colour")
            return [value] if name == "finish" else value

        return act

    with pytest.raises(KeyError, match="colour"):
        overlapped(range(5), step("prepare"), step("run"), step("finish"), 1)
