"""Blocks `template`, `caption` and `verify`: draw a template, ask a captioner, check the reply, and again if it fails.

A row that has its caption passes the blocks of a second attempt untouched and uncounted. What fails at the last
attempt is rejected with the last reason; earlier failures are noted, and counted as such.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ..blocks import Batch, Block, Outcome, Verdict, rows_of, stable_id
from .chat.journal import JournalledChat
from .chat.types import ChatModel, ChatReply, ChatSettings, build_chat
from .prompts import caption_request, prompt_hash
from .rules import CaptionRules, clean_caption, find_problem
from .templates import TemplateSet, draw_template


@dataclass(frozen=True)
class CaptionSettings:
    """How captions are asked for.

    Args:
        templates (`str`, *optional*): JSON file of templates; by default the set that comes with the package.
        attempts (`int`, *optional*, defaults to 2): how often a row is asked for, each time with another template.
        max_words (`int`, *optional*, defaults to 60): word limit of the prompt. The paper has one but does not state
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
    """Which caption column is filled, and in which of how many attempts (both from 1)."""

    column: str
    number: int
    of: int

    @property
    def slot(self) -> int:
        return int(self.column.removeprefix("caption"))

    def block_name(self, what: str) -> str:
        return f"{what} {self.slot}" + (f", attempt {self.number}" if self.number > 1 else "")

    def failure(self, reason: str, detail: str | None) -> tuple[Verdict, str | None]:
        """The verdict on a row whose caption failed, and the note: only the last attempt drops it."""
        if self.number < self.of:
            return True, reason
        return (False, reason, detail or ""), None

    def without_caption(self, table: pa.Table) -> pa.Array | None:
        if self.column not in table.column_names:
            return None
        return pc.is_null(table[self.column]).combine_chunks()


class DrawTemplate(Block):
    """Gives each row a template at random, as the paper does; which one depends on row, caption and attempt alone."""

    reads = ("row_id",)

    def __init__(self, attempt: Attempt, settings: CaptionSettings):
        self.attempt, self.settings = attempt, settings
        self.group = attempt.column
        self.name = attempt.block_name("template")
        self.adds = {f"template{attempt.slot}": pa.string()}

    def prepare(self) -> None:
        self._templates = load_templates(self.settings)

    def concerns(self, table: pa.Table) -> pa.Array | None:
        return self.attempt.without_caption(table)

    def __call__(self, batch: Batch) -> Outcome:
        slot, number, seed = self.attempt.slot, self.attempt.number - 1, self.settings.seed
        drawn = [draw_template(self._templates, row_id, slot, number, seed).id for row_id in batch["row_id"]]
        return Outcome({f"template{slot}": drawn})


