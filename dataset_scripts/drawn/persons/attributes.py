"""Attributes of drawn persons: colours, clothes and accessories, and the sampling of identities and views.

Identities come in families of `FAMILY_SIZE`. Members of a family wear the same outfit with two to four changes. A
gallery therefore contains persons who are hard to distinguish.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np


Color = tuple[int, int, int]

COLORS: dict[str, Color] = {
    "black": (30, 30, 33),
    "white": (238, 238, 234),
    "gray": (132, 134, 137),
    "red": (200, 32, 40),
    "orange": (238, 126, 26),
    "yellow": (240, 208, 48),
    "green": (36, 138, 62),
    "blue": (34, 92, 200),
    "navy": (24, 34, 84),
    "light blue": (142, 192, 232),
    "purple": (118, 52, 156),
    "pink": (240, 138, 176),
    "brown": (112, 70, 40),
    "beige": (214, 192, 150),
}
HAIR_COLORS: dict[str, Color] = {
    "black": (26, 23, 24),
    "brown": (88, 54, 32),
    "blond": (222, 184, 108),
    "red": (164, 70, 30),
    "gray": (164, 164, 166),
}
SKIN_TONES: tuple[Color, ...] = (
    (246, 212, 186), (232, 188, 156), (214, 164, 128), (180, 128, 92), (134, 90, 62), (94, 62, 44),
)  # fmt: skip
# Pairs that cameras can confuse. As caption noise, such a colour would be nearly right.
NEAR_COLORS = (
    {"navy", "blue"}, {"navy", "black"}, {"blue", "light blue"}, {"blue", "purple"}, {"beige", "white"},
    {"beige", "brown"}, {"orange", "yellow"}, {"orange", "red"}, {"gray", "black"}, {"gray", "white"}, {"pink", "red"},
    {"pink", "purple"},
)  # fmt: skip

PATTERNS_OF: dict[str, dict[str, float]] = {
    "t-shirt": {"plain": 10, "striped": 4, "two-tone": 2, "printed": 4, "dotted": 1, "checked": 0.5},
    "shirt": {"plain": 8, "pinstriped": 3, "checked": 5, "dotted": 1.5},
    "hoodie": {"plain": 9, "printed": 3, "two-tone": 3},
    "sweater": {"plain": 7, "striped": 5, "two-tone": 2},
    "jacket": {"plain": 10, "two-tone": 3, "checked": 2},
    "coat": {"plain": 10, "checked": 2},
    "vest": {"plain": 1},
    "tank top": {"plain": 7, "striped": 3, "printed": 2},
    "dress": {"plain": 6, "dotted": 3, "striped": 2, "checked": 2},
}
OPEN_UPPERS = frozenset({"jacket", "vest"})  # worn open over an inner t-shirt of its own colour
HAND_BAGS = frozenset({"handbag", "tote", "suitcase"})
LOWER_PATTERNS_OF: dict[str, dict[str, float]] = {
    "trousers": {"plain": 9, "checked": 1},
    "shorts": {"plain": 8, "checked": 2},
    "skirt": {"plain": 7, "checked": 2, "dotted": 1.5, "striped": 1},
}

_UPPERS: dict[str, dict[str, float]] = {
    "man": {"t-shirt": 6, "shirt": 5, "hoodie": 4, "sweater": 3, "jacket": 6, "coat": 3, "vest": 1.5, "tank top": 1.5},
    "woman": {"t-shirt": 5, "shirt": 4, "hoodie": 3, "sweater": 3, "jacket": 4, "coat": 4, "vest": 1, "tank top": 3,
              "dress": 5},
}  # fmt: skip
_LOWERS: dict[str, dict[str, float]] = {
    "man": {"trousers": 6, "jeans": 6, "joggers": 3.5, "shorts": 4, "wide trousers": 1.5},
    "woman": {"trousers": 3.5, "jeans": 5, "leggings": 4, "skirt": 5, "shorts": 3, "wide trousers": 2.5},
}
_HAIR_STYLES: dict[str, dict[str, float]] = {
    "man": {"short": 14, "bald": 2, "long": 1.5, "ponytail": 0.8},
    "woman": {"long": 9, "ponytail": 5, "bun": 3, "short": 3.5},
}
_SHOES: dict[str, dict[str, float]] = {
    "man": {"sneakers": 10, "boots": 4, "dress shoes": 4, "sandals": 2},
    "woman": {"sneakers": 9, "boots": 5, "sandals": 4, "dress shoes": 2},
}
_BAGS: dict[str, dict[str, float]] = {
    "man": {"none": 8, "backpack": 7, "shoulder bag": 4, "tote": 2, "suitcase": 2},
    "woman": {"none": 6, "backpack": 4, "shoulder bag": 5, "handbag": 5, "tote": 3, "suitcase": 2},
}
_HAIR_COLORS = {"black": 9, "brown": 8, "blond": 5, "red": 2, "gray": 2.5}
_HATS = {"none": 15, "cap": 4, "beanie": 3, "brimmed hat": 2}
_EYEWEAR = {"none": 15, "glasses": 4, "sunglasses": 3}
_HELD = {"none": 16, "phone": 2.5, "umbrella": 2, "bottle": 2, "cup": 1.5}
_UPPER_COLORS = {
    "black": 12, "white": 10, "gray": 8, "red": 9, "blue": 8, "navy": 6, "green": 8, "light blue": 6, "yellow": 6,
    "pink": 6, "purple": 5, "orange": 6, "brown": 5, "beige": 6,
}  # fmt: skip
_LOWER_COLORS = {
    "black": 14, "navy": 7, "gray": 9, "beige": 7, "brown": 5, "white": 5, "blue": 5, "green": 4, "red": 3, "pink": 2,
    "purple": 2, "light blue": 3, "orange": 1, "yellow": 1,
}  # fmt: skip
_JEANS_COLORS = {"blue": 6, "navy": 5, "black": 5, "light blue": 4, "gray": 2}
_SHOE_COLORS = {"black": 10, "white": 9, "brown": 5, "gray": 4, "red": 3, "blue": 2, "beige": 2, "pink": 1, "green": 1}
_ACCESSORY_COLORS = {
    "black": 9, "brown": 6, "red": 5, "blue": 4, "gray": 3, "green": 3, "white": 3, "pink": 3, "yellow": 3,
    "orange": 2, "purple": 2, "beige": 2, "navy": 2,
}  # fmt: skip

FAMILY_SIZE = 2


@dataclass(frozen=True)
class Person:
    """Attributes that are the same in every image of an identity. Absent parts are `"none"`."""

    gender: str
    hair_style: str
    hair_color: str
    hat: str
    hat_color: str
    eyewear: str
    neck: str
    neck_color: str
    upper: str
    upper_color: str
    upper_pattern: str
    upper_color2: str
    inner_color: str
    lower: str
    lower_color: str
    lower_pattern: str
    shoes: str
    shoes_color: str
    bag: str
    bag_color: str
    held: str
    style_seed: int = 0  # for build, skin and the exact shades, which no caption mentions

    def attributes(self) -> dict[str, str]:
        """Returns: the ground truth as strings, in the order of `ATTRIBUTE_NAMES`."""
        return {name: value for name, value in asdict(self).items() if name != "style_seed"}


ATTRIBUTE_NAMES: tuple[str, ...] = tuple(name for name in Person.__dataclass_fields__ if name != "style_seed")


@dataclass(frozen=True)
class View:
    """The view of a person in one image.

    Args:
        yaw (`float`): radians; 0 faces the camera, pi/2 faces the right edge of the image, pi shows the back.
        pose (`str`): `"walking"` or `"standing"`.
        phase (`float`): phase of the step of a walking person, in `[-1, 1]`.
        occluder (`str`): `"none"`, or an object in front: `"pole"`, `"person"`, `"hood"` (of a car), `"plant"`.
    """

    yaw: float
    pose: str
    phase: float = 0.5
    occluder: str = "none"

    @property
    def side(self) -> str:
        """Returns: `"front"`, `"back"`, `"left"` or `"right"`: the direction that the person faces in the image."""
        forward, toward = np.sin(self.yaw), np.cos(self.yaw)
        if abs(forward) > 0.77:
            return "right" if forward > 0 else "left"
        return "front" if toward > 0 else "back"

    @property
    def hides_feet(self) -> bool:
        return self.occluder in ("hood", "plant")


def near(first: str, second: str) -> bool:
    """Returns: whether two colours are equal or easily confused."""
    return first == second or {first, second} in NEAR_COLORS


def pick(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    """Returns: one key of `weights`, drawn in proportion to its weight with exactly one uniform number."""
    mark = rng.random() * sum(weights.values())
    for name, weight in weights.items():
        mark -= weight
        if mark < 0:
            return name
    return name


def _far(weights: Mapping[str, float], *others: str) -> dict[str, float]:
    return {name: weight for name, weight in weights.items() if not any(near(name, other) for other in others)}


def _with_upper(person: Person, rng: np.random.Generator) -> Person:
    upper = pick(rng, _UPPERS[person.gender])
    color = pick(rng, _UPPER_COLORS)
    return _with_upper_pattern(replace(person, upper=upper, upper_color=color), rng)


def _with_upper_pattern(person: Person, rng: np.random.Generator) -> Person:
    pattern = pick(rng, PATTERNS_OF[person.upper])
    second, inner = pick(rng, _far(_UPPER_COLORS, person.upper_color)), "none"
    if person.upper in OPEN_UPPERS:
        inner = pick(rng, _far(_UPPER_COLORS, person.upper_color, second))
    second = "none" if pattern == "plain" else second
    return replace(person, upper_pattern=pattern, upper_color2=second, inner_color=inner)


def _with_lower(person: Person, rng: np.random.Generator) -> Person:
    # A long coat would hide a skirt or shorts.
    hidden = {"skirt", "shorts"} if person.upper == "coat" else set()
    lower = pick(rng, {name: weight for name, weight in _LOWERS[person.gender].items() if name not in hidden})
    color = pick(rng, _JEANS_COLORS if lower == "jeans" else _LOWER_COLORS)
    pattern = pick(rng, LOWER_PATTERNS_OF.get(lower, {"plain": 1.0}))
    if person.upper == "dress":
        return replace(person, lower="none", lower_color="none", lower_pattern="none")
    return replace(person, lower=lower, lower_color=color, lower_pattern=pattern)


def _with_shoes(person: Person, rng: np.random.Generator) -> Person:
    shoes, color = pick(rng, _SHOES[person.gender]), pick(rng, _SHOE_COLORS)
    if shoes == "dress shoes":
        color = pick(rng, {"black": 3, "brown": 3, "red": 0.5})
    return replace(person, shoes=shoes, shoes_color=color)


def _with_bag(person: Person, rng: np.random.Generator) -> Person:
    bag, color = pick(rng, _BAGS[person.gender]), pick(rng, _far(_ACCESSORY_COLORS, person.upper_color))
    return replace(person, bag=bag, bag_color="none" if bag == "none" else color)


def _with_head(person: Person, rng: np.random.Generator) -> Person:
    style, color = pick(rng, _HAIR_STYLES[person.gender]), pick(rng, _HAIR_COLORS)
    person = replace(person, hair_style=style, hair_color="none" if style == "bald" else color)
    hat, color = pick(rng, _HATS), pick(rng, _ACCESSORY_COLORS)
    return replace(person, hat=hat, hat_color="none" if hat == "none" else color)


def _with_extras(person: Person, rng: np.random.Generator) -> Person:
    eyewear, held = pick(rng, _EYEWEAR), pick(rng, _HELD)
    neck = pick(rng, {"none": 17, "scarf": 3.5})
    if person.upper == "shirt" and rng.random() < 0.25:
        neck = "tie"
    color = pick(rng, _far(_ACCESSORY_COLORS, person.upper_color, person.upper_color2))
    return replace(person, eyewear=eyewear, held=held, neck=neck, neck_color="none" if neck == "none" else color)


def _recolored(person: Person, rng: np.random.Generator) -> Person:
    color = pick(rng, _far(_UPPER_COLORS, person.upper_color, person.upper_color2, person.inner_color))
    return replace(person, upper_color=color)


_CHANGES = (_recolored, _with_lower, _with_shoes, _with_bag, _with_head, _with_extras, _with_upper_pattern)
_NOTHING: dict[str, Any] = dict.fromkeys(ATTRIBUTE_NAMES, "none")
_NOBODY = Person(**_NOTHING)


def _with_visible_accessories(person: Person) -> Person:
    """Recolour accessories that would be invisible against a recoloured garment."""
    spare = "red" if person.upper_color in ("black", "navy", "gray") else "black"
    colors = {"bag_color": person.bag_color, "neck_color": person.neck_color}
    hidden = [part for part, color in colors.items() if color != "none" and near(color, person.upper_color)]
    changes: dict[str, Any] = dict.fromkeys(hidden, spare)
    return replace(person, **changes)


def sample_person(family_rng: np.random.Generator, rng: np.random.Generator, *, changes: int) -> Person:
    """Sample one identity: the outfit of its family, of which `rng` draws some parts again."""
    person = replace(_NOBODY, gender="woman" if family_rng.random() < 0.5 else "man")
    for change in (_with_upper, _with_lower, _with_shoes, _with_bag, _with_head, _with_extras):
        person = change(person, family_rng)
    for index in rng.permutation(len(_CHANGES))[:changes]:
        person = _CHANGES[index](person, rng)
    return replace(_with_visible_accessories(person), style_seed=int(rng.integers(2**31)))


def sample_view(rng: np.random.Generator) -> View:
    """Sample a view: 38 % from the front, 34 % from behind, the rest from a side."""
    centre = pick(rng, {"0": 38, "180": 34, "90": 14, "270": 14})
    spread = 32.0 if centre in ("0", "180") else 24.0
    yaw = np.deg2rad(float(centre) + rng.uniform(-spread, spread))
    pose = pick(rng, {"walking": 6, "standing": 4})
    phase = float(rng.uniform(0.45, 1.0) * rng.choice([-1, 1]))
    occluder = pick(rng, {"none": 74, "pole": 7, "person": 7, "hood": 6, "plant": 6})
    return View(yaw=float(yaw), pose=pose, phase=phase, occluder=occluder)
