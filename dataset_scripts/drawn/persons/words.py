"""Words for the attributes of a person, and the wrong words that caption noise can replace them with.

A wrong phrase always has as many words as the right one and the same grammatical number. A noisy caption and its clean
original therefore have the same length and agree at all other positions.
"""

from collections.abc import Sequence

from .attributes import NEAR_COLORS, Person, near


FORMS: dict[str, dict[str, tuple[str, ...]]] = {
    "color": {
        "black": ("black", "jet black"),
        "white": ("white", "pure white"),
        "gray": ("gray", "grey", "ash gray"),
        "red": ("red", "crimson", "scarlet", "bright red"),
        "orange": ("orange", "tangerine", "bright orange"),
        "yellow": ("yellow", "bright yellow", "lemon yellow"),
        "green": ("green", "emerald", "forest green"),
        "blue": ("blue", "cobalt", "royal blue"),
        "navy": ("navy", "dark blue", "navy blue"),
        "light blue": ("light blue", "sky blue", "pale blue"),
        "purple": ("purple", "violet", "deep purple"),
        "pink": ("pink", "rose", "light pink"),
        "brown": ("brown", "chocolate", "chestnut brown"),
        "beige": ("beige", "tan", "cream", "khaki"),
    },
    "hair_color": {
        "black": ("black", "jet-black", "raven"),
        "brown": ("brown", "chestnut", "brunette"),
        "blond": ("blond", "golden", "fair"),
        "red": ("red", "ginger", "copper"),
        "gray": ("gray", "grey", "silver"),
    },
    "hair_length": {"short": ("short", "cropped"), "long": ("long", "shoulder-length")},
    "hair_knot": {"ponytail": ("ponytail",), "bun": ("bun",)},
    "haired": {"bald": ("bald",), "short": ("short-haired",), "long": ("long-haired",)},
    "pattern": {
        "plain": ("plain", "solid"),
        "striped": ("striped",),
        "pinstriped": ("pinstriped",),
        "checked": ("checked", "plaid", "checkered"),
        "dotted": ("dotted", "spotted", "polka-dot"),
        "two-tone": ("two-tone", "color-block"),
        "printed": ("printed", "graphic"),
    },
    "upper": {
        "t-shirt": ("t-shirt", "tee", "crew-neck t-shirt"),
        "shirt": ("shirt", "button-up shirt"),
        "hoodie": ("hoodie", "hooded sweatshirt"),
        "sweater": ("sweater", "pullover", "knit sweater"),
        "jacket": ("jacket", "open jacket"),
        "coat": ("coat", "overcoat", "long coat"),
        "vest": ("vest", "gilet", "puffer vest"),
        "tank top": ("tank top", "sleeveless top"),
        "dress": ("dress", "flared dress"),
    },
    "inner": {"t-shirt": ("t-shirt", "tee")},
    "lower": {
        "trousers": ("trousers", "pants", "slacks"),
        "jeans": ("jeans", "denims", "denim jeans"),
        "joggers": ("joggers", "sweatpants", "track pants"),
        "leggings": ("leggings", "tights"),
        "shorts": ("shorts", "bermuda shorts"),
        "wide trousers": ("wide-leg trousers", "baggy pants", "flared trousers"),
        "skirt": ("skirt",),
    },
    "shoes": {
        "sneakers": ("sneakers", "trainers", "running shoes"),
        "boots": ("boots", "high boots"),
        "sandals": ("sandals", "open sandals"),
        "dress shoes": ("loafers", "dress shoes"),
    },
    "bag": {
        "backpack": ("backpack", "rucksack", "hiking backpack"),
        "shoulder bag": ("shoulder bag", "crossbody bag", "messenger bag"),
        "handbag": ("handbag", "purse", "leather handbag"),
        "tote": ("tote", "tote bag", "shopping bag"),
        "suitcase": ("suitcase", "trolley", "rolling suitcase"),
    },
    "hat": {
        "cap": ("cap", "baseball cap"),
        "beanie": ("beanie", "wool beanie"),
        "brimmed hat": ("sunhat", "brimmed hat"),
    },
    "eyewear": {"glasses": ("glasses", "spectacles"), "sunglasses": ("sunglasses", "shades")},
    "neck": {"scarf": ("scarf",), "tie": ("tie", "necktie")},
    "held": {
        "phone": ("phone", "smartphone", "mobile phone"),
        "umbrella": ("umbrella", "folded umbrella"),
        "bottle": ("bottle", "water bottle"),
        "cup": ("cup", "coffee cup"),
    },
}
PLURAL = frozenset(
    {"trousers", "jeans", "joggers", "leggings", "shorts", "wide trousers", "sneakers", "boots", "sandals",
     "dress shoes", "glasses", "sunglasses"}
)  # fmt: skip
# (pose, side) -> phrases. None mentions left or right, because training flips images.
POSES: dict[tuple[str, str], tuple[str, ...]] = {
    ("walking", "front"): ("walking towards the camera", "walking forward", "coming towards the viewer"),
    ("walking", "back"): ("walking away from the camera", "walking away", "seen walking from behind"),
    ("walking", "side"): ("walking side-on", "walking across the view", "seen walking in profile"),
    ("standing", "front"): ("standing and facing the camera", "standing still", "facing the viewer"),
    ("standing", "back"): ("standing with the back to the camera", "seen from behind", "facing away"),
    ("standing", "side"): ("standing side-on", "standing in profile", "seen from the side"),
}
# Pairs that a reader could confuse.
_NEAR_KINDS: dict[str, Sequence[set[str]]] = {
    "color": NEAR_COLORS,
    "hair_color": ({"black", "brown"}, {"brown", "red"}, {"blond", "gray"}),
    "pattern": ({"striped", "pinstriped"},),
    "upper": (
        {"t-shirt", "shirt"}, {"t-shirt", "tank top"}, {"sweater", "hoodie"}, {"sweater", "t-shirt"},
        {"sweater", "shirt"}, {"jacket", "coat"}, {"jacket", "vest"}, {"vest", "tank top"}, {"jacket", "hoodie"},
    ),
    "lower": (
        {"trousers", "jeans"}, {"trousers", "joggers"}, {"trousers", "wide trousers"}, {"joggers", "wide trousers"},
    ),
    "bag": ({"handbag", "tote"}, {"handbag", "shoulder bag"}, {"tote", "shoulder bag"}),
}  # fmt: skip


