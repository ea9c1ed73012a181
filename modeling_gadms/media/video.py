"""Read pictures one after another from a folder or a video, and count what could not be read."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from .images import IMAGE_SUFFIXES, UnreadableImageError, iter_image_files, load_image


UNDECODABLE = "does not decode"
"""Why a video's frame is skipped: the file announces it, and the decoder does not deliver it."""


@dataclass(frozen=True)
class Frame:
    """One picture of a source.

    Attributes:
        image (`PIL.Image.Image`): RGB.
        source (`str`): the image file, the video, or the place in an archive or a table.
        index (`int`, *optional*): number of the frame in its video, from 0; none for an image file.
        time_seconds (`float`, *optional*): when the video shows it; none for an image file.
        fields (`Mapping[str, Any]`): what the source says of it beside.
    """

    image: Image.Image
    source: str
    index: int | None = None
    time_seconds: float | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


class FrameReader:
    """Iterates over the `Frame`s of a folder of images (recursively, in sorted order) or of a video.

    Args:
        source (`str` or `Path`): the folder or the video; an image file is a folder of one.
        every (`int`): take one frame out of so many.
        per_second (`float`, *optional*): of a video, how many frames of each second to take, instead of `every`; all
            where it has fewer.
        root (`Path`, *optional*): folder that sources are named relative to.

    Attributes:
        is_video (`bool`): whether `source` is a video and not a folder.
        expected (`int`, *optional*): how many frames will be seen; none where a video does not say how long it is.
        seen (`int`): frames met so far, with those that could not be read. After a full iteration,
            `seen` = frames yielded + `skipped.total()`.
        skipped (`Counter[str]`): frames that could not be read, by reason.
        lost (`int`): frames of the video, to be taken or not, that it announces and that do not decode.

    Raises:
        FileNotFoundError: if `source` does not exist.
        ValueError: if `every` or `per_second` is not positive or both are given, if a folder holds no image file or a
            video no frame, or if `per_second` is given and the video does not say its rate.
    """

    def __init__(
        self, source: str | Path, every: int = 1, *, per_second: float | None = None, root: Path | None = None
    ):
        self.source = Path(source)
        self._root = root
        if every < 1:
            raise ValueError(f"every must be 1 or more, not {every}: it takes one frame out of so many")
        if per_second is not None and not per_second > 0:
            raise ValueError(
                f"per_second must be positive, not {per_second}: it is how many frames of a second to take"
            )
        if per_second is not None and every != 1:
            raise ValueError(f"every ({every}) and per_second ({per_second}) say the same: give one of them")
        if not self.source.exists():
            raise FileNotFoundError(f"{self.source} does not exist: give a video or a folder of images")
        self.every = every
        is_image = self.source.is_file() and self.source.suffix.lower() in IMAGE_SUFFIXES
        self.is_video = not is_image and not self.source.is_dir()
        self.seen = 0
        self.skipped: Counter[str] = Counter()
        self.lost = 0
        if self.is_video:
            video = _open_video(self.source)
            length, rate = _announced(video), _frame_rate(video)
            video.release()
            if per_second is not None:
                self.every = max(1, round(_known_rate(self.source, rate) / per_second))
        elif per_second is not None:
            raise ValueError(
                f"{self.source} is not a video, and per_second ({per_second}) is of videos: give every instead"
            )
        else:
            self._files = [self.source] if is_image else list(iter_image_files(self.source))
            length = len(self._files)
            if not length:
                raise ValueError(f"{self.source} holds no image file")
        self.expected = math.ceil(length / self.every) if length else None

    def __iter__(self) -> Iterator[Frame]:
        self.seen = 0
        self.skipped = Counter()
        self.lost = 0
        return self._iter_video() if self.is_video else self._iter_files()

    def _iter_files(self) -> Iterator[Frame]:
        for path in self._files[:: self.every]:
            self.seen += 1
            try:
                image = load_image(path)
            except UnreadableImageError as error:
                self.skipped[error.reason.value] += 1
            else:
                yield Frame(image, source=named(path, self._root))

    def _iter_video(self) -> Iterator[Frame]:
        video = _open_video(self.source)
        try:
            index = 0
            while video.grab():
                if index % self.every == 0:
                    self.seen += 1
                    seconds = _seconds(video)
                    image = _retrieve(video)
                    if image is None:
                        self.skipped[UNDECODABLE] += 1
                    else:
                        yield Frame(image, named(self.source, self._root), index, seconds)
                index += 1
            if index == 0:
                raise ValueError(f"The video {self.source} holds no frame that decodes: is it complete?")
            # OpenCV passes over damaged frames and stops at a cut without a word: only the count tells.
            self.lost = max(0, _announced(video) - index)
            missing = math.ceil((index + self.lost) / self.every) - self.seen
            if missing:
                self.seen += missing
                self.skipped[UNDECODABLE] += missing
        finally:
            video.release()


