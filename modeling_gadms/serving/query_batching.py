"""Encode the queries of many users together: one run of the model for all that came while it ran before."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from ..gallery.records import Query
from ..gallery.search import EncodedQuery


MAX_BATCH = 32
"""Queries encoded at once. More hardly gain speed and make the first one wait."""


class QueryBatcher:
    """Runs an encoder in a thread of its own. Nobody waits for a batch to fill: what has come is encoded.

    Args:
        encode (`Callable[[Sequence[Query]], list[EncodedQuery]]`): as
            [`~modeling_gadms.gallery.person_gallery.PersonGallery.encode`].
        max_batch (`int`): queries encoded at once; 1 encodes each alone.
        observe (`Callable[[int], None]`, *optional*): told the size of each batch.
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
        """The query's encoding, to come; cancel it where nobody waits any more."""
        future: Future[EncodedQuery] = Future()
        self._waiting.put((query, future))
        return future

    def close(self, timeout: float | None = None) -> None:
        """Encode what was submitted, and end."""
        self._waiting.put(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        ended = False
        while not ended:
            batch = []
            item = self._waiting.get()
            while True:
                if item is None:
                    ended = True
                    break
                query, future = item
                if future.set_running_or_notify_cancel():
                    batch.append((query, future))
                if len(batch) == self._max_batch:
                    break
                try:
                    item = self._waiting.get_nowait()
                except queue.Empty:
                    break
            if batch:
                self._answer(batch)

    def _answer(self, batch: list[tuple[Query, "Future[EncodedQuery]"]]) -> None:
        if self._observe is not None:
            self._observe(len(batch))
        try:
            encoded = self._encode([query for query, _ in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for item in batch:  # one query of a stranger is not to spoil those of others
                self._answer([item])
            return
        for (_, future), result in zip(batch, encoded, strict=True):
            future.set_result(result)
