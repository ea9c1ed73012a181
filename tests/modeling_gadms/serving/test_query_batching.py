"""Concurrent queries are encoded in batches, and each gets its own result."""

import threading
from collections.abc import Sequence

import pytest
import torch

from modeling_gadms.gallery.person_gallery import Query
from modeling_gadms.gallery.search import EncodedQuery
from modeling_gadms.serving.query_batching import QueryBatcher


class Encoder:
    """Encodes a text as its length. Records the batches, and optionally waits for `released`."""

    def __init__(self, held: bool = False):
        self.batches: list[list[str]] = []
        self.entered = threading.Event()
        self.released = threading.Event()
        if not held:
            self.released.set()

    def __call__(self, queries: Sequence[Query]) -> list[EncodedQuery]:
        texts = [str(query.text) for query in queries]
        self.batches.append(texts)
        self.entered.set()
        assert self.released.wait(120)
        if "bad" in texts:
            raise ValueError("bad is bad")
        return [EncodedQuery(torch.tensor([float(len(text))])) for text in texts]


def test_what_comes_while_the_encoder_runs_is_one_batch_and_each_gets_its_own():
    encoder, sizes = Encoder(held=True), []
    batcher = QueryBatcher(encoder, observe=sizes.append)
    first = batcher.submit(Query("a"))
    assert encoder.entered.wait(120)
    others = [batcher.submit(Query("a" * length)) for length in range(2, 8)]
    encoder.released.set()
    assert [float(future.result(120).vector) for future in (first, *others)] == [1, 2, 3, 4, 5, 6, 7]
    assert [len(batch) for batch in encoder.batches] == sizes == [1, 6]
    batcher.close(20)


def test_a_batch_is_no_larger_than_allowed():
    encoder = Encoder(held=True)
    batcher = QueryBatcher(encoder, max_batch=4)
    futures = [batcher.submit(Query("x"))]
    assert encoder.entered.wait(120)
    futures += [batcher.submit(Query("x")) for _ in range(10)]
    encoder.released.set()
    for future in futures:
        future.result(120)
    assert [len(batch) for batch in encoder.batches] == [1, 4, 4, 2]
    batcher.close(20)


def test_one_bad_query_does_not_spoil_the_others():
    encoder = Encoder(held=True)
    batcher = QueryBatcher(encoder)
    batcher.submit(Query("first"))
    assert encoder.entered.wait(120)
    good, bad, better = (batcher.submit(Query(text)) for text in ("good", "bad", "better"))
    encoder.released.set()
    assert (float(good.result(120).vector), float(better.result(20).vector)) == (4, 6)
    with pytest.raises(ValueError, match="bad is bad"):
        bad.result(120)
    batcher.close(20)


def test_what_nobody_waits_for_is_not_encoded():
    encoder = Encoder(held=True)
    batcher = QueryBatcher(encoder)
    batcher.submit(Query("first"))
    assert encoder.entered.wait(120)
    left, kept = batcher.submit(Query("left")), batcher.submit(Query("kept"))
    assert left.cancel()
    encoder.released.set()
    kept.result(120)
    assert encoder.batches == [["first"], ["kept"]]
    batcher.close(20)


def test_closing_answers_what_was_submitted():
    encoder = Encoder(held=True)
    batcher = QueryBatcher(encoder, max_batch=2)
    futures = [batcher.submit(Query("x")) for _ in range(5)]
    closing = threading.Thread(target=batcher.close, args=(120,))
    closing.start()
    encoder.released.set()
    closing.join(120)
    assert not closing.is_alive()
    assert all(future.done() for future in futures)


def test_a_batch_of_none_is_refused():
    with pytest.raises(ValueError, match="max_batch must be 1 or more, not 0"):
        QueryBatcher(Encoder(), max_batch=0)
