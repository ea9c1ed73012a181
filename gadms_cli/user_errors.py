"""Print errors caused by user input as one line. Other errors are bugs and keep their traceback."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer


LEFT_OUT = 3
"""Exit code of a command that is done but for inputs that it could not read."""


@contextmanager
def user_errors(*errors: type[Exception]) -> Iterator[None]:
    """Print errors and `UserWarning`s as one line each on standard error. Errors exit with code 2.

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
            raise typer.Exit(2) from error


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning):  # other categories are for developers
        _print(f"Warning: {message}")


def _print(line: str) -> None:
    """Print a line on standard error; a progress bar that is open there gets out of its way."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)
