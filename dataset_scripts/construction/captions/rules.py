"""Rules that a caption must pass: it describes one person in plain English, or is rejected with a reason.

The paper states rules for the prompt but no verification. All rules and numbers here are chosen, so that valid
captions are hardly ever rejected and each typical failure of a captioner has its own reason. A rejected caption is
requested again with another template. `cleaning` removes what can be removed exactly, before the rules are applied.
`benchmarks/caption_rules/` measures them on labelled captions.
"""

import functools
import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from . import faults, words
from .phrases import WORD, Caption, Mention, is_head, names, sentences_of
from .words import is_foreign_letter


RULES_VERSION = 2
"""Part of the fingerprint of captions; raised when other captions pass with the same settings."""


class CaptionProblem(StrEnum):
    """Why a caption is rejected, in the order of the checks."""

    REFUSAL = "refusal"
    """The captioner declines, apologises or says that there is nothing to describe."""
    PROMPT_TEXT = "prompt text"
    """The text addresses a reader, mentions its task, or contains code, markup, JSON, role names or a web address."""
    PLACEHOLDER = "keeps a placeholder"
    TOO_SHORT = "too short"
    NOT_ENGLISH = "not English"
    TOO_LONG = "too long"
    CUT_OFF = "cut off"
    """The text does not end with a complete sentence."""
    GARBLED = "garbled"
    """Impossible word pairs, such as "a and", or two commas in a row."""
    REPEATS = "repeats itself"
    HEDGES = "hedges"
    """"Seems", "possibly", "appears to be": the prompt asks to omit uncertain facts."""
    UNSEEN = "mentions what cannot be seen"
    ABSENT = "tells what is absent"
    """"No bag", "without a hat", "is not carrying anything"."""
    PROTECTED = "names a protected trait"
    """Ethnicity, nationality, skin, religion, health, sexual orientation or an age in years: not visible, and harmful
    when guessed. "Young" and "elderly" are accepted."""
    IDENTITY = "names somebody"
    """A name, fame, or a likeness to somebody. Names of brands on things are accepted."""
    ROLE = "guesses a role"
    """A profession or another role, such as "a doctor" or "a tourist". "A doctor's coat" is accepted."""
    SEVERAL = "describes several persons"
    ARTEFACT = "describes no living person"
    """A statue, a mannequin, a drawing or a cartoon."""
    FLATTERY = "judges looks"
    """Praise or blame of looks, and sexualisation."""
    FEELING = "guesses a feeling"
    """A feeling, mood or trait of character. A smile is accepted."""
    PICTURE = "talks about the picture"
    SCENE = "describes the scene"
    """Background, place, weather or light, or a sentence about the surroundings alone. Where the person walks or sits
    ("on a street", "on a bench") is accepted."""
    NO_PERSON = "names no person"
    NO_GARMENT = "names no garment"


@dataclass(frozen=True)
class CaptionRules:
    """Thresholds of the rules. None is stated by the paper: all are chosen.

    Args:
        min_words (`int`, *optional*, defaults to 8): shorter captions do not identify a person.
        max_words (`int`, *optional*, defaults to 80): longer captions exceed the 77 tokens of the text encoder. This
            is above the limit in the prompt, which captioners exceed slightly.
        min_latin_share (`float`, *optional*, defaults to 0.95): share of letters in Latin script. Below 1 because of
            prints on shirts.
        min_function_share (`float`, *optional*, defaults to 0.15): share of words that are common in English
            descriptions ("a", "with", "and", "wears"). Valid captions have 0.17 to 0.55; most other languages, keyword
            lists and noise have less than 0.1.
        min_english (`float`, *optional*, defaults to 0.5): probability of English according to py3langid. Valid
            captions have 0.9 or more.
        max_repeated_words (`int`, *optional*, defaults to 7): a longer run of words must not occur twice.
        max_cycles (`int`, *optional*, defaults to 2): how often a run of one to four words may occur in a row ("very
            very" passes, "very very very" does not).

    Raises:
        ValueError: names the field and the value.
    """

    min_words: int = 8
    max_words: int = 80
    min_latin_share: float = 0.95
    min_function_share: float = 0.15
    min_english: float = 0.5
    max_repeated_words: int = 7
    max_cycles: int = 2

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float) if field.type is float else int):
                raise ValueError(f"{field.name} must be of type {field.type.__name__}, not {value!r}")  # type: ignore[union-attr]
            if field.type is float and not 0 <= value <= 1:
                raise ValueError(f"{field.name} is a share and must lie between 0 and 1, not {value}")
            if field.type is int and value < 1:
                raise ValueError(f"{field.name} must be at least 1, not {value}")
        if self.min_words > self.max_words:
            raise ValueError(f"min_words ({self.min_words}) must not exceed max_words ({self.max_words})")


