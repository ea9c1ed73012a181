"""Stop a long command in order at Ctrl-C, or when its process is asked to end."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any


_NOTE = b"\nStopping after this image. Once more to stop at once: the work of the last 30 seconds is then lost.\n"


@dataclass
class StopRequest:
    """The signal that asked the command to stop, if any."""

    signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note the first SIGINT, SIGTERM or SIGHUP instead of ending the process; a second one ends it as usual.

    Signals that the process ignores, such as SIGHUP under `nohup`, stay ignored. Outside the main thread nothing is
    changed.
    """
    request = StopRequest()
    usual: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def note(number: int, _: FrameType | None) -> None:
        request.signal = number
        restore()
        os.write(2, _NOTE)  # print is not safe in a signal handler

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                usual[number] = signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
