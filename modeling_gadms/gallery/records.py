"""What goes into a gallery of persons and what comes out of it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from PIL import Image

from ..encoders.onnx_model import RUNTIMES
from ..media.detection import PersonBox


@dataclass(frozen=True)
class PersonRecord:
    """A person to put into a gallery.

    Attributes:
        image (`PIL.Image.Image`): the person, cropped.
        source (`str`): the image file, the video, the URL, or the place in an archive.
        frame (`int`, *optional*): number of the video's frame.
        time_seconds (`float`, *optional*): when the video shows it.
        box (`PersonBox`, *optional*): where the detector found the person in the frame.
        camera (`str`, *optional*): that saw the person.
        time (`datetime`, *optional*): when that was; UTC where it has no zone.
        track (`int`, *optional*): one walk of one person through the source; its crops share the number.
        columns (`Mapping[str, Any]`): values of columns that the gallery was made with.
    """

    image: Image.Image
    source: str
    frame: int | None = None
    time_seconds: float | None = None
    box: PersonBox | None = None
    camera: str | None = None
    time: datetime | None = None
    track: int | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The same for the same box of the same frame of the same source, so that nobody is added twice."""
        box = None
        if self.box is not None:
            # Tenths of a pixel: the last digits depend on who does the detector's arithmetic.
            box = [round(float(side), 1) for side in (self.box.left, self.box.top, self.box.right, self.box.bottom)]
        place = json.dumps([self.source, self.frame, box])
        return hashlib.blake2b(place.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


@dataclass(frozen=True)
class Walk:
    """The track that a result belongs to.

    Attributes:
        persons (`int`): crops of it in the gallery.
        start_seconds, end_seconds (`float`, *optional*): of the first and the last of them in the video.
    """

    persons: int
    start_seconds: float | None
    end_seconds: float | None


@dataclass(frozen=True)
class SearchResult:
    """A person found.

    Attributes:
        rank (`int`): from 1.
        score (`float`): cosine similarity to the query; see [`Query`] for queries of several parts.
        id (`str`): of the person in the gallery.
        thumbnail (`bytes`): a JPEG.
        walk (`Walk`, *optional*): where the source was tracked.
        source, frame, time_seconds, box, camera, time, track, columns: as in [`PersonRecord`].
    """

    rank: int
    score: float
    id: str
    source: str
    frame: int | None
    time_seconds: float | None
    box: PersonBox | None
    camera: str | None
    time: datetime | None
    track: int | None
    columns: dict[str, Any]
    thumbnail: bytes
    walk: Walk | None = None

    def to_dict(self) -> dict[str, Any]:
        """All but the thumbnail, as JSON can hold it."""
        fields = {name: value for name, value in vars(self).items() if name not in ("thumbnail", "box", "walk")}
        columns = {name: plain(value) for name, value in self.columns.items()}
        return {
            **fields,
            "time": plain(self.time),
            "box": None if self.box is None else vars(self.box).copy(),
            "walk": None if self.walk is None else vars(self.walk).copy(),
            "columns": columns,
        }


@dataclass(frozen=True)
class Query:
    """What to search for; one part at least of the first three.

    Attributes:
        text (`str`, *optional*): a description.
        image (`PIL.Image.Image`, *optional*): a picture of such a person.
        like (`str`, *optional*): id of a person of the gallery, whom the results leave out.
        without (`Sequence[str]`): descriptions of what should not be there, as "a hat".

    The score is the mean of the cosine similarities to the parts that are given, less `WITHOUT_WEIGHT` times the mean
    of those to `without`.
    """

    text: str | None = None
    image: Image.Image | None = None
    like: str | None = None
    without: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.text is None and self.image is None and self.like is None:
            raise ValueError("The query is empty: give a text, an image, or the id of a person to find others like")
        if isinstance(self.without, str):
            raise TypeError(f"without is one text ({self.without!r}): give a list of texts")

    def __str__(self) -> str:
        """For headings."""
        parts = [self.text, self.image and "like the picture", self.like and f"like {self.like}"]
        parts += [f"without {text}" for text in self.without]
        return "; ".join(str(part) for part in parts if part)


WITHOUT_WEIGHT = 0.25
"""More excludes more, and finds fewer of those that are wanted (`benchmarks/exclusion`)."""


@dataclass(frozen=True)
class AddReport:
    """What became of the persons given to a gallery.

    Attributes:
        added (`int`)
        already_there (`int`): left alone, because the gallery holds the same box of the same frame of the same source.
    """

    added: int
    already_there: int


@dataclass(frozen=True)
class GalleryModel:
    """The model a gallery was built with, as stored in the table.

    Attributes:
        name (`str`): where it was loaded from.
        fingerprint (`str`): of [`~modeling_gadms.encoders.fingerprint.model_fingerprint`].
        runtime (`str`): what ran it.
        revision (`str`, *optional*): commit of the Hub repository, where it came from one.
        preprocessing (`str`, *optional*): of [`~modeling_gadms.encoders.fingerprint.preprocessing_fingerprint`].
    """

    name: str
    fingerprint: str
    runtime: str = RUNTIMES[0]
    revision: str | None = None
    preprocessing: str | None = None

    def __str__(self) -> str:
        revision = f" at {self.revision[:12]}" if self.revision else ""
        return f"{self.name}{revision} ({self.fingerprint}, run by {self.runtime})"


def plain(value: Any) -> Any:
    """A value of a column as JSON and CSV can hold it."""
    return value.isoformat() if isinstance(value, datetime) else value
