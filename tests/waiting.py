"""Wait for what another thread or process is to do."""

import time
from collections.abc import Callable
from typing import Any


def wait_for(
    condition: Callable[[], Any], seconds: float = 300, told: Callable[[], object] = lambda: "waited in vain"
) -> None:
    """Args: what is to become true; the seconds it may take; what is told where it does not."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, told()
        time.sleep(0.02)
