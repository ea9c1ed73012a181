"""Options and arguments that several commands share."""

from typing import Annotated

import typer


ModelOption = Annotated[
    str, typer.Option(help="Folder or Hub name of a dual encoder: GA-DMS, CLIP, SigLIP 2 or another supported one.")
]
GalleryModelOption = Annotated[
    str | None, typer.Option(help="Folder or Hub name of the model; by default the one that built the gallery.")
]
RUNTIME_HELP = "Runtime of the model: torch; for an ONNX export, onnx or onnx-int8."
GalleryOption = Annotated[str, typer.Option(help="Folder or URI of the gallery.")]
GalleryArgument = Annotated[str, typer.Argument(help="Folder or URI of the gallery.", metavar="GALLERY")]
WhereOption = Annotated[
    str | None, typer.Option(help="Filter on columns, such as \"camera = 'gate-2' AND time > '2026-11-25 08:00'\".")
]
