"""Write captions of drawn persons with a small grammar, and add noise to their attributes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .attributes import Person, View, pick
from .words import FORMS, PLURAL, POSES, group_of, wrong_words


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


MIN_WORDS, MAX_WORDS = 10, 60


@dataclass(frozen=True)
class Mention:
    """One attribute in a caption.

    Args:
        field (`str`): the field of `Person`.
        truth (`str`): the true value.
        written (`str`): the value in the caption: `truth` or a wrong one.
        positions (`tuple[int, ...]`): positions of its words in `caption.split()`.
    """

    field: str
    truth: str
    written: str
    positions: tuple[int, ...]

    @property
    def noisy(self) -> bool:
        return self.written != self.truth


@dataclass(frozen=True)
class Caption:
    """A caption and the attributes that it mentions."""

    text: str
    mentions: tuple[Mention, ...]

    @property
    def attribute_positions(self) -> list[int]:
        return sorted(place for mention in self.mentions for place in mention.positions)

    @property
    def noise_positions(self) -> list[int]:
        return sorted(place for mention in self.mentions if mention.noisy for place in mention.positions)


@dataclass(frozen=True)
class _Slot:
    field: str
    value: str
    words: str


_Piece = str | _Slot
_Phrase = list[_Piece]


@dataclass(frozen=True)
class _Fact:
    """One statement in three forms: as a noun phrase, with a verb, and with a participle."""

    name: str
    noun: _Phrase
    verb: _Phrase
    participle: _Phrase


def write_caption(
    person: Person, view: View, rng: np.random.Generator, noise_rng: np.random.Generator, *, noise: float = 0.0
) -> Caption:
    """Write one caption of an image.

    Args:
        person (`Person`): the person.
        view (`View`): the view. Attributes that are not visible are not mentioned.
        rng (`np.random.Generator`): draws the words of the true caption.
        noise_rng (`np.random.Generator`): draws which attributes become wrong, and how. The draws do not depend on
            `noise`: the errors of a caption at a lower rate are a subset of those at a higher rate.
        noise (`float`): probability that an attribute is wrong.
    """
    pieces = _Writer(person, view, rng).write()
    return _realise(person, pieces, noise_rng, noise)


def _realise(person: Person, pieces: _Phrase, rng: np.random.Generator, noise: float) -> Caption:
    words: list[str] = []
    mentions: list[Mention] = []
    upper_colors: list[str] = []
    for piece in pieces:
        if isinstance(piece, str):
            if piece in (",", "."):
                words[-1] += piece
            else:
                words.extend(piece.split(" "))
            continue
        threshold, choice = rng.random(2)
        taken = upper_colors if piece.field == "upper_color2" else ()
        options = wrong_words(person, piece.field, piece.value, piece.words, taken=taken)
        other, form = options[int(choice * len(options))]
        if piece.field == "upper_color":
            upper_colors.append(other)
        written, text = (other, form) if threshold < noise else (piece.value, piece.words)
        start = len(words)
        words.extend(text.split(" "))
        places = tuple(range(start, len(words)))
        mentions.append(Mention(piece.field, piece.value, written, places))
    return Caption(_spell(words), tuple(mentions))


def _spell(words: list[str]) -> str:
    """Replace "a" by "an" where needed, and capitalise sentences."""
    for index, word in enumerate(words):
        if word == "a" and words[index + 1][0] in "aeiou":
            words[index] = "an"
        if index == 0 or words[index - 1].endswith("."):
            words[index] = words[index][0].upper() + words[index][1:]
    return " ".join(words)


def _listed(phrases: Sequence[_Phrase]) -> _Phrase:
    """Returns: the phrases joined as `x`, `x and y` or `x, y and z`."""
    joined: _Phrase = []
    for index, phrase in enumerate(phrases):
        if index:
            joined.append("and" if index == len(phrases) - 1 else ",")
        joined.extend(phrase)
    return joined


class _Writer:
    def __init__(self, person: Person, view: View, rng: np.random.Generator) -> None:
        self.person, self.view, self.rng = person, view, rng
        self.front, self.back = view.side == "front", view.side == "back"
        named = rng.random() < 0.85
        self.noun = person.gender if named else self.choose("person", "pedestrian", "person")
        self.pronoun = {"man": "he", "woman": "she"}.get(self.noun, f"the {self.noun}")
        self.possessive = {"man": "his", "woman": "her"}.get(self.noun, "the")

    def choose(self, *options: str) -> str:
        return options[int(self.rng.random() * len(options))]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def slot(self, field: str, value: str | None = None) -> _Slot:
        """Returns: an attribute in words. More common words are drawn more often."""
        value = value or getattr(self.person, field)
        forms = FORMS[group_of(field)][value]
        return _Slot(field, value, forms[int(self.rng.random() ** 1.7 * len(forms))])

    def write(self) -> _Phrase:
        """Returns: the pieces of the caption, which has `MIN_WORDS` to `MAX_WORDS` words."""
        facts = self._facts()
        outfit = self._outfit()
        pieces = self._arrange(outfit, facts)
        while _count(pieces) > MAX_WORDS:
            facts = facts[:-1]
            pieces = self._arrange(outfit, facts)
        if _count(pieces) < MIN_WORDS:
            pieces = self._arrange(outfit, [*(fact for fact in facts if fact.name != "pose"), self._pose()])
        return pieces

    # --- noun phrases -------------------------------------------------------------------------------------------

    def _article(self, plural: bool) -> _Phrase:
        return (["a pair of"] if self.chance(0.15) else []) if plural else ["a"]

    def _upper(self) -> _Phrase:
        person = self.person
        pattern = person.upper_pattern
        if pattern == "printed" and not self.front:
            pattern = "hidden"
        phrase: _Phrase = ["a", self.slot("upper_color")]
        if pattern not in ("plain", "hidden", "printed"):
            if self.chance(0.9):
                phrase += ["and", self.slot("upper_color2")]
            phrase.append(self.slot("upper_pattern"))
        elif pattern == "printed" or (pattern == "plain" and self.chance(0.12)):
            phrase.append(self.slot("upper_pattern"))
        phrase.append(self.slot("upper"))
        inner_shows = person.upper == "vest" or self.front
        if person.inner_color != "none" and inner_shows and self.chance(0.85):
            phrase += [self.choose("over", "worn over"), "a", self.slot("inner_color")]
            phrase.append(self.slot("inner", "t-shirt"))
        return phrase

    def _lower(self) -> _Phrase:
        phrase = [*self._article(self.person.lower in PLURAL), self.slot("lower_color")]
        if self.person.lower_pattern != "plain":
            phrase.append(self.slot("lower_pattern"))
        return [*phrase, self.slot("lower")]

    def _thing(self, field: str) -> _Phrase:
        """Returns: an object with article and colour, such as `a red cap`."""
        plural = getattr(self.person, field) in PLURAL
        colored = [self.slot(f"{field}_color")] if hasattr(self.person, f"{field}_color") else []
        return [*self._article(plural), *colored, self.slot(field)]

    def _outfit(self) -> list[_Phrase]:
        outfit = [self._upper()]
        if self.person.lower != "none":
            outfit.append(self._lower())
            if self.chance(0.25):
                outfit.reverse()
        if self.person.upper == "jacket" and len(outfit[0]) > 6 and len(outfit) > 1:
            outfit.reverse()  # "jeans and a jacket over a tee" reads unambiguously
        return outfit

    # --- facts --------------------------------------------------------------------------------------------------

    def _facts(self) -> list[_Fact]:
        """Returns: further facts in a random order. Each is sometimes skipped."""
        person = self.person
        facts: list[_Fact] = []
        if not self.view.hides_feet and self.chance(0.9):
            facts.append(_fact("shoes", self._thing("shoes"), "wears", "wearing"))
        if person.hair_style != "bald" and self.chance(0.88 if person.hat == "none" else 0.6):
            facts.append(_fact("hair", self._hair(), "has", "with"))
        for field, share in (("hat", 0.93), ("eyewear", 0.85), ("neck", 0.93)):
            if getattr(person, field) != "none" and self._shows(field) and self.chance(share):
                thing = self._thing(field)
                tail = [self.choose("around the neck", "at the neck")] if field == "neck" and self.chance(0.4) else []
                facts.append(_fact(field, [*thing, *tail], "wears", "wearing"))
        if person.bag != "none" and self.chance(0.96):
            facts.append(self._bag())
        if person.held != "none" and self._shows("held") and self.chance(0.85):
            held = self._thing("held")
            hand = [self.choose(f"in {self.possessive} hand", "in one hand")] if self.chance(0.4) else []
            facts.append(_fact("held", [*held, *hand], "holds", "holding"))
        if self.chance(0.6):
            facts.append(self._pose())
        return [facts[index] for index in self.rng.permutation(len(facts))]

    def _shows(self, field: str) -> bool:
        """Returns: whether a small object is visible, if the person has it."""
        if field == "eyewear":
            return not self.back
        if field == "neck":
            return self.person.neck == "scarf" or self.front
        if field == "held":
            return self.person.held == "umbrella" or not self.back
        return True

    def _hair(self) -> _Phrase:
        color = self.slot("hair_color")
        style = self.person.hair_style
        if style in ("short", "long"):
            return [self.slot("hair_length", style), color, "hair"]
        if self.front:
            return [color, "hair", self.choose("tied back", "pulled back")]
        return [color, "hair", self.choose("tied in a", "worn in a", "in a"), self.slot("hair_knot", style)]

    def _bag(self) -> _Fact:
        bag = self._thing("bag")
        if self.person.bag == "backpack" and self.front:
            straps: _Phrase = ["the straps of", *bag]
            over = [self.choose("over both shoulders", "on the shoulders")]
            return _Fact("bag", [*straps, *over], ["has", *straps, *over], ["with", *straps, *over])
        if self.person.bag == "suitcase":
            return _fact("bag", bag, self.choose("pulls", "holds"), self.choose("pulling", "with"))
        verb = self.choose("carries", "has", "carries")
        return _fact("bag", bag, verb, self.choose("carrying", "with", "carrying"))

    def _pose(self) -> _Fact:
        side = "side" if self.view.side in ("left", "right") else self.view.side
        phrase = self.choose(*POSES[self.view.pose, side])
        return _Fact("pose", [], ["is", phrase], [phrase])

    # --- sentences ----------------------------------------------------------------------------------------------

    def _subject(self) -> tuple[_Phrase, list[str]]:
        """Returns: the subject of the first sentence, and the names of the facts it already states."""
        told: list[str] = []
        phrase: _Phrase = ["a" if self.chance(0.6) else self.choose("the", "this")]
        style = self.person.hair_style
        if style == "bald" and self.person.hat == "none" and self.chance(0.7):
            phrase.append(self.slot("haired", style))
        elif style in ("short", "long") and self.person.hat == "none" and self.chance(0.12):
            phrase.append(self.slot("haired", style))
            told.append("hair")
        return [*phrase, self.noun], told

    def _arrange(self, outfit: list[_Phrase], facts: list[_Fact]) -> _Phrase:
        subject, told = self._subject()
        facts = [fact for fact in facts if fact.name not in told]
        shoes = [fact for fact in facts if fact.name == "shoes"]
        if shoes and self.chance(0.55):
            facts = [fact for fact in facts if fact.name != "shoes"]
            outfit = [*outfit, shoes[0].noun]
        clothes = _listed(outfit)
        plan = pick(self.rng, {"wears": 4, "pose": 3, "participle": 2, "fragment": 3, "shows": 1.5, "is": 1.5})
        pose = [fact for fact in facts if fact.name == "pose"]
        rest = [fact for fact in facts if fact.name != "pose"]
        if plan == "pose" and pose:
            opening = [*subject, "is", *pose[0].participle, self.choose("in", "wearing", "dressed in"), *clothes]
        elif plan == "participle":
            opening = [self.choose("wearing", "dressed in", "in"), *clothes, ",", *subject]
            first = pose[0] if pose else self._pose()
            opening += first.verb
        elif plan == "fragment":
            opening = [*subject, self.choose("in", "wearing", "dressed in"), *clothes]
            if pose:
                opening += [",", *pose[0].participle]
            if rest:
                opening += [",", *_listed([fact.participle for fact in rest[:2]])]
                rest = rest[2:]
        elif plan == "shows":
            opening = [self.choose("the image shows", "the picture shows", "we see", "the photo shows"), *subject,
                       self.choose("in", "wearing", "who wears"), *clothes]  # fmt: skip
            rest = [*rest, *pose]
        elif plan == "is" and self.person.upper_pattern == "plain" and self.person.inner_color == "none":
            return self._copular(subject, [*rest, *pose], shoes[0] if shoes and shoes[0] not in facts else None)
        else:
            opening = self._with_head(subject, rest)
            rest = [fact for fact in rest if fact.noun not in self._used]
            opening += [self.choose("is wearing", "wears", "is dressed in", "has on"), *clothes]
            rest = [*rest, *pose]
        return [*opening, ".", *self._sentences(rest)]

    def _with_head(self, subject: _Phrase, rest: list[_Fact]) -> _Phrase:
        """Returns: the subject with up to two attributes of the head, which are stored in `_used`."""
        self._used: list[_Phrase] = []
        if not self.chance(0.6):
            return subject
        self._used = [fact.noun for fact in rest if fact.name in ("hair", "eyewear", "hat")][:2]
        return [*subject, "with", *_listed(self._used)] if self._used else subject

    def _copular(self, subject: _Phrase, rest: list[_Fact], shoes: _Fact | None) -> _Phrase:
        """Returns: sentences of the form "Her coat is red and her trousers are black"."""
        upper: _Phrase = [self.possessive, self.slot("upper"), "is", self.slot("upper_color")]
        clauses = [upper]
        if self.person.lower != "none":
            verb = "are" if self.person.lower in PLURAL else "is"
            clauses.append([self.possessive, self.slot("lower"), verb, self.slot("lower_color")])
        facts = [shoes, *rest] if shoes else rest
        first, later = (facts[0], facts[1:]) if facts else (self._pose(), [])
        return [*subject, *first.verb, ".", *_listed(clauses), ".", *self._sentences(later)]

    def _sentences(self, facts: list[_Fact]) -> _Phrase:
        """Returns: the facts in sentences of one to three."""
        pieces: _Phrase = []
        while facts:
            size = 1 + int(self.rng.random() * 3)
            group, facts = facts[:size], facts[size:]
            pieces += [self.pronoun, *_listed([fact.verb for fact in group]), "."]
        return pieces


def _fact(name: str, noun: _Phrase, verb: str, participle: str) -> _Fact:
    return _Fact(name, noun, [verb, *noun], [participle, *noun])


def _count(pieces: _Phrase) -> int:
    return sum(
        len((piece if isinstance(piece, str) else piece.words).split()) for piece in pieces if piece not in (",", ".")
    )


def word_mask_to_token_mask(
    caption: str, word_positions: Sequence[int], tokenizer: "PreTrainedTokenizerBase", length: int | None = None
) -> list[bool]:
    """Mark the tokens of the words at `word_positions`.

    Args:
        caption (`str`): a caption.
        word_positions (`Sequence[int]`): places in `caption.split()`, such as a row's `caption1_noise`.
        tokenizer (`PreTrainedTokenizerBase`): a fast tokenizer, which knows where in the text its tokens are.
        length (`int`, *optional*): of the `input_ids` that the mask goes with: a longer caption is truncated to it as
            the tokenizer does, a shorter one padded with False at the end. By default the caption's own length.

    Returns:
        `list[bool]`: True for a token with at least one letter of a marked word. Punctuation after a word and
        special tokens are never marked.

    Raises:
        ValueError: if the tokenizer is not fast.
        IndexError: if a position is not one of the caption's words.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} is not a fast tokenizer: it cannot tell where its tokens are")
    spans: list[tuple[int, int]] = []
    end = 0
    for word in caption.split():
        start = caption.index(word, end)
        end = start + len(word)
        spans.append((start, start + len(word.rstrip(".,;:!?"))))
    for position in word_positions:
        if not 0 <= position < len(spans):
            raise IndexError(f"there is no word {position}: the caption has {len(spans)} words: {caption!r}")
    marked = [spans[position] for position in word_positions]
    encoding = tokenizer(caption, return_offsets_mapping=True, truncation=length is not None, max_length=length)
    offsets = encoding["offset_mapping"]  # special tokens have the empty span (0, 0)
    mask = [any(max(start, first) < min(stop, last) for first, last in marked) for start, stop in offsets]
    return mask if length is None else mask + [False] * (length - len(mask))
