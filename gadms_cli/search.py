"""The command `gadms search`."""

from pathlib import Path
from typing import Annotated

import typer

from .figures import save_figure
from .options import RUNTIME_HELP, GalleryModelOption, GalleryOption, WhereOption
from .printing import print_json
from .user_errors import user_errors


@user_errors()
def search(
    gallery: GalleryOption,
    text: Annotated[str | None, typer.Argument(help="Description of the person.")] = None,
    image: Annotated[Path | None, typer.Option(help="Image of a similar person, alone or with a text.")] = None,
    like: Annotated[str | None, typer.Option(help="Id of a person in the gallery, to find similar persons.")] = None,
    without: Annotated[
        list[str] | None, typer.Option(help='Attribute to exclude, such as "a hat"; repeatable.')
    ] = None,
    where: WhereOption = None,
    group: Annotated[
        bool, typer.Option("--group/--no-group", help="Show one result for each track, or all of its crops.")
    ] = True,
    model: GalleryModelOption = None,
    top_k: Annotated[int, typer.Option(help="Number of persons to find.")] = 10,
    out: Annotated[Path, typer.Option(help="Contact sheet to write.")] = Path("result.png"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    runtime: Annotated[
        str | None, typer.Option(help=f"{RUNTIME_HELP} By default the one that built the gallery.")
    ] = None,
) -> None:
    """Find persons by a description, an image, or a similar person. Prints the results and writes a contact sheet.

    If the sheet cannot be written, the results are printed all the same and the exit code is 2.

    \b
    gadms search --gallery my_gallery "a woman in a red coat carrying a black backpack" --top-k 10 --out result.png
    gadms search --gallery my_gallery "a man in a suit" --without "a bag" --where "camera = 'gate-2'"
    gadms search --gallery my_gallery --image person.jpg
    """
    from modeling_gadms.gallery.contact_sheet import draw_contact_sheet, place_and_time
    from modeling_gadms.gallery.person_gallery import Query, open_with_model
    from modeling_gadms.media.images import load_image

    picture = load_image(image) if image else None
    query = Query(text=text, image=picture, like=like, without=without or ())
    opened, _ = open_with_model(gallery, model, runtime)
    results = opened.search(query, top_k, where=where, group_tracks=group)
    # Before the sheet, so that a sheet that cannot be written, which is an error, costs no results.
    if as_json:
        print_json([result.to_dict() for result in results], indent=2)
    else:
        for result in results:
            typer.echo(f"{result.rank:>4}  {result.score:.3f}  {result.source}  {place_and_time(result)}".rstrip())
    sheet = save_figure(draw_contact_sheet(str(query), results), out)
    typer.echo(f"Contact sheet: {sheet}", err=as_json)
