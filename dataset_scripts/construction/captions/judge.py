"""Block `judge`: ask the captioner whether what a caption says is in the picture, one yes/no question per garment.

Nothing else compares the colours of a caption with the picture. Questions are made from the caption by the vocabulary
of the rules. The block is not in the paper and off by default, since it costs a request per question (`questions_of`
of a caption gives their number; captions of the shipped templates have about five).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ..blocks import Batch, Outcome, rows_of, stable_id
from . import words
from .caption import Attempt, AttemptBlock, captioner_of, journal_path
from .chat.journal import JournalledChat
from .chat.types import ChatReply, ChatRequest, ChatSettings
from .phrases import Caption, names
from .prompts import judge_request


class Answer(StrEnum):
    """What the judge made of a caption."""

    DENIED = "denied by the judge"
    """One answer is no."""
    UNCLEAR = "no answer of the judge"
    """One answer is neither yes nor no, or did not come."""


NOTHING_ASKED = "nothing for the judge to ask"
_YES_OR_NO = re.compile(r"\W*(yes|no)\b(?:[.,;:!\"'*)\s]|$)", re.IGNORECASE)
_REACH = 7
"""Words of a noun phrase before its noun, such as "a knee-length dark blue quilted down coat"."""


@dataclass(frozen=True)
class JudgeSettings:
    """Settings of the optional `judge` block.

    Args:
        enabled (`bool`, *optional*, defaults to `False`): ask every captioner about its own captions.
        max_questions (`int`, *optional*, defaults to 8): questions per caption; the first ones in the caption's order.
        colors_only (`bool`, *optional*, defaults to `False`): ask only about things whose colour the caption names.

    Raises:
        ValueError: if `max_questions` is less than 1.
    """

    enabled: bool = False
    max_questions: int = 8
    colors_only: bool = False

    def __post_init__(self) -> None:
        if self.max_questions < 1:
            raise ValueError(f"`max_questions` must be 1 or more, not {self.max_questions}")


class JudgeCaption(AttemptBlock):
    """Removes a caption if the judge says no to one of its questions, or gives no clear answer.

    Such a caption counts as failed: it is requested again with another template while attempts remain. `journal` is
    the folder of the journals of unfinished shards: a crash repeats no question.
    """

    step = "judge"
    batch_size = None  # a whole shard: requests overlap, and a batch waits for its slowest
    has_model = True

    def __init__(self, attempt: Attempt, settings: JudgeSettings, captioner: ChatSettings, journal: Path):
        super().__init__(attempt)
        self.settings, self.captioner, self.journal = settings, captioner, journal
        self.reads = ("shard", "row_id", "crop", attempt.column)
        self.adds = {f"confirmed{attempt.slot}": pa.int64(), attempt.column: pa.string()}

    def prepare(self) -> None:
        self._chat = captioner_of(self.captioner)

    def selects(self, table: pa.Table) -> pa.Array | None:
        captioned = pc.is_valid(table[self.attempt.column]).combine_chunks()
        judged = f"confirmed{self.attempt.slot}"
        if judged not in table.column_names:
            return captioned
        # Captions that passed in an earlier attempt were judged then.
        return pc.and_(captioned, pc.is_null(table[judged]).combine_chunks())

    def __call__(self, batch: Batch) -> Outcome:
        asked = [
            questions_of(caption, colors_only=self.settings.colors_only)[: self.settings.max_questions]
            for caption in batch[self.attempt.column]
        ]
        requests = [
            judge_request(crop, question, self._seed(row_id))
            for (_, row_id, crop, _), questions in zip(rows_of(batch, self.reads), asked, strict=True)
            for question in questions
        ]
        replies = iter(self._ask(requests, batch["shard"][0]))
        columns: Batch = {f"confirmed{self.attempt.slot}": [], self.attempt.column: []}
        failures: list[tuple[str, str] | None] = []
        for caption, questions in zip(batch[self.attempt.column], asked, strict=True):
            answers = [(question, next(replies)) for question in questions]
            failure = next((found for question, reply in answers if (found := _objection(question, reply))), None)
            columns[f"confirmed{self.attempt.slot}"].append(None if failure else len(questions))
            columns[self.attempt.column].append(None if failure else caption)
            failures.append(failure)
        return self.attempt.outcome(columns, failures, [None if questions else NOTHING_ASKED for questions in asked])

    def _ask(self, requests: list[ChatRequest], shard: int) -> list[ChatReply]:
        path = journal_path(self.journal, shard, f"{self.attempt.column}-judge")
        sampling = f"{self.captioner.max_tokens} {self.captioner.temperature} {self.captioner.top_p}"
        return JournalledChat(self._chat, path, sampling, keeps_problems=True).complete(requests)

    def _seed(self, row_id: str) -> int:
        return int(stable_id(row_id, f"judge {self.attempt.slot}"), 16) % 2**31


def questions_of(caption: str, *, colors_only: bool = False) -> list[str]:
    """Yes/no questions on the garments and things of a caption, in its order, each once.

    >>> for question in questions_of("A man wears a dark red jacket, and his shoes are white. He holds a paper bag."):
    ...     print(question)
    Is the person wearing a dark red jacket?
    Is the person wearing white shoes?
    Does the person have a paper bag?
    """
    text = Caption(caption)
    found: dict[str, None] = {}
    for phrase, noun in _things(text.tokens):
        if len(phrase) < 2 or (colors_only and not names(phrase, words.COLOR)):
            continue  # "shoes" alone is hardly ever wrong
        named = " ".join(phrase)
        article = "" if _is_plural(noun) else "an " if named[0] in "aeiou" else "a "
        asks = "Is the person wearing" if names((noun,), words.GARMENT) else "Does the person have"
        found[f"{asks} {article}{named}?"] = None
    return list(found)


def parse_answer(text: str) -> bool | None:
    """Whether an answer says yes or no; `None` if it begins with neither.

    >>> parse_answer("Yes."), parse_answer("no, it is blue"), parse_answer("Not sure"), parse_answer("yes and no")
    (True, False, None, None)
    """
    words_said = re.findall(r"\w+", text.casefold())
    match = _YES_OR_NO.match(text)
    if not match or {"yes", "no"} <= set(words_said):
        return None
    return match[1].casefold() == "yes"


def _objection(question: str, reply: ChatReply) -> tuple[str, str] | None:
    if reply.text is None:
        return Answer.UNCLEAR.value, f"{question} {reply.problem}: {reply.detail}"
    answer = parse_answer(reply.text)
    if answer:
        return None
    return (Answer.UNCLEAR if answer is None else Answer.DENIED).value, f"{question} {reply.text}"


def _things(tokens: list[str]) -> Iterator[tuple[list[str], str]]:
    """The garments and carried things: the words of the phrase without its article, and its noun."""
    known = (words.GARMENT | words.CARRIED) - words.word_set("wear sleeves collar board")
    for position, token in enumerate(tokens):
        is_thing = names((token,), known) and not token.endswith("'s")
        if not is_thing or names(tokens[position + 1 : position + 2], known):
            continue  # the noun of "leather jacket pocket" is its last
        phrase = _words_before(tokens, position)
        if not names(phrase, words.COLOR):
            phrase = _colors_after(tokens, position) + phrase
        yield [*phrase, token], token


def _words_before(tokens: list[str], position: int) -> list[str]:
    """The adjectives before a noun; "black and white" is kept together."""
    start = position
    while start > max(position - _REACH, 0):
        before = tokens[start - 1]
        joins_colors = before == "and" and start >= 2 and names(tokens[start - 2 : start - 1], words.COLOR)
        joins_colors = joins_colors and names(tokens[start : start + 1], words.COLOR)
        ends = before in words.FUNCTION | _NO_ADJECTIVE or not before[0].isalnum() or before.endswith("'s")
        if ends and not joins_colors:
            break
        start -= 1
    return tokens[start:position]


def _colors_after(tokens: list[str], position: int) -> list[str]:
    """The colours of "the shoes are dark blue and white", or nothing."""
    if tokens[position + 1 : position + 2] not in (["is"], ["are"]):
        return []
    end = position + 2
    while end < len(tokens) and (
        tokens[end] in words.COLOR | _SHADES
        or (tokens[end] == "and" and names(tokens[end + 1 : end + 2], words.COLOR))
    ):
        end += 1
    return tokens[position + 2 : end] if names(tokens[position + 2 : end], words.COLOR) else []


_SHADES = words.word_set("dark light pale bright deep")
_NO_ADJECTIVE = words.DETERMINERS | words.word_set(
    "wear wears carry carries carrying hold holds holding has have having pair pairs of matching same kind dressed"
    " includes complete finishes finish plus along together"
)


def _is_plural(noun: str) -> bool:
    return noun.endswith("s") and not noun.endswith("ss")
