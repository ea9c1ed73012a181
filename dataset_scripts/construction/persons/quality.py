"""Block `quality`: crops that are too blurred or too blank to describe, which the paper's filters let pass."""

import io
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pyarrow as pa
from PIL import Image

from ..blocks import Batch, Block, Outcome, Verdict, rows_of


HEIGHT = 256
"""Pixels to which a crop's height is brought to be measured: a blur that hides a collar hides it at any size."""


class QualityProblem(StrEnum):
    """Why a crop is dropped, in the order in which it is judged."""

    BLANK = "nearly blank"
    BLURRED = "blurred"


@dataclass(frozen=True)
class QualitySettings:
    """What is too blank or too blurred. The paper has neither filter: chosen.

    Args:
        min_contrast (`float`, *optional*, defaults to 10): least standard deviation of the grey values, of 255.
        min_sharpness (`float`, *optional*, defaults to 8): least variance of the Laplacian of the grey values at a
            height of 256 pixels. It falls with the contrast too: a sharp person in the dark may count as blurred.

    Judged by eye, by whether garments can be told, on 86 pedestrians of 50 to 100 pixels in a video and on 100 drawn
    persons. Contrast: the least are 35 and 21; darkened or faded to 10 a person can just be described, at 5 no longer.
    Sharpness: the least are 10.8 and 24, all of which can be described. A Gaussian blur with a deviation of 2.5 of 256
    pixels leaves 7 to 8: colours without any detail.

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
    """Adds contrast and sharpness, and rejects what falls short in one of them."""

    name = "quality"
    reads = ("crop",)
    adds = {"contrast": pa.float64(), "sharpness": pa.float64()}
    batch_size = 64

    def __init__(self, settings: QualitySettings):
        self.settings = settings

    def __call__(self, batch: Batch) -> Outcome:
        measured = [contrast_and_sharpness(Image.open(io.BytesIO(crop))) for (crop,) in rows_of(batch, self.reads)]
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

    Returns:
        `tuple[float, float]`: both to a tenth, so that the last bits of an average decide nothing.
    """
    width = max(3, round(image.width * HEIGHT / image.height))
    grey = np.asarray(image.convert("L").resize((width, HEIGHT), Image.Resampling.BICUBIC)).astype(np.float64)
    middle = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle
    return round(float(grey.std()), 1), round(float(laplacian.var()), 1)
