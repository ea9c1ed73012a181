"""Command groups and commands of `gadms`."""

import io
import sys
from typing import cast

import typer

from .construction import build_webperson, merge_webperson
from .conversion import convert, export
from .evaluation import aggregate
from .explain import explain
from .gallery import gallery
from .indexing import add, index
from .inspection import inspect_dataset
from .publishing import publish_dataset, publish_model
from .search import search
from .serving import serve


app = typer.Typer(
    help="Find persons in images and videos by a description in words.",
    epilog="Exit codes: 0 success; 1 a check failed (gallery verify), or an internal error, with its traceback; "
    "2 invalid input, explained in a line that begins with Error; 3 done, but some sources or images could not be "
    "read and were left out; 130 interrupted by Ctrl-C. "
    "Shell completion: gadms --install-completion",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(index)
app.command()(search)
app.command()(explain)
app.command()(serve)
gallery.command()(add)
app.add_typer(gallery, name="gallery")

app.command()(convert)
app.command()(export)
app.command()(aggregate)
app.command("inspect")(inspect_dataset)
app.command("build-webperson")(build_webperson)
app.command("merge-webperson")(merge_webperson)

publish = typer.Typer(help="Publish a model or a data set on the Hub, with its card.", no_args_is_help=True)
publish.command("model")(publish_model)
publish.command("dataset")(publish_dataset)
app.add_typer(publish, name="publish")


def main() -> None:
    for stream in (sys.stdout, sys.stderr):  # file names that are not UTF-8 are printed escaped
        cast(io.TextIOWrapper, stream).reconfigure(errors="backslashreplace")
    app()
