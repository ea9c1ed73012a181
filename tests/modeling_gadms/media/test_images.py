"""`load_image` reads common images, and gives a reason for those it cannot read."""

import io
import pickle
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_gadms.media import images
from modeling_gadms.media.images import UnreadableImageError, UnreadableReason, load_image


def encoded(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def noise(width: int = 32, height: int = 64) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def reason_of(source) -> UnreadableReason:
    with pytest.raises(UnreadableImageError) as caught:
        load_image(source)
    return caught.value.reason


@pytest.mark.parametrize("kind", [str, lambda path: path, lambda path: path.read_bytes(), Image.open])
def test_a_path_its_content_and_an_opened_picture_give_the_same_pixels(tmp_path, kind):
    path = tmp_path / "person.png"
    noise().save(path)
    assert np.array_equal(load_image(kind(path)), noise())


def test_a_plain_cmyk_picture_keeps_its_colour():
    tiff = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "TIFF")
    assert load_image(tiff).getpixel((8, 8)) == (255, 0, 0)


def test_a_cmyk_jpeg_whose_inks_are_stored_inverted_keeps_its_colour():
    # Pillow writes CMYK JPEGs the way Adobe does: inverted, with the APP14 marker that says so.
    jpeg = encoded(Image.new("RGB", (16, 16), (200, 30, 30)).convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in jpeg
    assert np.allclose(load_image(jpeg).getpixel((8, 8)), (200, 30, 30), atol=6)


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i4"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(dtype):
    ramp = np.linspace(0, 65535, 16 * 16).reshape(16, 16).round()
    grey = np.asarray(load_image(Image.fromarray(ramp.astype(dtype))))
    assert np.abs(grey[..., 0] - ramp / 65535 * 255).max() <= 0.5
    assert np.array_equal(grey[..., 0], grey[..., 2])


def test_a_sixteen_bit_png_is_read_from_its_file():
    png = encoded(Image.fromarray(np.full((16, 16), 32896, dtype=np.uint16)), "PNG")
    assert load_image(png).getpixel((0, 0)) == (128, 128, 128)


def test_transparency_is_laid_on_white():
    rgba = Image.new("RGBA", (16, 16), (255, 0, 0, 128))
    rgba.paste((0, 0, 0, 0), (0, 0, 8, 16))
    loaded = load_image(encoded(rgba, "PNG"))
    assert loaded.getpixel((2, 2)) == (255, 255, 255)
    assert loaded.getpixel((12, 2)) == (255, 127, 127)


def test_a_palette_picture_with_a_transparent_colour_is_laid_on_white():
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([0, 0, 0, 0, 0, 255])
    palette.paste(0, (0, 0, 8, 16))
    loaded = load_image(encoded(palette, "PNG", transparency=0))
    assert loaded.getpixel((2, 2)) == (255, 255, 255)
    assert loaded.getpixel((12, 2)) == (0, 0, 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "YCbCr", "HSV", "LAB", "RGBA"])