def named(path: Path, root: Path | None) -> str:
    """What a file is called in a gallery: its path, relative to a folder if one is given."""
    return str(path.relative_to(root) if root else path)


@dataclass(frozen=True)
class VideoFrame:
    """One frame of a video, or the place of one that does not decode.

    Attributes:
        index (`int`): number of the frame in its video, from 0.
        time_seconds (`float`, *optional*): when the video shows it; none if its end was reached before.
        image (`PIL.Image.Image`, *optional*): RGB; none if it does not decode.
    """

    index: int
    time_seconds: float | None
    image: Image.Image | None


def count_frames(path: str | Path) -> int:
    """How many frames a video has: those that it announces, or those that decode where these are more.

    The video is decoded to its end. What it announces is an estimate in several formats, and more than there is if it
    was cut short.

    Raises:
        ValueError: if it does not open as a video, if no frame decodes, or if it announces more frames than it has
            bytes.
    """
    path = Path(path)
    video = _open_video(path)
    try:
        announced, decoded = _announced(video), 0
        while video.grab():
            decoded += 1
    finally:
        video.release()
    if not decoded:
        raise ValueError(f"The video {path} holds no frame that decodes: is it complete?")
    if announced > path.stat().st_size:
        raise ValueError(
            f"The video {path} announces {announced:,} frames, more than it has bytes: its header is damaged. "
            "Remux it first (ffmpeg -c copy)"
        )
    return max(announced, decoded)


def read_frames(path: str | Path, every: int, start: int, stop: int) -> Iterator[VideoFrame]:
    """The frames of a part of a video whose number is a multiple of `every`; one that does not decode has no image.

    The video is read from its beginning, since seeking is inexact in most formats: the frames of a part are the same
    whichever parts are read.

    Args:
        path (`str` or `Path`): the video.
        every (`int`): take one frame out of so many.
        start, stop (`int`): first frame, and the one after the last, of as many as `count_frames` says.

    Raises:
        ValueError: if it does not open as a video.
    """
    video = _open_video(Path(path))
    try:
        ended = False
        for index in range(stop):
            ended = ended or not video.grab()
            if index < start or index % every:
                continue
            if ended:
                yield VideoFrame(index, None, None)
                continue
            seconds = _seconds(video)
            yield VideoFrame(index, seconds, _retrieve(video))
    finally:
        video.release()


def _open_video(path: Path) -> Any:
    try:
        import cv2
    except ImportError as error:
        raise ImportError('Reading videos needs OpenCV: pip install "gadms[detect]"') from error
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)  # it warns of what the error below says better
    try:
        video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    finally:
        logging.setLogLevel(level)
    if not video.isOpened():
        raise ValueError(f"{path} does not open as a video: is it one, and complete?")
    return video


def _announced(video: Any) -> int:
    """How many frames the file says it has; 0 where it does not."""
    import cv2

    return max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))


def _frame_rate(video: Any) -> float:
    """Frames of a second, as the file says; 0 where it does not."""
    import cv2

    rate = float(video.get(cv2.CAP_PROP_FPS))
    return rate if math.isfinite(rate) and rate > 0 else 0.0


def _known_rate(path: Path, rate: float) -> float:
    if not rate:
        raise ValueError(
            f"The video {path} does not say how many frames a second has: give every instead of per_second"
        )
    return rate


def _retrieve(video: Any) -> Image.Image | None:
    """The frame that was grabbed, none if it does not decode."""
    decoded, pixels = video.retrieve()
    return Image.fromarray(pixels[..., ::-1].copy()) if decoded else None  # BGR -> RGB


def _seconds(video: Any) -> float:
    import cv2

    return video.get(cv2.CAP_PROP_POS_MSEC) / 1000
