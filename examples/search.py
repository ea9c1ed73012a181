"""Index the persons of a folder or a video, and find one by a description: `gadms index` and `search` in Python.

    python examples/search.py --source persons/ "a woman in a red coat carrying a black backpack"

The first run embeds the persons and stores them in `runs/search/gallery`. In a video, persons are detected first,
which takes about a second per frame on a CPU. Later runs need no `--source`, and take the model of the gallery.

Needs `pip install "gadms[gallery,detect]"`.
"""

import argparse
from pathlib import Path

from gadms_cli.figures import save_figure
from modeling_gadms.encoders.default_model import load_model_or_default
from modeling_gadms.gallery.contact_sheet import draw_contact_sheet
from modeling_gadms.gallery.person_gallery import PersonGallery, open_with_model
from modeling_gadms.indexing.indexer import index_frames
from modeling_gadms.media.detection import SsdMobileNetDetector
from modeling_gadms.media.video import FrameReader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", help="description of the person")
    parser.add_argument("--model", help="folder or Hub name of a dual encoder; by default a multilingual SigLIP 2")
    parser.add_argument("--source", type=Path, help="folder of person images, or a video; replaces the gallery")
    parser.add_argument("--gallery", type=Path, default=Path("runs/search/gallery"))
    parser.add_argument("--every", type=int, default=1, help="read every n-th image or frame")
    parser.add_argument("--out", type=Path, default=Path("runs/search/result.png"))
    arguments = parser.parse_args()

    # 1. Build the gallery with a model and its processor, or open the existing one with the model that built it.
    if arguments.source:
        model, processor = load_model_or_default(arguments.model)
        frames = FrameReader(arguments.source, every=arguments.every)
        detector = SsdMobileNetDetector() if frames.is_video else None
        with PersonGallery.rebuild(arguments.gallery, model, processor) as gallery:
            print(index_frames(gallery, frames, detector=detector))
    else:
        gallery, _ = open_with_model(arguments.gallery, arguments.model)

    # 2. Search: print the results and draw a contact sheet.
    results = gallery.search(arguments.text, top_k=10)
    for result in results:
        print(f"{result.rank:>3}  {result.score:.3f}  {result.source}")
    print(f"Contact sheet: {save_figure(draw_contact_sheet(arguments.text, results), arguments.out)}")


if __name__ == "__main__":
    main()
