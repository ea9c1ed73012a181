"""Wait for what another thread or process is to do."""

import time
from collections.abc import Callable
from typing import Any


PATIENCE_SECONDS = 600
"""How long a test waits for another process before it fails. On a machine that is busy with other work a process can
take ten times as long as on an idle one, and no test fails for that: speed is measured by benchmarks."""


def wait_for(
    condition: Callable[[], Any],
    seconds: float = PATIENCE_SECONDS,
    told: Callable[[], object] = lambda: "waited in vain",
) -> None:
    """Wait until a condition is true.

    Args:
        condition: called until it returns something true.
        seconds: how long it may take.
        told: called for the message of the failure.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, told()
        time.sleep(0.02)
