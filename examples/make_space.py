"""Make a Space of a gallery: a folder that the Hub runs as a web page, or that runs by itself.

    python examples/make_space.py --gallery my_gallery --out space
    hf upload me/find-a-person space --repo-type space          # or try it here: cd space && python app.py

The folder holds the demo, this package, and copies of the gallery and its model; nothing can be added by the page.
Whoever sees it sees the pictures of the gallery: publish only what the persons in it have agreed to.
Needs `pip install "gadms[web]"`.
"""

import argparse
import shutil
from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

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

Persons of a gallery, found from descriptions. Permitted use is told on the page.
"""
APP = """\
from demo import main

main(["--gallery", "gallery", "--model", "model", "--read-only"])
"""
EXTRAS = ("gallery", "detect")
"""Of this package, that the page needs beside Gradio, which the Hub installs."""


def make_space(gallery: Path, out: Path, *, title: str, model: str | None = None) -> None:
    """Write the folder of a Space.

    Raises:
        FileExistsError: if there is something in `out` already.
        FileNotFoundError: if there is no gallery.
    """
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty: give another folder")
    loaded, processor = load_model_and_processor(model or gallery_model(gallery).name)
    opened = PersonGallery.open(gallery, loaded, processor)  # refuses another model than the gallery's
    out.mkdir(parents=True, exist_ok=True)
    loaded.save_pretrained(out / "model")
    processor.save_pretrained(out / "model")
    loaded.name_or_path = "(beside the gallery)"  # no folder of this machine
    # A copy of the files would publish earlier versions too, with everybody who was removed.
    opened.copy_to(out / "gallery", loaded, processor)
    shutil.copytree(ROOT / "modeling_gadms", out / "modeling_gadms", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "examples" / "demo.py", out / "demo.py")
    (out / "app.py").write_text(APP, encoding="utf-8")
    (out / "README.md").write_text(CARD.format(title=title, gradio=version("gradio")), encoding="utf-8")
    (out / "requirements.txt").write_text("\n".join(pinned_libraries()) + "\n", encoding="utf-8")


def pinned_libraries() -> list[str]:
    """What this package needs, in the versions that are installed here."""
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
    parser.add_argument("--model", help="folder or Hub name; by default the gallery's")
    parser.add_argument("--title", default="Find a person by description")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    arguments = parser.parse_args()
    make_space(arguments.gallery, arguments.out, title=arguments.title, model=arguments.model)
    print(f"Written: {arguments.out}. Try it: cd {arguments.out} && python app.py")


if __name__ == "__main__":
    main()
