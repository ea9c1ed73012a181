"""Ask again where a server or a disk fails now and then."""

import time
from collections.abc import Callable
from typing import TypeVar


Answer = TypeVar("Answer")

ATTEMPTS = 5
"""How often something is tried before its failure counts; the waits are 1, 2, 4 and 8 seconds."""


def try_again(ask: Callable[[], Answer], may_pass: Callable[[Exception], bool]) -> Answer:
    """What `ask` returns, at the latest at the last of `ATTEMPTS` attempts.

    Args:
        ask (`Callable`): does it.
        may_pass (`Callable`): whether an error is of the kind that passes. Others are raised at once.

    Raises:
        Exception: whatever `ask` raised last.
    """
    for attempt in range(ATTEMPTS - 1):
        try:
            return ask()
        except Exception as error:
            if not may_pass(error):
                raise
            time.sleep(2**attempt)
    return ask()
