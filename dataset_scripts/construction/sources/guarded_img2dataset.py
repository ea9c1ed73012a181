"""Script for the environment of img2dataset: runs its downloader with a guard on every connection.

It imports only the standard library and img2dataset. `fetch_process.py` starts it with its settings as JSON argument.
Standard input has one line per tar to fetch, `{"tar": 7, "table": "7.arrow"}`; standard output gets one line per
finished tar, `{"tar": 7, "done": true}`. If standard input ends while tars are unfinished, the parent has died, and
the script exits.

URLs are untrusted, so the guard protects against requests to internal addresses:

- Host names are resolved here, each resolved address is checked, and the connection goes to exactly that address. So a
  name that resolves differently the second time (DNS rebinding) has no effect. Redirects are checked the same way.
- Only http and https; no proxy, cookies or credentials.
- Each image is limited to `timeout` seconds in all, from name resolution to the last byte, and to `max_bytes`.
"""

import http.client
import io
import ipaddress
import json
import os
import socket
import ssl
import sys
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children, connection, get_context, parent_process
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urljoin, urlsplit


_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_SIX_TO_FOUR = ipaddress.ip_network("2002::/16")
_PROTOCOLS = ipaddress.ip_network("192.0.0.0/24")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_REDIRECTS = (301, 302, 303, 307, 308)
_READ_BYTES = 65536
_TARS_PER_PROCESS = 50
"""A worker process is replaced after this many tars, which bounds memory leaks of libraries. Chosen."""


@dataclass(frozen=True)
class Policy:
    """Limits of the guard; `allowed_addresses` contains "address:port" pairs that are always allowed."""

    max_bytes: int
    max_redirects: int
    allowed_addresses: tuple[str, ...] = ()


class FetchError(Exception):
    """Why an image was not fetched: `reason` is a value of `FetchProblem`, `detail` is human-readable."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def address_and_port(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> str:
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"


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
    url: str, timeout: float, user_agent_token: str, directives: set[str] | None, policy: Policy, tls: ssl.SSLContext
) -> tuple[bytes, list[str]]:
    """Fetch one file.

    Returns:
        Its content, and the requested URLs: the given one, then each redirect.

    Raises:
        FetchError: for any problem with this URL.
    """
    deadline = time.monotonic() + timeout
    hops = [url]
    try:
        while True:
            target = _request(hops[-1], deadline, user_agent_token, directives, policy, tls)
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
    url: str, deadline: float, user_agent_token: str, directives: set[str] | None, policy: Policy, tls: ssl.SSLContext
) -> bytes | str:
    """Return the content at `url`, or the URL it redirects to."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise FetchError("address refused", f"redirect to the scheme {parts.scheme!r}")
    host = parts.hostname or ""
    opened: GuardedHTTPConnection
    if parts.scheme == "https":
        opened = GuardedHTTPSConnection(host, parts.port, context=tls)
    else:
        opened = GuardedHTTPConnection(host, parts.port)
    opened.deadline, opened.policy = deadline, policy
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        agent = f"Mozilla/5.0 (compatible; {user_agent_token}; +https://github.com/rom1504/img2dataset)"
        opened.request("GET", path, headers={"User-Agent": agent, "Accept": "image/*", "Connection": "close"})
        response = opened.getresponse()
        location = response.headers.get("Location")
        if response.status in _REDIRECTS and location:
            # http.client decodes headers as Latin-1: encode again, then escape.
            return urljoin(url, quote(location.strip().encode("latin-1"), safe="%/:=&?~#+!$,;'@()*[]"))
        if response.status != 200:
            raise FetchError("HTTP error", f"HTTP {response.status}")
        if directives:
            from img2dataset.downloader import is_disallowed

            if is_disallowed(response.headers, user_agent_token, directives):
                raise FetchError("opted out by header", ", ".join(response.headers.get_all("X-Robots-Tag", [])))
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


def is_worth_retrying(error: FetchError) -> bool:
    """Whether a retry may help: not for 404, nor for refusals by the guard or the owner."""
    if error.reason == "HTTP error":
        return error.detail == "HTTP 429" or error.detail.startswith("HTTP 5")
    return error.reason in ("timed out", "connection failed", "no such host")


