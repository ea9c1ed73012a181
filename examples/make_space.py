"""Write a gallery and its web demo as a Space: a folder that the Hub serves as a web page.

    python examples/make_space.py --gallery my_gallery --out space
    hf upload me/find-a-person space --repo-type space          # or run it locally: cd space && python app.py

The folder contains the demo, this package, and copies of the gallery and its model. The page is read-only, but shows
the images of the gallery: publish only what the persons in them have agreed to. Needs `pip install "gadms[web]"`.
"""

import argparse
import shutil
from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from modeling_gadms.encoders.atomic_files import atomic_folder
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.gallery.person_gallery import PersonGallery, gallery_model


ROOT = Path(__file__).parents[1]
CARD = """\
---
title: {title}
emoji: 🔎
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
---

Find persons in a gallery by description. The page states the permitted use.
"""
APP = """\
from demo import main

main(["--gallery", "gallery", "--model", "model", "--read-only", "--public"])
"""
EXTRAS = ("gallery", "detect")
"""Extras of this package that the page needs. The Hub installs Gradio."""


def make_space(gallery: Path, out: Path, *, title: str, model: str | None = None) -> None:
    """Write the folder of a Space.

    Raises:
        FileExistsError: if `out` is not empty.
        FileNotFoundError: if there is no gallery.
    """
    loaded, processor = load_model_and_processor(model or gallery_model(gallery).name)
    opened = PersonGallery.open(gallery, loaded, processor)  # refuses a model that the gallery was not built with
    with atomic_folder(out) as space:
        loaded.save_pretrained(space / "model")
        processor.save_pretrained(space / "model")
        loaded.name_or_path = "(beside the gallery)"  # not a local path
        # Copying the files would also publish earlier versions, with persons that were removed since.
        opened.copy_to(space / "gallery", loaded, processor)
        shutil.copytree(
            ROOT / "modeling_gadms", space / "modeling_gadms", ignore=shutil.ignore_patterns("__pycache__")
        )
        shutil.copyfile(ROOT / "examples" / "demo.py", space / "demo.py")
        (space / "app.py").write_text(APP, encoding="utf-8")
        (space / "README.md").write_text(CARD.format(title=title, gradio=version("gradio")), encoding="utf-8")
        (space / "requirements.txt").write_text("\n".join(pinned_libraries()) + "\n", encoding="utf-8")


def pinned_libraries() -> list[str]:
    """Return the requirements of this package, pinned to the installed versions."""
    needed = [Requirement(line) for line in requires("gadms") or []]
    names = {
        each.name
        for each in needed
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in EXTRAS)
    }
    return [f"{name}=={Version(version(name)).public}" for name in sorted(names)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gallery", type=Path, required=True)
    parser.add_argument("--model", help="folder or Hub name; by default the model that the gallery was built with")
    parser.add_argument("--title", default="Find a person by description")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    arguments = parser.parse_args()
    make_space(arguments.gallery, arguments.out, title=arguments.title, model=arguments.model)
    print(f"Wrote {arguments.out}. Try it: cd {arguments.out} && python app.py")


if __name__ == "__main__":
    main()
