"""Remove from a reply what can be removed exactly: labels, quotes, openings, and clauses on what is no description.

A good sentence is often wrapped in words about the picture ("The image shows a man in ..."), or followed by a clause
about the scene or about what is missing (", set against a white wall", ", and no bag is present"). These are cut where
a clause ends and nothing of the person is lost; else the caption is left as it is, and the rules refuse it.
"""

import re
from dataclasses import dataclass

from .phrases import WORD, Caption, names, sentences_of
from .rules import CaptionProblem, CaptionRules, find_problem, has_problem
from .words import CARRIED, GARMENT


OPENING = "opening"
CUTTABLE = {
    CaptionProblem.SCENE: "scene",
    CaptionProblem.ABSENT: "absence",
    CaptionProblem.UNSEEN: "unseen",
    CaptionProblem.PICTURE: "picture",
}
"""Problems that a clause of its own may have, without which the rest is a caption, and the names under which the
pipeline report counts what was removed."""

_LABEL = re.compile(r"^(?:image |new |final )?(?:caption|description)\s*:\s*", re.IGNORECASE)
_QUOTES = (('"', '"'), ("“", "”"), ("'", "'"), ("‘", "’"))

_KINDS = (
    r"(?:(?:full|half|whole|upper|body|length|full-body|full-length|half-length|half-body|waist-up|three-quarter"
    r"|candid|studio|street|street-style|fashion|close-up|low-angle|high-angle|eye-level|overhead|side|side-view|rear"
    r"|back|front|frontal|wide|medium|vertical|cropped|blurry|blurred|grainy|clear|sharp|detailed|single|cctv"
    r"|surveillance|security|camera|given|provided|attached|above|following|black-and-white|color|colour|professional"
    r"|outdoor|indoor|low-resolution|stock|posed|simple|vintage|digital|small|tall|centered) )*"
)
_PICTURE = r"(?:image|picture|photo|photograph|portrait|shot|snapshot|view|close-?up|footage|still|frame|headshot)"
_SHOWS = (
    r"(?:shows|depicts|features|captures|presents|displays|portrays|contains|is of|showcases|focuses on|illustrates)"
)
_SHOWING = r"(?:of|showing|depicting|featuring|capturing|portraying|presenting|with)"
_SEES = r"(?:(?:we|you|one) (?:can |may )?(?:clearly )?(?:see|observe|notice)|there is|there's|is|appears)"
_OPENING = re.compile(
    "(?:"
    + "|".join(
        (
            rf"(?:in|on) (?:the|this|an?) {_KINDS}{_PICTURE},? (?:{_SEES} )?",
            rf"(?:(?:this|here|it)(?: is| appears to be| seems to be|'s|’s) )?(?:(?:the|this"
            rf"|an?) )?{_KINDS}{_PICTURE} {_SHOWING} ",
            rf"(?:(?:the|this|an?) )?{_KINDS}{_PICTURE} {_SHOWS} ",
            rf"(?:pictured|depicted|shown|seen|featured|captured)(?: here| above)?(?: in (?:the"
            rf"|this) {_KINDS}{_PICTURE})?,? is ",
            rf"the (?:main )?(?:subject|focus|person|individual|figure)(?: shown)? (?:of|in) (?:the"
            rf"|this) {_KINDS}{_PICTURE} is ",
            r"(?:here,? )?(?:we|you) (?:can )?see ",
            r"here (?:is|we have) ",
        )
    )
    + r")(?=(?:an?|the|this|one|his|her|young|old|elderly|middle-aged|adult|male|female|man|woman|boy|girl|person"
    r"|someone|lady)\b)",
    re.IGNORECASE,
)
_IN_THE_PICTURE = re.compile(
    rf"(^(?:the|this|an?) (?:[\w-]+ ){{1,3}})(?:shown |pictured |seen |depicted )?(?:in|of) (?:the"
    rf"|this) {_KINDS}{_PICTURE},? "
    r"(?=is|wears|has|stands|walks|holds|carries|wearing|with)",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(r"[,;](?= )")
_POSITIVE = re.compile(
    r"\bbut (?:with|wears?|has|holds?|carries)\b|\bexcept\b|\binstead\b|\bonly\b|\band (?:wears|holds|carries)\b"
)
_FINITE = re.compile(
    r"\b(?:is|are|was|were|has|have|do|does|can|cannot|isn't|aren't|doesn't|don't|hasn't|can't|shows?|lines?|stands?"
    r"|appears?|fills?|adds?|falls?|pours?|shines?|provides?|creates?|suggests?)\b"
)
_VERB = re.compile(
    r"(?:is|are|was|has|wears|stands|sits|walks|poses|leans|holds|looks|appears|strolls|waits|runs|rides)\b"
)


@dataclass(frozen=True)
class Review:
    """What became of a reply.

    Attributes:
        caption (`str`): the reply, cleaned where it could be.
        problem (`CaptionProblem`, *optional*): the rule that the caption breaks; `None` for a good one.
        removed (`tuple[str, ...]`): the kinds of what was removed from a good caption, labels and quotes excepted.
    """

    caption: str
    problem: CaptionProblem | None
    removed: tuple[str, ...] = ()


def review_reply(reply: str, rules: CaptionRules) -> Review:
    """Clean a captioner's reply and check what remains.

    >>> review_reply("The image shows a man in a red coat and blue jeans. No bag is present.", CaptionRules())
    Review(caption='A man in a red coat and blue jeans.', problem=None, removed=('opening', 'absence'))

    Raises:
        ImportError: if the extra `construction` is not installed.
    """
    caption = clean_caption(reply)
    shortened = without_opening(caption)
    removed = () if shortened == caption else (OPENING,)
    problem = find_problem(shortened, rules)
    if problem in CUTTABLE:
        cut, kinds = _without_faulty_clauses(shortened, rules)
        if find_problem(cut, rules) is None:
            return Review(cut, None, (*removed, *kinds))
    return Review(shortened, problem, () if problem else removed)


def clean_caption(text: str) -> str:
    """Remove a leading label ("Caption:", "Description:") and enclosing quotes, and collapse white space.

    The words of the caption stay unchanged; after a label, it gets a capital.

    >>> clean_caption('Caption: "A man in a  red coat."')
    'A man in a red coat.'
    """
    text = _unquoted(" ".join(text.split()))
    label = _LABEL.match(text)
    return _capitalized(_unquoted(text[label.end() :])) if label else text


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def without_opening(caption: str) -> str:
    """Remove an introduction of the picture from the beginning.

    >>> without_opening("In this picture we can see a girl in a blue dress.")
    'A girl in a blue dress.'
    >>> without_opening("The girl in the photo wears a blue dress.")
    'The girl wears a blue dress.'
    """
    if opening := _OPENING.match(caption):
        return _capitalized(caption[opening.end() :])
    return _IN_THE_PICTURE.sub(r"\1", caption, count=1)


def _without_faulty_clauses(caption: str, rules: CaptionRules) -> tuple[str, tuple[str, ...]]:
    """The caption without those sentences and last clauses that can be cut, and the problems that they had."""
    kept: list[str] = []
    kinds: dict[str, None] = {}
    for sentence in sentences_of(caption):
        problems = _problems(sentence, rules)
        rest = _without_last_clauses(sentence, rules) if problems else sentence
        if rest == sentence and problems and _is_dispensable(sentence, rules):
            rest = ""
        if rest:
            kept.append(rest)
        if rest != sentence:
            kinds |= dict.fromkeys(CUTTABLE[problem] for problem in problems)
    return " ".join(kept), tuple(kinds)


def _without_last_clauses(sentence: str, rules: CaptionRules) -> str:
    """The sentence up to the last clause end before which it has no problem, or all of it."""
    for boundary in reversed([match.start() for match in _CLAUSE_END.finditer(sentence)]):
        head, tail = sentence[:boundary], sentence[boundary + 1 :].strip()
        if not _problems(head, rules):
            # "..., shoes, and no bag" is the end of an enumeration, which would lack its "and".
            # "..., is lit by lamps" has the verb of the sentence.
            is_clause = not _VERB.match(tail) and (
                not tail.lower().startswith(("and ", "or ", "no ")) or bool(_FINITE.search(tail))
            )
            return f"{head}." if is_clause and _is_dispensable(tail, rules) else sentence
    return sentence


def _is_dispensable(text: str, rules: CaptionRules) -> bool:
    """Whether clauses tell nothing of the person: no garment and no thing, except that they are missing."""
    for clause in _CLAUSE_END.split(text):
        lower, problems = clause.casefold(), _problems(clause, rules)
        tells_what_is_missing = CaptionProblem.ABSENT in problems or CaptionProblem.UNSEEN in problems
        if _POSITIVE.search(lower) or (names(WORD.findall(lower), GARMENT | CARRIED) and not tells_what_is_missing):
            return False
    return True


def _problems(text: str, rules: CaptionRules) -> tuple[CaptionProblem, ...]:
    parsed = Caption(text)
    return tuple(problem for problem in CUTTABLE if has_problem(problem, parsed, rules))


def _unquoted(text: str) -> str:
    for first, last in _QUOTES:
        inner = text[1:-1]
        is_quoted = len(text) > 1 and text.startswith(first) and text.endswith(last)
        if is_quoted and first not in inner and last not in inner:  # `"Hope" and "Love"` is not one quotation
            return inner.strip()
    return text
