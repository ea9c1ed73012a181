"""The records of a gallery: persons to add, queries, results, and the model that built it."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from PIL import Image

from ..encoders.fingerprint import image_fingerprint, model_fingerprint, preprocessing_fingerprint
from ..encoders.onnx_model import RUNTIMES, RetrievalModel, runtime_of
from ..encoders.processors import RetrievalProcessor, family_of, image_fit_of, with_image_fit
from ..media.detection import PersonBox


@dataclass(frozen=True)
class PersonRecord:
    """A person to add to a gallery.

    Attributes:
        image (`PIL.Image.Image`): the crop of the person.
        source (`str`): path of the image file or video, URL, member of an archive, or row of a table.
        frame (`int`, *optional*): frame number in the video.
        time_seconds (`float`, *optional*): time of the frame in the video.
        box (`PersonBox`, *optional*): box of the person in the frame, from the detector.
        camera (`str`, *optional*): name of the camera.
        time (`datetime`, *optional*): time of the recording; without a time zone it is UTC.
        track (`int`, *optional*): number of the track. The crops of one person followed through a video share it.
        columns (`Mapping[str, Any]`): values of the additional columns of the gallery.
        key (`str`, *optional*): what identifies the image in place of `source`, such as the number of a product.
        content (`str`, *optional*): what tells whether the person has changed, from [`content_state`]; by default of
            the image, camera, time and columns.
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
    key: str | None = None
    content: str | None = None

    @property
    def id(self) -> str:
        """A digest of source (or key), frame and box, so that adding the same person twice stores one row."""
        box = None
        if self.box is not None:
            # Tenths of a pixel: further digits depend on the hardware that runs the detector.
            box = [round(float(side), 1) for side in (self.box.left, self.box.top, self.box.right, self.box.bottom)]
        place = json.dumps([self.source if self.key is None else self.key, self.frame, box])
        return hashlib.blake2b(place.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def content_state(content: str, fields: Any) -> str:
    """Digests of the file that a person is from, and of the fields that came with it.

    Args:
        content (`str`): digest of the file, the first part of the result.
        fields (`Any`): of types that JSON has, and times.
    """
    return f"{content}-{hashlib.blake2b(json.dumps(fields, default=str).encode(), digest_size=8).hexdigest()}"


@dataclass(frozen=True)
class TrackSummary:
    """Summary of the track that a result belongs to.

    Attributes:
        persons (`int`): number of its crops in the gallery.
        start_seconds, end_seconds (`float`, *optional*): times of its first and last crop in the video.
    """

    persons: int
    start_seconds: float | None
    end_seconds: float | None


@dataclass(frozen=True)
class SearchResult:
    """A person found by a search.

    Attributes:
        rank (`int`): position among the results, from 1.
        score (`float`): cosine similarity to the query; for queries with several parts see [`Query`].
        id (`str`): id of the person in the gallery.
        thumbnail (`bytes`): a JPEG.
        track_summary (`TrackSummary`, *optional*): for a person with a track.
        added (`datetime`, *optional*): when the person was added to the gallery; missing in a gallery of an earlier
            version until it is written to.
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
    track_summary: TrackSummary | None = None
    added: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields except the thumbnail, as values that JSON supports; infinite numbers become None."""
        fields = {name: value for name, value in vars(self).items() if name != "thumbnail"}
        nested = {name: fields[name] and vars(fields[name]) for name in ("box", "track_summary")}
        return cast(dict[str, Any], json_value(fields | nested))


@dataclass(frozen=True)
class Query:
    """A query with a text, an image, a person of the gallery, or several of these.

    The score is the mean of the cosine similarities to the given parts, minus `WITHOUT_WEIGHT` times the mean of the
    similarities to the texts in `without`.

    Attributes:
        text (`str`, *optional*): a description of the person.
        image (`PIL.Image.Image`, *optional*): an image of a similar person.
        like (`str`, *optional*): id of a similar person of the gallery, who is excluded from the results.
        without (`Sequence[str]`): descriptions of attributes to exclude, such as "a hat".
    """

    text: str | None = None
    image: Image.Image | None = None
    like: str | None = None
    without: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.text is None and self.image is None and self.like is None:
            raise ValueError("The query is empty: give a text, an image, or the id of a similar person (like)")
        if isinstance(self.without, str):
            raise TypeError(f"without is a single string ({self.without!r}): give a list of strings")

    def __str__(self) -> str:
        """A heading for contact sheets."""
        parts = [self.text, self.image and "like the image", self.like and f"like {self.like}"]
        parts += [f"without {text}" for text in self.without]
        return "; ".join(str(part) for part in parts if part)


WITHOUT_WEIGHT = 0.25
"""Weight of `Query.without` in the score. A larger weight excludes more, but also loses more of the wanted persons
(`benchmarks/exclusion`)."""


@dataclass(frozen=True)
class AddReport:
    """Counts of one call of `add`.

    Attributes:
        added (`int`): persons added.
        already_there (`int`): persons skipped because the gallery already contains them.
        updated (`int`): persons of the gallery whose image, camera, time or columns had changed.
    """

    added: int
    already_there: int
    updated: int = 0


class GalleryModelError(ValueError):
    """Raised if a gallery was built by another model than the given one, or has been rebuilt since it was opened."""


@dataclass(frozen=True)
class GalleryModel:
    """The model that built a gallery, as stored in the table.

    Attributes:
        name (`str`): folder or Hub name that it was loaded from.
        fingerprint (`str`): from [`~modeling_gadms.encoders.fingerprint.model_fingerprint`].
        runtime (`str`): the runtime, such as `"torch"`.
        revision (`str`, *optional*): commit of the Hub repository.
        preprocessing (`str`, *optional*): from [`~modeling_gadms.encoders.fingerprint.preprocessing_fingerprint`].
        image_fit (`str`, *optional*): how images are brought to the model's size.
        images (`str`, *optional*): from [`~modeling_gadms.encoders.fingerprint.image_fingerprint`].

    The last two are missing in galleries of earlier versions, which were built by GA-DMS models.
    """

    name: str
    fingerprint: str
    runtime: str = RUNTIMES[0]
    revision: str | None = None
    preprocessing: str | None = None
    image_fit: str | None = None
    images: str | None = None

    def __str__(self) -> str:
        revision = f" at {self.revision[:12]}" if self.revision else ""
        return f"{self.name}{revision} ({self.fingerprint}, run by {self.runtime})"

    @classmethod
    def describe(cls, model: RetrievalModel, processor: RetrievalProcessor) -> "GalleryModel":
        """Describe a loaded model. The path of a folder is stored as an absolute one, valid from any directory."""
        name = model.name_or_path
        return cls(
            str(Path(name).resolve()) if name and Path(name).is_dir() else name or "(not loaded from anywhere)",
            model_fingerprint(model, processor),
            runtime_of(model),
            getattr(model.config, "_commit_hash", None),
            preprocessing_fingerprint(processor),
            image_fit_of(processor),
            image_fingerprint(processor),
        )

    def fit_images(self, processor: RetrievalProcessor) -> RetrievalProcessor:
        """A processor that fits images as this gallery was built; one of a family that cannot stays as it is."""
        return with_image_fit(processor, self.image_fit if self.image_fit in family_of(processor).image_fits else None)

    def check_same(self, given: "GalleryModel", location: str) -> None:
        """Check that a model is the one that built the gallery in `location`.

        Raises:
            GalleryModelError: if the fingerprints differ; says whether runtime, preprocessing or weights differ.
        """
        same_images = self.images in (None, given.images)
        if given.fingerprint == self.fingerprint and same_images:
            return
        what = "weights"
        if given.runtime != self.runtime:
            what = "runtime"
        elif self.preprocessing and given.preprocessing != self.preprocessing:
            what = "preprocessing (tokenizer, image size or normalisation)"
        elif not same_images:
            what = "preprocessing of images (how they are resized or fitted)"
        raise GalleryModelError(
            f"The gallery in {location} was built by the model {self}; the given model is {given} and differs in its "
            f"{what}, so their embeddings cannot be compared. Give the model and runtime that built the gallery, or "
            "build a new gallery"
        )


def counted(number: int, what: str) -> str:
    """A number with its noun: "1 person", "2,000 persons"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def plain(value: Any) -> Any:
    """Convert a column value to one that CSV supports: times become ISO 8601, NaN becomes None."""
    if is_nan(value):
        return None
    return value.isoformat() if isinstance(value, datetime) else value


def json_value(value: Any) -> Any:
    """Convert a value, also a nested one, to what JSON can express: times become ISO 8601, NaN and infinities None."""
    if isinstance(value, Mapping):
        return {key: json_value(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return plain(value)


def is_nan(value: Any) -> bool:
    """Whether a value is NaN, or the missing time of pandas."""
    return isinstance(value, (float, datetime)) and value != value