_DANGLING = re.compile(r"\b(?:a|an|the|and|or|of|his|is|are|wears|wearing|very)[.!?][\"')]*$")
_ENDED = re.compile(r"[^\s.…][.!?][\"'”’)]*$")
_REACH = 5
"""Words from a garment to what is depicted on it, such as "a sweater with a little green palm tree"."""
_REPEATED_GARMENTS = 3
"""Mentions of one garment with its colour ("grey coat") that are too many."""
_CAPITALS = re.compile(r"\b[A-Z][a-zà-ÿ'-]+(?: [A-Z][a-zà-ÿ'-]+)*")
_COMMON = words.FUNCTION | words.GARMENT | words.PERSON | words.COLOR | words.ROLE | words.RELATIVE | words.CARRIED
_BEFORE_A_NAME = words.word_set("is was be like as resembling suspect mr mrs ms dr star")
_AFTER_A_NAME = re.compile(
    r" ?[.,;]|$| (?:wears?|wearing|is|stands?|holds?|walks?|poses?|sits|carries|looks|smiles|pairs|waves|has|in|and"
    r"|who|with|dressed|appears)\b"
)
_PERSONAL = re.compile(r" (?:wears|walks|poses|pairs|is wearing|is dressed|smiles)\b")


def find_problem(caption: str, rules: CaptionRules) -> CaptionProblem | None:
    """Check a caption that was cleaned by `clean_caption`.

    Returns:
        `CaptionProblem`, *optional*: the first problem in the order of that class; `None` if there is none.

    Raises:
        ImportError: if the extra `construction` is not installed.
    """
    text = Caption(caption)
    return next((problem for problem, applies in _CHECKS.items() if applies(text, rules)), None)


def has_problem(problem: CaptionProblem, text: Caption, rules: CaptionRules) -> bool:
    """Whether a caption, or a clause of one, has one particular problem."""
    return _CHECKS[problem](text, rules)


def _is_prompt_text(text: Caption, rules: CaptionRules) -> bool:
    found = (words.MARKUP.search(text.folded), words.COMMAND.search(text.said), words.TALK.search(text.said))
    return any(found) or len(words.LABEL.findall(text.said)) > 1 or not text.text.isprintable()


def _is_not_english(text: Caption, rules: CaptionRules) -> bool:
    # A text of no words is too short, or in another script.
    return (
        _latin_share(text.text) < rules.min_latin_share
        or sum(word in words.FUNCTION for word in text.words) / len(text.words) < rules.min_function_share
        or _english_probability(text.text) < rules.min_english
    )


def _is_too_short(text: Caption, rules: CaptionRules) -> bool:
    # Words of scripts without spaces cannot be counted: "not English" is the better reason.
    return len(text.words) < rules.min_words and _latin_share(text.text) >= rules.min_latin_share


def _is_cut_off(text: Caption, rules: CaptionRules) -> bool:
    # Checked before case folding: "the letter A." ends a sentence, "with a." does not.
    return not _ENDED.search(text.text) or bool(_DANGLING.search(text.text))


def _repeats(text: Caption, rules: CaptionRules) -> bool:
    run = rules.max_repeated_words + 1
    runs = [tuple(text.words[start : start + run]) for start in range(len(text.words) - run + 1)]
    garments = Counter(
        pair for pair in itertools.pairwise(text.words) if pair[0] in words.COLOR and names(pair[1:], words.GARMENT)
    )
    return (
        len(set(text.sentences)) < len(text.sentences)
        or len(set(runs)) < len(runs)
        or any(_cycles(text.words, size, rules.max_cycles) for size in range(1, 5))
        or max(garments.values(), default=0) >= _REPEATED_GARMENTS
    )


