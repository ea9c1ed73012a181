"""Block `crop`: the crop, its keypoints and its face."""

import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dataset_scripts.construction.persons import crop
from dataset_scripts.construction.persons.crop import FACE_BLURRED, NO_FACE, CropPersons, CropSettings
from modeling_gadms.media.detection import PersonBox, crop_person, crop_window
from modeling_gadms.media.images import load_image


WIDTH, HEIGHT = 200, 300


def scene(seed: int = 0) -> Image.Image:
    """Smooth enough for JPEG to keep, different everywhere."""
    coarse = np.random.default_rng(seed).integers(0, 256, (HEIGHT // 10, WIDTH // 10, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def chequered(side: int = 2) -> Image.Image:
    """Detail at every place: squares in turns dark and light."""
    rows, columns = np.indices((HEIGHT, WIDTH)) // side
    grey = np.where((rows + columns) % 2, 200, 60).astype(np.uint8)
    return Image.fromarray(np.stack([grey] * 3, axis=-1))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def person(box, image: Image.Image | None = None, keypoints=None, row_id: str = "ab12-00", image_id: str = "ab12"):
    return {
        "row_id": row_id,
        "image_id": image_id,
        "image": png(image or scene()),
        "box": list(box),
        "confidence": 0.9,
        "keypoints": keypoints or [[0.0, 0.0, 0.0]] * 17,
    }


def cut(*persons: dict, keypoint_score: float = 0.3, **settings):
    block = CropPersons(CropSettings(**settings), keypoint_score)
    return block({name: [row[name] for row in persons] for name in block.reads})


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content))).astype(int)


