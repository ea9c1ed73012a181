"""What a captioner would make of a template."""

import re
from collections.abc import Sequence


# What a captioner would put in, by placeholder; `colored ...` and `... color` are made from a colour below.
FILLINGS = {
    "gender": "woman",
    "pronoun": "she",
    "age group": "young",
    "hair": "long brown hair",
    "hair style": "tied in a ponytail",
    "action": "walking forward",
    "pose": "standing side-on",
    "view": "from behind",
    "hand": "left",
    "headwear": "white cap",
    "eyewear": "black-framed glasses",
    "bag position": "over the right shoulder",
    "held object": "phone",
    "pattern": "striped",
    "sleeve length": "long-sleeved",
    "sleeve state": "rolled up",
    "accessory": "silver watch",
    "fit": "loose",
    "body build": "slim",
    "print": "small logo",
    "print position": "chest",
    "bottom length": "knee-length",
    "bottom detail": "drawstring",
    "hem position": "the knees",
    "neckline": "round",
    "material": "denim",
    "gaze direction": "to the left",
    "shoe detail": "thick soles",
    "outerwear length": "thigh-length",
    "outerwear detail": "two pockets",
    "walking aid": "wooden cane",
    "vehicle": "bicycle",
    "uniform type": "school",
    "top detail": "row of buttons",
    "skirt length": "knee-length",
    "dress length": "knee-length",
    "second bag": "plastic bag",
    "pushed object": "stroller",
    "leg position": "crossed",
    "hood position": "up",
    "facial hair": "a short beard",
    "collar type": "high",
    "closure": "a front zip",
    "bag detail": "a long strap",
    "arm position": "raised",
}
NOUNS = {
    "top": "cotton shirt",
    "bottom": "trousers",
    "shoes": "sneakers",
    "bag": "leather bag",
    "outerwear": "jacket",
    "inner top": "t-shirt",
    "soles": "soles",
    "sleeves": "sleeves",
    "legwear": "tights",
    "gloves": "gloves",
    "socks": "socks",
    "hair accessory": "hair clip",
}
COLORS = ("dark blue", "red", "black", "white", "grey", "brown", "green", "beige", "yellow", "purple")


def placeholders(template: str) -> list[str]:
    """In order, and as often as they stand there."""
    return re.findall(r"\[([^\[\]]*)\]", template)


def filled(text: str, colors: Sequence[str] = COLORS, gender: str = "woman") -> str:
    """The template with plausible words for its placeholders; those that are not known stand for themselves."""
    next_color = iter(list(colors) * 9)
    words = FILLINGS | {"gender": gender, "pronoun": "he" if gender == "man" else "she"}

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        if name.startswith("colored "):
            return f"{next(next_color)} {NOUNS.get(name[8:], name[8:])}"
        return next(next_color) if name.endswith(" color") else words.get(name, name)

    text = re.sub(r"\[([^\]]*)\]", fill, text)
    return re.sub(r"(^|\. )([a-z])", lambda match: match[1] + match[2].upper(), text)
