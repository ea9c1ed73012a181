"""The commands `gadms convert` and `gadms export`."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from .user_errors import user_errors


class ExportFormat(StrEnum):
    """Formats of `gadms export`."""

    onnx = "onnx"
    openai = "openai"
    research = "research"
    sentence_transformers = "sentence-transformers"


@user_errors()
def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder or Hub name of a CLIP model; a .pt, .pth, .bin or .safetensors file in the layout of "
            "OpenAI's CLIP or of research code built on it; or the folder of an adapter, to merge it into its base."
        ),
    ],
    target: Annotated[Path, typer.Argument(help="Folder to write.")],
    image_size: Annotated[
        str | None,
        typer.Option(
            metavar="HEIGHTxWIDTH",
            help="Image size of the converted model. By default 384x128 for square images, else the source's size.",
        ),
    ] = None,
    source_image_size: Annotated[
        str | None, typer.Option(metavar="HEIGHTxWIDTH", help="Image size of a weight file, if it cannot be inferred.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Folder or Hub name. By default the source's, or OpenAI's for weight files of its vocabulary."
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit, branch or tag of a Hub name.")] = None,
) -> None:
    """Convert CLIP weights or merge an adapter. Writes a GA-DMS model folder; no code of the checkpoint is run.

    \b
    gadms convert openai/clip-vit-base-patch16 models/clip
    gadms convert best.pth models/irra --tokenizer openai/clip-vit-base-patch16
    gadms convert runs/lora/model models/merged
    """
    from modeling_gadms.conversion.converter import convert as convert_checkpoint
    from modeling_gadms.encoders.adapter_folders import find_adapter

    sizes = {"image_size": image_size, "source_image_size": source_image_size}
    parsed = {name: _height_and_width(name, value) for name, value in sizes.items() if value is not None}
    if find_adapter(source):
        if parsed or tokenizer or revision:
            raise ValueError(f"{source} is an adapter, which takes sizes, tokenizer and revision from its base")
        from modeling_gadms.training.adapters import merge_adapter

        typer.echo(merge_adapter(source, target).to_text())
        return
    report = convert_checkpoint(source, target, tokenizer=tokenizer, revision=revision, **parsed)
    typer.echo(report.to_text())
    typer.echo(f"Now try: gadms index --source PERSONS --gallery my_gallery --model {target}")


@user_errors()
def export(
    model: Annotated[str, typer.Argument(help="Folder or Hub name of a GA-DMS model.")],
    target: Annotated[Path, typer.Argument(help="Folder to write; for openai and research a .pth file.")],
    format: Annotated[ExportFormat, typer.Option(help="Format to write.")],
    int8: Annotated[bool, typer.Option("--int8", help="For onnx: also write encoders with 8-bit weights.")] = False,
) -> None:
    """Export a GA-DMS model for other software.

    \b
    gadms export runs/demo/model exports/onnx --format onnx --int8
    gadms export my_model clip.pth --format openai
    gadms export my_model exports/st --format sentence-transformers
    """
    if int8 and format is not ExportFormat.onnx:
        raise ValueError(f"--int8 requires --format onnx, not {format.value}")
    if format is ExportFormat.onnx:
        from modeling_gadms.conversion.onnx_export import export_onnx

        typer.echo(export_onnx(model, target, int8=int8).to_text())
    elif format is ExportFormat.sentence_transformers:
        from modeling_gadms.conversion.sentence_transformers_export import export_sentence_transformers

        typer.echo(export_sentence_transformers(model, target).to_text())
    else:
        from modeling_gadms.conversion.openai_export import export_checkpoint

        layout: Literal["openai", "research"] = "openai" if format is ExportFormat.openai else "research"
        typer.echo(export_checkpoint(model, target, layout=layout).to_text())


def _height_and_width(name: str, text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise ValueError(f"--{name.replace('_', '-')} {text!r} must be HEIGHTxWIDTH, such as 384x128")
    return int(match[1]), int(match[2])
