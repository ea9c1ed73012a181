"""Pictures: the colours and garments that the words name can be seen in them."""

import colorsys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dataset_scripts.drawn.persons.attributes import COLORS, Person, View, sample_person, sample_view
from dataset_scripts.drawn.persons.drawing import Canvas
from dataset_scripts.drawn.persons.figure import draw_figure
from dataset_scripts.drawn.persons.scene import draw_image
from dataset_scripts.synthetic_persons import PersonSampler


SIZE = (192, 80)
PLAIN = Person(
    gender="man", hair_style="short", hair_color="brown", hat="none", hat_color="none", eyewear="none", neck="none",
    neck_color="none", upper="sweater", upper_color="red", upper_pattern="plain", upper_color2="none",
    inner_color="none", lower="trousers", lower_color="blue", lower_pattern="plain", shoes="sneakers",
    shoes_color="black", bag="none", bag_color="none", held="none", style_seed=11,
)  # fmt: skip
FRONT, BACK, SIDE = View(0.0, "standing"), View(np.pi, "standing"), View(np.pi / 2, "standing")


def drawn(person: Person, view: View = FRONT, size: tuple[int, int] = SIZE) -> np.ndarray:
    """The person without a background, as RGBA."""
    rng = np.random.default_rng(0)
    height, width = size
    zoom = 2 if height < 200 else 1
    scale = min(0.93 * height, width / 0.40) * zoom
    top = (height * zoom - scale) / 2
    canvas = Canvas(height * zoom, width * zoom, scale, width * zoom / 2, top, float(rng.uniform(-0.6, 0.6)))
    draw_figure(canvas, person, view, rng)
    return np.asarray(canvas.image().resize((width, height), Image.Resampling.BOX), dtype=np.float64)


def patch(picture: np.ndarray, top: float, bottom: float, half: float = 0.06) -> np.ndarray:
    """The mean colour of a box in the middle of the figure; heights as shares of the picture."""
    height, width = picture.shape[:2]
    box = picture[int(top * height) : int(bottom * height), int(width * (0.5 - half)) : int(width * (0.5 + half)), :3]
    return box.reshape(-1, 3).mean(axis=0)


def nearest_color(rgb: np.ndarray) -> str:
    """The named colour of nearest hue and saturation, whatever the light."""

    def place(color: np.ndarray) -> np.ndarray:
        hue, saturation, value = colorsys.rgb_to_hsv(*(np.asarray(color) / 255.0))
        chroma = saturation * value
        return np.array([chroma * np.cos(2 * np.pi * hue), chroma * np.sin(2 * np.pi * hue), 0.8 * value])

    return min(COLORS, key=lambda name: float(np.linalg.norm(place(np.array(COLORS[name])) - place(rgb))))


@pytest.mark.parametrize("color", sorted(COLORS))
@pytest.mark.parametrize("view", [FRONT, BACK, SIDE], ids=["front", "back", "side"])
def test_a_plain_garment_shows_its_colour(color, view):
    picture = drawn(replace(PLAIN, upper_color=color), view)
    assert nearest_color(patch(picture, 0.28, 0.46)) == color


@pytest.mark.parametrize("color", ["red", "white", "green", "navy", "yellow"])
def test_the_lower_garment_shows_its_colour(color):
    picture = drawn(replace(PLAIN, lower_color=color))
    height, width = picture.shape[:2]
    legs = picture[int(0.60 * height) : int(0.85 * height)]
    assert nearest_color(legs[legs[..., 3] > 250][:, :3].mean(axis=0)) == color


def test_the_background_of_a_lone_person_is_transparent():
    picture = drawn(PLAIN)
    assert picture.shape == (*SIZE, 4)
    assert picture[:, [0, -1], 3].max() == 0
    covered = (picture[..., 3] > 128).mean()
    assert 0.2 < covered < 0.6


def variation(picture: np.ndarray, axis: int) -> float:
    """How much the brightness of the chest changes from row to row (axis 0) or column to column (axis 1)."""
    height, width = picture.shape[:2]
    chest = picture[int(0.26 * height) : int(0.46 * height), int(0.42 * width) : int(0.58 * width), :3].mean(axis=2)
    return float(chest.mean(axis=1 - axis).std())


