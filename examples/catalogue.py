"""Text search in a shop's catalogue, with the same model, trainer and gallery, on products instead of persons.

    python examples/catalogue.py                             # 5 minutes on two cores
    python examples/catalogue.py --size ci --output runs/ci  # a test of the program in seconds

Draws a catalogue, trains a model from random weights, evaluates it on unseen products, and creates a gallery with
additional columns. Then it searches with filters, by a similar product, and with attributes to exclude.

Needs `pip install "gadms[gallery]"`. Writes <output>/metrics.json, <output>/gallery, and <output>/search-1.png etc.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
from PIL import Image, ImageDraw

from dataset_scripts.loading import load_splits
from gadms_cli.figures import save_figure
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord, Query, SearchResult
from modeling_gadms.media.drawing import FAINT_INK, INK, PAPER, font_for, paste_on_card, printable, shorten
from modeling_gadms.training.run_config import load_run_config


CONFIG = "examples/configs/catalogue.yaml"
SIZES = {
    "full": [],
    "ci": [
        "data.dataset_args={num_train_products: 8, num_validation_products: 2, num_test_products: 8}",
        "training.global_train_batch_size=8",
        "training.max_steps=2",
        "training.logging_steps=1",
        "training.eval_strategy=no",
        "training.save_strategy=no",
        "training.load_best_model_at_end=false",
    ],
}
# Additional columns of the gallery; see `PersonGallery.create`.
COLUMNS = {"title": "string", "brand": "string", "category": "string", "price": "float", "material": "string",
           "sizes": "string", "in_stock": "boolean"}  # fmt: skip
QUERIES = (
    (Query("a red jacket with a hood"), None),
    (Query("a red jacket with a hood"), "price < 80 AND category = 'jacket'"),
    (Query("a striped t-shirt with long sleeves"), "in_stock"),
    (Query("black boots"), "in_stock AND sizes LIKE '%42%'"),
    (Query("a yellow tote bag"), None),
    (Query("a yellow tote bag", without=["a dotted tote bag", "a striped tote bag"]), None),
)
CARD = (164, 208)


def run(*command: str) -> None:
    """Print and run a command, with the tools of the current Python environment."""
    print(f"\n$ {shlex.join(command)}", flush=True)
    program = shutil.which(command[0], path=str(Path(sys.executable).parent)) or command[0]
    subprocess.run([program, *command[1:]], check=True)


def products(rows: datasets.Dataset) -> Iterator[PersonRecord]:
    """The images of a product share a track number, like crops of a video, so that each product is one result."""
    numbers: dict[int, int] = {}
    for row in rows:
        product = row["product_id"]
        numbers[product] = numbers.get(product, -1) + 1
        columns = {name: row[name] for name in COLUMNS if name in row}
        columns |= {"sizes": ", ".join(row["sizes"]), "in_stock": bool(row["sizes"])}
        yield PersonRecord(row["image"], f"product {product}", numbers[product], track=product, columns=columns)


def draw_sheet(question: str, results: Sequence[SearchResult]) -> Image.Image:
    """Draw the results from left to right, with title, price, score and sizes below each."""
    sheet = Image.new("RGB", (24 + max(len(results), 5) * (CARD[0] + 12), CARD[1] + 128), PAPER)
    draw = ImageDraw.Draw(sheet)
    title, text = font_for(question, 18), font_for("", 12)
    draw.text((24, 18), shorten(printable(question, title), title, sheet.width - 48), font=title, fill=INK)
    for result in results:
        left, below = 24 + (result.rank - 1) * (CARD[0] + 12), 62 + CARD[1]
        paste_on_card(sheet, result.thumbnail, left, 54, CARD)
        draw.text((left, below), shorten(result.columns["title"], text, CARD[0]), font=text, fill=INK)
        draw.text((left, below + 18), f"{result.columns['price']:.2f} EUR", font=text, fill=INK)
        draw.text((left + CARD[0], below + 18), f"{result.score:.3f}", font=text, fill=FAINT_INK, anchor="ra")
        sizes = result.columns["sizes"] or "sold out"
        draw.text((left, below + 36), shorten(sizes, text, CARD[0]), font=text, fill=FAINT_INK)
    return sheet


def main(output: Path, size: str, overrides: list[str]) -> None:
    model_folder = str(output / "model")
    overrides = [f"training.output_dir={output}", *SIZES[size], *overrides]
    data = load_run_config(CONFIG, overrides).data

    # 1. Draw the catalogue. The later steps read it from the cache.
    print("Drawing products and writing captions", flush=True)
    catalogue = load_splits(data.dataset, **data.dataset_args)["test"]

    # 2. Train from random weights.
    run("accelerate", "launch", "--num_processes", "1", "--num_cpu_threads_per_process", str(os.cpu_count()),
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
        "examples/train.py", "--config", CONFIG, *overrides)  # fmt: skip

    # 3. Evaluate on unseen products. A hit is any image of the product that the caption describes.
    arguments = [f"{key}={json.dumps(value)}" for key, value in data.dataset_args.items()]
    run("python", "examples/evaluate.py", "--model", model_folder, "--dataset", data.dataset, "--dataset-args",
        *arguments, "--person-id", "product_id", "--output", str(output / "metrics.json"))  # fmt: skip

    # 4. Create the gallery, with columns to filter by.
    model, processor = load_model_and_processor(model_folder)
    with PersonGallery.rebuild(output / "gallery", model, processor, columns=COLUMNS) as gallery:
        gallery.add(products(catalogue))
    print(f"\n{len(gallery)} images in {gallery.location}")

    # 5. Search by text, with filters and exclusions; then for products similar to another one, but cheaper.
    questions = [(query, where, f"{query.text}") for query, where in QUERIES]
    chosen = gallery.search("a long blue coat with a belt", top_k=1)[0]
    cheaper = f"price < {chosen.columns['price']} AND in_stock"
    questions.append((Query(like=chosen.id), cheaper, f"like {chosen.columns['title']}"))
    for number, (query, where, name) in enumerate(questions, start=1):
        question = "".join([name, *(f", without {text}" for text in query.without), f"   [{where}]" if where else ""])
        results = gallery.search(query, top_k=6, where=where)
        print(f"\n{question}" + ("" if results else "\n  no product matches the filter"))
        for result in results:
            columns = result.columns
            stock = columns["sizes"] or "sold out"
            print(f"{result.rank:>3}  {result.score:.3f}  {columns['price']:>7.2f}  {columns['title']:<34}  {stock}")
        save_figure(draw_sheet(question, results), output / f"search-{number}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/catalogue"))
    parser.add_argument("--size", choices=SIZES, default="full", help="ci: two training steps, eight products")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help=f"override settings of {CONFIG}")
    parsed = parser.parse_args()
    main(parsed.output, parsed.size, parsed.overrides)
