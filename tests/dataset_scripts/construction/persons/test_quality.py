"""Block `quality`: contrast and sharpness against OpenCV, and the limits."""

import io
import math

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFilter

from dataset_scripts.construction.persons.quality import (
    MeasureQuality,
    QualityProblem,
    QualitySettings,
    contrast_and_sharpness,
)
from dataset_scripts.synthetic_persons import load_synthetic_persons


def noise(width: int = 90, height: int = 256, spread: int = 255) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, spread + 1, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def stripes(width: int = 90, height: int = 256, period: int = 16) -> Image.Image:
    grey = np.where(np.arange(height) // (period // 2) % 2, 200, 50).astype(np.uint8)
    return Image.fromarray(np.repeat(np.repeat(grey[:, None, None], width, 1), 3, 2))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def persons(tmp_path_factory) -> list[Image.Image]:
    drawn = load_synthetic_persons(
        num_train_persons=20, num_validation_persons=1, num_test_persons=1, train_images_per_person=1,
        image_size=(192, 64), cache_dir=str(tmp_path_factory.mktemp("persons")),
    )  # fmt: skip
    return [image.convert("RGB") for image in drawn["train"]["image"]]


@pytest.mark.parametrize("image", [noise(), stripes(), noise(spread=30)])
def test_sharpness_is_the_variance_of_the_laplacian_of_opencv(image):
    grey = np.asarray(image.convert("L"))  # as high as it is measured
    laplacian = cv2.Laplacian(grey, cv2.CV_64F)[1:-1, 1:-1]
    contrast, sharpness = contrast_and_sharpness(image)
    assert sharpness == pytest.approx(laplacian.var(), abs=0.051)
    assert contrast == pytest.approx(grey.std(), abs=0.051)


def test_another_size_is_measured_at_a_height_of_256(persons):
    for person in persons[:5]:
        resized = person.convert("L").resize((85, 256), Image.Resampling.BICUBIC)
        laplacian = cv2.Laplacian(np.asarray(resized), cv2.CV_64F)[1:-1, 1:-1]
        assert contrast_and_sharpness(person)[1] == pytest.approx(laplacian.var(), abs=0.051)


def test_the_size_of_a_picture_matters_little():
    smooth = stripes(180, 512, 64).filter(ImageFilter.GaussianBlur(4))
    small = smooth.resize((90, 256), Image.Resampling.BICUBIC)
    assert contrast_and_sharpness(smooth)[1] == pytest.approx(contrast_and_sharpness(small)[1], rel=0.1)


def test_a_flat_picture_has_neither_contrast_nor_sharpness():
    assert contrast_and_sharpness(Image.new("RGB", (90, 200), (120, 60, 30))) == (0, 0)


def test_a_picture_that_is_one_pixel_wide_is_measured():
    assert contrast_and_sharpness(noise(1, 400))[0] > 0


def test_sharpness_falls_with_every_blur(persons):
    for person in [noise(), stripes(), *persons]:
        blurred = [
            contrast_and_sharpness(person.filter(ImageFilter.GaussianBlur(deviation)))[1]
            for deviation in (0, 0.5, 1, 1.5, 2, 3)
        ]
        assert blurred == sorted(blurred, reverse=True)
        assert blurred[-1] < blurred[0] / 5


def verdicts(*images: Image.Image, **settings) -> list:
    return list(MeasureQuality(QualitySettings(**settings))({"crop": [png(image) for image in images]}).verdicts)


def test_drawn_persons_pass_and_blurred_and_blank_ones_do_not(persons):
    def blurred(person: Image.Image) -> Image.Image:
        return person.resize((85, 256), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(4))

    assert verdicts(*persons) == [True] * 20
    assert {verdict[1] for verdict in verdicts(*map(blurred, persons))} == {QualityProblem.BLURRED}
    faded = [person.point(lambda value: 150 + value // 12) for person in persons]
    assert {verdict[1] for verdict in verdicts(*faded)} == {QualityProblem.BLANK}


def test_the_limits_belong_to_what_is_kept():
    contrast, sharpness = contrast_and_sharpness(stripes())
    assert verdicts(stripes(), min_contrast=contrast, min_sharpness=sharpness) == [True]
    assert verdicts(stripes(), min_contrast=contrast + 0.1) == [(False, "nearly blank", f"contrast {contrast:g}")]
    assert verdicts(stripes(), min_sharpness=sharpness + 0.1) == [(False, "blurred", f"sharpness {sharpness:g}")]


def test_the_defaults_are_as_they_were_measured():
    assert (QualitySettings().min_contrast, QualitySettings().min_sharpness) == (10, 8)


def test_blank_comes_before_blurred():
    assert verdicts(Image.new("RGB", (90, 200)))[0][1] == QualityProblem.BLANK
    assert [problem.value for problem in QualityProblem] == ["nearly blank", "blurred"]


def test_what_is_measured_is_added_for_rejected_rows_too():
    columns = MeasureQuality(QualitySettings())({"crop": [png(stripes()), png(Image.new("RGB", (90, 200)))]}).columns
    contrast, sharpness = contrast_and_sharpness(stripes())
    assert columns == {"contrast": [contrast, 0], "sharpness": [sharpness, 0]}


@pytest.mark.parametrize("name", ["min_contrast", "min_sharpness"])
def test_a_negative_limit_is_named(name):
    for value in (-0.1, math.nan):
        with pytest.raises(ValueError, match=f"`{name}`"):
            QualitySettings(**{name: value})
