"""Attributes of drawn products: kinds of garments with their details, and the sampling of products and views."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..persons.attributes import COLORS, near, pick


_CLOTH = {"plain": 6.0, "striped": 3.0, "checked": 2.0, "dotted": 2.0}
_PLAIN = {"plain": 1.0}
_COLORS = {
    "black": 9, "white": 7, "gray": 6, "red": 9, "blue": 8, "navy": 6, "green": 8, "light blue": 6, "yellow": 6,
    "pink": 6, "purple": 5, "orange": 5, "brown": 6, "beige": 6,
}  # fmt: skip
_LEATHER = {"black": 6, "brown": 6, "beige": 3, "red": 3, "navy": 2, "white": 2, "green": 2, "gray": 1}
_DENIM = {"blue": 6, "navy": 5, "black": 4, "light blue": 4, "gray": 2}


@dataclass(frozen=True)
class Kind:
    """Possible attributes of products of one kind.

    Args:
        patterns (`Mapping[str, float]`), colors (`Mapping[str, float]`): weights.
        details (`Mapping[str, Mapping[str, float]]`): for each detail of the kind, weights of its values.
        price (`float`): typical price in euro.
        materials (`tuple[str, ...]`): possible materials, which are not visible in images.
        sizes (`tuple[str, ...]`): possible sizes.
    """

    patterns: Mapping[str, float]
    colors: Mapping[str, float]
    details: Mapping[str, Mapping[str, float]]
    price: float
    materials: tuple[str, ...]
    sizes: tuple[str, ...] = ("XS", "S", "M", "L", "XL")


_ONE_SIZE = ("one size",)
_TROUSER_SIZES = ("28", "30", "32", "34", "36")
_SHOE_SIZES = ("37", "38", "39", "40", "41", "42", "43", "44")
_SLEEVES = {"short": 2.0, "long": 1.5}
_NECKS = {"round": 2.0, "v": 1.5}
_LENGTHS = {"short": 1.0, "long": 1.0}

KINDS: dict[str, Kind] = {
    "t-shirt": Kind(_CLOTH, _COLORS, {"sleeves": _SLEEVES, "neck": _NECKS, "pocket": {"none": 3, "chest": 1}},
                    19, ("cotton", "linen", "viscose")),
    "shirt": Kind(_CLOTH, _COLORS, {"sleeves": _SLEEVES, "pocket": {"none": 1, "chest": 1}},
                  39, ("cotton", "linen", "flannel")),
    "sweater": Kind({"plain": 5, "striped": 4, "dotted": 1}, _COLORS, {"neck": {**_NECKS, "turtle": 1.5}},
                    49, ("wool", "cotton", "cashmere")),
    "hoodie": Kind(_PLAIN, _COLORS, {"closure": {"none": 1, "zip": 1}}, 45, ("cotton", "fleece")),
    "jacket": Kind({"plain": 5, "checked": 1}, _COLORS,
                   {"closure": {"zip": 1, "buttons": 1}, "hood": {"none": 1.5, "hood": 1},
                    "pocket": {"none": 1, "patch": 1}}, 79, ("nylon", "denim", "leather", "wool")),
    "coat": Kind({"plain": 5, "checked": 1}, _COLORS,
                 {"length": _LENGTHS, "hood": {"none": 1.5, "hood": 1}, "belt": {"none": 1, "belt": 1}},
                 139, ("wool", "cashmere", "cotton")),
    "dress": Kind(_CLOTH, _COLORS,
                  {"sleeves": {**_SLEEVES, "none": 1.5}, "length": _LENGTHS, "belt": {"none": 1.5, "belt": 1}},
                  69, ("cotton", "viscose", "silk")),
    "skirt": Kind(_CLOTH, _COLORS, {"length": _LENGTHS, "cut": {"pleated": 1, "straight": 1}},
                  39, ("cotton", "wool", "viscose")),
    "trousers": Kind({"plain": 4, "checked": 1}, _COLORS, {"cut": {"slim": 1, "wide": 1}},
                     49, ("cotton", "wool", "linen"), _TROUSER_SIZES),
    "jeans": Kind(_PLAIN, _DENIM, {"cut": {"slim": 1, "wide": 1}}, 59, ("denim",), _TROUSER_SIZES),
    "shorts": Kind({"plain": 3, "checked": 1, "striped": 1}, _COLORS, {"pocket": {"none": 1, "patch": 1}},
                   29, ("cotton", "linen", "nylon"), _TROUSER_SIZES),
    "backpack": Kind({"plain": 3, "dotted": 1, "checked": 1}, _COLORS, {"pocket": {"none": 1, "front": 1}},
                     55, ("nylon", "canvas"), _ONE_SIZE),
    "handbag": Kind(_PLAIN, _LEATHER, {"closure": {"flap": 1, "zip": 1}}, 89, ("leather", "suede"), _ONE_SIZE),
    "tote bag": Kind(_CLOTH, _COLORS, {"length": _LENGTHS}, 19, ("canvas", "cotton"), _ONE_SIZE),
    "cap": Kind({"plain": 3, "checked": 1, "dotted": 1}, _COLORS, {}, 17, ("cotton", "wool"), _ONE_SIZE),
    "beanie": Kind({"plain": 2, "striped": 1}, _COLORS, {"trim": {"none": 1, "pompom": 1}},
                   15, ("wool", "acrylic"), _ONE_SIZE),
    "sun hat": Kind(_PLAIN, _COLORS, {"trim": {"none": 1, "ribbon": 2}}, 25, ("straw", "cotton"), _ONE_SIZE),
    "sneakers": Kind({"plain": 3, "checked": 0.7}, _COLORS, {"length": {"low": 1, "high": 1}},
                     65, ("canvas", "leather", "mesh"), _SHOE_SIZES),
    "boots": Kind(_PLAIN, _LEATHER, {"length": {"ankle": 1, "knee": 1}, "closure": {"laces": 1, "zip": 1}},
                  119, ("leather", "suede"), _SHOE_SIZES),
}  # fmt: skip
PLURAL = frozenset({"trousers", "jeans", "shorts", "sneakers", "boots"})
DETAILS: tuple[str, ...] = ("sleeves", "neck", "closure", "hood", "pocket", "length", "cut", "belt", "trim")

# Invented brands, and the factor of their prices.
_BRANDS = {
    "Alderby": 1.0, "Brackwater": 1.2, "Corvane": 0.8, "Dunmallow": 0.9, "Elsinby": 1.5, "Fennick & Row": 1.1,
    "Garrowdale": 0.7, "Hollinsk": 1.3,
}  # fmt: skip
_MODELS = ("Ash", "Birch", "Cedar", "Drift", "Ember", "Fjord", "Grove", "Heath", "Iris", "Juniper", "Kestrel", "Larch",
           "Moor", "Nettle", "Osier", "Pine", "Quill", "Rowan", "Sedge", "Thorn")  # fmt: skip
BACKDROPS: dict[str, float] = {"white": 5, "gray": 3, "tinted": 3, "paper": 2, "linen": 2, "wood": 1.5}


@dataclass(frozen=True)
class Product:
    """Attributes that are the same in every image of a product.

    Args:
        kind (`str`): one of `KINDS`.
        color (`str`), color2 (`str`): names of `COLORS`. The second is that of the pattern or the ribbon, or
            `"none"`.
        pattern (`str`): `"plain"`, `"striped"`, `"checked"` or `"dotted"`.
        details (`Mapping[str, str]`): a value for each of `DETAILS`, `"none"` if absent.
        brand (`str`), name (`str`), material (`str`): invented.
        price (`float`): in euro.
        sizes (`tuple[str, ...]`): sizes in stock, empty if sold out.
        style_seed (`int`): seed of the exact shades and proportions, which no caption mentions.
    """

    kind: str
    color: str
    pattern: str
    color2: str
    details: Mapping[str, str]
    brand: str
    name: str
    material: str
    price: float
    sizes: tuple[str, ...]
    style_seed: int = 0

    @property
    def title(self) -> str:
        """Brand, name and kind."""
        return f"{self.brand} {self.name} {self.kind}"

    def attributes(self) -> dict[str, str]:
        """Returns: the attributes that images show and captions mention, in the order of `ATTRIBUTE_NAMES`."""
        own = {"kind": self.kind, "color": self.color, "pattern": self.pattern, "color2": self.color2}
        return own | {name: self.details[name] for name in DETAILS}


ATTRIBUTE_NAMES: tuple[str, ...] = ("kind", "color", "pattern", "color2", *DETAILS)


@dataclass(frozen=True)
class Shot:
    """The view of a product in one image.

    Args:
        backdrop (`str`): one of `BACKDROPS`.
        tilt (`float`): degrees, counter-clockwise.
        size (`float`): size of the product relative to the image, about 1.
        shift (`tuple[float, float]`): shift of its centre, relative to the image's width and height.
        mirrored (`bool`): whether it is flipped horizontally.
        light (`float`): position of the light, from -0.8 (left) to 0.8 (right).
        exposure (`float`), warmth (`float`): settings of the camera.
    """

    backdrop: str
    tilt: float
    size: float
    shift: tuple[float, float]
    mirrored: bool
    light: float
    exposure: float
    warmth: float


def sample_product(rng: np.random.Generator) -> Product:
    """Sample one product."""
    name = pick(rng, dict.fromkeys(KINDS, 1.0))
    kind = KINDS[name]
    color, pattern = pick(rng, kind.colors), pick(rng, kind.patterns)
    details = dict.fromkeys(DETAILS, "none") | {key: pick(rng, values) for key, values in kind.details.items()}
    # Easily confused colours would give an invisible pattern and false captions.
    second = pick(rng, {other: weight for other, weight in _COLORS.items() if not near(other, color)})
    two_colored = pattern != "plain" or details["trim"] == "ribbon"
    brand, material = pick(rng, dict.fromkeys(_BRANDS, 1.0)), pick(rng, dict.fromkeys(kind.materials, 1.0))
    price = kind.price * _BRANDS[brand] * rng.uniform(0.75, 1.35)
    stocked = rng.random(len(kind.sizes)) < (0.0 if rng.random() < 0.12 else 0.75)
    return Product(
        kind=name,
        color=color,
        pattern=pattern,
        color2=second if two_colored else "none",
        details=details,
        brand=brand,
        name=pick(rng, dict.fromkeys(_MODELS, 1.0)),
        material=material,
        price=float(int(price)) + 0.95,
        sizes=tuple(size for size, there in zip(kind.sizes, stocked, strict=True) if there),
        style_seed=int(rng.integers(2**31)),
    )


def sample_shot(rng: np.random.Generator) -> Shot:
    """Sample a view: nearly straight, in even light."""
    return Shot(
        backdrop=pick(rng, BACKDROPS),
        tilt=float(np.clip(rng.normal(0.0, 3.5), -9.0, 9.0)),
        size=float(rng.uniform(0.84, 1.0)),
        shift=(float(rng.uniform(-0.03, 0.03)), float(rng.uniform(-0.025, 0.025))),
        mirrored=bool(rng.random() < 0.5),
        light=float(rng.uniform(-0.7, 0.7)),
        exposure=float(rng.uniform(0.90, 1.06)),
        warmth=float(rng.normal(0.0, 0.02)),
    )


def shade_of(color: str, rng: np.random.Generator) -> np.ndarray:
    """Sample a shade of a named colour.

    Returns:
        `np.ndarray` of shape `(3,)`, RGB in [0, 1].
    """
    base = np.asarray(COLORS[color], dtype=np.float32) / 255.0
    varied = base * np.float32(rng.uniform(0.93, 1.06)) + rng.normal(0.0, 0.012, 3).astype(np.float32)
    return np.clip(varied, 0.04, 0.97).astype(np.float32)
