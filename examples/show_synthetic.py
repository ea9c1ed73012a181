"""Draw a contact sheet of synthetic persons with their captions; planted caption noise is underlined.

    python examples/show_synthetic.py --noise 0.15 --out docs/images/synthetic_persons.png

Expected time: 5 seconds.
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw

from dataset_scripts.synthetic_persons import PersonSampler
from gadms_cli.figures import save_figure
from modeling_gadms.media.drawing import INK, PAPER, font_for


SIZE = (256, 85)  # height, width of an image in pixels
CELL_WIDTH, TEXT_HEIGHT, GAP, LINE = 190, 172, 14, 15
NOISE_INK = (200, 30, 30)


def draw_caption(draw: ImageDraw.ImageDraw, left: int, top: int, words: list[str], noisy: set[int]) -> None:
    """Draw wrapped words; those planted as noise are red and underlined."""
    font = font_for("", 12)
    space = font.getlength(" ")
    x, y = float(left), top
    for number, word in enumerate(words):
        width = font.getlength(word)
        if x > left and x + width > left + CELL_WIDTH:
            x, y = float(left), y + LINE
        draw.text((x, y), word, font=font, fill=NOISE_INK if number in noisy else INK)
        if number in noisy:
            draw.line((x, y + LINE - 1, x + width, y + LINE - 1), fill=NOISE_INK)
        x += width + space


def main(persons: int, noise: float, seed: int, out: Path) -> None:
    columns = min(6, persons)
    rows = -(-persons // columns)
    cell_height = SIZE[0] + TEXT_HEIGHT + GAP
    sheet = Image.new("RGB", (columns * (CELL_WIDTH + GAP) + GAP, rows * cell_height + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    sampler = PersonSampler(seed, "train")
    for number in range(persons):
        # Every second person: the two members of a family look alike.
        image, _ = sampler.draw(2 * number, 0, SIZE)
        caption, _ = sampler.captions(2 * number, 0, noise=noise)
        row, column = divmod(number, columns)
        left, top = GAP + column * (CELL_WIDTH + GAP), GAP + row * cell_height
        sheet.paste(image, (left + (CELL_WIDTH - SIZE[1]) // 2, top))
        draw_caption(draw, left, top + SIZE[0] + 6, caption.text.split(), set(caption.noise_positions))
    print(f"{persons} persons, caption noise {noise}, seed {seed}: {save_figure(sheet, out)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--persons", type=int, default=12)
    parser.add_argument("--noise", type=float, default=0.15, help="fraction of wrong attributes in captions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/synthetic_persons.png"))
    arguments = parser.parse_args()
    main(arguments.persons, arguments.noise, arguments.seed, arguments.out)