def _names_a_protected_trait(text: Caption, rules: CaptionRules) -> bool:
    return bool(faults.PROTECTED.search(text.content) or faults.PROTECTED_AGE.search(text.content))


def _names_somebody(text: Caption, rules: CaptionRules) -> bool:
    if faults.IDENTITY.search(text.content):
        return True
    return not text.text.isupper() and any(map(_has_a_name, sentences_of(text.cased_content)))


def _has_a_name(sentence: str) -> bool:
    """Whether a name stands where a person does: "Ann Lee wears", "the singer Adele in", but not "Adidas shoes"."""
    for run in _CAPITALS.finditer(sentence):
        name = [word for word in run[0].split() if word.casefold() not in _COMMON]
        before = sentence[: run.start()].casefold().split()
        after = sentence[run.end() :].casefold()
        if not name or not _AFTER_A_NAME.match(after):
            continue
        if before:
            is_name = before[-1] in _BEFORE_A_NAME or names(before[-1:], words.ROLE)
        else:
            # A sentence begins with a capital: a single word must be a known name, or do what only persons do.
            is_name = len(name) > 1 or name[0].casefold() in faults.GIVEN_NAMES or bool(_PERSONAL.match(after))
            is_name = is_name and len(name) == len(run[0].split())
        if is_name:
            return True
    return False


def _guesses_a_role(text: Caption, rules: CaptionRules) -> bool:
    return bool(faults.ROLE.search(text.content)) or any(
        token in words.ROLE or (token.removesuffix("s") in words.ROLE and token not in words.ROLE_VERBS)
        for token in text.heads(words.ROLE)
    )


def _describes_several(text: Caption, rules: CaptionRules) -> bool:
    spoken = {token for position, token in enumerate(text.tokens) if is_head(text.tokens, position)}
    return bool(
        faults.TOGETHER.search(text.content)
        or text.heads(words.RELATIVE)
        or (spoken & words.MALE and spoken & words.FEMALE)
        or any(mention.noun in words.PERSONS for mention in text.mentions)
        or any(
            (mention.determiner in words.ANOTHER or mention.noun in words.SOMEBODY)
            and not _is_same_person(text, first, mention)
            for first, mention in itertools.pairwise(text.mentions)
        )
    )


def _is_same_person(text: Caption, first: Mention, second: Mention) -> bool:
    """Whether two mentions are of one person: "the person is a woman", "this person, a woman"."""
    before = text.tokens[second.start - 1]
    in_apposition = before == "," and second.start - 2 == first.end and first.determiner in ("this", "the")
    return before in words.EQUATES or in_apposition


def _describes_an_artefact(text: Caption, rules: CaptionRules) -> bool:
    if faults.ARTEFACT.search(text.content):
        return True
    for position, token in enumerate(text.tokens):
        following = text.tokens[position + 1 : position + 2]
        if token in faults.LIKENESS and not names(following, words.GARMENT | words.CARRIED):
            return True  # "a drawing of a woman", "an anime girl"
        if names((token,), words.PERSON | words.GARMENT) and is_head(text.tokens, position):
            return False
    return False


def _describes_scene(text: Caption, rules: CaptionRules) -> bool:
    if faults.SCENE.search(text.content) or _is_placed(text.tokens) or _names_a_place(text.tokens):
        return True
    about_person = words.PERSON | words.GARMENT | words.CARRIED
    sentences = [WORD.findall(sentence) for sentence in sentences_of(text.content)]
    return any(names(sentence, words.SCENERY) and not names(sentence, about_person) for sentence in sentences)


def _is_placed(tokens: Sequence[str]) -> bool:
    """Whether the person is beside or under something that is not worn or carried: "under a glass shelter"."""
    for position, token in enumerate(tokens[:-1]):
        if token in words.BESIDE and tokens[position + 1] in words.ARTICLES:
            phrase = list(itertools.takewhile(_is_in_a_phrase, tokens[position + 2 : position + 8]))
            if phrase and not names(phrase, words.OWN):
                return True
    return False


