"""Short captions for training: some statements of a caption, so that queries of a few words find persons too.

Captions of data sets name about ten attributes, and a user types one to three. A model that was trained on whole
captions only ranks such queries hardly better than chance.
"""

import re

import numpy as np


# "black and white", "long, dark hair": after these words, a comma or an "and" ends no statement.
_ADJECTIVES = frozenset(
    "black white gray grey red orange yellow green blue navy purple pink brown beige tan cream khaki blond blonde "
    "golden silver dark light bright pale deep long short medium tall slim big large small loose tight plain old "
    "young".split()
)
_PEOPLE = frozenset("man woman person pedestrian individual someone boy girl child lady guy male female".split())
_DETERMINERS = frozenset(("a", "an", "the", "this"))
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
# What a keyword query leaves out of a statement.
_JOINTS = frozenset({*_VERBS.values(), *_DETERMINERS, "in", "with"})
_ANYBODY = ("a person", "someone", "person")
_LINKS = ("wearing", "with", "in")


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


def shorten_caption(caption: str, rng: np.random.Generator) -> str:
    """Return a caption of some statements of `caption`, from one to all, in a random order and wording.

    Args:
        caption (`str`): an English caption. One without two statements is returned as it is.
        rng (`np.random.Generator`): draws the number of statements (one, two and three are drawn most), which, their
            order, and the words between them.

    Returns:
        `str`: such as "a person wearing a red coat and with short hair", or "red coat, short hair".
    """
    subject, statements = split_statements(caption)
    if len(statements) < 2:
        return caption
    # Half of the captions have one to three statements, as queries have; the others any number.
    most = min(3, len(statements)) if rng.random() < 0.5 else len(statements)
    count = int(rng.integers(1, most + 1))
    chosen = [statements[place] for place in rng.permutation(len(statements))[:count]]
    if rng.random() < 0.15:  # keywords
        return ", ".join(_thing(statement) for statement in chosen)
    link = _LINKS[rng.integers(len(_LINKS))]
    who = subject if subject and rng.random() < 0.5 else _ANYBODY[rng.integers(len(_ANYBODY))]
    parts = [part if part.split()[0] in _STARTS else f"{link} {part}" for part in chosen]
    listed = ", ".join(parts[:-1]) + " and " + parts[-1] if count > 1 else parts[0]
    return f"{who} {listed}"


def _thing(statement: str) -> str:
    """Return a statement without the words that join it to its subject: "a red coat" of "wearing a red coat"."""
    words = statement.split()
    while len(words) > 1 and words[0] in _JOINTS:
        words = words[1:]
    return " ".join(words)
