"""Videos for tests, written by PyAV: each frame shows its number as eight black or white blocks."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image


SIZE = (128, 64)
DARK, BRIGHT = 20, 235
B_FRAMES = {"bf": "3", "g": "12"}


def picture(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A grey frame with the bits of its number, the lowest first, in its middle."""
    width, height = size
    pixels = np.full((height, width, 3), 100, np.uint8)
    for bit in range(8):
        shade = BRIGHT if number >> bit & 1 else DARK
        pixels[height // 8 : -height // 8, bit * width // 8 : (bit + 1) * width // 8] = shade
    return pixels


def number_shown(image: Image.Image) -> int:
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    middle = pixels[height // 3 : 2 * height // 3]
    blocks = [middle[:, bit * width // 8 + width // 32 : (bit + 1) * width // 8 - width // 32] for bit in range(8)]
    return sum(1 << bit for bit, block in enumerate(blocks) if block.mean() > 128)


def write_video(
    path: Path,
    count: int = 24,
    *,
    codec: str = "libx264",
    rate: int = 10,
    milliseconds: Sequence[int] | None = None,
    start: int = 0,
    sound_seconds: int = 0,
    second_stream: bool = False,
    size: tuple[int, int] = SIZE,
    aspect: Fraction = Fraction(1),
    pixel_format: str = "",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    **reformat: object,
) -> Path:
    """Write `count` frames at `rate`, or at the times `milliseconds`, the first at frame number `start`."""
    base = Fraction(1, 1000) if milliseconds else Fraction(1, rate)
    pixel_format = pixel_format or ("yuvj420p" if codec == "mjpeg" else "yuv420p")
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        streams = [container.add_stream(codec, rate=rate, options=options or {})]
        if second_stream:  # smaller, so that it is not the one that players show
            streams.append(container.add_stream(codec, rate=rate, options=options or {}))
        for stream, side in zip(streams, (size, (64, 32)), strict=False):
            stream.width, stream.height = side
            stream.pix_fmt = pixel_format
            stream.codec_context.time_base = base
            stream.codec_context.sample_aspect_ratio = aspect
            stream.codec_context.color_range = 2 if pixel_format.startswith("yuvj") else 1
        sound = container.add_stream("aac", rate=8000, layout="mono") if sound_seconds else None
        for number in range(count):
            for stream, side in zip(streams, (size, (64, 32)), strict=False):
                frame = av.VideoFrame.from_ndarray(picture(number if side == size else 255, side), "rgb24")
                frame = frame.reformat(format=pixel_format, **reformat)
                frame.pts, frame.time_base = start + (milliseconds[number] if milliseconds else number), base
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
        if sound:
            for place in range(0, 8000 * sound_seconds, 1024):
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                silence.sample_rate, silence.pts, silence.time_base = 8000, place, Fraction(1, 8000)
                container.mux(sound.encode(silence))
            container.mux(sound.encode())
    return path


def remux(source: Path, target: Path, shift_seconds: Fraction | int = 0, **options: str) -> Path:
    """Copy the packets of a video into another container, at times shifted by some seconds."""
    with av.open(str(source)) as old, av.open(str(target), "w", container_options=options) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for packet in old.demux(stream):
            if packet.dts is not None:
                ticks = int(shift_seconds / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + ticks, packet.dts + ticks, copy
                new.mux(packet)
    return target


def numbers_and_times(frames: Iterable) -> list[tuple[int, float]]:
    return [(number_shown(frame.image), frame.time_seconds) for frame in frames]
