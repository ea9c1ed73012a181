"""The commands `gadms convert` and `gadms export`."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .user_errors import user_errors


class Activation(StrEnum):
    """Activations of CLIP's encoders."""

    quick_gelu = "quick_gelu"
    gelu = "gelu"


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
            help="Folder or Hub name of a CLIP, MetaCLIP 2, SigLIP or SigLIP 2 of transformers; a .pt, .pth, .bin, "
            ".ckpt, .pth.tar or .safetensors file with "
            "the names of OpenAI's CLIP, of open_clip or of research code built on it; a run folder with best.pth; or "
            "the folder of an adapter, to merge it into its base."
        ),
    ],
    target: Annotated[Path, typer.Argument(help="Folder to write.")],
    image_size: Annotated[
        str | None,
        typer.Option(
            metavar="HEIGHTxWIDTH",
            help="Image size of the converted model. By default the source's size if it was trained on persons or is "
            "not square, else 384x128.",
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
    activation: Annotated[
        Activation | None,
        typer.Option(
            help="Activation of a weight file, if its names do not tell it: quick_gelu for OpenAI's weights and what "
            "was trained from them, gelu for most of open_clip's."
        ),
    ] = None,
    heads: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGES,TEXT",
            help="Attention heads of the encoders of a weight file, if their widths do not tell them.",
        ),
    ] = None,
    mask_token: Annotated[
        int | None,
        typer.Option(
            help="Id of a weight file's mask token: 49405, which replaces the last merged token, or 49408, which is "
            "appended."
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Convert a source that loses tensors which its embeddings or its ranking need."),
    ] = False,
) -> None:
    """Convert CLIP weights or merge an adapter. Writes a GA-DMS model folder; no code of the checkpoint is run.

    Exits with 2 if the converted model would compute other embeddings than the source, unless --force is given.

    \b
    gadms convert openai/clip-vit-base-patch16 models/clip
    gadms convert best.pth models/irra --tokenizer openai/clip-vit-base-patch16
    gadms convert open_clip_model.safetensors models/open-clip --activation gelu
    gadms convert runs/lora/model models/merged
    """
    from modeling_gadms.conversion.converter import convert as convert_checkpoint
    from modeling_gadms.encoders.adapter_folders import find_adapter

    given: dict[str, Any] = {
        "image_size": _two_numbers("image_size", image_size, "x", "HEIGHTxWIDTH, such as 384x128"),
        "source_image_size": _two_numbers(
            "source_image_size", source_image_size, "x", "HEIGHTxWIDTH, such as 384x128"
        ),
        "tokenizer": tokenizer,
        "revision": revision,
        "activation": activation and activation.value,
        "heads": _two_numbers("heads", heads, ",", "IMAGES,TEXT, such as 12,8"),
        "mask_token": mask_token,
    }
    options = {name: value for name, value in given.items() if value is not None}
    if find_adapter(source):
        if options or force:
            names = ", ".join([*options, *(["force"] if force else [])])
            raise ValueError(f"{source} is an adapter, which takes all settings from its base; remove {names}")
        from modeling_gadms.training.adapters import merge_adapter

        typer.echo(merge_adapter(source, target).to_text())
        return
    report = convert_checkpoint(source, target, force=force, **options)
    typer.echo(report.to_text())
    if not report.lost:
        typer.echo(f"Now try: gadms index --source PERSONS --gallery my_gallery --model {target}")


@user_errors()
def export(
    model: Annotated[str, typer.Argument(help="Folder or Hub name of a GA-DMS model; for onnx of any dual encoder.")],
    target: Annotated[Path, typer.Argument(help="Folder to write; for openai and research a .pth file.")],
    format: Annotated[ExportFormat, typer.Option(help="Format to write.")],
    int8: Annotated[bool, typer.Option("--int8", help="For onnx: also write encoders with 8-bit weights.")] = False,
) -> None:
    """Export a model for other software.

    \b
    gadms export runs/demo/model exports/onnx --format onnx --int8
    gadms export my_model clip.pth --format openai
    \b
    sentence-transformers needs no export: it loads a GA-DMS model as it is.
    """
    if int8 and format is not ExportFormat.onnx:
        raise ValueError(f"--int8 requires --format onnx, not {format.value}")
    if format is ExportFormat.onnx:
        from modeling_gadms.conversion.onnx_export import export_onnx

        typer.echo(export_onnx(model, target, int8=int8).to_text())
    elif format is ExportFormat.sentence_transformers:
        typer.echo("from sentence_transformers import SentenceTransformer")
        typer.echo(f"model = SentenceTransformer({model!r}, trust_remote_code=True)")
        raise ValueError("no export is needed: sentence-transformers loads a GA-DMS model as it is, from 5.4 on")
    else:
        from modeling_gadms.conversion.openai_export import export_checkpoint

        layout: Literal["openai", "research"] = "openai" if format is ExportFormat.openai else "research"
        typer.echo(export_checkpoint(model, target, layout=layout).to_text())


def _two_numbers(name: str, text: str | None, separator: str, form: str) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(rf"(\d+){separator}(\d+)", text)
    if not match:
        raise ValueError(f"--{name.replace('_', '-')} {text!r} must be {form}")
    return int(match[1]), int(match[2])