def group_of(field: str) -> str:
    """Returns: the group of `FORMS` for a field of `Person`."""
    if field.endswith("_color2") or (field.endswith("_color") and field != "hair_color"):
        return "color"
    return "pattern" if field.endswith("_pattern") else field


def wrong_words(
    person: Person, field: str, value: str, words: str, *, taken: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """List the wrong phrases that can replace `words`, which state the true `value` of a field of `Person`.

    Returns:
        `list` of `(value, words)`: false for this person, without any word of the true value's names, and with as many
        words and the same grammatical number as `words`. None has a value in `taken`.
    """
    group = group_of(field)
    pool = dict(FORMS["upper" if group == "inner" else group])
    if group == "lower" and person.gender == "woman":
        pool["dress"] = FORMS["upper"]["dress"]
    elif group == "lower":
        pool["coat"] = FORMS["upper"]["coat"]
    true_words = {word for form in FORMS[group][value] for word in form.split()}
    near_kinds = _NEAR_KINDS.get("upper" if group == "inner" else group, ())
    forbidden = {value, *taken}
    if group == "upper":
        forbidden |= {"dress"} if person.gender == "man" else set()
        # With a t-shirt under an open jacket, both words would be half true.
        forbidden |= {"t-shirt", "shirt"} if person.inner_color != "none" else set()
    elif group == "inner":
        forbidden |= {person.upper, "dress", "coat", "jacket", "vest"}
    elif field.startswith("upper_color"):
        forbidden |= {person.upper_color, person.upper_color2} - {"none"}
    elif group == "haired" and value == "bald":
        forbidden |= {"short"}
    elif group == "haired":
        forbidden |= {"bald"}
    return [
        (other, form)
        for other, forms in pool.items()
        if other not in forbidden
        and {other, value} not in near_kinds
        and not (group == "color" and any(near(other, bad) for bad in forbidden))
        and (other in PLURAL) == (value in PLURAL)
        for form in forms
        if len(form.split()) == len(words.split()) and not true_words & set(form.split())
    ]
