"""The command `gadms build-webperson`."""

from pathlib import Path
from typing import Annotated

import typer

from .user_errors import user_errors


def build_webperson(
    config: Annotated[Path, typer.Option(help="YAML file, such as examples/configs/build_webperson.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[section.key=value]...", help="Settings that replace the file's.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="local (datasets) or ray (Ray Data), instead of the file's.")
    ] = None,
    push: Annotated[str | None, typer.Option(help="Upload the finished data set to this Hub name.")] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository on the Hub private; refuse a public one.")
    ] = False,
) -> None:
    """Turn images into a data set of captioned persons; run it again to go on where it was cut off.

    \b
    gadms build-webperson --config examples/configs/build_webperson.yaml sources.crawl.path=images run.output=webperson
    gadms build-webperson --config examples/configs/build_webperson.yaml --engine ray --push my_name/webperson
    """
    with user_errors(RuntimeError):
        from dataset_scripts.construction.pipeline_report import format_report
        from dataset_scripts.construction.run.config import load_build_config
        from dataset_scripts.construction.run.pipeline import REVIEW_FILE
        from dataset_scripts.construction.run.pipeline import build_webperson as build
        from dataset_scripts.publishing.construction import push_dataset
        from modeling_gadms.publishing.hub import check_push_target

        settings = load_build_config(config, [*(overrides or []), *([f"run.engine={engine}"] if engine else [])])
        if push and not settings.captioners:
            raise ValueError(f"{config} names no captioners: there will be no captioned persons to push to {push}")
        if push:
            check_push_target(push, repo_type="dataset", private=private)
        report = build(settings)
        typer.echo(format_report(report.counts))
        typer.echo(f"Rejected rows, with their reasons: {report.root / 'work' / 'rejects'}")
        typer.echo(f"Persons kept and dropped, as a picture: {report.root / REVIEW_FILE}")
        if not settings.captioners:
            typer.echo(f"{report.persons:,} persons in {report.root}. Name `captioners` and run again to caption them")
            return
        typer.echo(f"{report.persons:,} captioned persons in {report.root}; the report: {report.root / 'report.png'}")
        if push:
            typer.echo(f"Pushed: {push_dataset(report.root, push, private=private)}")
        else:
            typer.echo(f'Now try: datasets.load_dataset("{report.root.resolve()}", split="train")')
