"""Journal of replies: each reply is written to a file as it arrives, so that a killed run repeats no request."""

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from tqdm.auto import tqdm

from .types import OUTAGE_PROBLEMS, ChatModel, ChatProblem, ChatReply, ChatRequest, ChatStoppedError


_LINE_START = b'{"key": "'


class JournalledChat:
    """Answers known requests from a file, and sends the others to a chat model.

    The file contains one JSON object per line, appended as a reply arrives: `{"key": ..., "text": ...}`, with the
    problem of a request without a usable reply. The key is a digest of the request, the model and `settings`. A last
    line that was cut off by a crash is removed.

    Problems that an outage can cause are written only after a later request was answered, or when the call ends. So
    requests that a failing server left unanswered before the run stopped are sent again.

    Args:
        model (`ChatModel`): answers requests that are not in the file.
        path (`str` or `Path`): the file; created, with its folders, if missing.
        settings (`str`, *optional*): anything else that a reply depends on, such as the temperature. Entries that were
            written with other settings are ignored.
        keeps_problems (`bool`): whether problems are kept too, so that the next run does not repeat those requests.
        stopped (`threading.Event`, *optional*): once set, by another thread, the next reply ends `complete` with
            `ChatStoppedError`.

    Raises:
        ValueError: if the file is not such a journal; names the line.
    """

    def __init__(
        self,
        model: ChatModel,
        path: str | Path,
        settings: str = "",
        *,
        keeps_problems: bool = False,
        stopped: threading.Event | None = None,
    ):
        self.model = model
        self.path = Path(path)
        self.settings = settings
        self.keeps_problems = keeps_problems
        self.stopped = stopped
        self.name, self.revision = model.name, model.revision
        self._settled = _read_journal(self.path)

    def complete(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        """One reply per request, in the order of the requests; equal requests are sent once."""
        keys = [self._key(request) for request in requests]
        replies = {key: self._settled[key] for key in keys if key in self._settled}
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in replies}
        if missing:
            replies |= self._ask(missing)
        return [replies[key] for key in keys]

    def _ask(self, missing: dict[str, ChatRequest]) -> dict[str, ChatReply]:
        keys = list(missing)
        unsettled: list[tuple[str, ChatReply]] = []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as journal, tqdm(total=len(keys), unit="reply") as progress:

            def arrived(number: int, reply: ChatReply) -> None:
                if self.stopped is not None and self.stopped.is_set():
                    raise ChatStoppedError("the run has ended")
                progress.update()
                unsettled.append((keys[number], reply))
                if reply.problem not in OUTAGE_PROBLEMS:
                    settle()

            def settle() -> None:
                for key, reply in unsettled:
                    self._settle(journal, key, reply)
                unsettled.clear()

            replies = self.model.complete(list(missing.values()), arrived)
            settle()
        return dict(zip(keys, replies, strict=True))

    def _settle(self, journal: IO[str], key: str, reply: ChatReply) -> None:
        if reply.problem and not self.keeps_problems:
            return
        self._settled[key] = reply
        problem = {"problem": reply.problem, "detail": reply.detail} if reply.problem else {}
        journal.write(json.dumps({"key": key, "text": reply.text, **problem}, ensure_ascii=False) + "\n")
        journal.flush()  # a killed process loses what it has not handed to the operating system

    def _key(self, request: ChatRequest) -> str:
        image = hashlib.sha256(request.image).hexdigest() if request.image is not None else None
        parts = [self.name, self.revision, self.settings, request.system, request.text, image, request.seed]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _read_journal(path: Path) -> dict[str, ChatReply]:
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    settled: dict[str, ChatReply] = {}
    for number, line in enumerate(content[:whole].split(b"\n")[:-1], start=1):
        try:
            settled.update([_read_line(line)])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}, is not a journal entry ({error}): name another file or delete the line"
            ) from error
    torn = content[whole:]
    if torn and not (torn.startswith(_LINE_START) or _LINE_START.startswith(torn)):
        raise ValueError(f"{path} is not a journal of replies (see its last line): name another file")
    if torn:  # otherwise the next reply would be appended to it
        os.truncate(path, whole)
    return settled


def _read_line(line: bytes) -> tuple[str, ChatReply]:
    entry = json.loads(line)
    key, text = entry["key"], entry["text"]
    problem = ChatProblem(entry["problem"]) if "problem" in entry else None
    if not isinstance(key, str) or not (isinstance(text, str) if problem is None else text is None):
        raise TypeError("`key` must be a string, and so must `text` unless there is a problem")
    return key, ChatReply(text, problem, entry.get("detail", ""))
