"""Read images of a folder or frames of a video, and count the unreadable ones."""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image

from .folders import Tally, list_images
from .images import IMAGE_SUFFIXES, UnreadableImageError, load_image, read_image_file
from .names import content_digest, escape_name, file_digest, resolved_name
from .video_decoding import DecodedFrame, open_video


VIDEO_SUFFIXES = (
    *(".264", ".265", ".3g2", ".3gp", ".asf", ".avi", ".dav", ".divx", ".dv", ".f4v", ".flv", ".h264", ".h265"),
    *(".hevc", ".ivf", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg"),
    *(".mts", ".mxf", ".nut", ".obu", ".ogm", ".ogv", ".qt", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
)
"""Suffixes of the files that are videos, in lower case; `FrameReader` goes by their content."""
UNDECODABLE = "does not decode"
"""Reason for skipping a frame that is damaged, or missing from a file that is cut."""
REPEATED_KEY = "an earlier row has the same key"
TIME_TOLERANCE = 0.001
"""Seconds by which a frame may come before the interval that it is selected for: many containers round to it."""


@dataclass(frozen=True)
class Frame:
    """One image of a source.

    Attributes:
        image (`PIL.Image.Image`): in mode RGB.
        source (`str`): path or URL of the image or video, the member of an archive, or the row of a table; see
            [`~modeling_gadms.indexing.sources.open_source`]. In a name that is not UTF-8, bytes are escaped.
        index (`int`, *optional*): frame number in the video, from 0; `None` for an image file.
        time_seconds (`float`, *optional*): time in the video; `None` for an image file.
        fields (`Mapping[str, Any]`): further fields from the source.
        content (`str`, *optional*): digest of the image file or of the video, to notice that it was replaced.
        key (`str`, *optional*): what identifies the image in place of `source`.
        row (`int`, *optional*): number of the row in a table, from 1.
    """

    image: Image.Image
    source: str
    index: int | None = None
    time_seconds: float | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    content: str | None = None
    key: str | None = None
    row: int | None = None

    @property
    def place(self) -> str:
        """Where the image is, for messages: the row of a table, or else the source."""
        return self.source if self.row is None else f"row {self.row}"


@dataclass(frozen=True)
class Item:
    """An image of a source that is not read yet.

    Attributes:
        read (`Callable[[], bytes | PIL.Image.Image]`): returns the content of its file, or an image.
        name (`str`, *optional*): its name; by default it is named by its content.
        fields, key, row: as in [`Frame`].
    """

    read: Callable[[], bytes | Image.Image]
    name: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None
    row: int | None = None


class SkippedImageError(ValueError):
    """An image that is skipped before it is decoded.

    Attributes:
        reason (`str`): to count it by.
        detail (`str`, *optional*): for the report.
    """

    def __init__(self, reason: str, detail: str | None = None):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class FrameSource(ABC):
    """Base class of the readers of images and videos: iterates over `Frame`s and counts those that it skips.

    The attributes are those of [`FrameReader`], and:

    Attributes:
        columns (`Mapping[str, str]`): additional columns that a new gallery of this source should have.
    """

    is_video = False
    undecodable = 0
    columns: Mapping[str, str] = {}

    def __init__(self, source: Any, expected: int | None, name: str | None = None):
        self.source = source
        self.name = str(source) if name is None else name
        self._expected = expected
        self.seen = 0
        self._skipped = Tally()
        self.passed_over = Tally()

    @property
    def skipped(self) -> Counter[str]:
        return self._skipped.counts

    @property
    def examples(self) -> dict[str, list[str]]:
        return self._skipped.examples

    @property
    def expected(self) -> int | None:
        return self._expected

    @abstractmethod
    def _items(self) -> Generator[Item, None, None]:
        """Yield the images in order, before they are read."""

    def skip(self, reason: str, place: str) -> None:
        """Count an image that was seen and cannot be used."""
        self._skipped.add(reason, place)

    def __iter__(self) -> Iterator[Frame]:
        self.seen, self._skipped = 0, Tally()
        earlier: set[int] = set()
        repetitions: Counter[int] = Counter()
        with closing(self._items()) as items:
            for item in items:
                self.seen += 1
                place = item.name or self.name if item.row is None else f"row {item.row}"
                try:
                    content = item.read()
                    digest = content_digest(content)
                    image = load_image(content)
                except UnreadableImageError as error:
                    self.skip(error.reason.value, place)
                    continue
                except SkippedImageError as error:
                    self.skip(error.reason, f"{place}: {error.detail}" if error.detail else place)
                    continue
                name = escape_name(item.name or f"{self.name}/{digest}")
                key = item.key
                identity = hash(key or name)  # instead of the text, which takes several times as much memory
                if identity in earlier:
                    if key is not None:
                        self.skip(REPEATED_KEY, place)
                        continue
                    repetitions[identity] += 1
                    key = f"{name}\0{repetitions[identity]}"  # no file has such a name
                earlier.add(identity)
                yield Frame(image, name, fields=item.fields, content=digest, key=key, row=item.row)


class FrameReader(FrameSource):
    """Iterate over the `Frame`s of a folder of images (recursively, in sorted order) or of a video.

    Args:
        source (`str` or `Path`): a folder, a video, or a single image file.
        every (`int`): read every n-th frame.
        per_second (`float`, *optional*): read the first frame of each `1 / per_second` seconds of a video, instead of
            `every`. Frames are selected by their times, so that the frame rate may vary; if it is lower, all are read.
        root (`Path`, *optional*): folder that source names are relative to.
        name (`str`, *optional*): name of the video or the folder in a gallery; by default its resolved path.

    Attributes:
        is_video (`bool`): whether `source` is a video.
        expected (`int`): number of images or frames to be read. That of a video is counted at the first use, without
            decoding it; it is exact if the video is neither damaged nor joined from several.
        seen (`int`): frames seen so far, including unreadable ones. After a full iteration,
            `seen` = frames yielded + `skipped.total()`.
        skipped (`Counter[str]`): number of unreadable frames, by reason.
        passed_over (`Tally`): other files of a folder, by kind. Images + passed over = files and unread folders there.
        examples (`dict[str, list[str]]`): for each reason in `skipped`, the first three places.
        undecodable (`int`): frames of the video that are damaged or missing, also those that would not have been read.
            The unknown number of frames that a cut file lacks counts as one.

    Raises:
        FileNotFoundError: if `source` does not exist.
        ValueError: if `every` or `per_second` is not positive or both are given, if a folder contains no image file,
            a video no frame, or a file is neither an image nor a video.
    """

    def __init__(
        self,
        source: str | Path,
        every: int = 1,
        *,
        per_second: float | None = None,
        root: Path | None = None,
        name: str | None = None,
    ):
        super().__init__(Path(source), None, relative_name(Path(source), root) if name is None else name)
        self._root = root
        self._renamed = name is not None
        if every < 1:
            raise ValueError(f"every must be 1 or more, not {every}: every n-th frame is read")
        if per_second is not None and not 0 < per_second < math.inf:
            raise ValueError(f"per_second must be positive, not {per_second}: it is a number of frames per second")
        if per_second is not None and every != 1:
            raise ValueError(f"every ({every}) and per_second ({per_second}) exclude each other: give one of them")
        if not self.source.exists():
            raise FileNotFoundError(f"{self.source} does not exist: give a video or a folder of images")
        self.every, self.per_second = every, per_second
        is_image = self.source.is_file() and self.source.suffix.lower() in IMAGE_SUFFIXES
        self.is_video = not is_image and not self.source.is_dir()
        if self.is_video:
            with open_video(self.source):
                pass
        elif per_second is not None:
            raise ValueError(
                f"per_second ({per_second}) applies to videos, and {self.source} is not a video: give every instead"
            )
        else:
            self._files = [self.source]
            if not is_image:
                self._files, self.passed_over = list_images(self.source)
            if not self._files:
                others = f", but {self.passed_over}: give a video or an archive by its own path"
                raise ValueError(f"{self.source} contains no image file{others if self.passed_over.counts else ''}")

    @cached_property
    def expected(self) -> int:
        if not self.is_video:
            return math.ceil(len(self._files) / self.every)
        with open_video(self.source) as video:
            return sum(map(self._selection(), count(), video.times()))

    def __iter__(self) -> Iterator[Frame]:
        return self._iter_video() if self.is_video else super().__iter__()

    def _items(self) -> Generator[Item, None, None]:
        for path in self._files[:: self.every]:
            yield Item(partial(read_image_file, path), self._name_of(path))

    def _name_of(self, path: Path) -> str:
        if path == self.source:
            return self.name
        if self._renamed:
            return f"{self.name}/{path.relative_to(self.source).as_posix()}"
        return relative_name(path, self._root) if self._root else resolved_name(path, follow=False)

    def _iter_video(self) -> Iterator[Frame]:
        self.seen, self._skipped, self.undecodable = 0, Tally(), 0
        name, content, is_selected = escape_name(self.name), file_digest(self.source), self._selection()
        with open_video(self.source) as video:
            decoded = 0
            for frame in video.frames():
                decoded += not frame.is_lost
                self.undecodable += frame.is_lost
                if not is_selected(frame.index, frame.time_seconds):
                    continue
                self.seen += 1
                image = frame.to_image()
                if image is None:
                    self.skip(UNDECODABLE, f"frame {frame.index}")
                    self.undecodable += not frame.is_lost
                else:
                    yield Frame(image, name, frame.index, frame.time_seconds, content=content)
            if not decoded:
                raise ValueError(f"The video {self.source} contains no frame that decodes: is it complete?")

    def _selection(self) -> Callable[[int, float | None], bool]:
        """Tells of each frame in order, given its number and time, whether it is to be read."""
        if self.per_second is None:
            return lambda index, _: index % self.every == 0
        per_second, latest = self.per_second, -1

        def is_first_of_its_interval(_: int, time_seconds: float | None) -> bool:
            nonlocal latest
            interval = latest if time_seconds is None else math.floor((time_seconds + TIME_TOLERANCE) * per_second)
            is_first, latest = interval > latest, max(interval, latest)
            return is_first

        return is_first_of_its_interval


def relative_name(path: Path, root: Path | None) -> str:
    """Name of a file in a gallery: its resolved path, or its path relative to `root`."""
    return str(path.relative_to(root)) if root else resolved_name(path)


@dataclass(frozen=True)
class VideoFrame:
    """One frame of a video, with its number from 0, which may be undecodable."""

    index: int
    time_seconds: float | None  # None beyond the last frame that decodes
    image: Image.Image | None  # in mode RGB; None if it does not decode


def count_frames(path: str | Path) -> int:
    """Number of frames of a video, including damaged ones. The video is decoded to its end.

    Raises:
        ValueError: if it does not open as a video, or no frame decodes.
    """
    total = decoded = 0
    with open_video(path) as video:
        for frame in video.frames():
            total += 1
            decoded += not frame.is_lost
    if not decoded:
        raise ValueError(f"The video {path} contains no frame that decodes: is it complete?")
    return total


def read_frames(path: str | Path, every: int, start: int, stop: int) -> Iterator[VideoFrame]:
    """Yield every n-th frame of a part of a video; undecodable frames have no image.

    The video is read from its beginning, since seeking is inexact in most formats. So the frames of a part do not
    depend on the other parts.

    Args:
        path (`str` or `Path`): the video.
        every (`int`): yield the frames whose number is a multiple of this.
        start, stop (`int`): range of frame numbers, at most up to `count_frames`.

    Raises:
        ValueError: if it does not open as a video.
    """
    with open_video(path) as video:
        frames = video.frames()
        for index in range(stop):
            frame = next(frames, DecodedFrame(index))  # lost, if the file has become shorter
            if index >= start and index % every == 0:
                yield VideoFrame(index, frame.time_seconds, frame.to_image())