def slice_of(image: Image.Image, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    return np.asarray(image)[top:bottom, left:right].astype(int)


@pytest.mark.parametrize(
    "box, window",
    [
        ((50, 60, 110, 260), (47, 50, 113, 270)),  # 5 % of 60 and of 200 on each side
        ((50.5, 60.5, 110.5, 260.5), (47, 50, 114, 271)),  # outwards to whole pixels
        ((1, 2, 61, 202), (0, 0, 64, 212)),  # clipped at the left and above
        ((150, 100, 199, 300), (147, 90, 200, 300)),  # and at the right and below
        ((0, 0, WIDTH, HEIGHT), (0, 0, WIDTH, HEIGHT)),
    ],
)
def test_a_crop_is_the_slice_of_the_image_around_the_box(box, window):
    (content,) = cut(person(box)).columns["crop"]
    expected = slice_of(scene(), *window)
    assert pixels(content).shape == expected.shape
    assert np.abs(pixels(content) - expected).max() < 12  # JPEG
    assert np.abs(pixels(content) - expected).mean() < 1.5


@pytest.mark.parametrize("padding, window", [(0, (50, 60, 110, 260)), (0.5, (20, 0, 140, 300))])
def test_padding_is_a_share_of_the_box(padding, window):
    (content,) = cut(person((50, 60, 110, 260)), padding=padding).columns["crop"]
    assert np.abs(pixels(content) - slice_of(scene(), *window)).mean() < 1.5


@given(
    st.tuples(*[st.integers(0, 1000)] * 2, *[st.integers(10, 1000)] * 2),
    st.sampled_from([0, 0.25, 0.5]),
    st.integers(1, 200),
)
def test_a_window_is_all_pixels_that_the_padded_box_touches(box, padding, side):
    # In eighths of pixels, so that all is exact.
    left, top, width, height = (value / 8 for value in box)
    found = crop_window((side, side), PersonBox(left, top, left + width, top + height, 1), padding)
    touched = [
        [place for place in range(side) if start - padding * size < place + 1 and place < start + (1 + padding) * size]
        for start, size in ((left, width), (top, height))
    ]
    if all(touched):
        assert found == (touched[0][0], touched[1][0], touched[0][-1] + 1, touched[1][-1] + 1)


def test_the_window_is_what_crop_person_cuts():
    box = PersonBox(10.2, 20.7, 60.1, 150.3, 0.9)
    assert crop_window((WIDTH, HEIGHT), box, 0.1) == (5, 7, 66, 164)
    left, top, right, bottom = crop_window((WIDTH, HEIGHT), box, 0.1)
    assert np.array_equal(np.asarray(crop_person(scene(), box, 0.1)), slice_of(scene(), left, top, right, bottom))


def test_keypoints_move_into_the_crop():
    keypoints = [[60.25 + n, 70.5, n / 20] for n in range(17)]
    (moved,) = cut(person((50, 60, 110, 260), keypoints=keypoints)).columns["keypoints"]
    assert moved == [[13.25 + n, 20.5, n / 20] for n in range(17)]


def test_the_path_is_made_of_the_row_id():
    assert cut(person((50, 60, 110, 260), row_id="cd34-07")).columns["image_path"] == ["images/cd/cd34-07.jpg"]


def test_a_crop_is_a_jpeg_of_the_chosen_quality_with_full_colour_resolution():
    contents = [cut(person((50, 60, 110, 260)), jpeg_quality=quality).columns["crop"][0] for quality in (60, 95)]
    assert len(contents[0]) < len(contents[1])
    with Image.open(io.BytesIO(contents[1])) as image:
        assert (image.format, image.mode, [layer[1:3] for layer in image.layer]) == ("JPEG", "RGB", [(1, 1)] * 3)


def test_persons_of_several_images_are_cut_from_their_own_and_each_image_is_decoded_once(monkeypatch):
    decoded = []
    monkeypatch.setattr(crop, "load_image", lambda content: decoded.append(content) or load_image(content))
    boxes = [(10, 10, 60, 160), (90, 50, 140, 200)]
    outcome = cut(
        *(
            person(box, scene(seed), image_id=f"image{seed}", row_id=f"{seed}-{number}")
            for seed in (1, 2)
            for number, box in enumerate(boxes)
        )
    )
    assert len(decoded) == 2
    for content, (seed, box) in zip(outcome.columns["crop"], [(s, b) for s in (1, 2) for b in boxes], strict=True):
        window = crop_window((WIDTH, HEIGHT), PersonBox(*box, 1))
        assert np.abs(pixels(content) - slice_of(scene(seed), *window)).mean() < 1.5


# ---------------------------------------------------------------------------------------------------------------------
# Faces.
# ---------------------------------------------------------------------------------------------------------------------
BOX = (40, 40, 160, 290)


def head(x: float = 100, y: float = 80, reach: float = 16, score: float = 0.9) -> list[list[float]]:
    points = [(x, y), (x - reach / 2, y), (x + reach / 2, y), (x - reach, y), (x + reach, y)]
    return [[*point, score] for point in points] + [[100.0, 200.0, 0.9]] * 12


def detail(content: bytes) -> np.ndarray:
    """How far each pixel of a crop is from the mean of the chequers."""
    return np.abs(pixels(content)[..., 0] - 130)


def around(shape: tuple[int, int], x: float, y: float) -> np.ndarray:
    rows, columns = np.indices(shape)
    return np.hypot(columns - x, rows - y)


def test_a_face_loses_its_detail_and_the_rest_stays_as_it_was():
    plain, blurred = (
        cut(person(BOX, chequered(), head()), blur_faces=choice).columns["crop"][0] for choice in (False, True)
    )
    left, top, *_ = crop_window((WIDTH, HEIGHT), PersonBox(*BOX, 1))
    distance = around(pixels(plain).shape[:2], 100 - left, 80 - top)
    # The ears are 16 pixels from the nose: all within 1.3 times that is hidden, and nothing beyond 1.3 times more.
    assert detail(plain)[distance < 19].mean() > 60
    assert detail(blurred)[distance < 19].max() < 20
    assert detail(blurred)[distance > 40].mean() > 60
    assert np.abs(pixels(plain) - pixels(blurred))[distance > 16 * 1.3 * 1.3 + 9].max() <= 2
    rows = np.flatnonzero(detail(blurred)[:, round(100 - left)] < 20)
    columns = np.flatnonzero(detail(blurred)[round(80 - top)] < 20)
    assert np.ptp(rows) > np.ptp(columns)  # heads are higher than wide


def test_coarse_features_of_a_near_face_are_hidden_from_ear_to_ear():
    (content,) = cut(person(BOX, chequered(16), head(reach=30)), blur_faces=True).columns["crop"]
    left, top, *_ = crop_window((WIDTH, HEIGHT), PersonBox(*BOX, 1))
    assert detail(content)[around(pixels(content).shape[:2], 100 - left, 80 - top) < 34].max() < 20


def test_a_blur_is_noted_and_so_is_a_head_that_is_not_visible():
    rows = [person(BOX, chequered(), head(score=score)) for score in (0.3, 0.29, 0.0)]
    assert cut(*rows, blur_faces=True).notes == [FACE_BLURRED, NO_FACE, NO_FACE]
    assert cut(*rows, blur_faces=True, keypoint_score=0).notes == [FACE_BLURRED, FACE_BLURRED, NO_FACE]
    assert cut(*rows).notes == [None] * 3


def test_without_a_visible_head_nothing_is_blurred():
    hidden = person(BOX, chequered(), head(score=0.1))
    assert cut(hidden, blur_faces=True).columns["crop"] == cut(hidden).columns["crop"]


def test_a_single_point_of_the_head_hides_a_head_of_usual_size():
    keypoints = head(score=0.0)
    keypoints[0] = [100.0, 80.0, 0.9]
    (content,) = cut(person(BOX, chequered(), keypoints), blur_faces=True).columns["crop"]
    left, top, *_ = crop_window((WIDTH, HEIGHT), PersonBox(*BOX, 1))
    distance = around(pixels(content).shape[:2], 100 - left, 80 - top)
    usual = 250 / 7.5  # height of the head of a person of 250 pixels
    assert detail(content)[distance < usual / 2].max() < 30
    assert detail(content)[distance > usual].mean() > 60


@pytest.mark.parametrize("x, y", [(40, 40), (0, 0), (160, 45), (100, -500)])
def test_a_head_at_or_beyond_the_border_does_not_break_the_crop(x, y):
    outcome = cut(person(BOX, chequered(), head(x, y)), blur_faces=True)
    assert outcome.notes == [FACE_BLURRED]
    assert pixels(outcome.columns["crop"][0]).shape == pixels(cut(person(BOX)).columns["crop"][0]).shape


@pytest.mark.parametrize(
    "settings",
    [{"padding": -0.01}, {"padding": 1.01}, {"padding": math.nan}, {"jpeg_quality": 0}, {"jpeg_quality": 101}],
)
def test_a_setting_out_of_its_range_is_named(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"`{name}`"):
        CropSettings(**settings)
