"""The HTTP protocol of `gadms serve`: uvicorn's, with a time limit for the head of a request."""

import asyncio
import logging
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


HEAD_SECONDS = 10.0
"""Time for the first line and the headers of a request. `ServingLimits` has that for bodies."""

logger = logging.getLogger(__name__)


class HeadTimeoutProtocol(H11Protocol):
    """Closes a connection whose next request does not get past its headers in time.

    uvicorn's own limit, `timeout_keep_alive`, ends with the first byte of a request: a client that sends one byte a
    minute would hold a connection for ever.
    """

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _watch_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:  # the head has come, or the connection is failing
            self._stop_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        logger.warning("Closed a connection of %s: no request came within %g seconds", self.client, HEAD_SECONDS)
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
