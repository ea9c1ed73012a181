"""Block `quality`: reject crops that are too blurred or too blank to describe. Not in the paper."""

import io
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pyarrow as pa
from PIL import Image

from ..blocks import Batch, Block, Outcome, Verdict


HEIGHT = 256
"""Height in pixels to which a crop is resized before measuring, so that the size of the crop does not matter."""


class QualityProblem(StrEnum):
    """Why a crop is rejected, in the order of the checks."""

    BLANK = "nearly blank"
    BLURRED = "blurred"


@dataclass(frozen=True)
class QualitySettings:
    """Thresholds of contrast and sharpness. The paper has neither filter: chosen.

    Args:
        min_contrast (`float`, *optional*, defaults to 10): minimum standard deviation of the grey values, of 255.
        min_sharpness (`float`, *optional*, defaults to 8): minimum variance of the Laplacian of the grey values at a
            height of 256 pixels. It decreases with the contrast: a sharp person in the dark may count as blurred.

    Chosen by inspecting 86 pedestrians of 50 to 100 pixels in a video and 100 drawn persons. Minimum contrast: 35 and
    21; garments are just recognisable after fading to 10, and not at 5. Minimum sharpness: 10.8 and 24, all
    recognisable; a Gaussian blur of 2.5 pixels at a height of 256 leaves 7 to 8, which shows colours without detail.

    Raises:
        ValueError: for a negative value.
    """

    min_contrast: float = 10
    min_sharpness: float = 8

    def __post_init__(self) -> None:
        for name in ("min_contrast", "min_sharpness"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must be 0 or more, not {getattr(self, name)}")


class MeasureQuality(Block):
    """Adds contrast and sharpness, and rejects crops below a threshold."""

    name = "quality"
    reads = ("crop",)
    adds = {"contrast": pa.float64(), "sharpness": pa.float64()}
    batch_size = 64

    def __init__(self, settings: QualitySettings):
        self.settings = settings

    def __call__(self, batch: Batch) -> Outcome:
        measured = [contrast_and_sharpness(Image.open(io.BytesIO(crop))) for crop in batch["crop"]]
        columns = {"contrast": [contrast for contrast, _ in measured], "sharpness": [sharp for _, sharp in measured]}
        return Outcome(columns, [self._judge(contrast, sharpness) for contrast, sharpness in measured])

    def _judge(self, contrast: float, sharpness: float) -> Verdict:
        if contrast < self.settings.min_contrast:
            return False, QualityProblem.BLANK, f"contrast {contrast:g}"
        if sharpness < self.settings.min_sharpness:
            return False, QualityProblem.BLURRED, f"sharpness {sharpness:g}"
        return True


def contrast_and_sharpness(image: Image.Image) -> tuple[float, float]:
    """Standard deviation, and variance of the Laplacian (four neighbours), of the grey values at height `HEIGHT`.

    Both are rounded to tenths, so that last bits do not affect a verdict.
    """
    width = max(3, round(image.width * HEIGHT / image.height))
    grey = np.asarray(image.convert("L").resize((width, HEIGHT), Image.Resampling.BICUBIC)).astype(np.float64)
    middle = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle
    return round(float(grey.std()), 1), round(float(laplacian.var()), 1)
