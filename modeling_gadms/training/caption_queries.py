"""Queries of a few words, drawn from captions, and the images that each describes.

Captions of data sets name about ten attributes, and a user types one to three. A model that was trained on whole
captions only ranks such queries hardly better than chance: nothing tells it that "a red coat" describes every image
with a red coat.
"""

import re
import zlib
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch


# "black and white", "long, dark hair": after these words, a comma or an "and" ends no statement.
_ADJECTIVES = frozenset(
    "black white gray grey red orange yellow green blue navy purple pink brown beige tan cream khaki blond blonde "
    "golden silver dark light bright pale deep long short medium tall slim big large small loose tight plain old "
    "young".split()
)
_PEOPLE = frozenset("man woman person pedestrian individual someone boy girl child lady guy male female".split())
_DETERMINERS = frozenset(("a", "an", "the", "this", "his", "her", "their"))
# What stands between a subject and its statement, and is left out.
_FILLERS = frozenset(("he", "she", "they", "it", "who", "is", "are", "also", "he's", "she's"))
# Verbs that start a statement, and the word that joins the statement to a subject.
_VERBS = {
    "wears": "wearing", "wear": "wearing", "has": "with", "have": "with", "carries": "carrying", "carry": "carrying",
    "holds": "holding", "hold": "holding", "pulls": "pulling", "pull": "pulling", "dressed": "dressed",
    "wearing": "wearing", "carrying": "carrying", "holding": "holding", "pulling": "pulling",
    "walking": "walking", "standing": "standing", "facing": "facing",
}  # fmt: skip
_STARTS = frozenset({*_VERBS.values(), "in", "with", "coming", "seen", "his", "her", "their", "the"})
_ANYBODY = ("a person", "someone", "person")
_LINKS = ("wearing", "with", "in")
# Other words for the same thing. A word that is not here is its own name.
_SYNONYMS = {
    "black": ("jet black", "jet-black", "raven"), "white": ("pure white", "off-white"),
    "gray": ("grey", "ash gray", "charcoal", "silver", "light gray", "light grey", "dark gray", "dark grey"),
    "red": ("crimson", "scarlet", "bright red", "dark red", "ginger", "copper"),
    "orange": ("tangerine", "bright orange"), "yellow": ("bright yellow", "lemon yellow"),
    "green": ("emerald", "forest green", "dark green", "light green"), "olive": ("olive green", "army green"),
    "blue": ("cobalt", "royal blue"), "navy": ("dark blue", "navy blue"),
    "light-blue": ("light blue", "sky blue", "pale blue", "baby blue"), "purple": ("violet", "deep purple"),
    "pink": ("rose", "light pink"), "brown": ("chocolate", "chestnut brown", "chestnut", "brunette", "dark brown"),
    "beige": ("tan", "cream", "khaki"), "blond": ("blonde", "golden", "fair"), "burgundy": ("maroon", "wine red"),
    "short": ("cropped",), "long": ("shoulder-length",), "checked": ("plaid", "checkered"),
    "dotted": ("spotted", "polka-dot"), "two-tone": ("color-block",), "printed": ("graphic",), "plain": ("solid",),
    "t-shirt": ("tee", "tshirt", "t shirt", "crew-neck t-shirt"), "shirt": ("button-up shirt", "button-down shirt"),
    "hoodie": ("hooded sweatshirt", "hooded sweater"), "sweater": ("pullover", "jumper", "knit sweater"),
    "jacket": ("open jacket",), "coat": ("overcoat", "long coat"), "vest": ("gilet", "puffer vest"),
    "tank-top": ("tank top", "sleeveless top"), "dress": ("flared dress",),
    "trousers": ("pants", "slacks"), "jeans": ("denims", "denim jeans"),
    "joggers": ("sweatpants", "track pants", "jogging pants"), "leggings": ("tights",),
    "shorts": ("bermuda shorts",), "wide-trousers": ("wide-leg trousers", "baggy pants", "flared trousers"),
    "sneakers": ("trainers", "running shoes"), "boots": ("high boots",), "sandals": ("open sandals",),
    "dress-shoes": ("loafers", "dress shoes"), "backpack": ("rucksack", "hiking backpack"),
    "shoulder-bag": ("shoulder bag", "crossbody bag", "messenger bag"),
    "handbag": ("purse", "leather handbag"), "tote": ("tote bag", "shopping bag"),
    "suitcase": ("trolley", "rolling suitcase"), "cap": ("baseball cap",), "beanie": ("wool beanie",),
    "brimmed-hat": ("sunhat", "brimmed hat"), "glasses": ("spectacles", "eyeglasses"), "sunglasses": ("shades",),
    "tie": ("necktie",), "phone": ("smartphone", "mobile phone", "cell phone"), "umbrella": ("folded umbrella",),
    "bottle": ("water bottle",), "cup": ("coffee cup",),
}  # fmt: skip
_NAMES = {phrase: name for name, phrases in _SYNONYMS.items() for phrase in phrases}
_UNITS = re.compile("|".join([*(rf"{re.escape(phrase)}(?= |$)" for phrase in sorted(_NAMES, key=len)[::-1]), r"\S+"]))
# Words that tell of no thing: a statement of these alone, such as a pose, makes no query.
_EMPTY_WORDS = frozenset(
    "a an the this his her their its he she they is are be has have wearing with carrying holding pulling dressed in "
    "on at of and or to from over by for worn walking standing facing coming seen forward away towards toward behind "
    "across camera viewer view profile side side-on still back both one hand hands shoulder shoulders straps strap "
    "around neck pair".split()
)
_PREPOSITIONS = frozenset("with in on at of from over by for worn around while under".split())
_BUCKETS = 1024


