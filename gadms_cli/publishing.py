"""The commands `gadms publish model` and `gadms publish dataset`."""

from pathlib import Path
from typing import Annotated

import typer

from .user_errors import user_errors


RepoArgument = Annotated[str, typer.Argument(help="Repository on the Hub: namespace/name.")]
RevisionOption = Annotated[str | None, typer.Option(help="Branch to push to, created if it is missing.")]
TagOption = Annotated[str | None, typer.Option(help="Tag of the commit, such as v1.0.")]
PrivateOption = Annotated[bool, typer.Option("--private", help="Make the repository private.")]
DryRunOption = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Write the files to this folder instead of pushing them.")
]


@user_errors()
def publish_model(
    folder: Annotated[Path, typer.Argument(help="Folder of a model or an adapter, such as runs/demo/model.")],
    repo_id: RepoArgument,
    metrics: Annotated[
        list[Path] | None,
        typer.Option(help="Metrics file of examples/evaluate.py, measured on these weights; repeatable."),
    ] = None,
    license: Annotated[str, typer.Option(help="License of the weights, as an identifier of the Hub.")] = "apache-2.0",
    base_model: Annotated[
        str | None,
        typer.Option(help="Hub id of the model that training started from. By default that of the training record."),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="Hub name of a training data set; repeatable. By default those of the training record."),
    ] = None,
    cost: Annotated[
        Path | None,
        typer.Option(help="YAML file with hardware, hours, emissions_grams, emissions_source and location."),
    ] = None,
    revision: RevisionOption = None,
    tag: TagOption = None,
    private: PrivateOption = False,
    dry_run: DryRunOption = None,
) -> None:
    """Publish a model with its model card: training data and settings, metrics, intended use and limits.

    \b
    gadms publish model runs/demo/model me/ga-dms-demo --metrics runs/demo/metrics.json --dry-run out
    gadms publish model runs/demo/model me/ga-dms-demo --metrics runs/demo/metrics.json --tag v1.0
    gadms publish model runs/lora/model me/ga-dms-lora --base-model me/ga-dms-demo --private
    """
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


@user_errors()
def publish_dataset(
    source: Annotated[
        str, typer.Argument(help="Folder of a finished `gadms build-webperson`, or name or folder of a data set.")
    ],
    repo_id: RepoArgument,
    dataset_args: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Argument of the data set, such as seed=1; repeatable."),
    ] = None,
    license: Annotated[
        str | None, typer.Option(help="Identifier of the Hub. Required, except for drawn persons and finished runs.")
    ] = None,
    licence_notes: Annotated[str | None, typer.Option(help="Rights in the images, for the card.")] = None,
    provenance: Annotated[str | None, typer.Option(help="Sources of images and captions, for the card.")] = None,
    contact: Annotated[str | None, typer.Option(help="Contact for removal requests, for the card.")] = None,
    title: Annotated[
        str | None, typer.Option(help="Title of the card. By default the name of the repository.")
    ] = None,
    language: Annotated[str, typer.Option(help="Language of the captions.")] = "en",
    image: Annotated[str, typer.Option(help="Image column.")] = "image",
    captions: Annotated[
        list[str] | None, typer.Option(help="Caption column; repeatable. Usual names are found.")
    ] = None,
    person_id: Annotated[str | None, typer.Option(help="Column of person ids. `person_id` is found.")] = None,
    shard_size: Annotated[float, typer.Option(help="MB of each Parquet file before compression.")] = 400,
    may_redistribute: Annotated[
        bool, typer.Option("--i-may-redistribute", help="I have the permission of this benchmark's authors.")
    ] = False,
    revision: RevisionOption = None,
    tag: TagOption = None,
    private: PrivateOption = False,
    dry_run: DryRunOption = None,
) -> None:
    """Publish a data set as Parquet files that `load_dataset` reads without our code, with its card.

    \b
    gadms publish dataset runs/street me/street-persons --tag v1.0
    gadms publish dataset data/persons me/persons --license cc-by-4.0 --contact me@example.org --dry-run out
    gadms publish dataset synthetic_persons me/drawn --dataset-args seed=1 --dataset-args "image_size=[96, 32]"
    """
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
