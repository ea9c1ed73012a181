"""Pictures and videos with seeded damage: no crash, no hang, nothing but the promised errors, counts that add up."""

import io
import itertools
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_gadms.media.images import UnreadableImageError, load_image
from modeling_gadms.media.video import FrameReader, count_frames
from tests.videos import B_FRAMES, write_video


SECONDS = [5, pytest.param(600, marks=[pytest.mark.torture, pytest.mark.timeout(900)])]
HANG_SECONDS = 10
_EXTREMES = [b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1", b"\x01\0\0\0", b"\0\x10\0\0"]


def spoiled(corpus: list[bytes], seed: int) -> bytes:
    """A file of the corpus with some bytes replaced, removed, repeated, set to extremes or taken from another file."""
    rng = np.random.default_rng(seed)
    damaged = bytearray(corpus[rng.integers(len(corpus))])
    for _ in range(int(rng.integers(1, 6))):
        # Half of the damage is in the header, which decides most.
        start = int(rng.integers(0, max(1, len(damaged) if rng.integers(2) else min(len(damaged), 400))))
        length = int(rng.integers(1, 24))
        match int(rng.integers(6)):
            case 0:
                damaged[start : start + length] = rng.bytes(length)
            case 1:
                del damaged[start : start + length]
            case 2:
                damaged[start:start] = damaged[start : start + length]
            case 3:
                extreme = _EXTREMES[rng.integers(len(_EXTREMES))]
                damaged[start : start + len(extreme)] = extreme
            case 4:
                other = corpus[rng.integers(len(corpus))]
                damaged[start:] = other[int(rng.integers(0, len(other))) :]
            case _:
                del damaged[int(rng.integers(start, len(damaged) + 1)) :]
    return bytes(damaged)


def read_picture(content: bytes, _: Path) -> str:
    try:
        image = load_image(content)
    except UnreadableImageError as error:
        return error.reason.value
    assert image.mode == "RGB"
    return "read"


def read_video(content: bytes, folder: Path) -> str:
    path = folder / "v"
    path.write_bytes(content)
    try:
        reader = FrameReader(path)
        frames = list(reader)
        total = count_frames(path)
        sampled = FrameReader(path, per_second=3)
        some = list(sampled)
    except ValueError as error:
        assert str(path) in str(error)
        return "refused"
    assert reader.seen == total == len(frames) + reader.skipped.total() == len(frames) + reader.undecodable
    assert [frame.index for frame in frames] == sorted({frame.index for frame in frames})
    times = [frame.time_seconds for frame in frames]
    assert times[0] == 0 and all(one < other for one, other in itertools.pairwise(times))
    assert sampled.seen == len(some) + sampled.skipped.total() and sampled.undecodable == reader.undecodable
    assert {frame.index for frame in some} <= {frame.index for frame in frames} and some[0].index == frames[0].index
    assert reader.expected is not None and all(frame.image.mode == "RGB" for frame in frames)
    return "damaged" if reader.undecodable else "read"


def picture_corpus(_: Path) -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 24, 3), dtype=np.uint8)
    picture, second = Image.fromarray(pixels), Image.fromarray(pixels[::-1])
    kinds = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF", "WEBP", "MPO")
    variants = [(kind, picture, {}) for kind in kinds]
    variants += [(kind, picture, {"save_all": True, "append_images": [second]}) for kind in ("GIF", "PNG", "TIFF")]
    variants += [("PNG", picture.convert("RGBA"), {}), ("PNG", Image.fromarray(pixels[..., 0].astype("u2")), {})]
    variants += [("TIFF", Image.fromarray(pixels[..., 0].astype("f4")), {}), ("JPEG", picture.convert("CMYK"), {})]
    variants += [("TIFF", picture, {"compression": name}) for name in ("tiff_lzw", "tiff_deflate", "jpeg")]
    corpus = []
    for kind, image, options in variants:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        corpus.append(buffer.getvalue())
    heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    heif.from_pillow(picture).save(buffer)
    return [*corpus, buffer.getvalue()]


def video_corpus(folder: Path) -> list[bytes]:
    kinds = {f"h264.{suffix}": {"options": B_FRAMES} for suffix in ("mp4", "mkv", "avi", "ts", "flv", "h264", "nut")}
    kinds |= {f"mpeg2.{suffix}": {"codec": "mpeg2video", "rate": 25} for suffix in ("mpg", "m2v", "mxf")}
    kinds |= {"mjpeg.avi": {"codec": "mjpeg"}, "vp8.webm": {"codec": "libvpx"}, "wmv2.wmv": {"codec": "wmv2"}}
    kinds |= {"fragments.mp4": {"options": B_FRAMES, "container_options": {"movflags": "frag_keyframe+empty_moov"}}}
    kinds |= {
        "mpeg4.avi": {"codec": "mpeg4"},
        "plain.y4m": {"codec": "wrapped_avframe"},
        "vp8.ivf": {"codec": "libvpx"},
    }
    return [write_video(folder / name, 10, size=(64, 32), **options).read_bytes() for name, options in kinds.items()]


def _try_seeds(pipe: Connection, read: Callable, corpus: list[bytes], folder: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    for seed in itertools.count():
        if time.monotonic() > end:
            break
        pipe.send(seed)
        try:
            outcome = read(spoiled(corpus, seed), folder)
        except Exception as error:
            outcome = error
        pipe.send(outcome if isinstance(outcome, str) else f"{type(outcome).__name__}: {outcome}")
    pipe.send(None)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize(
    ("read", "corpus", "outcomes"),
    [
        (read_picture, picture_corpus, {"read", "truncated", "not an image", "too large", "too small", "empty file"}),
        (read_video, video_corpus, {"read", "damaged", "refused"}),
    ],
    ids=["pictures", "videos"],
)
def test_damaged_files_are_read_or_refused_and_counted(tmp_path, read, corpus, outcomes, seconds):
    """In a process of its own, whose end and whose silence are noticed. `spoiled(corpus, seed)` makes a file again."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_try_seeds, args=(there, read, corpus(tmp_path), tmp_path, seconds), daemon=True
    )
    process.start()
    there.close()
    found: dict[str, int] = {}
    try:
        assert here.poll(60)  # the start of Python
        while (seed := here.recv()) is not None:
            assert here.poll(HANG_SECONDS), f"seed {seed} takes more than {HANG_SECONDS} s"
            outcome = here.recv()
            assert outcome in outcomes, f"seed {seed}: {outcome}"
            found[outcome] = found.get(outcome, 0) + 1
    except EOFError:
        process.join(10)
        pytest.fail(f"the process ended with {process.exitcode} at seed {seed}")
    finally:
        process.kill()
        process.join()
    # The damage is neither too little nor too much.
    assert {"read", "truncated" if read is read_picture else "damaged"} <= found.keys()