class AskCaptioner(Block):
    """Asks for the caption of each crop. Replies are written down as they come, so that no crash asks one twice.

    Args:
        attempt (`Attempt`): which column and attempt.
        settings (`CaptionSettings`): templates, word limit, seed.
        captioner (`ChatSettings`): who is asked.
        journal (`Path`): folder of the replies of shards that are not finished.
    """

    batch_size = None  # a whole shard: requests overlap, and a batch waits for its slowest
    has_model = True

    def __init__(self, attempt: Attempt, settings: CaptionSettings, captioner: ChatSettings, journal: Path):
        self.attempt, self.settings, self.captioner, self.journal = attempt, settings, captioner, journal
        self.group = attempt.column
        self.name = attempt.block_name("caption")
        slot = attempt.slot
        self.reads = ("shard", "row_id", "crop", f"template{slot}")
        self.adds = {
            f"reply{slot}": pa.string(),
            f"captioner{slot}": pa.string(),
            f"captioner_revision{slot}": pa.string(),
            f"prompt_hash{slot}": pa.string(),
        }

    def prepare(self) -> None:
        self._templates = {template.id: template for template in load_templates(self.settings).templates}
        self._chat = _shared_chat(self.captioner)

    def concerns(self, table: pa.Table) -> pa.Array | None:
        return self.attempt.without_caption(table)

    def __call__(self, batch: Batch) -> Outcome:
        requests = [
            caption_request(crop, self._templates[template], self.settings.max_words, self._seed(row_id))
            for _, row_id, crop, template in rows_of(batch, self.reads)
        ]
        # A batch is a shard, or a part of one.
        path = journal_path(self.journal, batch["shard"][0], self.attempt.column)
        replies = JournalledChat(self._chat, path, self._sampling, keeps_problems=True).complete(requests)
        slot, rows = self.attempt.slot, len(requests)
        failures = [_verdict(self.attempt, reply) for reply in replies]
        columns: Batch = {
            f"reply{slot}": [reply.text for reply in replies],
            f"captioner{slot}": [public_name(self._chat.name)] * rows,
            f"captioner_revision{slot}": [self._chat.revision] * rows,
            f"prompt_hash{slot}": [prompt_hash(self.settings.max_words)] * rows,
        }
        return Outcome(columns, [verdict for verdict, _ in failures], [note for _, note in failures])

    def _seed(self, row_id: str) -> int:
        attempt = self.attempt
        digest = stable_id(row_id, f"{attempt.slot} {attempt.number} {self.settings.seed}")
        return int(digest, 16) % 2**31  # servers take the seed for a signed number

    @property
    def _sampling(self) -> str:
        settings = self.captioner
        return f"{settings.max_tokens} {settings.temperature} {settings.top_p}"


class VerifyCaption(Block):
    """Keeps a reply as caption if it breaks no rule."""

    def __init__(self, attempt: Attempt, rules: CaptionRules):
        self.attempt, self.rules = attempt, rules
        self.group = attempt.column
        self.name = attempt.block_name("verify")
        self.reads = (f"reply{attempt.slot}",)
        self.adds = {attempt.column: pa.string()}

    def concerns(self, table: pa.Table) -> pa.Array | None:
        answered = pc.is_valid(table[f"reply{self.attempt.slot}"]).combine_chunks()
        waiting = self.attempt.without_caption(table)
        return answered if waiting is None else pc.and_(answered, waiting)

    def __call__(self, batch: Batch) -> Outcome:
        captions, verdicts, notes = [], [], []
        for (reply,) in rows_of(batch, self.reads):
            caption = clean_caption(reply)
            problem = find_problem(caption, self.rules)
            verdict, note = self.attempt.failure(problem.value, reply) if problem else (True, None)
            captions.append(None if problem else caption)
            verdicts.append(verdict)
            notes.append(note)
        return Outcome({self.attempt.column: captions}, verdicts, notes)


def load_templates(settings: CaptionSettings) -> TemplateSet:
    """The templates of a run.

    Raises:
        TemplateError: for a file that is no set of templates, or holds one that must not reach a captioner.
        OSError: if the file cannot be read.
    """
    return TemplateSet.load(Path(settings.templates) if settings.templates else None)


def public_name(model: str) -> str:
    """The name of a model as it is published: of a folder or file on this machine only the last part.

    >>> public_name("Qwen/Qwen2.5-VL-7B-Instruct"), public_name("/home/me/models/qwen")
    ('Qwen/Qwen2.5-VL-7B-Instruct', 'qwen')
    """
    path = Path(model)
    is_local = path.is_absolute() or model.startswith(("~", ".")) or path.exists()
    return path.resolve().name if is_local else model


def journal_path(folder: Path, shard: int, column: str) -> Path:
    """Where the replies for one column of one shard are written down until the shard is finished."""
    return folder / f"{shard:05d}-{column}.jsonl"


def _verdict(attempt: Attempt, reply: ChatReply) -> tuple[Verdict, str | None]:
    return (True, None) if reply.problem is None else attempt.failure(reply.problem.value, reply.detail)


_chats: dict[ChatSettings, ChatModel] = {}


def _shared_chat(settings: ChatSettings) -> ChatModel:
    """One model a process, for all attempts: a local captioner fills the memory of a GPU."""
    if settings not in _chats:
        _chats[settings] = build_chat(settings)
    return _chats[settings]
