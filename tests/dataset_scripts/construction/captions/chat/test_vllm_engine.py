"""vLLM's engine without a server, tested against a stand-in that takes what vLLM's published signatures take."""

import dataclasses
import io
import json
import os
from pathlib import Path

import pytest
import scripted_server
from PIL import Image
from scripted_replies import Question, caption_for

from dataset_scripts.construction.captions.chat.clients import build_chat
from dataset_scripts.construction.captions.chat.journal import JournalledChat
from dataset_scripts.construction.captions.chat.types import (
    ChatConfigurationError,
    ChatOutageError,
    ChatProblem,
    ChatReply,
    ChatRequest,
    ChatSettings,
)
from dataset_scripts.construction.captions.chat.vllm_engine import VllmChat


ROOM = Path(scripted_server.__file__).parent
SETTINGS = ChatSettings("vllm", "qwen", revision="abc", max_tokens=33, temperature=0.5, top_p=0.9, max_model_len=4096)


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 24), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def questions(count: int, text: str = "The [gender] wears [colored top].") -> list[ChatRequest]:
    return [ChatRequest("Be brief.", text, picture(number), seed=number) for number in range(count)]


def start(
    patch: pytest.MonkeyPatch, log: Path | None = None, settings: ChatSettings = SETTINGS, **options
) -> VllmChat:
    """A client whose process finds the stand-in where it would look for vLLM."""
    options |= {"log": str(log)} if log else {}
    patch.setenv("VLLM_STAND_IN", json.dumps(options))
    patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOM / "vllm_stand_in"), str(ROOM)]))
    return build_chat(settings)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    log = tmp_path_factory.mktemp("vllm") / "log"
    with pytest.MonkeyPatch.context() as patch:
        chat = start(patch, log, refuse="too long", cut_off="endless")
    yield chat, lambda: [json.loads(line) for line in log.read_text().splitlines()]
    chat.close()


def test_a_call_is_one_batch_of_the_engine_with_the_settings_and_seeds(engine):
    chat, log = engine
    requests = questions(5)
    heard = []
    replies = chat.complete(requests, lambda index, reply: heard.append((index, reply)))
    expected = [caption_for(Question(r.text, r.system, r.image, r.seed, {})) for r in requests]
    assert replies == [ChatReply(text) for text in expected] and heard == list(enumerate(replies))
    (call,) = [entry for entry in log() if entry.get("seeds") == [0, 1, 2, 3, 4]]
    sampling = {"max_tokens": 33, "temperature": 0.5, "top_p": 0.9, "repetition_penalty": 1.05, "seed": 0}
    assert call["call"] == 5 and call["sampling"] == sampling


def test_the_engine_is_loaded_once_for_all_calls_in_a_process_of_its_own(engine):
    chat, log = engine
    assert chat.complete(questions(1)) == chat.complete(questions(1)) and chat.complete([]) == []
    (loaded,) = [entry for entry in log() if "pid" in entry]
    assert loaded["model"] == "qwen" and loaded["pid"] != os.getpid()
    assert (chat.name, chat.revision) == ("qwen", "abc")


def test_one_request_at_fault_costs_the_others_nothing(engine):
    requests = [*questions(6), *questions(1, "too long"), *questions(2, "endless [colored top]")]
    requests.append(ChatRequest("", "Who?", picture(0)[:40]))  # cut off in the middle
    replies = engine[0].complete(requests)
    assert [reply.problem for reply in replies[6:]] == [
        ChatProblem.REFUSED,
        *[ChatProblem.CUT_OFF] * 2,
        ChatProblem.REFUSED,
    ]
    assert all(reply.text for reply in replies[:6]) and "VLLMClientError" in replies[6].detail


def test_another_kind_of_image_is_an_error_before_anything_is_computed(engine):
    with pytest.raises(ValueError, match="JPEG or PNG"):
        engine[0].complete([ChatRequest("", "Who?", b"GIF89a")])


def test_a_journal_keeps_its_replies(engine, tmp_path):
    chat, log = engine
    first = JournalledChat(chat, tmp_path / "journal").complete(questions(3))
    calls = len(log())
    assert JournalledChat(chat, tmp_path / "journal").complete(questions(3)) == first and len(log()) == calls


def test_a_model_that_is_asked_wrongly_ends_the_run(engine):
    with pytest.raises(ChatConfigurationError, match="refused 20 requests in a row .*qwen.*too long"):
        engine[0].complete(questions(30, "too long"))


def test_a_process_that_dies_is_an_outage(monkeypatch):
    chat = start(monkeypatch, die="die")
    assert chat.complete(questions(1))[0].text
    with pytest.raises(ChatOutageError, match="vLLM does not answer .*process has ended"):
        chat.complete(questions(1, "die"))


def test_a_model_that_cannot_be_loaded_is_an_error_with_the_log(monkeypatch):
    with pytest.raises(ChatConfigurationError, match="(?s)cannot load the model qwen: ValueError: no such.*Traceback"):
        start(monkeypatch, fail="qwen")


def test_without_vllm_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "")
    with pytest.raises(ChatConfigurationError, match="need vLLM, which .* does not have .*pip install vllm") as caught:
        build_chat(SETTINGS)
    assert "\n" not in str(caught.value)
    with pytest.raises(ChatConfigurationError, match="Python of the setting python cannot be started.*nowhere"):
        build_chat(dataclasses.replace(SETTINGS, python="/nowhere/python"))


def test_the_stand_in_refuses_what_the_published_signatures_do_not_have(monkeypatch):
    monkeypatch.syspath_prepend(ROOM / "vllm_stand_in")
    import vllm

    engine = vllm.LLM("qwen", max_model_len=7)
    for wrong in (
        lambda: vllm.LLM("qwen", max_length=7),
        lambda: vllm.LLM("qwen", "auto"),
        lambda: vllm.SamplingParams(max_new_tokens=3),
        lambda: engine.chat(conversations=[]),
        lambda: engine.chat([], [], progress=False),
    ):
        with pytest.raises(TypeError):
            wrong()
