"""The opt-out list: domains, URLs and URL prefixes that must not be used, compared in a normal form of URLs."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

import idna

from ..storage import Location, local_copies, location


_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_IPV6 = re.compile(r"[0-9a-f:.]*:[0-9a-f:.]*")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# Characters allowed in a URL, with the percent sign, so that existing escapes are not escaped again.
_SAFE = "%/:=&?~+!$,;'@()*[]"


@dataclass(frozen=True)
class WebAddress:
    """An http(s) URL in normal form.

    Attributes:
        scheme (`str`): "http" or "https".
        host (`str`): lower case, punycode, no trailing dot; IPv6 without brackets.
        port (`int`): explicit or default port.
        path (`str`): path and query, percent-encoded, without dot segments; starts with "/".
    """

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> "WebAddress":
        """Parse a URL. Credentials and the fragment are dropped, because they are never sent.

        Raises:
            ValueError: if `url` is not an absolute http(s) URL; gives the reason.
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
        """The address without its scheme: an opt-out applies to http and https alike."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host + ("" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}") + self.path

    def __str__(self) -> str:
        return f"{self.scheme}://{self.location}"


def normal_host(host: str) -> str:
    """Convert a host name to lower-case punycode (UTS 46) without a trailing dot.

    Raises:
        ValueError: if it is not a valid host name or address.
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
    """Domains, URLs and URL prefixes that must not be fetched or used.

    Scheme, credentials and fragment of an entry are ignored. Look-ups take constant time, however long the list is.

    Attributes:
        digest (`str`): digest of the entries, independent of their order and of comments.
    """

    domains: dict[str, str] = field(repr=False)
    urls: dict[str, str] = field(repr=False)
    prefixes: dict[str, str] = field(repr=False)
    digest: str
    # Host -> distinct lengths of its prefixes; each length takes one look-up.
    _lengths: dict[str, tuple[int, ...]] = field(repr=False)

    @classmethod
    def load(cls, path: str | Location) -> "OptOutList":
        """Read a UTF-8 text file with one entry per line. A `#` at the start of a line or after a space begins a
        comment.

        An entry is a domain (`example.com`, which includes its sub-domains and every port), a URL
        (`https://example.com/a.jpg`), or a URL prefix (`https://example.com/portraits/*`).

        Raises:
            ValueError: for a malformed entry; names the file and line.
        """
        domains: dict[str, str] = {}
        urls: dict[str, str] = {}
        prefixes: dict[str, str] = {}
        lengths: dict[str, set[int]] = {}
        for number, entry in _entries(location(path)):
            try:
                if "*" in entry[:-1]:
                    raise ValueError("an asterisk is allowed only at the end")
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
                    f"{path}, line {number}: the opt-out entry {entry!r} is invalid: {error}. Write a domain "
                    "(example.com), a URL (https://example.com/a.jpg) or a URL prefix (https://example.com/portraits/*)"
                ) from error
        digest = hashlib.sha256()
        for kind, found in (("domain", domains), ("url", urls), ("prefix", prefixes)):
            digest.update("".join(f"{kind} {entry}\n" for entry in sorted(found)).encode())
        sorted_lengths = {host: tuple(sorted(of_host)) for host, of_host in lengths.items()}
        return cls(domains, urls, prefixes, digest.hexdigest(), sorted_lengths)

    def matches(self, url: str | WebAddress) -> str | None:
        """Return the entry, as in the file, that matches `url`; `None` if there is none or `url` is invalid."""
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


def _entries(path: Location) -> Iterator[tuple[int, str]]:
    # "utf-8-sig" skips the byte order mark that editors on Windows write.
    with local_copies(path) as (file,), file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            entry = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
            if entry:
                yield number, entry


def _domain(entry: str) -> str:
    # Port and credentials of a domain are ignored.
    parts = urlsplit(f"//{entry}")
    if parts.path or parts.query or parts.fragment:
        raise ValueError("an entry with a path needs a scheme")
    _ = parts.port  # raises ValueError unless it is a number
    host = normal_host(parts.hostname or "")
    if "." not in host and ":" not in host:
        raise ValueError("a domain must contain a dot")
    return host


def _prefix(entry: str) -> tuple[str, str]:
    if "/" not in entry.partition("://")[2]:
        raise ValueError("a prefix needs a whole host and a slash")
    # The normal form of a prefix is a prefix of normal forms, unless it ends within a percent escape or with a dot
    # segment.
    prefix = entry[:-1]
    if re.search(r"%[0-9A-Fa-f]?$|/\.{1,2}$", prefix):
        raise ValueError("the asterisk is within a percent escape or after a dot segment")
    if "#" in prefix:
        raise ValueError("a prefix cannot contain a fragment, which is never sent")
    address = WebAddress.parse(prefix)
    # The normal form drops an empty query, but URLs that start with this prefix have a query.
    return address.host, address.location + ("?" if prefix.endswith("?") and "?" not in address.location else "")


def _normal_escapes(text: str) -> str:
    """Percent-encode, and normalise existing escapes (RFC 3986, section 6.2.2)."""

    def normal(match: re.Match[str]) -> str:
        character = chr(int(match[1], 16))
        return character if character in _UNRESERVED else match[0].upper()

    if text.isalnum() and text.isascii():
        return text
    # Escape percent signs that do not start an escape.
    text = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", text)
    return quote(_ESCAPE.sub(normal, text), safe=_SAFE)


def _normal_path(path: str) -> str:
    path = _normal_escapes(path)
    if "/." not in path:
        return path
    # Not urljoin, which reads a leading double slash as a host.
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
