"""Write captions of drawn products in the style of a shop."""

import re

import numpy as np

from ..persons.words import FORMS
from .attributes import DETAILS, KINDS, PLURAL, Product


_NOUNS: dict[str, tuple[str, ...]] = {
    "t-shirt": ("t-shirt", "tee"),
    "shirt": ("shirt", "button-up shirt"),
    "sweater": ("sweater", "pullover", "jumper"),
    "hoodie": ("hoodie", "hooded sweatshirt"),
    "jacket": ("jacket",),
    "coat": ("coat", "overcoat"),
    "dress": ("dress",),
    "skirt": ("skirt",),
    "trousers": ("trousers", "pants"),
    "jeans": ("jeans", "denim jeans"),
    "shorts": ("shorts",),
    "backpack": ("backpack", "rucksack"),
    "handbag": ("handbag", "purse"),
    "tote bag": ("tote bag", "shopper"),
    "cap": ("cap", "baseball cap"),
    "beanie": ("beanie", "knit cap"),
    "sun hat": ("sun hat", "brimmed hat"),
    "sneakers": ("sneakers", "trainers"),
    "boots": ("boots",),
}
# (detail, value) -> words before the kind (`_BEFORE`) or after "with" (`_WITH`). "{}" is the second colour.
_BEFORE: dict[tuple[str, str], tuple[str, ...]] = {
    ("sleeves", "short"): ("short-sleeved", "short-sleeve"),
    ("sleeves", "long"): ("long-sleeved", "long-sleeve"),
    ("sleeves", "none"): ("sleeveless",),
    ("neck", "v"): ("v-neck",),
    ("neck", "round"): ("crew-neck", "round-neck"),
    ("neck", "turtle"): ("turtleneck", "roll-neck"),
    ("closure", "zip"): ("zip-up", "zipped"),
    ("closure", "buttons"): ("buttoned",),
    ("closure", "laces"): ("lace-up",),
    ("hood", "hood"): ("hooded",),
    ("length", "short"): ("short",),
    ("length", "long"): ("long",),
    ("length", "low"): ("low-top",),
    ("length", "high"): ("high-top",),
    ("length", "ankle"): ("ankle-high",),
    ("length", "knee"): ("knee-high", "tall"),
    ("cut", "pleated"): ("pleated",),
    ("cut", "straight"): ("straight",),
    ("cut", "slim"): ("slim", "narrow"),
    ("cut", "wide"): ("wide-leg", "wide"),
    ("belt", "belt"): ("belted",),
}
_WITH: dict[tuple[str, str], tuple[str, ...]] = {
    ("sleeves", "short"): ("short sleeves",),
    ("sleeves", "long"): ("long sleeves",),
    ("sleeves", "none"): ("no sleeves",),
    ("neck", "v"): ("a v-neck", "a v-shaped neckline"),
    ("neck", "round"): ("a round neck", "a crew neck"),
    ("neck", "turtle"): ("a turtleneck", "a high collar"),
    ("closure", "zip"): ("a zip", "a zipper"),
    ("closure", "buttons"): ("buttons", "a row of buttons"),
    ("closure", "laces"): ("laces",),
    ("closure", "flap"): ("a flap", "a front flap"),
    ("hood", "hood"): ("a hood",),
    ("pocket", "chest"): ("a chest pocket", "a pocket on the chest"),
    ("pocket", "patch"): ("two pockets", "patch pockets"),
    ("pocket", "front"): ("a front pocket", "an outer pocket"),
    ("belt", "belt"): ("a belt", "a belt at the waist"),
    ("trim", "pompom"): ("a pompom", "a bobble on top"),
    ("trim", "ribbon"): ("a {} ribbon", "a {} band"),
}
# For a tote bag, the length is that of its handles.
_HANDLES = {"short": ("short handles",), "long": ("long handles", "long straps")}


def write_caption(product: Product, rng: np.random.Generator) -> str:
    """Write one caption of a product.

    Args:
        product (`Product`): the product. All words are true of it and of its images.
        rng (`np.random.Generator`): draws the words, and the details to skip: one in eight, and "plain" mostly.
    """

    def one_of(options: tuple[str, ...]) -> str:
        """More common words come first and are drawn more often."""
        return options[int(rng.random() ** 1.7 * len(options))]

    color, second = one_of(FORMS["color"][product.color]), ""
    if product.color2 != "none":
        second = one_of(FORMS["color"][product.color2])
    before, after = [], []
    for detail in DETAILS:
        key = (detail, product.details[detail])
        leading, trailing, told = _BEFORE.get(key, ()), _WITH.get(key, ()), rng.random() < 0.87
        if product.kind == "tote bag" and detail == "length":
            leading, trailing = (), _HANDLES[product.details[detail]]
        if detail not in KINDS[product.kind].details or not told or not (leading or trailing):
            continue
        if leading and (not trailing or rng.random() < 0.5):
            before.append(one_of(leading))
        else:
            after.append(one_of(trailing).format(second))
    patterns = []
    if product.pattern != "plain" or rng.random() < 0.15:
        patterns.append(one_of(FORMS["pattern"][product.pattern]))
    colors = f"{color} and {second}" if product.pattern != "plain" and rng.random() < 0.92 else color
    kind = one_of(_NOUNS[product.kind])
    plural = product.kind in PLURAL
    plan = int(rng.integers(4))
    tail = f" with {_listed(after)}" if after else ""
    if plan == 0:  # "A long belted coat in red with a hood."
        phrase = " ".join([*before, *patterns, kind, "in", colors])
    elif plan == 1:  # "This coat is red and belted, with a hood."
        subject, verb = ("these", "are") if plural else ("this", "is")
        phrase = f"{subject} {kind} {verb} {_listed([colors, *patterns, *before])}{',' if tail else ''}"
    else:  # "A red long belted coat with a hood."
        phrase = " ".join([colors, *patterns, *before, kind])
    if plan != 1:
        article = ("a pair of " if plan == 2 else "") if plural else "a "
        phrase = article + phrase
    text = re.sub(r"\ba (?=[aeiou])", "an ", phrase + tail)
    return f"{text[0].upper()}{text[1:]}."


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
