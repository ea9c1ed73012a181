"""Search a gallery in the browser: describe a person, see the results and why they match, add videos.

    python examples/demo.py --gallery my_gallery                        # http://127.0.0.1:7860
    python examples/demo.py --model runs/demo/model --video cctv.mp4    # indexes a video first
    python examples/demo.py --model runs/demo/model --vtest             # the same with OpenCV's vtest.avi

Nothing is uploaded to other machines. For a Space on the Hub see `make_space.py`. Needs `pip install "gadms[web]"`.
"""

import argparse
import os
from pathlib import Path

from modeling_gadms.encoders.default_model import load_model_or_default
from modeling_gadms.gallery.person_gallery import PersonGallery, gallery_model
from modeling_gadms.indexing.indexer import index_frames
from modeling_gadms.indexing.jobs import uploads_beside
from modeling_gadms.media.detection import SsdMobileNetDetector
from modeling_gadms.media.video import FrameReader
from modeling_gadms.web.demo import Demo


MAX_UPLOAD = "2gb"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option(
        "--gallery",
        type=Path,
        default=Path("runs/web-demo/gallery"),
        help="created if it is missing, overwritten with --video",
    )
    option("--model", help="folder or Hub name of a dual encoder; by default the gallery's, or SigLIP 2")
    option("--video", type=Path, help="video to index before the page opens")
    option("--vtest", action="store_true", help="download and index vtest.avi")
    option("--per-second", type=float, default=1.0, help="frames per second of that video to index")
    option("--uploads", type=Path, help="folder that keeps added files; by default next to the gallery")
    option("--read-only", action="store_true", help="without the tab to add files")
    option("--media", type=Path, nargs="*", default=[], help="folders with indexed files whose frames may be shown")
    option("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
    option("--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
    option("--user", help="user name for a login; its password is GADMS_DEMO_PASSWORD")
    option("--allowed-host", nargs="*", default=[], help="names of the page behind a proxy, besides those of loopback")
    option("--public", action="store_true", help="everybody may see the page, without a login; needs --read-only")
    options = parser.parse_args(arguments)
    password = os.environ.get("GADMS_DEMO_PASSWORD", "")
    if options.user and not password:
        raise SystemExit("Error: --user requires a password in the environment variable GADMS_DEMO_PASSWORD")

    # 1. Load the model. Open the gallery, or create it from the video.
    video = options.video
    if options.vtest:
        from fetch_vtest import fetch_vtest  # not part of a Space

        video = fetch_vtest()
    name = options.model
    if name is None and options.gallery.exists():
        name = gallery_model(options.gallery).name
    model, processor = load_model_or_default(name)
    if video is not None:
        frames = FrameReader(video, per_second=options.per_second, root=video.parent)
        with PersonGallery.rebuild(options.gallery, model, processor) as gallery:
            print(index_frames(gallery, frames, detector=SsdMobileNetDetector(), camera=video.stem))
        options.media.append(video.parent)
    elif options.gallery.exists():
        gallery = PersonGallery.open(options.gallery, model, processor)
    else:
        gallery = PersonGallery.create(options.gallery, model, processor)

    # 2. Serve the page.
    uploads = None if options.read_only else options.uploads or uploads_beside(str(options.gallery))
    try:
        demo = Demo(gallery, model, processor, uploads=uploads, media=options.media)
    except OSError as error:  # the folder is used by another page
        raise SystemExit(f"Error: {error}") from error
    try:
        demo.launch(
            options.host,
            options.port,
            login=(options.user, password) if options.user else None,
            allowed_hosts=options.allowed_host,
            public=options.public,
            max_file_size=MAX_UPLOAD,
        )
    except ValueError as error:
        raise SystemExit(f"Error: {error}") from error
    finally:
        demo.close()


if __name__ == "__main__":
    main()
