"""Index the persons of a folder or a video, and find one by a description: `gadms index` and `search` in Python.

    python examples/search.py --model my_model --source persons/ "a woman in a red coat carrying a black backpack"

The first run embeds the persons and stores them in `runs/search/gallery`. In a video, persons are detected first,
which takes about a second per frame on a CPU. Later runs need no `--source`.

Needs `pip install "gadms[gallery,detect]"`.
"""

import argparse
from pathlib import Path

from gadms_cli.figures import save_figure
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.gallery.contact_sheet import draw_contact_sheet
from modeling_gadms.gallery.person_gallery import PersonGallery
from modeling_gadms.indexing.indexer import index_frames
from modeling_gadms.media.detection import SsdMobileNetDetector
from modeling_gadms.media.video import FrameReader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", help="description of the person")
    parser.add_argument("--model", required=True, help="folder or Hub name of a GA-DMS model")
    parser.add_argument("--source", type=Path, help="folder of person images, or a video; replaces the gallery")
    parser.add_argument("--gallery", type=Path, default=Path("runs/search/gallery"))
    parser.add_argument("--every", type=int, default=1, help="read every n-th image or frame")
    parser.add_argument("--out", type=Path, default=Path("runs/search/result.png"))
    arguments = parser.parse_args()

    # 1. Load the model and its processor.
    model, processor = load_model_and_processor(arguments.model)

    # 2. Build the gallery, or open the existing one. Only the model that built a gallery can open it.
    if arguments.source:
        frames = FrameReader(arguments.source, every=arguments.every)
        detector = SsdMobileNetDetector() if frames.is_video else None
        with PersonGallery.rebuild(arguments.gallery, model, processor) as gallery:
            print(index_frames(gallery, frames, detector=detector))
    else:
        gallery = PersonGallery.open(arguments.gallery, model, processor)

    # 3. Search: print the results and draw a contact sheet.
    results = gallery.search(arguments.text, top_k=10)
    for result in results:
        print(f"{result.rank:>3}  {result.score:.3f}  {result.source}")
    print(f"Contact sheet: {save_figure(draw_contact_sheet(arguments.text, results), arguments.out)}")


if __name__ == "__main__":
    main()
