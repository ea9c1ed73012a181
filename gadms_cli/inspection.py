"""The command `gadms inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from .figures import save_figure
from .user_errors import user_errors


@user_errors()
def inspect_dataset(
    dataset: Annotated[str, typer.Option(help="A name or folder for load_dataset, or a save_to_disk folder.")],
    dataset_args: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Argument, such as data_dir=data/CUHK-PEDES; repeatable."),
    ] = None,
    image: Annotated[str, typer.Option(help="Column of images.")] = "image",
    captions: Annotated[list[str] | None, typer.Option(help="Column of captions; repeatable.")] = None,
    person_id: Annotated[str | None, typer.Option(help="Column of person ids (default: person_id).")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Folder or Hub name of a tokenizer, to count tokens.")] = None,
    out: Annotated[Path, typer.Option(help="Output file of the contact sheet.")] = Path("inspect.png"),
    json_out: Annotated[Path | None, typer.Option(help="Output file of the counts as JSON.")] = None,
) -> None:
    """Inspect a data set: counts, caption lengths, faulty rows, overlaps between splits.

    \b
    gadms inspect --dataset cuhk_pedes --dataset-args data_dir=data/CUHK-PEDES --tokenizer my_model --out sample.png
    """
    from transformers import AutoTokenizer

    from dataset_scripts.inspection.sample_sheet import draw_sample_sheet
    from dataset_scripts.inspection.splits import choose_columns, inspect_splits
    from dataset_scripts.loading import dataset_arguments, load_splits
    from modeling_gadms.encoders.atomic_files import write_json

    splits = load_splits(dataset, **dataset_arguments(dataset_args or ()))
    columns = choose_columns(next(iter(splits.values())).column_names, image, captions or (), person_id)
    found = inspect_splits(splits, columns, AutoTokenizer.from_pretrained(tokenizer) if tokenizer else None)
    typer.echo(found.to_text())
    sheet = save_figure(draw_sample_sheet(f"{dataset}: {', '.join(columns.captions)}", found.samples), out)
    typer.echo(f"\nContact sheet: {sheet}")
    if json_out:
        write_json(json_out, found.to_dict())
        typer.echo(f"Counts: {json_out}")
