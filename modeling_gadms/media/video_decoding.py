"""Open video files safely, and decode their frames with exact times: the one place where a video is opened."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image

from .images import MAX_PIXELS


if TYPE_CHECKING:
    from av.buffer import Buffer
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


FORMATS = (
    *("asf", "avi", "dhav", "dv", "flv", "h263", "h264", "hevc", "ivf", "m4v", "matroska", "mjpeg", "mov", "mpeg"),
    *("mpegts", "mpegvideo", "mxf", "nut", "obu", "ogg", "vc1", "vvc", "yuv4mpegpipe"),
)
"""FFmpeg's names of the containers that are read. Each holds its frames itself. Formats that name other files or
addresses (concat, HLS, DASH, SDP, image sequences) are not among them: an untrusted file must not choose what is
read."""
_OPTIONS = {
    "format_whitelist": ",".join(FORMATS),
    # The file is opened by Python. FFmpeg itself needs no protocol, and no protocol has this name.
    "protocol_whitelist": "none",
    "max_pixels": str(MAX_PIXELS),
}
_DAY = Fraction(24 * 60 * 60)
_DEFAULT_RATE = Fraction(25)
_MAX_ELEMENTS = 200_000
"""Elements of a file whose lengths are added up: a day of fragments of a second, in MP4."""
_SLACK_BYTES = 16
"""Some programs state the length of an AVI with the eight bytes before it, or pad it."""
_TURNS: dict[tuple[int, ...], Image.Transpose] = {
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
"""Entries a, b, c, d of a display matrix, which maps (x, y) to (ax + cy, bx + dy), and what Pillow calls it."""
_QUARTERS = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""Cosine and sine of the multiples of a quarter turn."""
_UNSPECIFIED_MATRIX = 2
"""FFmpeg's `AVCOL_SPC_UNSPECIFIED`."""


@dataclass(frozen=True)
class DecodedFrame:
    """One frame of a video.

    Attributes:
        index (`int`): number in the order of presentation, from 0.
        time_seconds (`float`, *optional*): seconds after the first frame; `None` if the frame is lost.
    """

    index: int
    time_seconds: float | None = None
    _picture: "VideoFrame | None" = None
    _pixel_aspect: Fraction = Fraction(1)

    @property
    def is_lost(self) -> bool:
        """Whether the frame does not decode, is damaged, or is missing from a file that is cut."""
        return self._picture is None

    def to_image(self) -> Image.Image | None:
        """The frame as a player shows it, in mode RGB: upright, with square pixels; `None` if it is lost."""
        import av
        from av.video.reformatter import Colorspace, Interpolation

        picture = self._picture
        if picture is None:
            return None
        width, height = picture.width, picture.height
        # As players do. FFmpeg takes the matrix of standard definition for every video that names none.
        unspecified_hd = picture.colorspace == _UNSPECIFIED_MATRIX and height > 576
        if self._pixel_aspect > 1:
            width = round(width * self._pixel_aspect)
        else:
            height = round(height / self._pixel_aspect)
        try:
            pixels = picture.to_ndarray(
                format="rgb24",
                width=width,
                height=height,
                src_colorspace=Colorspace.ITU709 if unspecified_hd else None,
                interpolation=Interpolation.BICUBIC,
                threads=1,
            )
        except av.error.FFmpegError:  # a pixel format that cannot be converted
            return None
        image = Image.fromarray(pixels)
        turn = _TURNS.get(_directions(picture))
        return image if turn is None else image.transpose(turn)


