"""What a captioner would make of a template."""

import re
from collections.abc import Mapping, Sequence


# What a captioner would put in, by placeholder: whole phrases with their articles. Those of `colored ...` and
# `... color` are made from a colour below.
FILLINGS = {
    "age group": "young",
    "hair": "long brown hair",
    "hair accessory": "a hair clip",
    "facial hair": "a short beard",
    "head position": "turned to the left",
    "action": "walking forward",
    "pose": "standing side-on",
    "view": "from behind",
    "looking direction": "looking to the left",
    "arm position": "one arm raised",
    "leg position": "crossed legs",
    "hand": "the left hand",
    "hand or arms": "the arms",
    "where it is held": "under one arm",
    "headwear": "a white cap",
    "headwear position": "backwards",
    "eyewear": "black-framed glasses",
    "bag position": "over the right shoulder",
    "bag detail": "a long strap",
    "held object": "a phone",
    "vehicle or cart": "a bicycle",
    "walking aid": "a wooden cane",
    "pattern": "a striped pattern",
    "sleeve length": "long sleeves",
    "accessory": "a silver watch",
    "fit": "a loose fit",
    "body build": "slim build",
    "height and build": "average height and slim build",
    "print": "a small logo",
    "print position": "on the chest",
    "bottom detail": "a drawstring",
    "top detail": "a row of buttons",
    "outerwear detail": "two pockets",
    "shoe detail": "thick soles",
    "garment length": "knee-length",
    "neckline": "a round neck",
    "collar type": "a high collar",
    "closure": "a front zip",
    "open or closed": "open",
    "material": "denim",
    "type of uniform": "a school uniform",
    "style of clothes": "sportswear",
    "apron or overalls": "a white apron",
}
# Nouns of `colored ...`; plural ones take no article.
NOUNS = {
    "top": "cotton shirt",
    "top or dress": "shirt",
    "bottom": "trousers",
    "shoes": "sneakers",
    "bag": "leather bag",
    "outerwear": "jacket",
    "inner top": "t-shirt",
    "legwear": "tights",
    "gloves": "gloves",
    "socks": "socks",
    "suit or uniform": "suit",
    "tie or scarf": "tie",
}
PLURAL = frozenset("trousers sneakers tights gloves socks jeans shorts boots sandals".split())
COLORS = ("dark blue", "red", "black", "white", "grey", "brown", "green", "beige", "yellow", "purple")

_PLACEHOLDER = re.compile(r"(?:\b(a|an|the|this) )?\[([^\[\]]*)\]", re.IGNORECASE)


def placeholders(template: str) -> list[str]:
    """In order, and as often as they stand there."""
    return re.findall(r"\[([^\[\]]*)\]", template)


def filled(
    text: str, colors: Sequence[str] = COLORS, gender: str = "woman", fillings: Mapping[str, str] = FILLINGS
) -> str:
    """The template with plausible phrases for its placeholders; those that are not known stand for themselves.

    An article before a placeholder is fitted to the phrase, as the prompt asks for.
    """
    next_color = iter(list(colors) * 9)
    words = {**fillings, "gender": gender, "pronoun": "he" if gender == "man" else "she"}
    words["age and gender"] = with_article(f"{words['age group']} {gender}")

    def fill(match: re.Match[str]) -> str:
        article, name = match[1], match[2]
        if name.startswith("colored "):
            phrase = f"{next(next_color)} {NOUNS.get(name[8:], name[8:])}"
            phrase = phrase if phrase.split()[-1] in PLURAL else with_article(phrase)
        else:
            phrase = next(next_color) if name.endswith(" color") else words.get(name, name)
        if article is None:
            return phrase
        bare = re.sub(r"^(?:an?|the) ", "", phrase)
        return with_article(bare) if article.lower() in ("a", "an") else f"{article} {bare}"

    text = _PLACEHOLDER.sub(fill, text)
    return re.sub(r"(^|\. )([a-z])", lambda match: match[1] + match[2].upper(), text)


def with_article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