def test_stripes_run_the_way_their_name_says():
    shirt = replace(PLAIN, upper="shirt", upper_color="black", upper_color2="white")
    back = {name: drawn(replace(shirt, upper_pattern=name), BACK) for name in ("plain", "striped", "pinstriped")}
    assert variation(back["striped"], 0) > 5 * variation(back["plain"], 0)
    assert variation(back["striped"], 0) > 3 * variation(back["striped"], 1)
    assert variation(back["pinstriped"], 1) > 3 * variation(back["pinstriped"], 0)


def test_a_print_is_on_the_chest_and_not_on_the_back():
    printed = replace(PLAIN, upper="t-shirt", upper_color="black", upper_pattern="printed", upper_color2="white")
    plain = replace(printed, upper_pattern="plain", upper_color2="none")
    assert np.abs(drawn(printed) - drawn(plain)).max() > 100
    assert np.abs(drawn(printed, BACK) - drawn(plain, BACK)).max() == 0


def test_an_open_jacket_shows_the_inner_shirt_in_front_only():
    jacket = replace(PLAIN, upper="jacket", upper_color="blue", inner_color="white")
    assert nearest_color(patch(drawn(jacket), 0.30, 0.42, half=0.02)) == "white"
    assert nearest_color(patch(drawn(jacket, BACK), 0.28, 0.46)) == "blue"


@pytest.mark.parametrize(
    ("field", "value", "color_field"),
    [
        ("hat", "cap", "hat_color"), ("hat", "beanie", "hat_color"), ("hat", "brimmed hat", "hat_color"),
        ("bag", "backpack", "bag_color"), ("bag", "shoulder bag", "bag_color"), ("bag", "handbag", "bag_color"),
        ("bag", "tote", "bag_color"), ("bag", "suitcase", "bag_color"), ("neck", "scarf", "neck_color"),
        ("neck", "tie", "neck_color"), ("shoes", "boots", "shoes_color"), ("shoes", "sneakers", "shoes_color"),
        ("shoes", "sandals", "shoes_color"), ("shoes", "dress shoes", "shoes_color"),
    ],
)  # fmt: skip
def test_what_is_worn_or_carried_brings_its_colour_into_the_picture(field, value, color_field):
    bare = replace(PLAIN, upper="shirt", upper_color="white", lower_color="white", shoes_color="white")
    shown = drawn(replace(bare, **{field: value, color_field: "green"}))
    opaque = shown[..., 3] > 200
    greener = shown[..., 1] - np.maximum(shown[..., 0], shown[..., 2]) > 30
    assert (opaque & greener).sum() > 25
    other = drawn(bare)
    assert not ((other[..., 3] > 200) & (other[..., 1] - np.maximum(other[..., 0], other[..., 2]) > 30)).any()


@pytest.mark.parametrize("size", [(384, 128), (192, 64), (96, 32), (50, 21), (100, 25)])
def test_any_size_is_met_exactly(size):
    rng = np.random.default_rng(1)
    image = draw_image(sample_person(rng, rng, changes=0), sample_view(rng), size, rng)
    assert (image.mode, image.size) == ("RGB", (size[1], size[0]))
    assert np.asarray(image).std() > 10


@pytest.mark.parametrize("occluder", ["pole", "person", "hood", "plant"])
def test_an_occluder_covers_part_of_the_picture(occluder):
    clear = draw_image(PLAIN, FRONT, (96, 32), np.random.default_rng(2))
    covered = draw_image(PLAIN, replace(FRONT, occluder=occluder), (96, 32), np.random.default_rng(2))
    changed = (np.abs(np.asarray(clear, dtype=int) - np.asarray(covered, dtype=int)).max(axis=2) > 60).mean()
    assert 0.01 < changed < 0.5


def test_the_same_seed_draws_the_same_pixels_and_no_global_state_matters():
    sampler = PersonSampler(7, "train")
    np.random.seed(0)
    first = sampler.draw(3, 1, (96, 32))[0].tobytes()
    np.random.seed(1)
    sampler.draw(4, 0, (96, 32))
    assert sampler.draw(3, 1, (96, 32))[0].tobytes() == first
    assert PersonSampler(8, "train").draw(3, 1, (96, 32))[0].tobytes() != first
    assert PersonSampler(7, "test").draw(3, 1, (96, 32))[0].tobytes() != first
