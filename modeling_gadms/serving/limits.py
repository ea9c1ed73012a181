"""ASGI middleware that limits the size of bodies, the time to receive them, and the number of concurrent requests."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..indexing.isolation import DecodingLimits


HEALTH_PATH = "/healthz"
"""Answered without a token and without limits."""
UPLOAD_PATH = "/index"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServingLimits:
    """Limits of a server.

    Attributes:
        body_bytes (`int`): size of a request body, including a query image; uploads have a limit of their own.
        upload_bytes (`int`): size of an uploaded source.
        body_seconds (`float`), upload_seconds (`float`): time to receive a body or an upload.
        search_seconds (`float`): time for a search.
        in_flight (`int`): concurrent requests. Further ones are answered with 503.
        top_k (`int`): results of a search.
        frames (`int`): frames read from a source. The default is ten hours of video at one frame per second.
        decoding ([`~modeling_gadms.indexing.isolation.DecodingLimits`]): of the process that decodes an upload.
    """

    body_bytes: int = 12_000_000
    upload_bytes: int = 2_000_000_000
    body_seconds: float = 20.0
    upload_seconds: float = 1_800.0
    search_seconds: float = 15.0
    in_flight: int = 256
    top_k: int = 1_000
    frames: int = 36_000
    decoding: DecodingLimits = field(default_factory=DecodingLimits)


class LimitsMiddleware:
    """Refuses requests beyond the limits, before the application reads them."""

    def __init__(self, app: ASGIApp, limits: ServingLimits):
        self.app, self.limits = app, limits
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == HEALTH_PATH:
            await self.app(scope, receive, send)
        elif self._in_flight >= self.limits.in_flight:
            detail = f"{self._in_flight} requests are being served"
            await refuse(scope, receive, send, 503, detail, {"retry-after": "1"})
        else:
            self._in_flight += 1
            try:
                await self._serve(scope, receive, send)
            finally:
                self._in_flight -= 1

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_upload = scope["path"] == UPLOAD_PATH and scope["method"] == "POST"
        limit = self.limits.upload_bytes if is_upload else self.limits.body_bytes
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdigit() or int(length) > limit:
            await refuse(scope, receive, send, 413, f"The body has {length[:20]} bytes; the limit is {limit:,}")
            return
        if is_upload:  # the application writes it to disk in chunks and counts the bytes
            await self.app(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(_read(receive, limit), self.limits.body_seconds)
        except TimeoutError:
            detail = f"The body did not arrive within {self.limits.body_seconds:g} seconds"
            await refuse(scope, receive, send, 408, detail)
            return
        if body is None:
            await refuse(scope, receive, send, 413, f"The body has more than {limit:,} bytes")
            return
        await self.app(scope, _replay(body, receive), send)


async def refuse(
    scope: Scope, receive: Receive, send: Send, status: int, detail: str, headers: Mapping[str, str] | None = None
) -> None:
    """Log a refused request and answer it with a status and a reason. The rest of its body is not read."""
    client = (scope.get("client") or ("unknown",))[0]
    logger.warning("Refused %s %r of %s: %d %s", scope["method"], scope["path"], client, status, detail)
    response = JSONResponse({"detail": detail}, status, {**(headers or {}), "connection": "close"})
    await response(scope, receive, send)


async def _read(receive: Receive, limit: int) -> bytes | None:
    """Return the body of a request, or `None` if it is longer than `limit`."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that yields the body that was read, and then whatever the client sends, as a disconnect."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed
