"""The commands `gadms gallery ...`, which maintain a gallery and need no model."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import GalleryArgument, WhereOption
from .printing import print_json
from .user_errors import user_errors


if TYPE_CHECKING:
    from modeling_gadms.gallery.person_gallery import PersonGallery

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
IdOption = Annotated[
    list[str] | None, typer.Option("--id", help="Id of a person, from gadms search --json; repeatable.")
]

gallery = typer.Typer(help="Maintain a gallery: describe, verify, change, erase, export.", no_args_is_help=True)


@gallery.command()
@user_errors()
def info(location: GalleryArgument, as_json: JsonOption = False) -> None:
    """Show the size, columns and index of a gallery, and which model built it.

    \b
    gadms gallery info my_gallery
    """
    found = _open(location).info()
    if as_json:
        print_json(asdict(found), indent=2)
        return
    rows = {
        "persons": f"{found.persons:,} from {len(found.sources):,} sources",
        "tracks": f"{found.tracks:,}",
        "cameras": _counts(found.cameras) or "none",
        "columns": ", ".join(f"{name} ({kind})" for name, kind in found.columns.items()) or "no additional ones",
        "size": f"{found.size_bytes / 1e6:,.1f} MB, without removed persons and earlier versions",
        "index": f"{found.indexed_persons:,} persons; the others are scanned",
        "version": f"{found.version}, of {found.changed:%Y-%m-%d %H:%M} UTC",
        "model": str(found.model),
        "embeddings": f"{found.dimension} values",
        "image fit": found.model.image_fit or "squash",
    }
    for name, value in rows.items():
        typer.echo(f"{name:<11} {value}")


@gallery.command()
@user_errors()
def verify(location: GalleryArgument, as_json: JsonOption = False) -> None:
    """Read the whole gallery and count damaged persons. The exit code is 1 if there are any.

    \b
    gadms gallery verify my_gallery
    """
    report = _open(location).verify()
    if as_json:
        print_json(asdict(report), indent=2)
    else:
        typer.echo(str(report))
    if not report.sound:
        raise typer.Exit(1)


@gallery.command()
@user_errors()
def remove(
    location: GalleryArgument,
    where: WhereOption = None,
    ids: IdOption = None,
    now: Annotated[bool, typer.Option("--now", help="Also erase them from the disk at once, as purge does.")] = False,
) -> None:
    """Remove persons by a filter or by id. They are no longer found; --now also erases them from the disk.

    \b
    gadms gallery remove my_gallery --where "added < '2026-11-01'"
    gadms gallery remove my_gallery --id 0f3c... --id 91ab... --now
    """
    from modeling_gadms.gallery.storage import KEEP_VERSIONS

    opened = _open(location)
    removed = opened.remove(where=where, ids=ids)
    typer.echo(f"{removed:,} persons removed")
    if now:
        typer.echo(str(opened.purge()))
    elif removed:
        later = datetime.now(UTC) + KEEP_VERSIONS + timedelta(minutes=1)
        typer.echo(f"Their data stays on the disk until `gadms gallery purge {location}`")
        typer.echo(f"or, after {later:%Y-%m-%d %H:%M} UTC, `gadms gallery compact {location}`")


@gallery.command("set")
@user_errors()
def set_columns(
    location: GalleryArgument,
    values: Annotated[
        list[str],
        typer.Argument(
            help="Column and new value, such as camera=gate-2: camera, time, track or an additional column."
        ),
    ],
    where: WhereOption = None,
    ids: IdOption = None,
) -> None:
    """Set columns of persons selected by a filter or by id.

    \b
    gadms gallery set my_gallery camera=gate-2 --where "source LIKE '%/cctv.mp4'"
    """
    from modeling_gadms.gallery.schema import UPDATABLE

    opened = _open(location)
    known = UPDATABLE | opened.columns
    changed = opened.update(dict(_value(text, known) for text in values), where=where, ids=ids)
    typer.echo(f"{changed:,} persons changed")


@gallery.command()
@user_errors()
def compact(
    location: GalleryArgument,
    keep_hours: Annotated[
        float, typer.Option(help="Age in hours from which earlier versions are deleted.", min=0)
    ] = 1.0,
) -> None:
    """Join small files, update the indexes, and delete earlier versions that no reader needs any more.

    Removed persons stay in earlier versions; the command prints until when.

    \b
    gadms gallery compact my_gallery
    """
    typer.echo(str(_open(location).compact(keep_versions=timedelta(hours=keep_hours))))


@gallery.command()
@user_errors()
def purge(location: GalleryArgument) -> None:
    """Erase removed persons from the disk: only the current persons are left in the gallery's files.

    Searches that run meanwhile are repeated; an export fails. Backups are not changed.

    \b
    gadms gallery purge my_gallery
    """
    typer.echo(str(_open(location).purge()))


@gallery.command()
@user_errors()
def export(
    location: GalleryArgument,
    out: Annotated[Path, typer.Argument(help="File or folder to write; must not exist.")],
    kind: Annotated[
        str | None,
        typer.Option("--format", help="csv, parquet or folder; by default determined by the suffix of OUT."),
    ] = None,
) -> None:
    """Write the persons to a CSV file, a Parquet file (with embeddings and thumbnails) or a folder of JPEGs.

    \b
    gadms gallery export my_gallery persons.csv
    gadms gallery export my_gallery persons/ --format folder
    """
    written = _open(location).export(out, kind or out.suffix.lstrip(".").lower() or "folder")
    typer.echo(f"{written:,} persons written to {out}")


def _open(location: str) -> "PersonGallery":
    from modeling_gadms.gallery.person_gallery import PersonGallery

    return PersonGallery.open(location)


def _counts(counts: dict[str, int], shown: int = 5) -> str:
    text = ", ".join(f"{name} ({count:,})" for name, count in list(counts.items())[:shown])
    return text + (f" and {len(counts) - shown} more" if len(counts) > shown else "")


def _value(text: str, columns: dict[str, str]) -> tuple[str, Any]:
    """Parse `column=value`; an empty value clears the column."""
    name, sign, value = text.partition("=")
    if not sign:
        raise ValueError(f"{text!r} is not an assignment: write it as column=value, such as camera=gate-2")
    if not value:
        return name, None
    kind = columns.get(name)
    try:
        if kind in ("integer", "float"):
            return name, {"integer": int, "float": float}[kind](value)
        if kind == "boolean":
            return name, {"true": True, "false": False}[value.lower()]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{text!r}: the type of the column {name!r} is {kind}") from error
    return name, value
