"""Blocks `template`, `caption` and `verify`: draw a template, ask the captioner, check the reply; repeated on failure.

Rows that already have their caption skip the blocks of later attempts and are not counted there. A row that fails the
last attempt is rejected with the last reason; earlier failures are counted as notes.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..blocks import Batch, Block, Outcome, rows_of, stable_id
from .chat.clients import build_chat
from .chat.journal import JournalledChat
from .chat.types import ChatModel, ChatReply, ChatRequest, ChatSettings
from .cleaning import review_reply
from .prompts import caption_request, prompt_hash
from .rules import CaptionRules
from .templates import Template, TemplateSet, draw_template


@dataclass(frozen=True)
class CaptionSettings:
    """How captions are requested.

    Args:
        templates (`str`, *optional*): JSON file of templates; by default the set shipped with the package.
        attempts (`int`, *optional*, defaults to 2): attempts per caption, each with another template.
        max_words (`int`, *optional*, defaults to 60): word limit in the prompt. The paper has one but does not state
            it: chosen, so that nearly every caption fits CLIP's 77 tokens.
        seed (`int`, *optional*, defaults to 0): draws the templates, and is part of every request's seed.

    Raises:
        ValueError: for a value out of its range.
    """

    templates: str | None = None
    attempts: int = 2
    max_words: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("attempts", 1), ("max_words", 5), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be {least} or more, not {getattr(self, name)}")


@dataclass(frozen=True)
class Attempt:
    """The caption column to fill, the number of the attempt (from 1) and the number of attempts in all."""

    column: str
    number: int
    of: int

    @property
    def slot(self) -> int:
        return int(self.column.removeprefix("caption"))

    def outcome(
        self, columns: Batch, failures: Sequence[tuple[str, str] | None], remarks: Sequence[str | None] | None = None
    ) -> Outcome:
        """Outcome for rows whose caption failed, with reason and detail, or not: only the last attempt rejects.

        `remarks` are notes on captions that did not fail.
        """
        remarks = remarks or [None] * len(failures)
        if self.number < self.of:
            notes = [failure[0] if failure else remark for failure, remark in zip(failures, remarks, strict=True)]
            return Outcome(columns, notes=notes)
        return Outcome(columns, [(False, *failure) if failure else True for failure in failures], remarks)


_shared_chat = cache(build_chat)
"""One model per process, for all attempts: a local captioner fills the memory of a GPU."""


def captioner_of(settings: ChatSettings) -> ChatModel:
    """The captioner of this process with these settings, which all blocks share."""
    return _shared_chat(settings)


class AttemptBlock(Block):
    """A block of one attempt at one caption column. It processes rows that do not have this caption yet."""

    step: str

    def __init__(self, attempt: Attempt):
        self.attempt = attempt
        self.group = attempt.column
        self.name = f"{self.step} {attempt.slot}" + (f", attempt {attempt.number}" if attempt.number > 1 else "")

    def selects(self, table: pa.Table) -> pa.Array | None:
        if self.attempt.column not in table.column_names:
            return None
        return pc.is_null(table[self.attempt.column]).combine_chunks()


class DrawTemplate(AttemptBlock):
    """Adds a random template to each row, as in the paper. It depends only on row, caption, attempt and seed."""

    step = "template"
    reads = ("row_id",)

    def __init__(self, attempt: Attempt, settings: CaptionSettings):
        super().__init__(attempt)
        self.settings = settings
        self.adds = {f"template{attempt.slot}": pa.string()}

    def prepare(self) -> None:
        self._templates = load_templates(self.settings)

    def __call__(self, batch: Batch) -> Outcome:
        slot, number, seed = self.attempt.slot, self.attempt.number - 1, self.settings.seed
        drawn = [draw_template(self._templates, row_id, slot, number, seed).id for row_id in batch["row_id"]]
        return Outcome({f"template{slot}": drawn})


class AskCaptioner(AttemptBlock):
    """Requests the caption of each crop. A journal keeps replies as they arrive, so that a crash repeats no request.

    `journal` is the folder of the journals of unfinished shards.
    """

    step = "caption"
    batch_size = None  # a whole shard: requests overlap, and a batch waits for its slowest
    has_model = True
    companions: Sequence["AskCaptioner"] = ()
    """First attempts at other columns, started with this one where they share a process: while the last replies of one
    captioner are awaited, the other is busy. The companion finds the replies in its journal."""

    def __init__(self, attempt: Attempt, settings: CaptionSettings, captioner: ChatSettings, journal: Path):
        super().__init__(attempt)
        self.settings, self.captioner, self.journal = settings, captioner, journal
        slot = attempt.slot
        self.reads = ("shard", "row_id", "crop", f"template{slot}")
        names = ("reply", "captioner", "captioner_revision", "prompt_hash")
        self.adds = {f"{name}{slot}": pa.string() for name in names}

    def prepare(self) -> None:
        self._template_set = load_templates(self.settings)
        self._templates = {template.id: template for template in self._template_set.templates}
        self._chat = _shared_chat(self.captioner)
        self._started: dict[Path, Future[list[ChatReply]]] = {}
        self._stopped = threading.Event()

    def __call__(self, batch: Batch) -> Outcome:
        for companion in self.companions:
            companion.start(batch["shard"][0], batch["row_id"], batch["crop"])
        requests = [
            self._request(row_id, crop, self._templates[template])
            for _, row_id, crop, template in rows_of(batch, self.reads)
        ]
        path = self._journal_of(batch["shard"][0])  # all rows of a batch are of one shard
        if (started := self._started.pop(path, None)) is not None:
            started.result()
        try:
            replies = self._ask(requests, path)
        except BaseException:
            for companion in self.companions:
                companion.stop()
            raise
        slot, rows = self.attempt.slot, len(requests)
        columns: Batch = {
            f"reply{slot}": [reply.text for reply in replies],
            f"captioner{slot}": [public_name(self._chat.name)] * rows,
            f"captioner_revision{slot}": [self._chat.revision] * rows,
            f"prompt_hash{slot}": [prompt_hash(self.settings.max_words)] * rows,
        }
        failures = [(reply.problem.value, reply.detail) if reply.problem else None for reply in replies]
        return self.attempt.outcome(columns, failures)

    def start(self, shard: int, row_ids: Sequence[str], crops: Sequence[bytes]) -> None:
        """Begin to request captions in a thread, if this block is prepared in this process and its chat allows it."""
        path = self._journal_of(shard)
        if not hasattr(self, "_chat") or not getattr(self._chat, "is_concurrent", False) or path in self._started:
            return
        slot, seed = self.attempt.slot, self.settings.seed
        requests = [
            self._request(row_id, crop, draw_template(self._template_set, row_id, slot, 0, seed))
            for row_id, crop in zip(row_ids, crops, strict=True)
        ]
        self._started[path] = in_thread(self._ask, requests, path, self._stopped)

    def stop(self) -> None:
        """End what `start` began, with the next reply."""
        if hasattr(self, "_chat"):
            self._stopped.set()

    def _ask(
        self, requests: Sequence[ChatRequest], path: Path, stopped: threading.Event | None = None
    ) -> list[ChatReply]:
        sampling = f"{self.captioner.max_tokens} {self.captioner.temperature} {self.captioner.top_p}"
        return JournalledChat(self._chat, path, sampling, keeps_problems=True, stopped=stopped).complete(requests)

    def _journal_of(self, shard: int) -> Path:
        return journal_path(self.journal, shard, self.attempt.column)

    def _request(self, row_id: str, crop: bytes, template: Template) -> ChatRequest:
        return caption_request(crop, template, self.settings.max_words, self._seed(row_id))

    def _seed(self, row_id: str) -> int:
        attempt = self.attempt
        digest = stable_id(row_id, f"{attempt.slot} {attempt.number} {self.settings.seed}")
        return int(digest, 16) % 2**31  # servers read the seed as a signed integer


class VerifyCaption(AttemptBlock):
    """Takes a reply as the caption if, cleaned, it breaks no rule. What was removed is noted, by kind."""

    step = "verify"

    def __init__(self, attempt: Attempt, rules: CaptionRules):
        super().__init__(attempt)
        self.rules = rules
        self.reads = (f"reply{attempt.slot}",)
        self.adds = {attempt.column: pa.string()}

    def selects(self, table: pa.Table) -> pa.Array | None:
        answered = pc.is_valid(table[f"reply{self.attempt.slot}"]).combine_chunks()
        waiting = super().selects(table)
        return answered if waiting is None else pc.and_(answered, waiting)

    def __call__(self, batch: Batch) -> Outcome:
        reviews = [review_reply(reply, self.rules) for reply in batch[f"reply{self.attempt.slot}"]]
        captions = [None if review.problem else review.caption for review in reviews]
        failures = [
            (review.problem.value, reply) if review.problem else None
            for review, reply in zip(reviews, batch[f"reply{self.attempt.slot}"], strict=True)
        ]
        remarks = [f"removed: {' + '.join(review.removed)}" if review.removed else None for review in reviews]
        return self.attempt.outcome({self.attempt.column: captions}, failures, remarks)


def in_thread(work: Callable[..., list[ChatReply]], *arguments: Any) -> Future[list[ChatReply]]:
    """Call a function in a thread that does not keep the program from ending, as those of an executor do."""
    future: Future[list[ChatReply]] = Future()

    def run() -> None:
        try:
            future.set_result(work(*arguments))
        except BaseException as error:  # of any kind: it is raised where the result is awaited
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def load_templates(settings: CaptionSettings) -> TemplateSet:
    """Load the templates of a run; for errors see `TemplateSet.load`."""
    return TemplateSet.load(settings.templates or None)


def public_name(model: str) -> str:
    """The name under which a model is published: for a local folder or file only the last part of its path.

    >>> public_name("Qwen/Qwen2.5-VL-7B-Instruct"), public_name("/home/me/models/qwen")
    ('Qwen/Qwen2.5-VL-7B-Instruct', 'qwen')
    """
    path = Path(model)
    is_local = path.is_absolute() or model.startswith(("~", ".")) or path.exists()
    return path.resolve().name if is_local else model


def journal_path(folder: Path, shard: int, column: str) -> Path:
    """The journal of one caption column of one shard, which exists until the shard is finished."""
    return folder / f"{shard:05d}-{column}.jsonl"
