"""How commands end: with errors of users as one line, or in order when they are asked to stop.

Other errors are bugs and keep their traceback.
"""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import typer


LEFT_OUT = 3
"""Exit code of a command that is done but for inputs that it could not read."""
_NOTE = b"\nStopping after this image. Once more to stop at once: the work of the last 30 seconds is then lost.\n"


@contextmanager
def user_errors(*errors: type[Exception]) -> Iterator[None]:
    """Print errors and `UserWarning`s as one line each on standard error. Errors exit with code 2, or with that of
    their attribute `exit_code`.

    Args:
        errors (`type[Exception]`): caught in addition to `ValueError`, `OSError` and `ImportError`.
    """
    caught: tuple[type[Exception], ...] = (ValueError, OSError, ImportError, *errors)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            yield
        except caught as error:
            _print(f"Error: {' '.join(str(error).split())}")
            raise typer.Exit(getattr(error, "exit_code", 2)) from error


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning):  # other categories are for developers
        _print(f"Warning: {message}")


def _print(line: str) -> None:
    """Print a line on standard error; a progress bar that is open there gets out of its way."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


@dataclass
class StopRequest:
    """The signal that asked the command to stop, if any."""

    signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note the first SIGINT, SIGTERM or SIGHUP instead of ending the process; a second one ends it at once.

    Signals that the process ignores, such as SIGHUP under `nohup`, stay ignored. Outside the main thread nothing is
    changed.
    """
    request = StopRequest()
    usual: dict[int, Any] = {}

    def note(number: int, _: FrameType | None) -> None:
        request.signal = number
        for each in usual:
            signal.signal(each, signal.SIG_DFL)
        os.write(2, _NOTE)  # print is not safe in a signal handler

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                usual[number] = signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
