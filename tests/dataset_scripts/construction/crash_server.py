"""The scripted server as a process that outlives the runs that ask it. It prints its port.

    python crash_server.py LOG

Each request is a line of the log as it arrives: its key in a journal of replies, and the digest of its image.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from scripted_replies import Behaviour, Question, by_hash
from scripted_server import MODEL, scripted_server

from dataset_scripts.construction.captions.chat.journal import JournalledChat
from dataset_scripts.construction.captions.chat.types import ChatRequest


# Each is the fate of a question for good, so that a run that asks again is told the same.
SHARES = {
    "refused": 0.08,
    "hedging": 0.08,
    "cut_off": 0.04,
    "empty": 0.02,
    "invalid_json": 0.02,
    "content_filter": 0.02,
}
SECONDS = 0.02
"""What a reply takes, so that there is always something in flight."""
SAMPLING = "160 0.0 1.0"
"""max_tokens, temperature and top_p, as a journal's keys have them."""


def main(log: Path) -> None:
    journal = JournalledChat(SimpleNamespace(name=MODEL, revision=None), log.with_name("none.jsonl"), SAMPLING)
    behave = by_hash(SHARES, of="question")
    with log.open("a") as file:

        def script(question: Question, number: int) -> Behaviour:
            key = journal._key(ChatRequest(question.system, question.text, question.image, question.seed))
            file.write(json.dumps({"key": key, "image": question.image_hash}) + "\n")
            file.flush()
            return replace(behave(question, number), wait_seconds=SECONDS)

        with scripted_server(script) as server:
            sys.stdout.write(f"{server.port}\n")
            sys.stdout.flush()
            sys.stdin.read()  # until the test ends


if __name__ == "__main__":
    main(Path(sys.argv[1]))