def original_bytes(stream: io.BytesIO, boxes: None = None) -> tuple[bytes, None, None, None, None, None]:
    """Replaces img2dataset's resizer and keeps the file as sent; `fetch.py` checks the format."""
    return stream.read(), None, None, None, None, None


_redirects: dict[str, list[str]] = {}
"""For the tar in progress: requested URL -> the redirect URLs that were followed."""


def guard_img2dataset(policy: Policy) -> None:
    """Replace img2dataset's function for fetching one row, in this process, by the guarded one."""
    from img2dataset import downloader

    tls = tls_context()

    def download(
        row: tuple[int, str],
        timeout: float,
        retries: int,
        user_agent_token: str,
        disallowed_header_directives: set[str],
    ) -> tuple[int, io.BytesIO | None, str | None]:
        key, url = row
        for attempt in range(retries + 1):
            try:
                content, hops = fetch(url, timeout, user_agent_token, disallowed_header_directives, policy, tls)
            except FetchError as error:
                if attempt == retries or not is_worth_retrying(error):
                    return key, None, f"{error.reason}: {error.detail}"
            except Exception as error:  # a bug here must cost one row, not the whole tar
                return key, None, f"connection failed: {type(error).__name__}: {error}"
            else:
                if len(hops) > 1:
                    _redirects[url] = hops[1:]
                return key, io.BytesIO(content), None
        raise ValueError(f"retries must be at least 0, not {retries}")

    downloader.download_image_with_retry = download


def start_worker(policy: Policy) -> None:
    """Prepare a worker process: install the guard, and exit when the parent process ends."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (connection.wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    guard_img2dataset(policy)


def fetch_tar(downloader: Any, folder: str, tar: int, table: str) -> bool:
    """Fetch the rows of one tar, and write the redirects to a file beside img2dataset's output."""
    _redirects.clear()
    done, _ = downloader((tar, table))
    Path(folder, f"{tar}.redirects.json").write_text(json.dumps(_redirects))
    return done


def main() -> None:
    settings = json.loads(sys.argv[1])
    # img2dataset prints to standard output, which is reserved for the protocol: redirect its prints to the log.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    downloader = _downloader(settings)
    policy = Policy(settings["max_bytes"], settings["max_redirects"], tuple(settings["allowed_addresses"]))
    unfinished: set[int] = set()

    def reply(tar: int, finished: Future[bool]) -> None:
        # Removed before the reply: after it, the parent may close our input at once.
        unfinished.remove(tar)
        error = finished.exception()
        done = error is None and finished.result()
        replies.write(json.dumps({"tar": tar, "done": done, "error": str(error or "")}) + "\n")

    # Not img2dataset's own distributor: its pool waits forever for a killed worker; this one raises.
    executor = ProcessPoolExecutor(
        settings["processes"],
        mp_context=get_context("spawn"),
        initializer=start_worker,
        initargs=(policy,),
        max_tasks_per_child=_TARS_PER_PROCESS,
    )
    for line in sys.stdin:
        order = json.loads(line)
        unfinished.add(order["tar"])
        future = executor.submit(fetch_tar, downloader, settings["folder"], order["tar"], order["table"])
        future.add_done_callback(partial(reply, order["tar"]))
    if unfinished:
        for child in active_children():
            child.kill()
        os._exit(1)
    executor.shutdown()


def _downloader(settings: dict[str, Any]) -> Any:
    from img2dataset.downloader import Downloader
    from img2dataset.writer import WebDatasetSampleWriter

    return Downloader(
        sample_writer_class=WebDatasetSampleWriter,
        resizer=original_bytes,
        thread_count=settings["threads"],
        save_caption=False,
        extract_exif=False,
        output_folder=settings["folder"],
        column_list=["row", "url"],
        timeout=settings["timeout_seconds"],
        number_sample_per_shard=settings["rows_per_tar"],
        oom_shard_count=1,
        compute_hash="sha256",
        verify_hash_type=None,
        encode_format="jpg",
        retries=settings["retries"],
        user_agent_token=settings["user_agent_token"],
        disallowed_header_directives=settings["disallowed_header_directives"] or None,
    )


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


if __name__ == "__main__":
    main()
