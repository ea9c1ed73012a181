"""Replies are written down as they arrive, so that nothing is asked twice."""

import json

import pytest

from dataset_scripts.construction.captions.chat.journal import JournalledChat
from dataset_scripts.construction.captions.chat.types import ChatOutageError, ChatProblem, ChatReply, ChatRequest


class Echo:
    """Says back what it is asked, and remembers that; breaks off before the request that it is told."""

    name, revision = "echo", "1"

    def __init__(self, break_at: int | None = None, problems: tuple[str, ...] = ()):
        self.break_at, self.problems = break_at, problems
        self.asked: list[str] = []

    def complete(self, requests, on_reply=None):
        replies = []
        for number, request in enumerate(requests):
            if number == self.break_at:
                raise KeyboardInterrupt
            self.asked.append(request.text)
            bad = request.text in self.problems
            reply = ChatReply(None, ChatProblem.TIMED_OUT, "slow") if bad else ChatReply(f"{request.text}! ünï")
            on_reply(number, reply)
            replies.append(reply)
        return replies


REQUESTS = [ChatRequest("system", text) for text in "abcd"]


def texts(replies: list[ChatReply]) -> list[str | None]:
    return [reply.text and reply.text[0] for reply in replies]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "journal.jsonl"


def test_a_run_that_broke_off_asks_only_what_is_missing(path):
    with pytest.raises(KeyboardInterrupt):
        JournalledChat(Echo(break_at=2), path).complete(REQUESTS)
    second = Echo()
    assert texts(JournalledChat(second, path).complete(REQUESTS)) == list("abcd")
    assert second.asked == ["c", "d"]


def test_a_reply_is_in_the_file_as_soon_as_it_arrives(path):
    lines = []

    class Watching(Echo):
        def complete(self, requests, on_reply=None):
            def watched(number, reply):
                on_reply(number, reply)
                lines.append(path.read_bytes().count(b"\n"))

            return super().complete(requests, watched)

    JournalledChat(Watching(), path).complete(REQUESTS)
    assert lines == [1, 2, 3, 4]


def test_the_same_request_is_asked_once_in_a_run(path):
    echo = Echo()
    replies = JournalledChat(echo, path).complete([REQUESTS[0], REQUESTS[1], REQUESTS[0]])
    assert texts(replies) == list("aba") and echo.asked == ["a", "b"]


def test_a_torn_last_line_is_asked_again(path):
    JournalledChat(Echo(), path).complete(REQUESTS)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in range(1, len(lines[-1])):
        path.write_bytes(b"".join(lines[:-1]) + lines[-1][:cut])
        echo = Echo()
        assert texts(JournalledChat(echo, path).complete(REQUESTS)) == list("abcd")
        assert echo.asked == ["d"]
        assert path.read_bytes() == whole


def test_another_kind_of_file_is_refused_and_left_alone(path):
    path.parent.mkdir()
    contents = [(b"my novel", "is not a journal of replies"), (b'{"a": 1}\n', "line 1"), (b"\xff\n", "line 1")]
    for content, message in contents:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            JournalledChat(Echo(), path)
        assert path.read_bytes() == content


def test_a_broken_line_in_the_middle_is_named(path):
    JournalledChat(Echo(), path).complete(REQUESTS)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:20], *lines[2:]]) + "\n")
    with pytest.raises(ValueError, match=r"journal.jsonl, line 2, is not a journal entry"):
        JournalledChat(Echo(), path)


def test_problems_are_not_written_but_asked_again(path):
    first = JournalledChat(Echo(problems=("b",)), path).complete(REQUESTS)
    assert first[1].problem is ChatProblem.TIMED_OUT
    echo = Echo()
    assert texts(JournalledChat(echo, path).complete(REQUESTS)) == list("abcd")
    assert echo.asked == ["b"]


@pytest.mark.parametrize(
    ("attribute", "request_"),
    [
        ("name", REQUESTS[0]),
        ("revision", REQUESTS[0]),
        ("settings", REQUESTS[0]),
        (None, ChatRequest("other", "a")),
        (None, ChatRequest("system", "a", seed=1)),
        (None, ChatRequest("system", "a", image=b"1")),
    ],
)
def test_a_reply_counts_for_the_same_request_model_and_settings_alone(path, attribute, request_):
    JournalledChat(Echo(), path).complete(REQUESTS[:1])
    echo = Echo()
    if attribute in ("name", "revision"):
        setattr(echo, attribute, "other")
    JournalledChat(echo, path, settings="other" if attribute == "settings" else "").complete([request_])
    assert echo.asked == ["a"]


def test_nothing_is_asked_and_no_file_made_for_no_requests(path):
    assert JournalledChat(Echo(), path).complete([]) == [] and not path.exists()


def test_the_journal_is_readable_as_json_lines(path):
    JournalledChat(Echo(), path).complete(REQUESTS[:1])
    assert "ünï" in path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8"))["text"] == "a! ünï"


class Answers:
    """Gives the replies it was made with, in order."""

    name, revision = "answers", None

    def __init__(self, *replies: ChatReply):
        self.replies = list(replies)
        self.asked = 0

    def complete(self, requests, on_reply=None):
        given = []
        for number, _ in enumerate(requests):
            self.asked += 1
            if not self.replies:
                raise ChatOutageError("gone")
            given.append(self.replies.pop(0))
            on_reply(number, given[-1])
        return given


def many(number: int) -> list[ChatRequest]:
    return [ChatRequest("system", str(place)) for place in range(number)]


DOWN = ChatReply(None, ChatProblem.NO_CONNECTION, "refused")
GOOD = ChatReply("yes")


def test_problems_are_settled_where_the_caller_gives_up_on_them(path):
    cut = ChatReply(None, ChatProblem.CUT_OFF, "A man wears ünï")
    first = JournalledChat(Answers(cut, DOWN, GOOD), path, keeps_problems=True).complete(many(3))
    resumed = JournalledChat(Answers(), path, keeps_problems=True)
    assert resumed.complete(many(3)) == first == [cut, DOWN, GOOD]


def test_what_a_server_left_unanswered_before_it_was_given_up_is_asked_again(path):
    with pytest.raises(ChatOutageError):
        JournalledChat(Answers(DOWN, GOOD, DOWN, DOWN), path, keeps_problems=True).complete(many(5))
    again = Answers(GOOD, GOOD, GOOD)
    assert JournalledChat(again, path, keeps_problems=True).complete(many(5)) == [DOWN, GOOD, GOOD, GOOD, GOOD]
    assert again.asked == 3
