"""How images are fetched, and what is told about those that could not be."""

import ipaddress
import re
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum


class FetchProblem(StrEnum):
    """Every reason for which a row of the table has no image."""

    NOT_A_URL = "not a URL"
    OPTED_OUT = "opted out"
    """By an entry of the opt-out list that matches the URL, or a URL it redirects to."""
    DUPLICATE = "duplicate URL"
    ADDRESS_REFUSED = "address refused"
    """Not a public address, or a redirect to something other than http and https."""
    NO_SUCH_HOST = "no such host"
    CONNECTION_FAILED = "connection failed"
    TIMED_OUT = "timed out"
    TOO_MANY_REDIRECTS = "too many redirects"
    HTTP_ERROR = "HTTP error"
    OPTED_OUT_BY_HEADER = "opted out by header"
    TOO_LARGE = "too large"
    TOO_SMALL = "too small"
    NOT_AN_IMAGE = "not an image"
    LOST = "lost by img2dataset"
    """img2dataset returned neither an image nor a reason: a defect, which must not go unseen."""


@dataclass(frozen=True)
class FetchSettings:
    """How images are fetched. Numbers without a source are chosen: the paper only names COYO-700M.

    Attributes:
        python (`str`): interpreter of the environment of img2dataset, as `make fetch-env` makes it.
        url_column (`str`): the table's column of URLs.
        id_column (`str`, *optional*): column whose value is kept beside each image.
        rows_per_tar (`int`): of the table; a tar holds those of them that have an image.
        processes, threads (`int`): processes, and requests at a time in each. A process may hold twice `threads`
            images of `max_bytes` in memory.
        timeout_seconds (`float`): for one attempt, from looking up the name to the last byte, redirects included.
        retries (`int`): further attempts where one may help: time-outs, failed connections, HTTP 429 and 5xx.
        max_bytes (`int`): larger files are refused.
        max_redirects (`int`)
        min_image_size (`int`): least shorter side, in pixels. Nothing smaller can hold a box whose shorter side has
            the paper's 90.
        disallowed_header_directives (`tuple` of `str`): an image with one of them in `X-Robots-Tag` is refused;
            img2dataset's defaults.
        user_agent_token (`str`): name given to servers; also the one that `X-Robots-Tag` may address.
        allowed_addresses (`tuple` of `str`): "address:port" pairs outside the public internet that may be connected
            to all the same, for an intranet. Addresses, not names: a name may change its address.
    """

    python: str = ".venv-fetch/bin/python"
    url_column: str = "url"
    id_column: str | None = "id"
    rows_per_tar: int = 1000
    processes: int = 4
    threads: int = 64
    timeout_seconds: float = 10.0
    retries: int = 1
    max_bytes: int = 20_000_000
    max_redirects: int = 5
    min_image_size: int = 90
    disallowed_header_directives: tuple[str, ...] = ("noai", "noimageai", "noindex", "noimageindex")
    user_agent_token: str = "img2dataset"
    allowed_addresses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least in {
            "rows_per_tar": 1, "processes": 1, "threads": 1, "retries": 0, "max_bytes": 1, "max_redirects": 0,
            "min_image_size": 0,
        }.items():  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")
        if not 0 < self.timeout_seconds < float("inf"):
            raise ValueError(f"timeout_seconds must be positive and finite, not {self.timeout_seconds!r}")
        if not re.fullmatch(r"[A-Za-z0-9._-]+", self.user_agent_token):
            raise ValueError(
                f"user_agent_token may hold letters, digits, '.', '_' and '-' only, not {self.user_agent_token!r}"
            )
        for name in ("disallowed_header_directives", "allowed_addresses"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ValueError(f"{name} must be a list, not the text {value!r}")
            object.__setattr__(self, name, tuple(value))
        directives = tuple(directive.strip().lower() for directive in self.disallowed_header_directives)
        object.__setattr__(self, "disallowed_header_directives", directives)
        object.__setattr__(self, "allowed_addresses", tuple(map(_address_and_port, self.allowed_addresses)))


@dataclass(frozen=True)
class FetchReport:
    """What became of the rows of a table, or of a tar. They add up, or there is no report.

    Attributes:
        seen (`int`): rows.
        fetched (`int`): rows with an image.
        failed (`dict`): number of rows by `FetchProblem`, those that occur.
    """

    seen: int
    fetched: int
    failed: dict[FetchProblem, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.seen != self.fetched + sum(self.failed.values()):
            raise ValueError(
                f"{self.seen} rows were seen, but {self.fetched} images and {sum(self.failed.values())} failures "
                f"are {self.fetched + sum(self.failed.values())}: this is a defect, please report it"
            )

    def __add__(self, other: "FetchReport") -> "FetchReport":
        failed = Counter(self.failed) + Counter(other.failed)
        return FetchReport(
            self.seen + other.seen,
            self.fetched + other.fetched,
            {problem: failed[problem] for problem in FetchProblem if failed[problem]},
        )


def _address_and_port(pair: str) -> str:
    """The one spelling of an "address:port" pair."""
    address, _, port = str(pair).rpartition(":")
    try:
        ip = ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))
        if not 0 < int(port) < 65536:
            raise ValueError
    except ValueError as error:
        raise ValueError(
            f"allowed_addresses holds pairs such as 10.0.0.5:80 or [fd00::5]:80, an address and a port, not {pair!r}"
        ) from error
    return f"[{ip}]:{int(port)}" if ip.version == 6 else f"{ip}:{int(port)}"
