"""Settings and report of fetching, and the reasons why a row has no image."""

import re
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from modeling_gadms.media.guarded_fetch import normal_address


class FetchProblem(StrEnum):
    """Why a row of the table has no image."""

    NOT_A_URL = "not a URL"
    OPTED_OUT = "opted out"
    """An entry of the opt-out list matches the URL or a URL it redirects to."""
    DUPLICATE = "duplicate URL"
    ADDRESS_REFUSED = "address refused"
    """Not a public address, or a redirect to a scheme other than http and https."""
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
    """img2dataset returned neither an image nor a reason: a bug, which must be visible."""


@dataclass(frozen=True)
class FetchSettings:
    """How images are fetched. The paper only names COYO-700M; numbers are chosen.

    Attributes:
        python (`str`): interpreter of the environment of img2dataset, which `make fetch-env` creates.
        url_column (`str`): column of URLs in the table.
        id_column (`str`, *optional*): column whose value is stored with each image.
        rows_per_tar (`int`): table rows per tar; rows without an image are not in the tar.
        processes, threads (`int`): number of processes, and of concurrent requests in each. A process may hold twice
            `threads` images of `max_bytes` in memory.
        timeout_seconds (`float`): limit per attempt, from name resolution to the last byte, redirects included.
        retries (`int`): further attempts after time-outs, failed connections, HTTP 429 and 5xx.
        max_bytes (`int`): larger files are rejected.
        max_redirects (`int`): maximum number of redirects per image.
        min_image_size (`int`): minimum of the shorter side, in pixels. The paper's boxes have at least 90.
        disallowed_header_directives (`tuple` of `str`): images with one of these in `X-Robots-Tag` are rejected; by
            default those of img2dataset.
        user_agent_token (`str`): name sent to servers, which `X-Robots-Tag` may address.
        allowed_addresses (`tuple` of `str`): "address:port" pairs of an intranet that may be connected to. Names are
            not accepted, because their address may change.
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
                f"user_agent_token may contain only letters, digits, '.', '_' and '-', not {self.user_agent_token!r}"
            )
        normal = {"disallowed_header_directives": _normal_directive, "allowed_addresses": normal_address}
        for name, normalise in normal.items():
            value = getattr(self, name)
            if isinstance(value, str):
                raise ValueError(f"{name} must be a list, not the string {value!r}")
            object.__setattr__(self, name, tuple(map(normalise, value)))


@dataclass(frozen=True)
class FetchReport:
    """Counts of a table or tar: `seen` = `fetched` + the sum of `failed`.

    Attributes:
        seen (`int`): number of rows.
        fetched (`int`): number of rows with an image.
        failed (`dict`): number of rows by `FetchProblem`, without zeros.
    """

    seen: int
    fetched: int
    failed: dict[FetchProblem, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        failures = sum(self.failed.values())
        if self.seen != self.fetched + failures:
            raise ValueError(
                f"{self.seen} rows were seen, but {self.fetched} images and {failures} failures are "
                f"{self.fetched + failures}: this is a bug, please report it"
            )

    def __add__(self, other: "FetchReport") -> "FetchReport":
        failed = Counter(self.failed) + Counter(other.failed)
        return FetchReport(
            self.seen + other.seen,
            self.fetched + other.fetched,
            {problem: failed[problem] for problem in FetchProblem if failed[problem]},
        )


def _normal_directive(directive: str) -> str:
    return directive.strip().lower()
