"""Errors of commands: what the user gave is answered in one line, everything else is a bug and keeps its traceback."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer


@contextmanager
def user_errors(*errors: type[Exception]) -> Iterator[None]:
    """Errors and warnings about what the user gave, as one line each on standard error; errors exit with code 2.

    Args:
        errors (`type[Exception]`): further kinds of errors that are for the user.
    """
    for_the_user: tuple[type[Exception], ...] = (ValueError, OSError, ImportError, *errors)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            yield
        except for_the_user as error:
            typer.echo(f"Error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from error


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning):  # others are for developers
        typer.echo(f"Warning: {message}", err=True)
