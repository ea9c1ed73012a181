"""The command `gadms explain`."""

from pathlib import Path
from typing import Annotated

import typer

from .figures import save_figure
from .options import ModelOption
from .user_errors import user_errors


@user_errors()
def explain(
    image: Annotated[Path, typer.Argument(help="Image of one person.")],
    caption: Annotated[str, typer.Argument(help="Description of the person.")],
    model: ModelOption = None,
    out: Annotated[Path, typer.Option(help="File to write: the caption with coloured words.")] = Path("explain.png"),
    heat_map: Annotated[
        Path | None, typer.Option(help="File to write: a heat map of the relevant image regions.")
    ] = None,
) -> None:
    """Explain why an image matches a caption. Shows the relevance of each word and, on request, of image regions.

    \b
    gadms explain person.jpg "a man in a blue jacket and jeans" --model my_model --out explain.png
    gadms explain person.jpg "a man in a blue jacket and jeans" --model my_model --heat-map heat.png
    """
    from modeling_gadms.encoders.default_model import load_model_or_default
    from modeling_gadms.encoders.processors import family_of
    from modeling_gadms.explain.caption_tokens import draw_explanation, explain_caption
    from modeling_gadms.explain.image_patches import draw_heat_map, image_relevance
    from modeling_gadms.media.images import load_image

    person = load_image(image)
    loaded, processor = load_model_or_default(model)
    figures = {}
    no_words = family_of(processor).cannot.get("token scores")
    if heat_map is None or no_words is None:
        explanation = explain_caption(loaded, processor, person, caption)
        for token in explanation.tokens:
            typer.echo(f"{token.score:.3f}  {'#' * round(token.score * 20):<20}  {token.text}")
        typer.echo(f"Cosine similarity of image and caption: {explanation.similarity:.3f}")
        figures["Figure"] = save_figure(draw_explanation(person, explanation), out)
    else:
        typer.echo(f"Warning: the words have no scores: {no_words}", err=True)
    if heat_map is not None:
        drawn = draw_heat_map(person, image_relevance(loaded, processor, person, caption).scores)
        figures["Heat map"] = save_figure(drawn, heat_map)
    for name, figure in figures.items():
        typer.echo(f"{name}: {figure}")