class Query(NamedTuple):
    """A query of a few words, and what an image must show to fit it.

    Args:
        text (`str`): such as "a person wearing a red coat and carrying a backpack".
        statements (`tuple[frozenset[str], ...]`): words of each thing, under one name for synonyms.
    """

    text: str
    statements: tuple[frozenset[str], ...]


def _clauses(sentence: str) -> list[list[str]]:
    """Return the words of each clause; a clause ends at a comma or an "and" in a list, and before a verb."""
    clauses: list[list[str]] = [[]]
    words = sentence.lower().split()
    for word, following in zip(words, [*words, ""][1:], strict=True):
        last = clauses[-1][-1] if clauses[-1] else ""
        listed = last.endswith(",") or (word == "and" and bool(clauses[-1]))
        continued = last.strip(",") in _ADJECTIVES and following not in _DETERMINERS
        if word in _VERBS or (listed and not continued):
            clauses.append([])
        if word != "and" or clauses[-1]:
            clauses[-1].append(word)
    return [[word.strip(",") for word in clause] for clause in clauses]


def split_statements(caption: str) -> tuple[str, list[str]]:
    """Split an English caption into its subject and what it states of it.

    Args:
        caption (`str`): one or more sentences.

    Returns:
        `tuple[str, list[str]]`: the subject, empty if none is found; and the statements in order, each with a
        participle or a preposition ("carrying a bag") or as the name of a thing ("blue jeans").

    >>> split_statements("A man in a black and white shirt and blue jeans. He carries a bag.")
    ('a man', ['in a black and white shirt', 'blue jeans', 'carrying a bag'])
    """
    subject = ""
    statements: list[str] = []
    for sentence in re.split(r"[.!?;]+(?:\s+|$)", caption):
        for words in _clauses(sentence):
            noun = next((place for place, word in enumerate(words) if word in _PEOPLE), None)
            if noun is not None:
                start = max((place for place, word in enumerate(words[:noun]) if word in _DETERMINERS), default=0)
                subject = subject or " ".join(words[start : noun + 1])
                words = words[noun + 1 :]
            while words and words[0] in _FILLERS:
                words = words[1:]
            if words and words[-1] in _FILLERS:  # "is", of "is wearing"
                words = words[:-1]
            if words[:2] == ["has", "on"]:
                words = ["wearing", *words[2:]]
            if words:
                statements.append(" ".join([_VERBS.get(words[0], words[0]), *words[1:]]))
    return subject, statements


def content_words(statement: str) -> frozenset[str]:
    """Return the words of a statement that tell of things, one name for synonyms.

    >>> sorted(content_words("carrying the straps of a grey rucksack"))
    ['backpack', 'gray']
    """
    return frozenset(_NAMES.get(unit, unit) for unit in _UNITS.findall(statement) if unit not in _EMPTY_WORDS)


@lru_cache(maxsize=2**17)
def _parsed(caption: str) -> tuple[str, tuple[tuple[str, frozenset[str]], ...]]:
    subject, statements = split_statements(caption)
    parsed = ((_as_phrase(statement), content_words(statement)) for statement in statements)
    return subject, tuple((statement, words) for statement, words in parsed if words)


def stated(captions: Sequence[str]) -> frozenset[frozenset[str]]:
    """Return the content words of each statement of the captions of an image."""
    return frozenset(words for caption in captions for _, words in _parsed(caption)[1])


