"""From a folder or a video to the rows of a gallery."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tqdm.auto import tqdm

from .detection import PersonDetector, crop_person
from .gallery import PersonGallery, PersonRecord
from .video import FrameReader


NO_PERSON = "no person found"


@dataclass(frozen=True)
class IndexReport:
    """What became of the pictures: `seen` = `used` + the sum of `skipped`.

    Attributes:
        seen (`int`): pictures or frames met.
        used (`int`): those that gave at least one person.
        skipped (`dict[str, int]`): the others, by reason.
        persons (`int`): rows added to the gallery.
        lost_frames (`int`): frames that a video announces and that do not decode, also those not to be taken.
    """

    seen: int
    used: int
    skipped: dict[str, int]
    persons: int
    lost_frames: int

    def __str__(self) -> str:
        lines = [f"{self.persons} persons from {self.used} of {self.seen} images"]
        lines += [f"  skipped {count}: {reason}" for reason, count in sorted(self.skipped.items())]
        if self.lost_frames:
            lines.append(f"  the video is damaged: {self.lost_frames} of its frames do not decode")
        return "\n".join(lines)


def index_frames(
    gallery: PersonGallery,
    frames: FrameReader,
    *,
    detector: PersonDetector | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> IndexReport:
    """Add the persons of a folder of images or of a video to a gallery; what cannot be read is counted, not raised.

    Args:
        frames (`FrameReader`): the folder or video.
        detector (`PersonDetector`, *optional*): finds the persons of full frames; without it an image is one person.
        batch_size (`int`): persons that are embedded at once.

    Raises:
        ValueError: if not one frame of a video decodes.
    """
    without_person = 0

    def records() -> Iterator[PersonRecord]:
        nonlocal without_person
        for frame in tqdm(frames, total=frames.expected, desc="Indexing", unit="image", disable=not progress):
            if detector is None:
                yield PersonRecord(frame.image, frame.source, frame.index, frame.time_seconds)
                continue
            boxes = detector([frame.image])[0]
            without_person += not boxes
            for box in boxes:
                crop = crop_person(frame.image, box)
                yield PersonRecord(crop, frame.source, frame.index, frame.time_seconds, box)

    persons = gallery.add(records(), batch_size=batch_size).added
    skipped = Counter(frames.skipped)
    skipped[NO_PERSON] = without_person
    return IndexReport(
        seen=frames.seen,
        used=frames.seen - skipped.total(),
        skipped=dict(+skipped),
        persons=persons,
        lost_frames=frames.lost,
    )