def _names_a_place(tokens: Sequence[str]) -> bool:
    """Whether a noun of a place is a head, except a toy, or what is depicted ("a sweater with a palm tree")."""
    for position, token in enumerate(tokens):
        if not names((token,), words.PLACE) or not is_head(tokens, position) or tokens[position - 1] in words.TOY:
            continue
        before = tokens[max(position - _REACH, 0) : position]
        joined = max((place for place, word in enumerate(before) if word in ("with", "of")), default=0)
        is_depicted = joined and names(before[joined - 1 : joined], words.GARMENT | words.CARRIED)
        if not is_depicted or names(tokens[position + 1 : position + 2], words.BESIDE | words.AROUND):
            return True
    return False


def _is_in_a_phrase(token: str) -> bool:
    return token[0].isalnum() and token not in words.FUNCTION


def _said(pattern: re.Pattern[str]) -> Callable[[Caption, CaptionRules], bool]:
    return lambda text, rules: bool(pattern.search(text.said))


def _content(pattern: re.Pattern[str]) -> Callable[[Caption, CaptionRules], bool]:
    return lambda text, rules: bool(pattern.search(text.content))


_CHECKS: dict[CaptionProblem, Callable[[Caption, CaptionRules], bool]] = {
    CaptionProblem.REFUSAL: _said(words.REFUSAL),
    CaptionProblem.PROMPT_TEXT: _is_prompt_text,
    CaptionProblem.PLACEHOLDER: _said(words.PLACEHOLDER),
    CaptionProblem.TOO_SHORT: _is_too_short,
    CaptionProblem.NOT_ENGLISH: _is_not_english,
    CaptionProblem.TOO_LONG: lambda text, rules: len(text.words) > rules.max_words,
    CaptionProblem.CUT_OFF: _is_cut_off,
    CaptionProblem.GARBLED: _said(words.GARBLED),
    CaptionProblem.REPEATS: _repeats,
    CaptionProblem.HEDGES: _content(faults.HEDGE),
    CaptionProblem.UNSEEN: _content(faults.UNSEEN),
    CaptionProblem.ABSENT: _content(faults.ABSENT),
    CaptionProblem.PROTECTED: _names_a_protected_trait,
    CaptionProblem.IDENTITY: _names_somebody,
    CaptionProblem.ROLE: _guesses_a_role,
    CaptionProblem.SEVERAL: _describes_several,
    CaptionProblem.ARTEFACT: _describes_an_artefact,
    CaptionProblem.FLATTERY: _content(faults.FLATTERY),
    CaptionProblem.FEELING: _content(faults.FEELING),
    CaptionProblem.PICTURE: _content(faults.PICTURE),
    CaptionProblem.SCENE: _describes_scene,
    CaptionProblem.NO_PERSON: lambda text, rules: not names(text.words, words.PERSON | words.ROLE | words.RELATIVE),
    CaptionProblem.NO_GARMENT: lambda text, rules: not names(text.words, words.GARMENT),
}


def _latin_share(text: str) -> float:
    letters = [character for character in text if character.isalpha() or is_foreign_letter(character)]
    return 1 - sum(map(is_foreign_letter, letters)) / len(letters) if letters else 1.0


def _cycles(tokens: Sequence[str], size: int, most: int) -> bool:
    """Whether a run of `size` words occurs more than `most` times in a row."""
    same = 0
    for index in range(size, len(tokens)):
        same = same + 1 if tokens[index] == tokens[index - size] else 0
        if same >= size * most:
            return True
    return False


@functools.cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise ImportError('Language detection needs py3langid: pip install "gadms[construction]"') from error
    # Not the library's shared instance, which other code may have restricted to some languages.
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _english_probability(text: str) -> float:
    # The library was trained mostly on lower-case text: capitals lower the probability of English.
    return dict(_identifier().rank(text.lower())).get("en", 0.0)
