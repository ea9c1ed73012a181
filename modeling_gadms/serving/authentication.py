"""ASGI middleware that checks the bearer token of a request."""

import secrets

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .limits import HEALTH_PATH, refuse


class AuthenticationMiddleware:
    """Answers 401 to requests without the header `Authorization: Bearer TOKEN`; only the health check needs none."""

    def __init__(self, app: ASGIApp, token: str):
        self.app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != HEALTH_PATH and not self._has_token(Headers(scope=scope)):
            detail = "A token is needed: Authorization: Bearer TOKEN"
            await refuse(scope, receive, send, 401, detail, {"www-authenticate": "Bearer"})
        else:
            await self.app(scope, receive, send)

    def _has_token(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Headers are decoded as Latin-1: this gives back the bytes that were sent.
        # Compared in constant time, so that the duration does not reveal how many characters are right.
        return scheme.lower() == "bearer" and secrets.compare_digest(given.strip().encode("latin-1"), self._token)
