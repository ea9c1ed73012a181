"""The captioner is asked whether what it wrote is in the picture: the questions, the answers, and what follows."""

import re

import pyarrow as pa
import pytest
from row_tables import ScriptedChat, answer_with, build_config, column, jpeg, new_rows, run_blocks, trails
from scripted_replies import right
from scripted_server import MODEL, scripted_server

from dataset_scripts.construction.blocks import in_order
from dataset_scripts.construction.captions.caption import AskCaptioner, Attempt, CaptionSettings, DrawTemplate
from dataset_scripts.construction.captions.caption import VerifyCaption as Verify
from dataset_scripts.construction.captions.chat.types import ChatProblem, ChatReply, ChatSettings
from dataset_scripts.construction.captions.judge import (
    NOTHING_ASKED,
    Answer,
    JudgeCaption,
    JudgeSettings,
    parse_answer,
    questions_of,
)
from dataset_scripts.construction.captions.rules import CaptionRules
from dataset_scripts.construction.run.pipeline import caption_blocks


CHAT = ChatSettings("openai", "scripted", base_url="http://127.0.0.1:9/v1")
RED = "A man wears a red jacket, dark blue jeans and white sneakers, and carries a black bag."
GREEN = "The man is dressed in a green jacket, dark blue jeans and white sneakers."


def judge_blocks(journal, settings=None, chat=CHAT, attempts=2):
    blocks = []
    for number in range(1, attempts + 1):
        attempt = Attempt("caption1", number, attempts)
        blocks += [
            DrawTemplate(attempt, CaptionSettings(attempts=attempts)),
            AskCaptioner(attempt, CaptionSettings(attempts=attempts), chat, journal),
            Verify(attempt, CaptionRules()),
            JudgeCaption(attempt, settings or JudgeSettings(enabled=True), chat, journal),
        ]
    return blocks


def rows(count=1):
    return new_rows(count, pa.table({"crop": pa.array([jpeg(n) for n in range(count)], pa.large_binary())}))


def captioner(captions, answer):
    """Writes the captions in turn, and answers questions by `answer`."""
    written = iter(captions)
    return ScriptedChat(lambda request, _: answer(request) if "yes or no" in request.text else next(written))


@pytest.mark.parametrize(
    ("caption", "questions"),
    [
        (RED, ["wearing a red jacket", "wearing dark blue jeans", "wearing white sneakers", "have a black bag"]),
        ("His shoes are black and white.", ["wearing black and white shoes"]),
        ("His coat is dark green.", ["wearing a dark green coat"]),
        ("A black and white striped top.", ["wearing a black and white striped top"]),
        ("The woman wears an olive coat with a pink belt.", ["wearing an olive coat", "wearing a pink belt"]),
        ("A red shirt with a picture of a man in a blue hat, and a red shirt.", ["wearing a red shirt"]),
        ('A grey T-shirt that says "red shoes".', ["wearing a grey t-shirt"]),
        ("A man with shoes and a hat walks.", []),
    ],
)  # fmt: skip
def test_questions_are_of_each_garment_and_thing_with_its_colour(caption, questions):
    asked = [re.sub(r"^(Is|Does) the person (.*)\?$", r"\2", question) for question in questions_of(caption)]
    assert asked == questions


def test_only_colours_are_asked_for_on_request():
    caption = "A man wears a leather jacket and red shoes."
    assert len(questions_of(caption)) == 2
    assert questions_of(caption, colors_only=True) == ["Is the person wearing red shoes?"]


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("yes", True),
        ("Yes.", True),
        ("**Yes**", True),
        ("Yes, the person is wearing a red jacket.", True),
        ("NO", False),
        ("No, it is blue.", False),
        ("no\n", False),
        ("", None),
        ("Maybe.", None),
        ("It is red.", None),
        ("Yesterday.", None),
        ("None.", None),
        ("Not sure, yes.", None),
        ("Yes and no.", None),
    ],
)
def test_an_answer_is_read_strictly(text, meaning):
    assert parse_answer(text) is meaning


def is_denied(request):
    """The jacket of the first picture is not red."""
    return "red jacket" in request.text and request.image == jpeg(0)


def test_a_caption_that_is_denied_is_asked_for_again_with_another_template(tmp_path, monkeypatch):
    chat = captioner([RED, RED, GREEN], lambda request: "No." if is_denied(request) else "Yes.")
    answer_with(monkeypatch, chat)
    done = in_order(run_blocks(judge_blocks(tmp_path), rows(2)))
    assert column(done, "caption1") == [GREEN, RED] and column(done, "rejected_by") == [None] * 2
    assert column(done, "confirmed1") == [3, 4]
    assert ("judge 1", Answer.DENIED) in trails(done)["r0"] and trails(done)["r1"][-1] == ("judge 1", None)
    # A question for each thing: 4 and 4, then 1, since the new caption has the same jeans and sneakers.
    assert sum("yes or no" in request.text for request in chat.asked) == 9
    assert all(request.image for request in chat.asked)


@pytest.mark.parametrize(
    ("answer", "reason", "detail"),
    [
        ("No.", Answer.DENIED, "Is the person wearing a red jacket? No."),
        ("It is hard to tell.", Answer.UNCLEAR, "Is the person wearing a red jacket? It is hard to tell."),
        (ChatReply(None, ChatProblem.TIMED_OUT, "60 s"), Answer.UNCLEAR, "red jacket? timed out: 60 s"),
    ],
)
def test_the_last_attempt_rejects_with_question_and_answer(tmp_path, monkeypatch, answer, reason, detail):
    answer_with(monkeypatch, captioner([RED], lambda request: answer))
    done = run_blocks(judge_blocks(tmp_path, attempts=1), rows())
    assert (column(done, "rejected_by"), column(done, "reason")) == (["judge 1"], [reason])
    assert detail in column(done, "detail")[0] and column(done, "caption1") == [None]


def test_questions_are_limited_and_a_caption_without_any_is_noted(tmp_path, monkeypatch):
    plain = "A man with short hair wears shoes, and he is walking to the left."
    chat = answer_with(monkeypatch, captioner([RED, plain], lambda request: "Yes."))
    done = in_order(run_blocks(judge_blocks(tmp_path, JudgeSettings(True, max_questions=2)), rows(2)))
    assert column(done, "confirmed1") == [2, 0] and len(chat.asked) == 4
    assert trails(done)["r1"][-1] == ("judge 1", NOTHING_ASKED)
    with pytest.raises(ValueError, match="`max_questions` .*not 0"):
        JudgeSettings(max_questions=0)


def test_a_server_is_asked_and_a_crash_repeats_no_question(tmp_path):
    def script(question, number):
        return right("Yes." if "yes or no" in question.text else RED)

    with scripted_server(script) as server:
        chat = ChatSettings("openai", MODEL, base_url=server.base_url, max_retries=0)
        for _ in range(2):  # the second run finds all in the journal
            done = run_blocks(judge_blocks(tmp_path, chat=chat, attempts=1), rows())
            assert column(done, "confirmed1") == [4]
        assert len(server.log) == 5


def test_the_block_is_off_by_default_and_follows_verify_when_on(tmp_path):
    config = build_config(tmp_path / "run", tmp_path)
    assert not any(isinstance(block, JudgeCaption) for block in caption_blocks(config))
    config = build_config(tmp_path / "run", tmp_path, judge=JudgeSettings(enabled=True))
    names = [block.name for block in caption_blocks(config)]
    assert names[1:5] == ["template 1", "caption 1", "verify 1", "judge 1"]
