"""The command `gadms publish dataset`."""

from typing import Annotated

import typer

from modeling_gadms.publishing_cli import DryRunOption, PrivateOption, RepoArgument, RevisionOption, TagOption
from modeling_gadms.user_errors import user_errors


def publish_dataset(
    source: Annotated[
        str, typer.Argument(help="Folder of a finished `gadms build-webperson`, or a name or folder of a data set.")
    ],
    repo_id: RepoArgument,
    dataset_args: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Of the data set, such as seed=1; repeatable.")
    ] = None,
    license: Annotated[
        str | None, typer.Option(help="As the Hub calls it. Must be given, but for drawn persons and finished runs.")
    ] = None,
    licence_notes: Annotated[str | None, typer.Option(help="On the rights in the images, for the card.")] = None,
    provenance: Annotated[
        str | None, typer.Option(help="Where images and captions come from, and who wrote them, for the card.")
    ] = None,
    contact: Annotated[str | None, typer.Option(help="Where persons shown ask for removal, for the card.")] = None,
    title: Annotated[str | None, typer.Option(help="By default the repository's name.")] = None,
    language: Annotated[str, typer.Option(help="Of the captions.")] = "en",
    image: Annotated[str, typer.Option(help="Column of images.")] = "image",
    captions: Annotated[list[str] | None, typer.Option(help="Column of captions; the usual ones are found.")] = None,
    person_id: Annotated[str | None, typer.Option(help="Column of person ids; `person_id` is found.")] = None,
    shard_size: Annotated[float, typer.Option(help="Of each Parquet file, in MB before compression.")] = 400,
    may_redistribute: Annotated[
        bool,
        typer.Option("--i-may-redistribute", help="I have the permission of the authors of this benchmark."),
    ] = False,
    revision: RevisionOption = None,
    tag: TagOption = None,
    private: PrivateOption = False,
    dry_run: DryRunOption = None,
) -> None:
    """Push a data set as Parquet that `load_dataset` opens by itself, with its card.

    \b
    gadms publish dataset runs/street me/street-persons --tag v1.0
    gadms publish dataset data/persons me/persons --license cc-by-4.0 --contact me@example.org --dry-run out
    gadms publish dataset synthetic_persons me/drawn --dataset-args seed=1 --dataset-args "image_size=[96, 32]"
    """
    with user_errors():
        from . import publishing
        from .dataset_card import DatasetCardSettings
        from .opening import dataset_arguments

        published = publishing.publish_dataset(
            source,
            repo_id,
            dataset_args=dataset_arguments(dataset_args or ()),
            card=DatasetCardSettings(license, title, provenance, licence_notes, contact, language),
            image=image,
            captions=captions or (),
            person_id=person_id,
            may_redistribute=may_redistribute,
            shard_bytes=round(shard_size * 1e6),
            revision=revision,
            tag=tag,
            private=private,
            dry_run=dry_run,
        )
        typer.echo(published.to_text())
