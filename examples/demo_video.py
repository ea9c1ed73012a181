"""Find pedestrians of a surveillance video from descriptions.

    python examples/demo_video.py --model runs/demo/model                    # 795 frames of OpenCV's vtest.avi
    python examples/demo_video.py --model my_model --video cctv.mp4 --per-second 1

Detects persons in two frames per second, tracks them, and embeds the best crops of each track. Then it searches for
three descriptions and writes a contact sheet for each to `runs/demo-video/`. This takes minutes on two CPU cores, most
of them for detection. Without `--video`, the video is fetched from Debian's package `opencv-doc`.

Needs `pip install "gadms[gallery,detect]"`.
"""

import argparse
import io
from dataclasses import replace
from pathlib import Path

from fetch_vtest import fetch_vtest
from PIL import Image

from gadms_cli.figures import save_figure
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.gallery.contact_sheet import draw_contact_sheet
from modeling_gadms.gallery.person_gallery import PersonGallery
from modeling_gadms.indexing.indexer import index_frames
from modeling_gadms.media.detection import SsdMobileNetDetector
from modeling_gadms.media.drawing import hide_head
from modeling_gadms.media.images import to_jpeg
from modeling_gadms.media.video import FrameReader


DESCRIPTIONS = ("a person in a red jacket", "a person in a black coat", "a person in a blue jacket and jeans")


def without_head(thumbnail: bytes) -> bytes:
    return to_jpeg(hide_head(Image.open(io.BytesIO(thumbnail))), 90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo/model", help="folder or Hub name of a GA-DMS model")
    parser.add_argument("--video", type=Path, help="video with persons; by default vtest.avi is fetched")
    parser.add_argument("--per-second", type=float, default=2, help="number of frames to read per second (default: 2)")
    parser.add_argument("--hide-heads", action="store_true", help="cover the heads in the contact sheets")
    parser.add_argument("--out", type=Path, default=Path("runs/demo-video"))
    arguments = parser.parse_args()

    # 1. Open the video and load the model.
    frames = FrameReader(arguments.video or fetch_vtest(), per_second=arguments.per_second)
    model, processor = load_model_and_processor(arguments.model)

    # 2. Detect, track and embed the persons.
    with PersonGallery.rebuild(arguments.out / "gallery", model, processor) as gallery:
        print(index_frames(gallery, frames, detector=SsdMobileNetDetector()))

    # 3. Search.
    for description in DESCRIPTIONS:
        results = gallery.search(description, top_k=10)
        if arguments.hide_heads:
            results = [replace(result, thumbnail=without_head(result.thumbnail)) for result in results]
        file = arguments.out / f"{description.replace(' ', '_')}.png"
        sheet = save_figure(draw_contact_sheet(description, results), file)
        best = results[0]
        print(f"{description}: best score {best.score:.3f} at {best.time_seconds:.1f} s; contact sheet: {sheet}")


if __name__ == "__main__":
    main()
