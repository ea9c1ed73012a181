"""A caption taken apart: what it says in its own words, its sentences and clauses, and the persons it mentions.

Words on a garment are not the captioner's words, and a man printed on a shirt is not a second man. So text in
quotation marks and depictions on things are masked before a caption's content is judged, and a noun counts only as
the head of its phrase: "a doctor" is a guess, "a doctor's bag" and "a doctor bag" are bags.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from . import words


WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_TOKEN = re.compile(rf"{WORD.pattern}|[.,;:!?()]")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+")
_QUOTED = re.compile(r"\"[^\"]{1,60}\"|(?<![\w'])'(?:[^']|(?<=\w)'(?=\w)){1,60}'(?!\w)")
_REACH = 6
"""Words of a noun phrase before its head, such as "a tall young man with"."""


@dataclass(frozen=True)
class Mention:
    """A person who is mentioned: the head noun, and its determiner, empty for none."""

    noun: str
    determiner: str
    start: int  # the first token, and the noun's
    end: int


class Caption:
    """A caption in the forms that the rules need, each computed on first use."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.folded = words.folded(text)

    @functools.cached_property
    def said(self) -> str:
        """Lower case, without quotations: "a shirt that reads "" in white"."""
        return _QUOTED.sub('""', self.folded)

    @functools.cached_property
    def cased_content(self) -> str:
        """The text with its capitals, without quotations and without what is depicted on things."""
        text = _QUOTED.sub('""', words.plain(self.text))
        return " ".join(_without_depictions(sentence) for sentence in _SENTENCE_END.split(text))

    @functools.cached_property
    def content(self) -> str:
        return self.cased_content.casefold()

    @functools.cached_property
    def words(self) -> list[str]:
        return WORD.findall(self.folded)

    @functools.cached_property
    def sentences(self) -> list[tuple[str, ...]]:
        return [tuple(WORD.findall(sentence)) for sentence in _SENTENCE_END.split(self.folded) if sentence]

    @functools.cached_property
    def tokens(self) -> list[str]:
        """Words and punctuation marks of `content`."""
        return _TOKEN.findall(self.content)

    @functools.cached_property
    def mentions(self) -> list[Mention]:
        return [
            _mention(self.tokens, position)
            for position, token in enumerate(self.tokens)
            if token in words.ONE_PERSON | words.PERSONS and is_head(self.tokens, position)
        ]

    def heads(self, known: frozenset[str]) -> list[str]:
        """The known nouns that are heads of a phrase, in singular or plural."""
        return [
            token
            for position, token in enumerate(self.tokens)
            if names((token,), known) and is_head(self.tokens, position)
        ]


def sentences_of(text: str) -> list[str]:
    """Split at sentence ends; joined by spaces, the parts are the text."""
    parts, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        parts.append(text[start : end.end()].rstrip())
        start = end.end()
    return [part for part in [*parts, text[start:]] if part]


def names(tokens: Sequence[str], known: frozenset[str]) -> bool:
    """Whether any token is known, allowing for plural and possessive endings and for compounds."""
    for token in tokens:
        stem = token.removesuffix("'s").removesuffix("'")
        for form in (stem, stem.rpartition("-")[2]):
            if form in known or form.removesuffix("s") in known or form.removesuffix("es") in known:
                return True
    return False


def is_head(tokens: Sequence[str], position: int) -> bool:
    """Whether a noun stands for itself: it has no possessive ending and modifies no other noun.

    >>> is_head(["black", "boy", "shorts"], 1), is_head(["a", "boy", "in", "shorts"], 1)
    (False, True)
    """
    token = tokens[position]
    following = tokens[position + 1] if position + 1 < len(tokens) else "."
    return not token.endswith(("'s", "s'")) and not names((following,), words.MODIFIED)


def _mention(tokens: Sequence[str], position: int) -> Mention:
    for start in range(position - 1, max(position - _REACH, -1), -1):
        if tokens[start] in words.DETERMINERS:
            return Mention(tokens[position], tokens[start], start, position)
        if tokens[start] in words.FUNCTION or not tokens[start][0].isalnum():
            break
    return Mention(tokens[position], "", position, position)


def _without_depictions(sentence: str) -> str:
    """Remove what is printed, drawn or written on things that the sentence named before."""

    def masked(match: re.Match[str]) -> str:
        carriers = WORD.findall(match.string[: match.start()].casefold())
        return match["keeps"] + ' ""' if names(carriers, words.CARRIER) else match[0]

    for pattern in words.DEPICTIONS:
        sentence = pattern.sub(masked, sentence)
    return sentence
