"""Fetch the content of a URL that a stranger wrote, without reaching what only this machine can reach.

- Host names are resolved here, each resolved address is checked, and the connection goes to exactly that address. So a
  name that resolves differently the second time (DNS rebinding) has no effect. Redirects are checked the same way.
- Only http and https; no proxy, cookies or credentials.
- A fetch is limited to `timeout` seconds in all, from name resolution to the last byte, and to `max_bytes`.

Only the standard library is imported: the environment of img2dataset, which has no other package of this project, runs
this file too.
"""

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from typing import Any, cast
from urllib.parse import quote, urljoin, urlsplit


_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_SIX_TO_FOUR = ipaddress.ip_network("2002::/16")
_PROTOCOLS = ipaddress.ip_network("192.0.0.0/24")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_REDIRECTS = (301, 302, 303, 307, 308)
_READ_BYTES = 65536


@dataclass(frozen=True)
class Policy:
    """Limits of the guard; `allowed_addresses` contains "address:port" pairs that are always allowed."""

    max_bytes: int
    max_redirects: int
    allowed_addresses: tuple[str, ...] = ()


class FetchError(Exception):
    """Why a file was not fetched: `reason` is one of a few that can be counted, `detail` says more."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def address_and_port(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> str:
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"


def normal_address(pair: str) -> str:
    """The normal form of an "address:port" pair, as `Policy.allowed_addresses` has it.

    Raises:
        ValueError: if it is none.
    """
    address, _, port = str(pair).rpartition(":")
    try:
        ip = ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))
        if not 0 < int(port) < 65536:
            raise ValueError
    except ValueError as error:
        raise ValueError(
            f"allowed_addresses must contain address:port pairs such as 10.0.0.5:80 or [fd00::5]:80, not {pair!r}"
        ) from error
    return address_and_port(ip, int(port))


def refusal(address: str, port: int, allowed: tuple[str, ...] = ()) -> str | None:
    """Return why a connection to a numeric address is refused, or `None` if it is allowed.

    Python's `is_global` alone allows multicast, the old site-local range, IPv6 forms that embed a private IPv4 address
    and, in some versions, 192.0.0.0/24. 6to4 and Teredo are always refused: no image server needs them.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if address_and_port(ip, port) in allowed:
        return None
    judged: ipaddress.IPv4Address | ipaddress.IPv6Address = ip
    if ip.version == 6:
        if ip.ipv4_mapped is not None:
            judged = ip.ipv4_mapped
        elif ip in _NAT64:
            judged = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        elif ip not in _GLOBAL_UNICAST or ip in _SIX_TO_FOUR:
            return f"{ip} is not a public address"
    if not judged.is_global or judged.is_multicast or judged in _PROTOCOLS:
        return f"{ip} is not a public address"
    return None