def test_every_mode_becomes_rgb(mode):
    picture = Image.new(mode, (16, 16)) if mode in ("LAB", "HSV") else noise(16, 16).convert(mode)
    assert load_image(picture).mode == "RGB"


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: rotate by 90 degrees clockwise to view
    lying = Image.new("RGB", (40, 20), "white")
    lying.paste("red", (0, 0, 10, 20))
    upright = load_image(encoded(lying, "PNG", exif=exif))
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 2)) == (255, 0, 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF|Truncated File Read:UserWarning")
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12"])
def test_an_image_with_damaged_exif_is_read(exif):
    assert load_image(encoded(noise(), "JPEG", exif=exif)).size == (32, 64)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_picture_cut_short_is_truncated(file_format, kept):
    content = encoded(noise(), file_format)
    assert reason_of(content[: int(len(content) * kept)]) is UnreadableReason.TRUNCATED


def test_a_missing_file_a_folder_an_empty_file_and_a_text_have_their_reasons(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("this is a letter")
    assert reason_of(tmp_path / "nowhere.jpg") is UnreadableReason.MISSING
    assert reason_of(tmp_path) is UnreadableReason.NOT_AN_IMAGE
    assert reason_of(tmp_path / "empty.jpg") is UnreadableReason.EMPTY
    assert reason_of(tmp_path / "text.jpg") is UnreadableReason.NOT_AN_IMAGE
    assert reason_of(b"") is UnreadableReason.EMPTY


def test_a_picture_of_one_pixel_is_too_small_and_eight_pixels_are_enough():
    assert reason_of(encoded(Image.new("RGB", (1, 1)), "PNG")) is UnreadableReason.TOO_SMALL
    assert reason_of(Image.new("RGB", (7, 300))) is UnreadableReason.TOO_SMALL
    assert load_image(Image.new("RGB", (8, 300))).size == (8, 300)


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    # 90 megapixels make Pillow warn, 400 make it raise; both are one reason here. A bilevel PNG of that size is tiny.
    for side in (9_500, 20_000):
        bomb = encoded(Image.new("1", (side, side)), "PNG")
        with monkeypatch.context() as patched:
            patched.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
            assert reason_of(bomb) is UnreadableReason.TOO_LARGE
    monkeypatch.setattr(images, "MAX_PIXELS", 99)
    assert reason_of(noise(10, 10)) is UnreadableReason.TOO_LARGE


def test_the_error_names_the_file_and_survives_pickling(tmp_path):
    with pytest.raises(UnreadableImageError, match="nowhere.jpg") as caught:
        load_image(tmp_path / "nowhere.jpg")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.reason) == (str(caught.value), UnreadableReason.MISSING)
    assert isinstance(copy, ValueError)


def spoiled(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with some bytes replaced, removed or repeated."""
    damaged = bytearray(content)
    for _ in range(int(rng.integers(1, 12))):
        start = int(rng.integers(0, max(1, len(damaged))))
        length = int(rng.integers(1, 20))
        if (kind := rng.integers(3)) == 0:
            damaged[start : start + length] = rng.bytes(length)
        elif kind == 1:
            del damaged[start : start + length]
        else:
            damaged[start:start] = damaged[start : start + length]
    return bytes(damaged)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rounds", [20, pytest.param(2000, marks=pytest.mark.torture)])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_spoiled_file_is_read_or_refused_with_a_reason(file_format, rounds):
    rng = np.random.default_rng(0)
    content = encoded(noise(), file_format)
    for _ in range(rounds):
        try:
            image = load_image(spoiled(content, rng))
        except UnreadableImageError as error:
            assert error.reason in UnreadableReason
        else:
            assert image.mode == "RGB"


def test_a_format_that_pillow_hands_to_another_program_is_not_an_image():
    # Pillow gives EPS to Ghostscript, an interpreter: a file that calls itself a photograph must not reach it.
    assert reason_of(encoded(noise(), "EPS")) is UnreadableReason.NOT_AN_IMAGE


def test_every_listed_kind_is_read_whatever_its_name(tmp_path):
    # The suffix is what folders and tars go by; the content is what the loader goes by.
    kinds = {"jpe": "JPEG", "jfif": "JPEG", "mpo": "MPO", "tga": "TGA", "jp2": "JPEG2000", "j2k": "JPEG2000"}
    kinds |= {"avif": "AVIF", "webp": "WEBP", "bmp": "BMP", "dib": "DIB", "pcx": "PCX", "qoi": "QOI", "sgi": "SGI"}
    kinds |= {"ppm": "PPM", "pnm": "PPM", "gif": "GIF", "tif": "TIFF", "apng": "PNG"}
    picture = Image.new("RGB", (24, 40), (200, 30, 30))
    for suffix, file_format in kinds.items():
        assert f".{suffix}" in images.IMAGE_SUFFIXES
        content = encoded(picture, file_format)
        for source in (content, tmp_path / f"a.{suffix}", tmp_path / "a.jpg"):
            if isinstance(source, Path):
                source.write_bytes(content)
            loaded = load_image(source)
            assert loaded.size == (24, 40), suffix
            assert np.allclose(loaded.getpixel((8, 8)), (200, 30, 30), atol=8), suffix
    for suffix, mode in (("pgm", "L"), ("pbm", "1")):
        assert load_image(encoded(picture.convert(mode), "PPM")).size == (24, 40), suffix


def test_heic_is_read_upright(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.new("RGB", (80, 40), "white")
    lying.paste("red", (0, 0, 20, 40))
    heif.from_pillow(lying).save(tmp_path / "a.heic", quality=95, exif=exif.tobytes())
    upright = load_image(tmp_path / "a.heic")
    assert upright.size == (40, 80)
    assert np.allclose(upright.getpixel((20, 4)), (255, 0, 0), atol=20)
    content = (tmp_path / "a.heic").read_bytes()
    assert reason_of(content[: len(content) // 2]) is UnreadableReason.TRUNCATED
    assert ".heic" in images.IMAGE_SUFFIXES


def test_heic_without_its_extra_says_how_to_read_it(tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(noise()).save(tmp_path / "a.heic")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert reason_of(tmp_path / "a.heic") is UnreadableReason.NEEDS_HEIF
    with pytest.raises(UnreadableImageError, match=r"a\.heic.*pip install .gadms\[heif\]"):
        load_image(tmp_path / "a.heic")


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF", "MPO", "AVIF"])
def test_of_an_animation_the_first_image_is_read(file_format):
    first, second = (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue"))
    loaded = load_image(encoded(first, file_format, save_all=True, append_images=[second]))
    assert np.allclose(loaded.getpixel((8, 8)), (255, 0, 0), atol=8)


@pytest.mark.parametrize(
    ("low", "high", "black", "white"),
    [
        (0, 1, 0, 1),
        (0.2, 0.7, 0, 1),
        (0, 255, 0, 255),
        (3, 200, 0, 255),
        (0, 65535, 0, 65535),
        (5, 3000, 0, 65535),
        (-1, 1, -1, 1),
        (100, 1e6, 100, 1e6),
    ],
)
def test_a_float_tiff_is_scaled_by_its_range(tmp_path, low, high, black, white):
    values = np.linspace(low, high, 256).reshape(16, 16).astype(np.float32)
    write_tiff(tmp_path / "a.tif", values)
    grey = np.asarray(load_image(tmp_path / "a.tif"))[..., 0]
    assert np.abs(grey - (values - black) / (white - black) * 255).max() <= 0.501


def test_a_kind_that_pillow_does_not_read_is_told(tmp_path):
    write_tiff(tmp_path / "a.tif", np.zeros((16, 16)))  # 64-bit floats
    with pytest.raises(UnreadableImageError, match=r"a\.tif.*of a kind that Pillow does not read"):
        load_image(tmp_path / "a.tif")


def test_what_is_not_a_number_is_black_and_changes_nothing_else(tmp_path):
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    values[0, :3] = np.nan, np.inf, -np.inf
    write_tiff(tmp_path / "a.tif", values)
    grey = np.asarray(load_image(tmp_path / "a.tif"))[..., 0]
    assert grey[0, :3].tolist() == [0, 0, 0]
    assert np.abs(grey[1:] - values[1:] * 255).max() <= 0.501
    write_tiff(tmp_path / "a.tif", np.full((16, 16), np.nan, np.float32))
    assert not np.asarray(load_image(tmp_path / "a.tif")).any()


def test_thirty_two_bit_grey_beyond_sixteen_bits_is_scaled_and_not_clipped(tmp_path):
    values = np.linspace(-70_000, 2_000_000, 256).reshape(16, 16).round().astype(np.int32)
    grey = np.asarray(load_image(Image.fromarray(values)))[..., 0]
    assert np.abs(grey - (values + 70_000) / 2_070_000 * 255).max() <= 0.501


def write_tiff(path: Path, values: np.ndarray) -> None:
    """A TIFF of one strip, written by hand: Pillow writes no 64-bit numbers."""
    height, width = values.shape
    entries = [(256, width), (257, height), (258, 8 * values.itemsize), (259, 1), (262, 1)]
    entries += [(273, 8), (277, 1), (278, height), (279, values.nbytes), (339, 3)]
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries) + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + values.nbytes) + values.tobytes() + directory)


@pytest.mark.parametrize("place", ["before the pixels", "after the pixels"])
def test_a_png_with_long_texts_is_read_as_without_them(place):
    plain = encoded(noise(), "PNG")
    long_text = chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(5_000_000)))
    profile = chunk(b"iCCP", b"display\0\0" + zlib.compress(bytes(3_000_000)))
    many = chunk(b"tEXt", b"note\0" + b"x" * 1_000_000) * 70
    at = plain.index(b"IDAT") - 4 if place == "before the pixels" else plain.index(b"IEND") - 4
    for extra in (long_text, profile, many):
        if extra is profile and place == "after the pixels":
            continue
        content = plain[:at] + extra + plain[at:]
        assert np.array_equal(load_image(content), noise())
        if place == "before the pixels":
            assert reason_of(content[: at + len(extra) // 2]) is UnreadableReason.TRUNCATED


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_a_transparent_and_a_sixteen_bit_png_are_the_same_however_they_come(tmp_path):
    transparent = Image.new("RGBA", (16, 16), (255, 0, 0, 60))
    deep = Image.fromarray(np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16))
    for number, picture in enumerate((transparent, deep)):
        path = tmp_path / f"{number}.png"
        picture.save(path)
        loaded = [load_image(source) for source in (path, str(path), path.read_bytes(), Image.open(path), picture)]
        assert all(np.array_equal(one, loaded[0]) for one in loaded)
        assert 100 < np.asarray(loaded[0]).mean() < 240
