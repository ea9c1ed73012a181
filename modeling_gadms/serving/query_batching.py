"""Batch the queries of concurrent users: those that arrive during one forward pass are encoded in the next."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from ..gallery.records import Query
from ..gallery.search import EncodedQuery


MAX_BATCH = 32
"""Queries encoded together. Larger batches are hardly faster and delay the first query."""


class QueryBatcher:
    """Encodes queries in a thread of its own. It never waits for a batch to fill up.

    Args:
        encode (`Callable[[Sequence[Query]], list[EncodedQuery]]`): usually
            [`~modeling_gadms.gallery.person_gallery.PersonGallery.encode`].
        max_batch (`int`): largest number of queries encoded together.
        observe (`Callable[[int], None]`, *optional*): called with the size of each batch.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[Query]], list[EncodedQuery]],
        *,
        max_batch: int = MAX_BATCH,
        observe: Callable[[int], None] | None = None,
    ):
        if max_batch < 1:
            raise ValueError(f"max_batch must be 1 or more, not {max_batch}")
        self._encode, self._max_batch, self._observe = encode, max_batch, observe
        self._waiting: queue.SimpleQueue[tuple[Query, Future[EncodedQuery]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="query-batcher", daemon=True)
        self._thread.start()

    def submit(self, query: Query) -> "Future[EncodedQuery]":
        """Queue a query. Cancel the returned future when its result is no longer needed."""
        future: Future[EncodedQuery] = Future()
        self._waiting.put((query, future))
        return future

    def close(self, timeout: float | None = None) -> None:
        """Encode the submitted queries, then stop the thread."""
        self._waiting.put(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        item = self._waiting.get()
        while item is not None:
            batch = []
            while item is not None:
                if item[1].set_running_or_notify_cancel():
                    batch.append(item)
                if len(batch) == self._max_batch or self._waiting.empty():
                    break
                item = self._waiting.get()
            if batch:
                self._answer(batch)
            if item is not None:
                item = self._waiting.get()

    def _answer(self, batch: list[tuple[Query, "Future[EncodedQuery]"]]) -> None:
        if self._observe is not None:
            self._observe(len(batch))
        try:
            encoded = self._encode([query for query, _ in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for item in batch:  # an invalid query must not fail those of other users
                self._answer([item])
            return
        for (_, future), result in zip(batch, encoded, strict=True):
            future.set_result(result)