def open_socket(host: str, port: int, deadline: float, policy: Policy) -> "DeadlineSocket":
    """Connect to the first public address of `host` that answers."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise FetchError("no such host", f"{host}: {getattr(error, 'strerror', None) or error}") from error
    refused = ""
    failed: OSError | None = None
    for family, kind, protocol, _, address in found:
        problem = refusal(str(address[0]), port, policy.allowed_addresses)
        if problem is not None:
            refused = problem
            continue
        opened = DeadlineSocket(family, kind, protocol)
        opened.deadline = deadline
        try:
            opened.settimeout(_left(deadline))
            opened.connect(address)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return opened
        except OSError as error:
            opened.close()
            failed = error
    if failed is not None:
        raise failed
    raise FetchError("address refused", refused if refused.startswith(host) else f"{host}: {refused}")


class DeadlineSocket(socket.socket):
    """A socket whose reads share one deadline: with a time-out per read, a slow server could go on forever."""

    deadline: float

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_left(self.deadline))
        return super().recv_into(*args, **kwargs)


class DeadlineTLSSocket(ssl.SSLSocket):
    """`DeadlineSocket` for https."""

    deadline: float

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_left(self.deadline))
        return super().recv_into(*args, **kwargs)


class GuardedHTTPConnection(http.client.HTTPConnection):
    """An HTTP connection that opens its socket through the guard."""

    deadline: float
    policy: Policy

    def connect(self) -> None:
        self.sock = open_socket(self.host, self.port, self.deadline, self.policy)


class GuardedHTTPSConnection(http.client.HTTPSConnection, GuardedHTTPConnection):
    """`HTTPSConnection.connect` gets its socket from the next class, the guarded one, and wraps it."""

    def connect(self) -> None:
        super().connect()
        cast(DeadlineTLSSocket, self.sock).deadline = self.deadline  # see `tls_context`


def tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.sslsocket_class = DeadlineTLSSocket
    return context


def fetch(
    url: str,
    timeout: float,
    user_agent: str,
    policy: Policy,
    tls: ssl.SSLContext,
    check_headers: Callable[[Message], None] = lambda headers: None,
) -> tuple[bytes, list[str]]:
    """Fetch one file.

    Args:
        url (`str`): with the scheme http or https.
        timeout (`float`): seconds, from name resolution to the last byte, redirects included.
        user_agent (`str`): value of the header `User-Agent`.
        policy ([`Policy`]), tls (`ssl.SSLContext`): from [`tls_context`].
        check_headers (`Callable[[Message], None]`): called with the headers of the answer; may raise `FetchError`.

    Returns:
        Its content, and the requested URLs: the given one, then each redirect.

    Raises:
        FetchError: for any problem with this URL.
    """
    deadline = time.monotonic() + timeout
    hops = [url]
    try:
        while True:
            target = _request(hops[-1], deadline, user_agent, policy, tls, check_headers)
            if isinstance(target, bytes):
                return target, hops
            if len(hops) > policy.max_redirects:
                raise FetchError("too many redirects", f"more than {policy.max_redirects}")
            hops.append(target)
    except TimeoutError as error:
        raise FetchError("timed out", f"not complete after {timeout:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise FetchError("connection failed", " ".join(detail.split())) from error
    except (ValueError, UnicodeError) as error:  # a redirect to an invalid URL
        raise FetchError("connection failed", f"{hops[-1]!r} cannot be requested: {error}") from error


def _request(
    url: str,
    deadline: float,
    user_agent: str,
    policy: Policy,
    tls: ssl.SSLContext,
    check_headers: Callable[[Message], None],
) -> bytes | str:
    """Return the content at `url`, or the URL it redirects to."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise FetchError("address refused", f"the scheme {parts.scheme!r} is neither http nor https")
    host = parts.hostname or ""
    opened: GuardedHTTPConnection
    if parts.scheme == "https":
        opened = GuardedHTTPSConnection(host, parts.port, context=tls)
    else:
        opened = GuardedHTTPConnection(host, parts.port)
    opened.deadline, opened.policy = deadline, policy
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        opened.request("GET", path, headers={"User-Agent": user_agent, "Accept": "image/*", "Connection": "close"})
        response = opened.getresponse()
        location = response.headers.get("Location")
        if response.status in _REDIRECTS and location:
            # http.client decodes headers as Latin-1: encode again, then escape.
            return urljoin(url, quote(location.strip().encode("latin-1"), safe="%/:=&?~#+!$,;'@()*[]"))
        if response.status != 200:
            raise FetchError("HTTP error", f"HTTP {response.status}")
        check_headers(response.headers)
        return _read(response, policy.max_bytes)
    finally:
        opened.close()


def _read(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    declared = response.length
    if declared is not None and declared > max_bytes:
        raise FetchError("too large", f"announced {declared} bytes, the limit is {max_bytes}")
    content = bytearray()
    while chunk := response.read(min(_READ_BYTES, max_bytes + 1 - len(content))):
        content += chunk
        if len(content) > max_bytes:
            raise FetchError("too large", f"the limit is {max_bytes} bytes")
    # http.client does not report a truncated body when it is read in parts.
    if declared is not None and len(content) < declared:
        raise FetchError("connection failed", f"ended after {len(content)} of {declared} bytes")
    return bytes(content)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
