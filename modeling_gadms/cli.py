"""`gadms`: index persons, search them by description, convert and publish models, and what other packages add.

Only what `--help` needs is imported here; each command imports what it runs.
"""

import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .conversion_cli import convert, export
from .gallery_cli import WhereOption
from .gallery_cli import gallery as gallery_commands
from .indexing_cli import RUNTIME_HELP, GalleryOption, ModelOption, add, index
from .publishing_cli import publish_model
from .serving_cli import serve
from .user_errors import user_errors


if TYPE_CHECKING:
    from PIL import Image


app = typer.Typer(
    help="Find a person from a description, in a folder of images or a video.",
    epilog="Exit codes: 0 done; 1 looked and found something wrong (gallery verify), or an error of the program, with "
    "its traceback; 2 something given cannot be used, as the line that begins with Error says; 130 stopped by Ctrl-C. "
    "For completion of commands and options: gadms --install-completion",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

publish = typer.Typer(help="Put a model or a data set on the Hub, with its card.", no_args_is_help=True)
publish.command("model")(publish_model)
app.add_typer(publish, name="publish")
app.add_typer(gallery_commands, name="gallery")
gallery_commands.command()(add)
app.command()(index)
app.command()(serve)
app.command()(convert)
app.command()(export)

COMMANDS = "gadms.commands"
"""Group of entry points by which other packages add commands: a name, and the function that typer is to run. The name
`publish.x` makes it `gadms publish x`."""


def main() -> None:
    add_commands(app)
    app()


def add_commands(app: typer.Typer) -> None:
    """Add the commands of other packages. One that does not load, takes a name that is taken, or belongs to a group
    that is not there, is left out with a warning: the other commands must not suffer for it."""
    groups = {"": app} | {group.name: group.typer_instance for group in app.registered_groups if group.name}
    taken = {f"{name}.{command}" for name, group in groups.items() if group for command in _names_of(group)}
    taken |= {f".{name}" for name in groups}
    for entry_point in entry_points(group=COMMANDS):
        group_name, _, name = entry_point.name.rpartition(".")
        group = groups.get(group_name)
        problem = "that name is taken" if f"{group_name}.{name}" in taken else None
        if group is None:
            problem = f"there is no group {group_name}"
        try:
            command = entry_point.load()
        except Exception as error:  # whatever the import of foreign code may raise
            problem = f"{type(error).__name__}: {error}"
        if problem or group is None:
            place = f"{entry_point.name} ({entry_point.value})"
            typer.echo(f"Warning: the command {place} is left out: {' '.join(str(problem).split())}", err=True)
            continue
        taken.add(f"{group_name}.{name}")
        group.command(name)(command)


def _names_of(group: typer.Typer) -> list[str]:
    return [str(command.name or getattr(command.callback, "__name__", "")) for command in group.registered_commands]


@app.command()
def search(
    gallery: GalleryOption,
    text: Annotated[str | None, typer.Argument(help="What the person looks like.")] = None,
    image: Annotated[Path | None, typer.Option(help="Picture of such a person, with or without a text.")] = None,
    like: Annotated[str | None, typer.Option(help="Id of a person in the gallery, to find others like.")] = None,
    without: Annotated[
        list[str] | None, typer.Option(help='What should not be there, as "a hat"; repeatable.')
    ] = None,
    where: WhereOption = None,
    group: Annotated[
        bool, typer.Option("--group/--no-group", help="Show a walk that was tracked once, or each of its crops.")
    ] = True,
    model: Annotated[str | None, typer.Option(help="By default the model that the gallery was built with.")] = None,
    top_k: Annotated[int, typer.Option(help="How many persons to show.")] = 10,
    out: Annotated[Path, typer.Option(help="Picture of the persons found, to be written.")] = Path("result.png"),
    as_json: Annotated[bool, typer.Option("--json", help="Print rows as JSON.")] = False,
    runtime: Annotated[
        str | None, typer.Option(help=f"{RUNTIME_HELP} By default the one that the gallery was built with.")
    ] = None,
) -> None:
    """Find persons from a description, a picture, or others like one: prints rows, writes a contact sheet.

    \b
    gadms search --gallery my_gallery "a woman in a red coat carrying a black backpack" --top-k 10 --out result.png
    gadms search --gallery my_gallery "a man in a suit" --without "a bag" --where "camera = 'gate-2'"
    gadms search --gallery my_gallery --image person.jpg
    """
    with user_errors():
        from .contact_sheet import draw_contact_sheet, place_and_time
        from .gallery import PersonGallery, Query, gallery_model
        from .images import load_image
        from .loading import load_model_and_processor

        built_with = gallery_model(gallery)
        picture = load_image(image) if image else None
        query = Query(text=text, image=picture, like=like, without=without or ())
        loaded, processor = load_model_and_processor(model or built_with.name, runtime=runtime or built_with.runtime)
        opened = PersonGallery.open(gallery, loaded, processor)
        results = opened.search(query, top_k, where=where, group_tracks=group)
        _save(draw_contact_sheet(str(query), results), out)
        if as_json:
            typer.echo(json.dumps([result.to_dict() for result in results], indent=2, ensure_ascii=False))
            return
        for result in results:
            typer.echo(f"{result.rank:>4}  {result.score:.3f}  {result.source}  {place_and_time(result)}".rstrip())
        typer.echo(f"Contact sheet: {out}")


@app.command()
def explain(
    image: Annotated[Path, typer.Argument(help="Picture of one person.")],
    caption: Annotated[str, typer.Argument(help="What the person looks like.")],
    model: ModelOption,
    out: Annotated[Path, typer.Option(help="Picture of the coloured caption, to be written.")] = Path("explain.png"),
    heat_map: Annotated[
        Path | None, typer.Option(help="Picture of the patches that carry the similarity, to be written.")
    ] = None,
) -> None:
    """Show which words of a caption the model ties to an image, and which parts of the image to the caption.

    \b
    gadms explain person.jpg "a man in a blue jacket and jeans" --model my_model --out explain.png
    gadms explain person.jpg "a man in a blue jacket and jeans" --model my_model --heat-map heat.png
    """
    with user_errors():
        from .explain import draw_explanation, explain_caption
        from .image_relevance import draw_heat_map, image_relevance
        from .images import load_image
        from .loading import load_model_and_processor

        picture = load_image(image)
        loaded, processor = load_model_and_processor(model)
        explanation = explain_caption(loaded, processor, picture, caption)
        _save(draw_explanation(picture, explanation), out)
        if heat_map is not None:
            _save(draw_heat_map(picture, image_relevance(loaded, processor, picture, caption).scores), heat_map)
        for token in explanation.tokens:
            typer.echo(f"{token.score:.3f}  {'#' * round(token.score * 20):<20}  {token.text}")
        typer.echo(f"Cosine similarity of image and caption: {explanation.similarity:.3f}")
        typer.echo(f"Picture: {out}")
        if heat_map is not None:
            typer.echo(f"Heat map: {heat_map}")


@app.command()
def aggregate(
    files: Annotated[list[Path], typer.Argument(help="JSON files of examples/evaluate.py, one of each training.")],
) -> None:
    """Mean and standard deviation of the same measurement over trainings with several seeds.

    \b
    gadms aggregate runs/seed0/metrics.json runs/seed1/metrics.json runs/seed2/metrics.json
    """
    with user_errors():
        from .reports import Record, aggregate_records, read_records

        by_dataset: dict[tuple[str, str], list[Record]] = {}
        for file in files:
            for record in read_records(file):
                by_dataset.setdefault((record["dataset"]["name"], record["dataset"]["split"]), []).append(record)
        for records in by_dataset.values():
            typer.echo(aggregate_records(records).to_table())


def _save(picture: "Image.Image", out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(out)


if __name__ == "__main__":
    main()
