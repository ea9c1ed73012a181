"""Block `crop`: crop each person from the image, optionally with the face blurred."""

from dataclasses import dataclass

import pyarrow as pa
from PIL import Image, ImageDraw, ImageFilter

from modeling_gadms.media.detection import crop_window
from modeling_gadms.media.images import load_image, to_jpeg

from ..blocks import Batch, Block, Outcome, rows_of
from .detect import stored_box
from .estimate_pose import KEYPOINTS, stored_pose
from .pose import HEAD


FACE_BLURRED, NO_FACE = "face blurred", "no face to blur"
_HEAD_OF_BODY = 1 / 7.5  # ratio of head height to body height, a rule of figure drawing


@dataclass(frozen=True)
class CropSettings:
    """How persons are cropped. The paper states none of it: chosen.

    Args:
        padding (`float`, *optional*, defaults to 0.05): margin on each side, as a share of the box's size.
        jpeg_quality (`int`, *optional*, defaults to 95): quality of the published image. Full colour resolution is
            kept, because captions name the colours of small things.
        blur_faces (`bool`, *optional*, defaults to `False`): blur the head if its keypoints are visible. Heads that
            the pose estimator misses, and those of other persons in the crop, stay sharp: this reduces the risk for
            the persons shown, but is not anonymisation.

    Raises:
        ValueError: for a value out of its range.
    """

    padding: float = 0.05
    jpeg_quality: int = 95
    blur_faces: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.padding <= 1:
            raise ValueError(f"`padding` is a share of the box and must lie between 0 and 1, not {self.padding}")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"`jpeg_quality` must lie between 1 and 100, not {self.jpeg_quality}")


class CropPersons(Block):
    """Adds the crop as JPEG and its path, and converts the keypoints to pixels of the crop.

    Keypoints are visible from `keypoint_score` on.
    """

    name = "crop"
    reads = ("row_id", "image_id", "image", "box", "confidence", "keypoints")
    adds = {"crop": pa.large_binary(), "image_path": pa.string(), "keypoints": KEYPOINTS}
    batch_size = 64

    def __init__(self, settings: CropSettings, keypoint_score: float):
        self.settings = settings
        self.keypoint_score = keypoint_score

    def __call__(self, batch: Batch) -> Outcome:
        columns: Batch = {name: [] for name in self.adds}
        notes: list[str | None] = []
        last_id, image = None, Image.new("RGB", (1, 1))
        for row_id, image_id, content, box, confidence, keypoints in rows_of(batch, self.reads):
            if image_id != last_id:  # rows of one image are consecutive
                last_id, image = image_id, load_image(content)
            left, top, right, bottom = crop_window(image.size, stored_box(box, confidence), self.settings.padding)
            crop = image.crop((left, top, right, bottom))
            moved = [[round(x - left, 2), round(y - top, 2), score] for x, y, score in keypoints]
            note = None
            if self.settings.blur_faces:
                face = _face(moved, box[3] - box[1], self.keypoint_score)
                crop, note = (_blur(crop, face), FACE_BLURRED) if face else (crop, NO_FACE)
            columns["crop"].append(to_jpeg(crop, self.settings.jpeg_quality, full_colour=True))
            columns["image_path"].append(f"images/{row_id[:2]}/{row_id}.jpg")
            columns["keypoints"].append(moved)
            notes.append(note)
        return Outcome(columns, notes=notes)


def _face(
    keypoints: list[list[float]], body_height: float, keypoint_score: float
) -> tuple[float, float, float, float] | None:
    """An upright ellipse (left, top, right, bottom) with a margin around the visible keypoints of the head."""
    visible = stored_pose(keypoints).visible(keypoint_score)
    points = [keypoints[index][:2] for index in HEAD if visible[index]]
    if not points:
        return None
    x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
    reach = max(max(abs(point[0] - x) for point in points), max(abs(point[1] - y) for point in points))
    radius = max(1.3 * reach, 0.6 * _HEAD_OF_BODY * body_height)
    return x - radius, y - 1.3 * radius, x + radius, y + 1.3 * radius


def _blur(image: Image.Image, face: tuple[float, float, float, float]) -> Image.Image:
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).ellipse(face, fill=255)
    # A standard deviation of a quarter of the ellipse's width makes eyes, nose and mouth indistinguishable.
    return Image.composite(image.filter(ImageFilter.GaussianBlur((face[2] - face[0]) / 4)), image, mask)