class _File(io.FileIO):
    """A file that answers a seek to no place as FFmpeg's own do: PyAV would end the reading by the exception."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except OSError:
            return -1


class VideoFile:
    """A video opened by [`open_video`]. Its frames, or its packets, can be read once."""

    def __init__(self, file: io.FileIO, container: "InputContainer", stream: "VideoStream"):
        self._file, self._container, self._stream = file, container, stream
        self._packets_read = 0
        rate = stream.guessed_rate or stream.average_rate
        self._interval = 1 / (rate if rate and 0 < rate <= 1000 else _DEFAULT_RATE)

    def frames(self) -> Iterator[DecodedFrame]:
        """Decode the frames in the order of presentation. Damage is found by decoding, never by a stated length.

        Times grow from frame to frame. A time is the presentation time of the container or, if it has none, the
        decoding time (AVI), or one frame interval after the previous frame (raw streams). Where the container's time
        repeats, falls (joined recordings) or leaps by more than a day, the frame follows the previous one after one
        frame interval, and the next frames keep their distance to it until the container's time has caught up.
        """
        aspect = self._stream.sample_aspect_ratio or Fraction(1)
        if not Fraction(1, 4) <= aspect <= 4:  # no camera has such pixels: the header is damaged
            aspect = Fraction(1)
        clock = _Clock(self._tick, self._interval)
        index = 0
        for picture in self._pictures():
            if picture is None:
                yield DecodedFrame(index)
            else:
                yield DecodedFrame(index, float(clock(picture)), picture, aspect)
            index += 1
        for missing in range(self._missing()):
            yield DecodedFrame(index + missing)

    def times(self) -> list[float]:
        """Times of the frames in seconds after the first, ascending, from the packets: nothing is decoded.

        They are those of `frames` for videos without damage whose times do not fall.
        """
        ticks = [
            packet.dts if packet.pts is None else packet.pts
            for packet in self._packets()
            if packet is not None and not packet.is_discard
        ]
        known = sorted(tick for tick in ticks if tick is not None)
        if len(known) < len(ticks):
            return [float(self._interval * number) for number in range(len(ticks))]
        return [float((tick - known[0]) * self._tick) for tick in known]

    @property
    def _tick(self) -> Fraction:
        return self._stream.time_base or Fraction(1, 90_000)

    def _pictures(self) -> Iterator["VideoFrame | None"]:
        """The pictures in the order of presentation; `None` for a damaged one."""
        import av

        decoder = self._stream.codec_context
        decoder.options = {"max_pixels": _OPTIONS["max_pixels"]}
        for packet in chain(self._packets(), [av.Packet()]):  # decoders take an empty packet for the end
            try:
                pictures = [None] if packet is None else decoder.decode(packet)
            except av.error.FFmpegError:
                pictures = [None]
            # Decoders of whole pictures (MJPEG) do not tell that a packet was cut.
            is_cut = packet is not None and packet.is_corrupt and decoder.codec.intra_only
            for picture in pictures:
                yield None if picture is None or is_cut or picture.is_corrupt else picture

    def _packets(self) -> Iterator["Packet[VideoStream] | None"]:
        """The packets of the stream in the order of the file; `None` for a place that cannot be read."""
        import av

        read_on = True
        while read_on:
            read_on = False
            try:
                for packet in self._container.demux(self._stream):
                    read_on = True
                    self._packets_read += packet.size > 0 or packet.dts is not None
                    if packet.size:
                        yield packet
                return
            except av.error.FFmpegError:
                if read_on:
                    yield None

    def _missing(self) -> int:
        """Number of frames that the file lacks, counting what is unknown as one."""
        name = self._container.format.name
        # The index of other containers lists key frames, or places to seek to.
        is_listed, states_length = name.startswith(("avi", "mov")), name.startswith(("avi", "matroska", "mov"))
        missing = len(self._stream.index_entries) - self._packets_read if is_listed else 0
        # A frame has a byte at least: a damaged index may list any number.
        missing = min(missing, os.fstat(self._file.fileno()).st_size)
        return max(missing, int(states_length and _is_cut(self._file)))


class _Clock:
    """Gives the time of each frame in seconds after the first; see [`VideoFile.frames`]."""

    def __init__(self, tick: Fraction, interval: Fraction):
        self._tick, self._interval = tick, interval
        self._origin: Fraction | None = None
        self._shift = Fraction(0)
        self._last: Fraction | None = None

    def __call__(self, picture: "VideoFrame") -> Fraction:
        following = Fraction(0) if self._last is None else self._last + self._interval
        ticks = picture.dts if picture.pts is None else picture.pts
        time = following if ticks is None else self._on_time(ticks * self._tick, following)
        self._last = time
        return time

    def _on_time(self, stated: Fraction, following: Fraction) -> Fraction:
        if self._origin is None:
            self._origin = stated - following
        own = stated - self._origin
        if self._follows(own):
            self._shift = Fraction(0)
        elif not self._follows(own + self._shift):
            self._shift = following - own
        return own + self._shift

    def _follows(self, time: Fraction) -> bool:
        return self._last is None or self._last < time <= self._last + _DAY


@contextmanager
def open_video(path: str | Path) -> Iterator[VideoFile]:
    """Open a video file. Of several video streams, the one that players show is read.

    Only the file itself is read, and only if its content is of one of the `FORMATS`, whatever its name.

    Raises:
        ImportError: without the extra `detect`.
        OSError: if the file cannot be opened.
        ValueError: if it is not a video, or of another format.
    """
    try:
        import av
        from av.stream import Disposition
    except ModuleNotFoundError as error:
        raise ImportError('Reading videos needs PyAV: pip install "gadms[detect]"') from error
    with _File(path) as file:
        try:
            container = av.open(file, "r", options=_OPTIONS, metadata_errors="replace", buffer_size=2**18)
        except av.error.FFmpegError as error:
            raise ValueError(
                f"{path} does not open as a video: is it one, and complete? Files that name other files or addresses "
                "(concat, HLS, DASH, SDP) are not read"
            ) from error
        with container:
            # PyAV sets it: times that an AVI does not contain would be derived from a wrong order.
            container.flags &= ~cast(int, av.container.Flags.gen_pts.value)
            stream = cast("VideoStream | None", container.streams.best("video"))
            if stream is None or stream.codec_context is None or stream.disposition & Disposition.attached_pic:
                raise ValueError(f"{path} does not open as a video: it contains no video stream")
            yield VideoFile(file, container, stream)


def _directions(picture: "VideoFrame") -> tuple[int, ...]:
    """Signs of the entries a, b, c, d of the display matrix, without the small ones of a slanted camera."""
    try:
        matrix = cast("Buffer | None", picture.side_data.get("DISPLAYMATRIX"))
    except ValueError:  # PyAV does not know another kind of side data of the frame: a mirrored one is not told
        cosine, sine = _QUARTERS[round(picture.rotation / 90) % 4]
        return cosine, -sine, sine, cosine
    if matrix is None:
        return 1, 0, 0, 1
    entries = np.frombuffer(bytes(matrix), np.int32, 9)[[0, 1, 3, 4]].astype(float)
    return tuple(np.round(entries / max(1, np.abs(entries).max())).astype(int).tolist())


def _is_cut(file: io.FileIO) -> bool:
    """Whether the file is shorter than the outermost elements of an AVI, Matroska or MP4 file state."""
    size = os.fstat(file.fileno()).st_size
    end = 0
    for _ in range(_MAX_ELEMENTS):
        file.seek(end)
        head = file.read(16)
        if head[:4] == b"RIFF":  # several in files above 1 GB
            stated = int.from_bytes(head[4:8], "little")
            length = 8 + stated + stated % 2 if stated < 2**32 - 1 else 0
        elif head[:4] in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):  # EBML's header, Matroska's segment
            length = 4 + _vint(head[4:])
        elif head[4:8].isalnum():  # a box of MP4
            length = int.from_bytes(head[8:16] if head[:4] == b"\0\0\0\1" else head[:4], "big")
        else:
            return False
        end += length
        if length <= 8 or end >= size:  # without a length: recorded by a program that did not end properly
            break
    return end > size + _SLACK_BYTES


def _vint(content: bytes) -> int:
    """Size of an element of Matroska with its length; 0 if the length is unknown."""
    if not content or content[0] == 0:
        return 0
    width = 9 - content[0].bit_length()
    value = int.from_bytes(content[:width], "big") - (1 << 7 * width)
    return width + value if value < (1 << 7 * width) - 1 else 0
