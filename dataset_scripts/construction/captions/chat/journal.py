"""Replies of a language model, written down as they arrive, so that a run that was killed asks nothing twice."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from tqdm.auto import tqdm

from .types import OUTAGE_PROBLEMS, ChatModel, ChatProblem, ChatReply, ChatRequest


_LINE_START = b'{"key": "'


class JournalledChat:
    """A `ChatModel` that answers from a file what it was asked before, and asks another model the rest.

    The file has one JSON object a line, appended as a reply arrives: `{"key": ..., "text": ...}`, and for a request
    without a usable reply also its problem. The key is a digest of the request, the model and `settings`. A last line
    that was cut by a crash is removed.

    Problems that an outage of the server explains are written only when a later request had an answer, or the call
    came to its end: what a server left unanswered before it was given up is asked again.

    Args:
        model (`ChatModel`): who is asked.
        path (`str` or `Path`): the file; made, with its folders, where there is none.
        settings (`str`, *optional*): whatever else decides a reply, such as the temperature; in other words: with
            another text here, nothing of the file is used.
        keeps_problems (`bool`): whether a request that ended in a problem is settled, and not asked again by the next
            run.

    Raises:
        ValueError: for a file that is not such a journal, naming the line.
    """

    def __init__(self, model: ChatModel, path: str | Path, settings: str = "", *, keeps_problems: bool = False):
        self.model = model
        self.path = Path(path)
        self.settings = settings
        self.keeps_problems = keeps_problems
        self.name, self.revision = model.name, model.revision
        self._settled = _read_journal(self.path)

    def __len__(self) -> int:
        """How many replies are written down."""
        return len(self._settled)

    def complete(
        self, requests: Sequence[ChatRequest], on_reply: Callable[[int, ChatReply], None] | None = None
    ) -> list[ChatReply]:
        """See `ChatModel`. The same request is asked once, however often it is in `requests`."""
        keys = [self._key(request) for request in requests]
        replies: dict[str, ChatReply] = {}
        places: dict[str, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, []).append(place)

        def take(key: str, reply: ChatReply) -> None:
            replies[key] = reply
            for place in places[key] if on_reply else []:
                on_reply(place, reply)  # type: ignore[misc]

        for key in places:
            if key in self._settled:
                take(key, self._settled[key])
        missing = [key for key in places if key not in replies]
        if missing:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as journal, tqdm(total=len(missing), unit="reply") as progress:
                outages: list[tuple[str, ChatReply]] = []

                def arrived(number: int, reply: ChatReply) -> None:
                    progress.update()
                    if reply.problem in OUTAGE_PROBLEMS:
                        outages.append((missing[number], reply))
                    else:
                        settle()
                        self._settle(journal, missing[number], reply)
                    take(missing[number], reply)

                def settle() -> None:
                    for key, reply in outages:
                        self._settle(journal, key, reply)
                    outages.clear()

                self.model.complete([requests[places[key][0]] for key in missing], arrived)
                settle()
        return [replies[key] for key in keys]

    def _settle(self, journal: IO[str], key: str, reply: ChatReply) -> None:
        if reply.problem and not self.keeps_problems:
            return
        self._settled[key] = reply
        problem = {"problem": reply.problem, "detail": reply.detail} if reply.problem else {}
        journal.write(json.dumps({"key": key, "text": reply.text, **problem}, ensure_ascii=False) + "\n")
        journal.flush()  # a killed process loses what it has not handed to the system

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
                f"{path}, line {number}, is no reply of a journal ({error}); give another file, or delete the line"
            ) from error
    torn = content[whole:]
    if torn and not (torn.startswith(_LINE_START) or _LINE_START.startswith(torn)):
        raise ValueError(f"{path} does not end as a journal of replies does; give another file")
    if torn:  # or the next reply would be appended to it
        os.truncate(path, whole)
    return settled


def _read_line(line: bytes) -> tuple[str, ChatReply]:
    entry = json.loads(line)
    key, text = entry["key"], entry["text"]
    problem = ChatProblem(entry["problem"]) if "problem" in entry else None
    if not isinstance(key, str) or not (isinstance(text, str) if problem is None else text is None):
        raise TypeError("`key` must be a text, and `text` where there is no problem")
    return key, ChatReply(text, problem, entry.get("detail", ""))
