"""What a server refuses before it looks at a request: strangers, too large bodies, too many at a time."""

import asyncio
import logging
import secrets
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


OPEN_PATHS = ("/healthz",)
"""For which no token is needed."""
UPLOAD_PATH = "/index"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServingLimits:
    """What a server takes.

    Attributes:
        body_bytes (`int`): of a request but an upload; a picture to search by is part of it.
        upload_bytes (`int`): of a source to index.
        body_seconds (`float`), upload_seconds (`float`): in which they must have arrived.
        search_seconds (`float`): after which a search is given up.
        in_flight (`int`): requests at a time; more are told to come again.
        top_k (`int`): persons of an answer.
        frames (`int`): to be taken of a source, ten hours of a video at one a second.
    """

    body_bytes: int = 12_000_000
    upload_bytes: int = 2_000_000_000
    body_seconds: float = 20.0
    upload_seconds: float = 1_800.0
    search_seconds: float = 15.0
    in_flight: int = 256
    top_k: int = 1_000
    frames: int = 36_000


class Guard:
    """ASGI middleware that stands before the application.

    Args:
        app (`ASGIApp`)
        limits (`ServingLimits`)
        token (`str`, *optional*): that requests must bear; without it anybody is served.
    """

    def __init__(self, app: ASGIApp, limits: ServingLimits, token: str | None = None):
        self.app, self.limits, self.token = app, limits, token
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if not self._is_allowed(headers):
            await _refuse(
                scope, receive, send, 401, "A token is needed: Authorization: Bearer TOKEN", "www-authenticate"
            )
        elif self._in_flight >= self.limits.in_flight:
            await _refuse(scope, receive, send, 503, f"{self._in_flight} requests are being served", "retry-after")
        else:
            self._in_flight += 1
            try:
                await self._serve(scope, headers, receive, send)
            finally:
                self._in_flight -= 1

    def _is_allowed(self, headers: Headers) -> bool:
        if self.token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # In constant time: how long it takes must not tell how much of it is right.
        return scheme.lower() == "bearer" and secrets.compare_digest(given.strip().encode(), self.token.encode())

    async def _serve(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        is_upload = scope["path"] == UPLOAD_PATH and scope["method"] == "POST"
        limit = self.limits.upload_bytes if is_upload else self.limits.body_bytes
        announced = headers.get("content-length", "0")
        if not announced.isdigit() or int(announced) > limit:
            await _refuse(
                scope, receive, send, 413, f"The body has {announced[:20]} bytes, at most {limit:,} are taken"
            )
            return
        if is_upload:  # written to the disk, and counted, as it comes
            await self.app(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(_read(receive, limit), self.limits.body_seconds)
        except TimeoutError:
            await _refuse(scope, receive, send, 408, f"The body did not come in {self.limits.body_seconds:g} seconds")
            return
        if body is None:
            await _refuse(scope, receive, send, 413, f"The body has more than {limit:,} bytes")
            return
        await self.app(scope, _replay(body, receive), send)


async def _read(receive: Receive, limit: int) -> bytes | None:
    """The body of a request; none if it is longer than `limit`."""
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
    given = False

    async def once() -> Message:
        nonlocal given
        if given:
            return await receive()  # a client that leaves
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once


async def _refuse(
    scope: Scope, receive: Receive, send: Send, status: int, detail: str, header: str | None = None
) -> None:
    client = (scope.get("client") or ("unknown",))[0]
    logger.warning("Refused %s %r of %s: %d %s", scope["method"], scope["path"], client, status, detail)
    values = {"www-authenticate": "Bearer", "retry-after": "1"}
    headers = {header: values[header]} if header else {}
    # The rest of a body that is too large is not read.
    await JSONResponse({"detail": detail}, status, headers | {"connection": "close"})(scope, receive, send)
