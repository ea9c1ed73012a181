"""The commands `gadms publish model` and `gadms publish dataset`."""

from pathlib import Path
from typing import Annotated

import typer

from .user_errors import user_errors


RepoArgument = Annotated[str, typer.Argument(help="Where it goes on the Hub: namespace/name.")]
RevisionOption = Annotated[str | None, typer.Option(help="Branch to push to, made if it is not there.")]
TagOption = Annotated[str | None, typer.Option(help="Name for the commit, such as v1.0.")]
PrivateOption = Annotated[bool, typer.Option("--private", help="Make the repository private.")]
DryRunOption = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Write what would be pushed there, and push nothing.")
]


def publish_model(
    folder: Annotated[Path, typer.Argument(help="Folder of a model or an adapter, such as runs/demo/model.")],
    repo_id: RepoArgument,
    metrics: Annotated[
        list[Path] | None,
        typer.Option(help="JSON file of examples/evaluate.py, measured on these weights; repeatable."),
    ] = None,
    license: Annotated[str, typer.Option(help="Of the weights, as the Hub calls it.")] = "apache-2.0",
    base_model: Annotated[
        str | None, typer.Option(help="Hub id of the model it goes on from; by default as its training recorded.")
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="Hub name of a data set it was trained on, by default as recorded; repeatable."),
    ] = None,
    cost: Annotated[
        Path | None,
        typer.Option(help="YAML file of hardware, hours, emissions_grams, emissions_source and location."),
    ] = None,
    revision: RevisionOption = None,
    tag: TagOption = None,
    private: PrivateOption = False,
    dry_run: DryRunOption = None,
) -> None:
    """Push a model with its card: what it was trained on, what was measured, what it is not for.

    \b
    gadms publish model runs/demo/model me/ga-dms-demo --metrics runs/demo/metrics.json --dry-run out
    gadms publish model runs/demo/model me/ga-dms-demo --metrics runs/demo/metrics.json --tag v1.0
    gadms publish model runs/lora/model me/ga-dms-lora --base-model me/ga-dms-demo --private
    """
    with user_errors():
        from modeling_gadms.publishing import model as publishing
        from modeling_gadms.publishing.model_card import TrainingCost

        published = publishing.publish_model(
            folder,
            repo_id,
            metrics=metrics or (),
            license=license,
            base_model=base_model,
            datasets=dataset or (),
            cost=TrainingCost.from_file(cost) if cost else None,
            revision=revision,
            tag=tag,
            private=private,
            dry_run=dry_run,
        )
        typer.echo(published.to_text())


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
        from dataset_scripts.loading import dataset_arguments
        from dataset_scripts.publishing import dataset as publishing
        from dataset_scripts.publishing.dataset_card import DatasetCardSettings

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
