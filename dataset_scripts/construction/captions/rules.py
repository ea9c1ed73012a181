"""Rules that a caption must pass: it describes one person in plain English, or is rejected with a reason.

The paper states rules for the prompt but no verification. All rules and numbers here are chosen, so that valid
captions are hardly ever rejected and each typical failure of a captioner has its own reason. A rejected caption is
requested again with another template.
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from . import words
from .words import folded, is_foreign_letter


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
    PROTECTED = "names a protected trait"
    """Ethnicity, religion, health, sexual orientation or a name: not visible, and harmful when guessed."""
    SCENE = "describes the scene"
    """The text describes the background, or has more sentences about the surroundings than about the person. A mention
    such as "walks on a street" is accepted."""
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
        min_function_share (`float`, *optional*, defaults to 0.2): share of words that are common in English
            descriptions ("a", "with", "and", "wears"). Valid captions have 0.2 to 0.55; most other languages, keyword
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
    min_function_share: float = 0.2
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


_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+")
_LABEL = re.compile(r"^(?:image |new |final )?(?:caption|description)\s*:\s*", re.IGNORECASE)
_QUOTES = (('"', '"'), ("“", "”"), ("'", "'"), ("‘", "’"))
# Quoted text, such as a print that reads "Do you like it?", is not the captioner's own words.
_QUOTED = re.compile(r"\"[^\"]{1,60}\"|(?<![\w'])'(?:[^']|(?<=\w)'(?=\w)){1,60}'(?!\w)")
_DANGLING = re.compile(r"\b(?:a|an|the|and|or|of|his|is|are|wears|wearing|very)[.!?][\"')]*$")
_ENDED = re.compile(r"[^\s.…][.!?][\"'”’)]*$")


def clean_caption(text: str) -> str:
    """Remove a leading label ("Caption:", "Description:") and enclosing quotes, and collapse white space.

    The words of the caption stay unchanged.

    >>> clean_caption('Caption: "A man in a  red coat."')
    'A man in a red coat.'
    """
    text = _unquoted(" ".join(text.split()))
    return _unquoted(_LABEL.sub("", text, count=1))


def find_problem(caption: str, rules: CaptionRules) -> CaptionProblem | None:
    """Check a caption that was cleaned by `clean_caption`.

    Returns:
        `CaptionProblem`, *optional*: the first problem in the order of that class; `None` if there is none.

    Raises:
        ImportError: if the extra `construction` is not installed.
    """
    text = _Text(caption)
    return next((problem for problem, applies in _CHECKS.items() if applies(text, rules)), None)


class _Text:
    """A caption in the forms that the checks need, each computed on first use."""

    def __init__(self, caption: str) -> None:
        self.caption = caption
        self.folded = folded(caption)

    @functools.cached_property
    def said(self) -> str:
        return _QUOTED.sub('""', self.folded)

    @functools.cached_property
    def words(self) -> list[str]:
        return _WORD.findall(self.folded)

    @functools.cached_property
    def sentences(self) -> list[tuple[str, ...]]:
        return [tuple(_WORD.findall(sentence)) for sentence in _SENTENCE_END.split(self.folded) if sentence]


def _is_prompt_text(text: _Text, rules: CaptionRules) -> bool:
    found = (words.MARKUP.search(text.folded), words.COMMAND.search(text.said), words.TALK.search(text.said))
    return any(found) or not text.caption.isprintable()


def _is_not_english(text: _Text, rules: CaptionRules) -> bool:
    # A text of no words is too short, or in another script.
    return (
        _latin_share(text.caption) < rules.min_latin_share
        or sum(word in words.FUNCTION for word in text.words) / len(text.words) < rules.min_function_share
        or _english_probability(text.caption) < rules.min_english
    )


def _is_too_short(text: _Text, rules: CaptionRules) -> bool:
    # Words of scripts without spaces cannot be counted: "not English" is the better reason.
    return len(text.words) < rules.min_words and _latin_share(text.caption) >= rules.min_latin_share


def _is_cut_off(text: _Text, rules: CaptionRules) -> bool:
    # Checked before case folding: "the letter A." ends a sentence, "with a." does not.
    return not _ENDED.search(text.caption) or bool(_DANGLING.search(text.caption))


def _repeats(text: _Text, rules: CaptionRules) -> bool:
    run = rules.max_repeated_words + 1
    runs = [tuple(text.words[start : start + run]) for start in range(len(text.words) - run + 1)]
    return (
        len(set(text.sentences)) < len(text.sentences)
        or len(set(runs)) < len(runs)
        or any(_cycles(text.words, size, rules.max_cycles) for size in range(1, 5))
    )


def _describes_scene(text: _Text, rules: CaptionRules) -> bool:
    if words.BACKGROUND.search(text.said):
        return True
    about_scene = about_person = 0
    for sentence in text.sentences:
        if _names(sentence, words.PERSON | words.GARMENT):
            about_person += 1
        elif _names(sentence, words.SCENERY):
            about_scene += 1
    return about_scene > about_person


def _pattern(pattern: re.Pattern[str]) -> Callable[[_Text, CaptionRules], bool]:
    return lambda text, rules: bool(pattern.search(text.said))


_CHECKS: dict[CaptionProblem, Callable[[_Text, CaptionRules], bool]] = {
    CaptionProblem.REFUSAL: _pattern(words.REFUSAL),
    CaptionProblem.PROMPT_TEXT: _is_prompt_text,
    CaptionProblem.PLACEHOLDER: _pattern(words.PLACEHOLDER),
    CaptionProblem.TOO_SHORT: _is_too_short,
    CaptionProblem.NOT_ENGLISH: _is_not_english,
    CaptionProblem.TOO_LONG: lambda text, rules: len(text.words) > rules.max_words,
    CaptionProblem.CUT_OFF: _is_cut_off,
    CaptionProblem.GARBLED: _pattern(words.GARBLED),
    CaptionProblem.REPEATS: _repeats,
    CaptionProblem.HEDGES: _pattern(words.HEDGE),
    CaptionProblem.UNSEEN: _pattern(words.UNSEEN),
    CaptionProblem.PROTECTED: _pattern(words.PROTECTED),
    CaptionProblem.SCENE: _describes_scene,
    CaptionProblem.NO_PERSON: lambda text, rules: not _names(text.words, words.PERSON),
    CaptionProblem.NO_GARMENT: lambda text, rules: not _names(text.words, words.GARMENT),
}


def _unquoted(text: str) -> str:
    for first, last in _QUOTES:
        inner = text[1:-1]
        is_quoted = len(text) > 1 and text.startswith(first) and text.endswith(last)
        if is_quoted and first not in inner and last not in inner:  # `"Hope" and "Love"` is not one quotation
            return inner.strip()
    return text


def _latin_share(text: str) -> float:
    letters = [character for character in text if character.isalpha() or is_foreign_letter(character)]
    return 1 - sum(map(is_foreign_letter, letters)) / len(letters) if letters else 1.0


def _names(tokens: Sequence[str], known: frozenset[str]) -> bool:
    """Whether any token is known, allowing for plural and possessive endings and for compounds."""
    for token in tokens:
        stem = token.removesuffix("'s").removesuffix("'")
        for form in (stem, stem.rpartition("-")[2]):
            if form in known or form.removesuffix("s") in known or form.removesuffix("es") in known:
                return True
    return False


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
