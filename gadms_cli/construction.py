"""The commands `gadms build-webperson` and `gadms merge-webperson`."""

from pathlib import Path
from typing import Annotated

import typer

from .user_errors import LEFT_OUT, user_errors


@user_errors(RuntimeError)
def build_webperson(
    config: Annotated[Path, typer.Option(help="YAML configuration, such as examples/configs/build_webperson.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[section.key=value]...", help="Settings that override the file.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="local (datasets) or ray (Ray Data); overrides the file.")] = None,
    push: Annotated[str | None, typer.Option(help="Push the finished data set to this repository on the Hub.")] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Create the repository as private; refuse an existing public one.")
    ] = False,
) -> None:
    """Build a data set of captioned persons from images. Run it again to resume an interrupted run.

    Paths of sources and of the output may be URLs, such as s3://bucket/folder (pip install "gadms[s3]"), gs:// and hf://.

    \b
    gadms build-webperson --config examples/configs/build_webperson.yaml sources.crawl.path=images run.output=webperson
    gadms build-webperson --config examples/configs/build_webperson.yaml --engine ray --push my_name/webperson

    Exit codes: 0, complete; 2, something is to be mended first, such as a setting or a source; 3, done but for shards
    that failed three times and were set aside; 75, something was away, such as a captioner or a bucket: run it again.
    """
    from dataset_scripts.construction.failures import FAILURES
    from dataset_scripts.construction.pipeline_report import format_report
    from dataset_scripts.construction.run.config import load_build_config
    from dataset_scripts.construction.run.pipeline import REVIEW_FILE
    from dataset_scripts.construction.run.pipeline import build_webperson as build
    from dataset_scripts.publishing.dataset import REPORT_FIGURE, publish_dataset
    from modeling_gadms.publishing.hub import check_push_target

    settings = load_build_config(config, [*(overrides or []), *([f"run.engine={engine}"] if engine else [])])
    if push and not settings.captioners:
        raise ValueError(f"{config} names no captioners, so there would be no captioned persons to push to {push}")
    if push:
        check_push_target(push, repo_type="dataset", private=private)
    report = build(settings)
    typer.echo(format_report(report.counts))
    typer.echo(f"Rejected rows with their reasons: {report.root / 'work' / 'rejects'}")
    typer.echo(f"Contact sheet of kept and dropped persons: {report.root / REVIEW_FILE}")
    if report.set_aside:
        for failure in report.set_aside:
            typer.echo(
                f"Set aside: shard {failure.number} of stage {failure.stage}, after {failure.attempts} attempts. "
                f"{failure.reason}",
                err=True,
            )
        typer.echo(
            f"The data set in {report.root} is not complete ({report.persons:,} persons)"
            f"{', and is not pushed' if push else ''}. To try a shard again, remove its file in "
            f"{report.root / FAILURES} and run this again; once captions have begun, the missing persons change which "
            "are duplicates, so that it needs another output folder",
            err=True,
        )
        raise typer.Exit(LEFT_OUT)
    if not settings.captioners:
        typer.echo(
            f"{report.persons:,} persons in {report.root}. Add section `captioners` and run again to caption them"
        )
        return
    typer.echo(f"{report.persons:,} captioned persons in {report.root}")
    typer.echo(f"Pipeline report: {report.root / REPORT_FIGURE}")
    if push:
        pushed = publish_dataset(str(report.root), push, private=private).pushed
        typer.echo(f"Pushed: {pushed.url if pushed else push}")
    else:
        place = report.root.resolve()
        call = f'"{place}"' if isinstance(place, Path) else f'"webperson", data_dir="{place}"'
        typer.echo(f'Load it: datasets.load_dataset({call}, split="train")')


@user_errors(RuntimeError)
def merge_webperson(
    parts: Annotated[list[str], typer.Argument(help="Folders or URLs of finished runs with captions, in order.")],
    output: Annotated[str, typer.Option(help="Folder or URL for the release: new, or of an interrupted merge.")],
    rows_per_file: Annotated[
        int, typer.Option(help="Join shards until a file has this many rows. 0: one file a shard.")
    ] = 0,
    leave_out_uncaptioned: Annotated[
        bool,
        typer.Option(
            "--leave-out-uncaptioned", help="Leave out persons that one run would keep but no part has captioned."
        ),
    ] = False,
) -> None:
    """Merge runs of several machines into one data set: duplicates, counts, pipeline report and card of all.

    \b
    gadms merge-webperson runs/part0 runs/part1 --output runs/webperson
    gadms merge-webperson s3://bucket/part0 s3://bucket/part1 --output s3://bucket/webperson --rows-per-file 25000
    gadms publish dataset runs/webperson my_name/webperson
    """
    from dataset_scripts.construction.pipeline_report import format_report
    from dataset_scripts.construction.run.merge import merge_webperson as merge

    report = merge(parts, output, rows_per_file=rows_per_file, leave_out_uncaptioned=leave_out_uncaptioned)
    typer.echo(format_report(report.counts))
    typer.echo(f"{report.persons:,} captioned persons in {report.root}")
