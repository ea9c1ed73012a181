"""The command `gadms publish model`."""

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
        from . import publishing
        from .model_card import TrainingCost

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
