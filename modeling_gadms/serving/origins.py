"""ASGI middleware that refuses requests which a page of another site makes a browser send.

A server on loopback is reached by every page that the user's browser shows. Without a token, such a page could write
into the gallery (a cross-site form or `fetch`), or read it (a name of its own that resolves to 127.0.0.1: DNS
rebinding).
"""

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .limits import refuse


LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
ANY_HOST = "*"
_SAME = ("same-origin", "none")
"""Values of `Sec-Fetch-Site`: sent by a page of this server, or typed by the user."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class SameOriginMiddleware:
    """Answers 421 to other names of the server than the allowed ones, and 403 to requests of other sites' pages.

    Args:
        allowed_hosts (`Sequence[str]`): names and addresses in the header `Host`, without a port; `"*"` allows any.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Sequence[str]):
        self.app, self._allowed = app, {host.strip("[]").lower() for host in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if ANY_HOST not in self._allowed and _name(host) not in self._allowed:
            detail = f"This server does not answer as {host[:100]!r}: allow the name with --allowed-host"
            await refuse(scope, receive, send, 421, detail)
        elif not _is_own(scope["method"], headers):
            origin = headers.get("origin", "")
            await refuse(scope, receive, send, 403, f"A page of another site sent this request: {origin[:100]!r}")
        else:
            await self.app(scope, receive, send)


def _is_own(method: str, headers: Headers) -> bool:
    """Whether no page of another site sent a request. Following a link to this server is no such request."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        is_link = method in ("GET", "HEAD") and headers.get("sec-fetch-mode") == "navigate"
        return site in _SAME or (is_link and headers.get("sec-fetch-dest") == "document")
    # Browsers leave out Sec-Fetch-Site at addresses that are neither https nor loopback; programs send neither.
    return origin is None or _netloc(origin) == headers.get("host", "").lower()


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _name(host: str) -> str | None:
    """The name or address in a header `Host`, in lower case; `None` if there is none."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
