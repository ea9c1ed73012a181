"""Options and arguments that several commands share."""

from typing import Annotated

import typer


ModelOption = Annotated[str, typer.Option(help="Folder or Hub name of a GA-DMS model.")]
RUNTIME_HELP = "What runs the model: torch, or for an ONNX export onnx or onnx-int8."
GalleryOption = Annotated[str, typer.Option(help="Folder or URI of the gallery.")]
GalleryArgument = Annotated[str, typer.Argument(help="Folder or URI of the gallery.", metavar="GALLERY")]
WHERE_HELP = "Condition on columns, as \"camera = 'gate-2' AND time > '2026-11-25 08:00'\"."
WhereOption = Annotated[str | None, typer.Option(help=WHERE_HELP)]
