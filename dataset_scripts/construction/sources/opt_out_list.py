"""Web addresses that their owners do not want fetched, and the one spelling in which URLs are compared."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

import idna


_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_IPV6 = re.compile(r"[0-9a-f:.]*:[0-9a-f:.]*")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# Everything that may stand in a URL as it is; the percent sign, because what is escaped already is not escaped again.
_SAFE = "%/:=&?~+!$,;'@()*[]"


@dataclass(frozen=True)
class WebAddress:
    """An http(s) URL in its one spelling.

    Attributes:
        scheme (`str`): "http" or "https".
        host (`str`): lower case, punycode, no trailing dot; IPv6 without brackets.
        port (`int`)
        path (`str`): path and query, percent-encoded, without dot segments; begins with "/".
    """

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> "WebAddress":
        """Read a URL. Credentials and the fragment are left out: neither is ever sent.

        Raises:
            ValueError: says why `url` is not an absolute http(s) URL.
        """
        parts = urlsplit(url.strip())
        if parts.scheme not in _DEFAULT_PORTS:
            raise ValueError(
                f"its scheme is {parts.scheme!r}, not http or https" if parts.scheme else "it is relative"
            )
        host = normal_host(parts.hostname or "")
        port = _DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port
        path = _normal_path(parts.path or "/") + (f"?{_normal_escapes(parts.query)}" if parts.query else "")
        return cls(parts.scheme, host, port, path)

    @property
    def location(self) -> str:
        """The address without its scheme: http and https are one place to whoever opts out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host + ("" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}") + self.path

    def __str__(self) -> str:
        return f"{self.scheme}://{self.location}"


def normal_host(host: str) -> str:
    """Bring a host name to lower-case punycode (UTS 46) without a trailing dot.

    Raises:
        ValueError: if it is not a host name or address.
    """
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise ValueError(f"its host {host!r} is not a valid name ({error})") from error
    host = host.lower().removesuffix(".")
    if not (_IPV6.fullmatch(host) or (len(host) <= 253 and _HOST_NAME.fullmatch(host))):
        raise ValueError(f"its host {host!r} is not a valid name" if host else "it names no host")
    return host


@dataclass(frozen=True)
class OptOutList:
    """Domains, URLs and URL prefixes that are not fetched.

    The scheme of an entry is ignored (what is not to be taken by http is not to be taken by https), and so are
    credentials and fragments. An entry is found by dictionary look-ups, however long the list is.

    Attributes:
        digest (`str`): the same for two files with the same entries, whatever their order and comments.
    """

    domains: dict[str, str] = field(repr=False)
    urls: dict[str, str] = field(repr=False)
    prefixes: dict[str, str] = field(repr=False)
    digest: str
    # For each host, the distinct lengths of its prefixes: one look-up a length.
    _lengths: dict[str, tuple[int, ...]] = field(repr=False)

    @classmethod
    def load(cls, path: str | Path) -> "OptOutList":
        """Read a text file (UTF-8) with one entry a line; empty lines and what follows a `#` at the start of a line
        or after a space are passed over.

        An entry is a domain (`example.com`: itself and its sub-domains on every port), a URL
        (`https://example.com/a.jpg`), or a URL prefix (`https://example.com/portraits/*`).

        Raises:
            ValueError: names the file and line of a malformed entry.
        """
        domains: dict[str, str] = {}
        urls: dict[str, str] = {}
        prefixes: dict[str, str] = {}
        lengths: dict[str, set[int]] = {}
        for number, entry in _entries(Path(path)):
            try:
                if "*" in entry[:-1]:
                    raise ValueError("an asterisk stands only at the end")
                if "://" not in entry:
                    domains.setdefault(_domain(entry), entry)
                elif entry.endswith("*"):
                    host, prefix = _prefix(entry)
                    prefixes.setdefault(prefix, entry)
                    lengths.setdefault(host, set()).add(len(prefix))
                else:
                    urls.setdefault(WebAddress.parse(entry).location, entry)
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number}: the opt-out entry {entry!r} cannot be used: {error}. Give a domain "
                    "(example.com), a URL (https://example.com/a.jpg) or a URL prefix (https://example.com/portraits/*)"
                ) from error
        digest = hashlib.sha256()
        for kind, found in (("domain", domains), ("url", urls), ("prefix", prefixes)):
            digest.update("".join(f"{kind} {entry}\n" for entry in sorted(found)).encode())
        sorted_lengths = {host: tuple(sorted(of_host)) for host, of_host in lengths.items()}
        return cls(domains, urls, prefixes, digest.hexdigest(), sorted_lengths)

    def __len__(self) -> int:
        return len(self.domains) + len(self.urls) + len(self.prefixes)

    def matches(self, url: str | WebAddress) -> str | None:
        """The entry, as it stands in the file, that forbids `url`; None where there is none or `url` is not one."""
        if isinstance(url, str):
            try:
                url = WebAddress.parse(url)
            except ValueError:
                return None
        suffix = url.host
        while suffix:
            if suffix in self.domains:
                return self.domains[suffix]
            suffix = suffix.partition(".")[2]
        location = url.location
        if location in self.urls:
            return self.urls[location]
        for length in self._lengths.get(url.host, ()):
            if location[:length] in self.prefixes:
                return self.prefixes[location[:length]]
        return None


def _entries(path: Path) -> Iterator[tuple[int, str]]:
    # "utf-8-sig": editors on Windows begin a file with a byte order mark, which is no part of the first entry.
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            entry = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
            if entry:
                yield number, entry


def _domain(entry: str) -> str:
    # A port is of no matter to a domain: urlsplit takes it and credentials away, as it does for URLs.
    parts = urlsplit(f"//{entry}")
    if parts.path or parts.query or parts.fragment:
        raise ValueError("a path needs a scheme before it")
    _ = parts.port  # raises ValueError unless it is a number
    host = normal_host(parts.hostname or "")
    if "." not in host and ":" not in host:
        raise ValueError("a domain has a dot")
    return host


def _prefix(entry: str) -> tuple[str, str]:
    if "/" not in entry.partition("://")[2]:
        raise ValueError("a prefix names the whole host, then a slash")
    # Parsed without its asterisk. The normal form of a prefix is a prefix of the normal forms, except where it ends
    # within a percent escape or names a bare dot segment.
    prefix = entry[:-1]
    if re.search(r"%[0-9A-Fa-f]?$|/\.{1,2}$", prefix):
        raise ValueError("the asterisk stands within a percent escape or after a dot segment")
    if "#" in prefix:
        raise ValueError("a fragment is never sent, so it is no part of a prefix")
    address = WebAddress.parse(prefix)
    # The normal form drops an empty query, which is not empty in what begins with the prefix.
    return address.host, address.location + ("?" if prefix.endswith("?") and "?" not in address.location else "")


def _normal_escapes(text: str) -> str:
    """Escape what must be, and write escapes in the one way of RFC 3986, section 6.2.2."""

    def normal(match: re.Match[str]) -> str:
        character = chr(int(match[1], 16))
        return character if character in _UNRESERVED else match[0].upper()

    if text.isalnum() and text.isascii():
        return text
    # A percent sign that begins no escape is itself escaped.
    text = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", text)
    return quote(_ESCAPE.sub(normal, text), safe=_SAFE)


def _normal_path(path: str) -> str:
    path = _normal_escapes(path)
    if "/." not in path:
        return path
    # Not urljoin: it takes a path that begins with two slashes for a host.
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)
