"""Servers of one captioner: each request goes to the one with the fewest requests in flight."""

import logging
import math
import time
from collections import Counter
from collections.abc import Sequence


logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 5
"""How long a server is left out after it did not answer; doubled each time, up to `LONGEST_PAUSE_SECONDS`. Chosen."""
LONGEST_PAUSE_SECONDS = 300


class Servers:
    """Which of several servers gets the next request. All methods are called in one thread.

    Args:
        addresses (`Sequence[str]`): base URLs.

    Attributes:
        failures (`Counter[str]`): by address, how often a server was left out.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = tuple(addresses)
        self.failures: Counter[str] = Counter()
        self._in_flight: Counter[str] = Counter()
        self._failures_in_a_row: Counter[str] = Counter()
        self._back_at = dict.fromkeys(self.addresses, -math.inf)

    def choose(self, tried: Sequence[str] = ()) -> str | None:
        """The server with the fewest requests in flight, of those that are not left out and not in `tried`.

        If all are left out, the one that is back first, so that a run with one server behaves as always. `None` if
        all that could be asked were tried.
        """
        now = time.monotonic()
        there = [address for address in self.addresses if self._back_at[address] <= now]
        there = there or [min(self.addresses, key=lambda address: self._back_at[address])]
        untried = [address for address in there if address not in tried]
        return min(untried, key=lambda address: self._in_flight[address], default=None)

    def start(self, address: str) -> None:
        self._in_flight[address] += 1

    def end(self, address: str) -> None:
        self._in_flight[address] -= 1

    def answered(self, address: str) -> None:
        self._failures_in_a_row[address] = 0
        self._back_at[address] = -math.inf

    def failed(self, address: str, reason: str) -> None:
        """Leave a server out for a while. Requests that fail while it is left out do not prolong that."""
        now = time.monotonic()
        if len(self.addresses) == 1 or self._back_at[address] > now:
            return
        pause = min(FIRST_PAUSE_SECONDS * 2 ** self._failures_in_a_row[address], LONGEST_PAUSE_SECONDS)
        self._failures_in_a_row[address] += 1
        self.failures[address] += 1
        self._back_at[address] = now + pause
        logger.warning(
            "The server %s is left out for %g s (%d times so far): %s", address, pause, self.failures[address], reason
        )

    def __str__(self) -> str:
        counts = {address: self.failures[address] for address in self.addresses}
        return ", ".join(
            f"{address} (left out {count} times)" if count else address for address, count in counts.items()
        )
