"""Retry calls that fail now and then, such as reads from a server or a network disk."""

from collections.abc import Callable
from time import sleep
from typing import TypeVar


Result = TypeVar("Result")

ATTEMPTS = 5
"""Number of attempts; the waits between them are 1, 2, 4 and 8 seconds."""


def call_with_retries(call: Callable[[], Result], is_transient: Callable[[Exception], bool]) -> Result:
    """Return the result of a call, which is tried up to `ATTEMPTS` times.

    Args:
        call (`Callable`): function without arguments.
        is_transient (`Callable`): whether an error may pass. Other errors are raised at once.

    Raises:
        Exception: the error of the last attempt.
    """
    for attempt in range(ATTEMPTS - 1):
        try:
            return call()
        except Exception as error:
            if not is_transient(error):
                raise
            sleep(2**attempt)
    return call()