def draw_query(caption: str, rng: np.random.Generator, *, max_statements: int = 3) -> Query:
    """Draw a query of a few statements of a caption.

    Half of the queries name things as the caption does, the others with some of their adjectives: "a black jacket" of
    "a black and white striped jacket over a gray tee".

    Args:
        caption (`str`): an English caption.
        rng (`np.random.Generator`): draws the number of statements (one is drawn most), which, their order, and the
            words between them.
        max_statements (`int`, *optional*, defaults to 3)

    Returns:
        [`Query`]: of a caption in which no statement is found, the whole caption.
    """
    subject, statements = _parsed(caption)
    if not statements:
        own_words = content_words(" ".join(re.findall(r"[\w'-]+", caption.lower())))
        return Query(caption, (own_words or frozenset((caption,)),))  # without words, it would fit every image
    most = min(max_statements, len(statements))
    count = 1 if rng.random() < 0.5 else int(rng.integers(1, most + 1))
    drawn = [statements[place] for place in rng.permutation(len(statements))[:count]]
    chosen, words = [statement for statement, _ in drawn], tuple(words for _, words in drawn)
    if rng.random() < 0.5:
        chosen = [_simplified(statement, rng) for statement in chosen]
        words = tuple(content_words(statement) for statement in chosen)
    if rng.random() < 0.15:  # keywords
        return Query(", ".join(_thing(statement) for statement in chosen), words)
    link = _LINKS[rng.integers(len(_LINKS))]
    who = subject if subject and rng.random() < 0.3 else _ANYBODY[rng.integers(len(_ANYBODY))]
    parts = [part if part.split()[0] in _STARTS else f"{link} {part}" for part in chosen]
    listed = ", ".join(parts[:-1]) + " and " + parts[-1] if count > 1 else parts[0]
    return Query(f"{who} {listed}", words)


def _as_phrase(statement: str) -> str:
    """Return "a red coat" of "her coat is red", and any other statement as it is."""
    words = statement.split()
    verb = next((place for place, word in enumerate(words) if word in ("is", "are")), None)
    if verb is None or words[0] not in _DETERMINERS:
        return statement
    return _with_article([*words[verb + 1 :], *words[1:verb]])


def _with_article(words: Sequence[str]) -> str:
    plural = words[-1] == "hair" or (words[-1].endswith("s") and not words[-1].endswith("ss"))
    return " ".join(words if plural else ["an" if words[0][0] in "aeiou" else "a", *words])


def _simplified(statement: str, rng: np.random.Generator) -> str:
    """Return the noun of the first thing in a statement with some of its adjectives."""
    units = _UNITS.findall(statement)
    start = "" if units[0] in _DETERMINERS or units[0] not in _STARTS else units[0].replace("dressed", "in")
    first = next(place for place, unit in enumerate(units) if unit not in _EMPTY_WORDS)
    end = next((first + n for n, unit in enumerate(units[first:]) if unit in _PREPOSITIONS), len(units))
    *adjectives, noun = [unit for unit in units[first:end] if unit not in _EMPTY_WORDS]
    kept = [word for word in adjectives if rng.random() < 0.6] or adjectives[:1]
    return f"{start} {_with_article([*kept, noun])}".strip()


def _thing(statement: str) -> str:
    """Return a statement without the words that join it to its subject: "red coat" of "wearing a red coat"."""
    words = statement.split()
    while len(words) > 1 and words[0] in _EMPTY_WORDS:
        words = words[1:]
    return " ".join(words)


def encode_statements(statements: Sequence[Collection[frozenset[str]]]) -> torch.Tensor:
    """Encode the words of statements as numbers, so that processes can exchange them.

    Returns:
        `torch.LongTensor` of shape `(len(statements), most statements, most words)`: a hash of each word, from 1 to
        1023; 0 is padding.
    """
    most = max((len(row) for row in statements), default=0)
    longest = max((len(words) for row in statements for words in row), default=0)
    encoded = np.zeros((len(statements), most, longest), dtype=np.int64)
    for place, row in enumerate(statements):
        for number, words in enumerate(row):
            encoded[place, number, : len(words)] = [1 + zlib.crc32(word.encode()) % (_BUCKETS - 1) for word in words]
    return torch.from_numpy(encoded)


def fitting_images(query_words: torch.Tensor, image_words: torch.Tensor) -> torch.Tensor:
    """Find the images whose captions state all that a query names.

    A statement of a query fits an image if all of its words are in one statement of the image: "red coat" fits "a long
    red coat". Words that share a hash (1 of 1023) are not told apart.

    Args:
        query_words (`torch.LongTensor` of shape `(num_queries, statements, words)`),
        image_words (`torch.LongTensor` of shape `(num_images, statements, words)`):
            of [`encode_statements`].

    Returns:
        `torch.BoolTensor` of shape `(num_queries, num_images)`.
    """
    images = _bags(image_words)
    fits = torch.ones(len(query_words), len(image_words), dtype=torch.bool, device=image_words.device)
    for query in _bags(query_words).unbind(1):
        shared = query @ images.flatten(0, 1).T
        found = shared.view(len(query), *images.shape[:2]) == query.sum(dim=1)[:, None, None]
        fits &= found.any(dim=2)
    return fits


def _bags(words: torch.Tensor) -> torch.Tensor:
    """Return which of the hashes a statement has: (rows, statements, _BUCKETS), 0 and 1."""
    bags = torch.zeros(*words.shape[:2], _BUCKETS, device=words.device)
    bags.scatter_(2, words, 1.0)
    bags[..., 0] = 0.0  # padding
    return bags
