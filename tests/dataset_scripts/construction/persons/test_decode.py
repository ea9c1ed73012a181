"""Block `decode`: bombs, pages and cut files are refused by reason, in little memory."""

import io
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_scripts.construction.persons.decode import DecodeImages


def encoded(image: Image.Image, file_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


def noise(width: int = 32, height: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def judge(*contents: bytes) -> list:
    return list(DecodeImages()({"image": list(contents)}).verdicts)


def reason(content: bytes) -> str:
    (verdict,) = judge(content)
    assert verdict is not True
    return verdict[1]


def png(width: int, height: int, pixels: bytes, bits: int = 1) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def png_bomb(side: int) -> bytes:
    """A bilevel PNG that is whole, and some thousandths of its pixels long."""
    deflate = zlib.compressobj(9)
    row = bytes(1 + -(-side // 8))
    return png(side, side, b"".join([deflate.compress(row * side), deflate.flush()]))


def gif_bomb() -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6) + encoded(noise(), "GIF")[13 + 768 :]


def tiff_bomb() -> bytes:
    tags = [(256, 60000), (257, 60000), (258, 8), (259, 32773), (262, 1), (273, 8), (277, 1), (278, 60000), (279, 100)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + bytes(100)


def webp_bomb() -> bytes:
    """An animation whose canvas is as large as WebP can say."""
    canvas = (16383 - 1).to_bytes(3, "little")
    picture = encoded(noise(), "WEBP")[12:]
    frame = bytes(6) + (31).to_bytes(3, "little") + (63).to_bytes(3, "little") + bytes(4) + picture
    chunks = [(b"VP8X", bytes([2, 0, 0, 0]) + canvas * 2), (b"ANIM", bytes(6)), (b"ANMF", frame)]
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


BOMBS = {
    "png": lambda: png(60_000, 60_000, zlib.compress(bytes(10**6))),
    "whole png": lambda: png_bomb(9_500),
    "gif": gif_bomb,
    "tiff": tiff_bomb,
    "webp": webp_bomb,
    "bmp": lambda: b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
    "jpeg": lambda: encoded(noise(), "JPEG").replace(struct.pack(">HH", 64, 32), struct.pack(">HH", 65500, 65500)),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_too_large(kind):
    bomb = BOMBS[kind]()
    assert len(bomb) < 20_000
    assert reason(bomb) == "too large"


MEASURE = """
import resource, sys
from pathlib import Path
from dataset_scripts.construction.persons.decode import DecodeImages
block = DecodeImages()
contents = [Path(name).read_bytes() for name in sys.argv[1:]]
block({"image": contents[:1]})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print([verdict[1] for verdict in block({"image": contents[1:] * 3}).verdicts])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_bombs_take_little_memory(tmp_path):
    contents = {"text": b"first use imports plugins", **{kind: make() for kind, make in BOMBS.items()}}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    resource.getrusage(resource.RUSAGE_SELF)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *(str(tmp_path / name) for name in contents)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[4],
    )  # fmt: skip
    verdicts, kilobytes = done.stdout.splitlines()
    assert verdicts == str(["too large"] * 3 * len(BOMBS))
    # One of them decoded would take 90 MB at least; the peak so far hides some of it.
    assert int(kilobytes) < 40_000


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        b"<html><img src=x></html>" * 100,
        b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="90" height="200"></svg>',
        b"<svg width='9' height='9'><image href='file:///etc/passwd'/></svg>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 200\n%%EndComments\n(/etc/passwd) (r) file\n",
        b"%PDF-1.7",
        b"\0" * 1000,
    ],
)
def test_what_a_server_only_calls_a_picture_is_not_an_image(content):
    assert reason(content) == "not an image"


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.95])
def test_a_jpeg_cut_short_is_truncated(kept):
    content = encoded(noise(), "JPEG")
    assert reason(content[: int(kept * len(content))]) == "truncated"


def test_each_image_has_its_own_verdict_with_a_reason_and_a_detail():
    good = encoded(noise(), "PNG")
    first, second, third, fourth = judge(good, b"", encoded(Image.new("RGB", (7, 99)), "PNG"), good)
    assert (first, fourth) == (True, True)
    assert second == (False, "empty file", "it has no content")
    assert third[:2] == (False, "too small")
    assert "7x99" in third[2]
