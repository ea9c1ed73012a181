"""Whatever a server does, each request gets its reply, within bounds; a wrong setting ends the run."""

import asyncio
import gzip
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from scripted_replies import (
    Behaviour,
    always,
    by_hash,
    caption,
    content_filter,
    cut_off,
    dropped,
    empty,
    failed,
    first,
    html,
    invalid_json,
    other_schema,
    rate_limited,
    right,
    server_error,
    slow,
    trickle,
)
from scripted_server import MODEL, scripted_server
from tiny_llava import save_tiny_llava, transformers_server

from dataset_scripts.construction.captions.chat import openai_server, servers
from dataset_scripts.construction.captions.chat.openai_server import OpenAIChat
from dataset_scripts.construction.captions.chat.types import (
    ChatConfigurationError,
    ChatOutageError,
    ChatProblem,
    ChatReply,
    ChatRequest,
    ChatSettings,
)
from tests.waiting import PATIENCE_SECONDS


pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def picture(colour: str | tuple = "red", file_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 24), colour).save(buffer, file_format)
    return buffer.getvalue()


def chat_of(server, **settings) -> OpenAIChat:
    return OpenAIChat(ChatSettings("openai", MODEL, base_url=server.base_url, **({"timeout_seconds": 120} | settings)))


def questions(count: int) -> list[ChatRequest]:
    return [ChatRequest("", f"question {index}") for index in range(count)]


def echo(question, number) -> Behaviour:
    return right(question.text)


def one_reply(behaviour: Behaviour, **settings) -> tuple[ChatReply, int]:
    """The reply to one request of a server that always does the same, and how many requests it got."""
    with scripted_server(always(behaviour)) as server:
        (reply,) = chat_of(server, **settings).complete(questions(1))
        return reply, len(server.log)


def test_the_server_gets_what_was_asked():
    request = ChatRequest("Be brief.", "Who?", picture(), seed=7)
    with scripted_server(always(right(" A man. \n"))) as server:
        chat = chat_of(server, max_tokens=33, temperature=0.5, top_p=0.9)
        assert chat.complete([request]) == [ChatReply("A man.")]
    (entry,) = server.log
    body = entry["body"]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert [part["type"] for part in body["messages"][1]["content"]] == ["image_url", "text"]
    del body["messages"]
    assert body == {"model": MODEL, "max_tokens": 33, "temperature": 0.5, "top_p": 0.9, "seed": 7}


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_an_image_arrives_byte_for_byte_under_its_type(file_format):
    arrived = []

    def script(question, number):
        arrived.append(question.image)
        return right("A man.")

    image = picture(file_format=file_format)
    with scripted_server(script) as server:
        chat_of(server).complete([ChatRequest("", "Who?", image)])
    assert arrived == [image]
    url = server.log[0]["body"]["messages"][0]["content"][0]["image_url"]["url"]
    assert url.startswith(f"data:image/{file_format.lower()};base64,")


def test_a_question_without_image_system_and_seed_is_sent_without_them():
    with scripted_server() as server:
        chat_of(server).complete([ChatRequest("", "Write a template.")])
    body = server.log[0]["body"]
    assert body["messages"] == [{"role": "user", "content": "Write a template."}] and "seed" not in body


def test_another_kind_of_image_is_an_error_before_anything_is_sent():
    with scripted_server() as server:
        with pytest.raises(ValueError, match="JPEG or PNG"):
            chat_of(server, concurrency=1).complete([*questions(3), ChatRequest("", "Who?", b"GIF89a")])
    assert server.log == []


def test_no_requests_have_no_replies():
    with scripted_server() as server:
        assert chat_of(server).complete([]) == []


@pytest.mark.parametrize(
    ("behaviour", "problem"),
    [
        (empty(), ChatProblem.EMPTY_REPLY),
        (right(None), ChatProblem.EMPTY_REPLY),
        (cut_off(), ChatProblem.CUT_OFF),
        (content_filter(), ChatProblem.CONTENT_FILTER),
        (invalid_json(), ChatProblem.INVALID_REPLY),
        (other_schema(), ChatProblem.INVALID_REPLY),
        (html(), ChatProblem.INVALID_REPLY),
        (right("half a pair \ud800"), ChatProblem.INVALID_REPLY),
        (right(["A", "man"]), ChatProblem.INVALID_REPLY),
        (failed(400), ChatProblem.REFUSED),
        (failed(413), ChatProblem.REFUSED),
        (failed(422), ChatProblem.REFUSED),
    ],
)
def test_a_reply_without_use_has_its_problem_and_is_not_asked_again(behaviour, problem):
    reply, count = one_reply(behaviour)
    assert (reply.text, reply.problem, count) == (None, problem, 1)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"3",
        b'"text"',
        b'{"choices": null}',
        b'{"choices": []}',
        b'{"choices": {}}',
        b'{"choices": "text"}',
        b'{"choices": [null]}',
        b'{"choices": [{}]}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": []}]}',
        b'{"choices": [{"message": {"content": 3}}]}',
        b'{"choices": [{"message": {"content": {"text": "A man."}}}]}',
        b"\xff\xfe\xfa",
        b"[" * 100_000,
        b"1" * 10_000,
    ],
)
def test_json_of_any_other_form_is_an_invalid_reply(body):
    reply, _ = one_reply(Behaviour("odd", body=body))
    assert (reply.text, reply.problem) == (None, ChatProblem.INVALID_REPLY)
    assert len(reply.detail) < 300


def test_a_completion_with_the_fewest_fields_is_enough():
    body = b'{"choices": [{"message": {"content": "A man."}}]}'
    assert one_reply(Behaviour("sparse", body=body, content_type="text/plain"))[0] == ChatReply("A man.")


def test_a_refusal_in_its_own_field_is_of_the_content_filter():
    message = {"role": "assistant", "content": None, "refusal": "I cannot describe persons."}
    reply, _ = one_reply(Behaviour("refusal", body=json.dumps({"choices": [{"message": message}]}).encode()))
    assert reply == ChatReply(None, ChatProblem.CONTENT_FILTER, "I cannot describe persons.")


@pytest.mark.parametrize("behaviour", [rate_limited(), server_error()])
def test_a_passing_error_is_asked_again(behaviour):
    with scripted_server(first(2, behaviour, always(right("A man.")))) as server:
        assert chat_of(server, max_retries=2).complete(questions(1)) == [ChatReply("A man.")]
    assert [entry["status"] for entry in server.log] == [behaviour.status, behaviour.status, 200]


@pytest.mark.parametrize(
    ("behaviour", "problem"),
    [
        (rate_limited(), ChatProblem.RATE_LIMITED),
        (server_error(), ChatProblem.SERVER_ERROR),
        (failed(503, retry_after="0.01"), ChatProblem.SERVER_ERROR),
        (dropped(), ChatProblem.NO_CONNECTION),
    ],
)
def test_an_error_that_stays_is_the_problem_after_all_attempts(behaviour, problem):
    reply, count = one_reply(behaviour, max_retries=1)
    assert (reply.text, reply.problem, count) == (None, problem, 2)


@pytest.mark.parametrize("behaviour", [slow(600), trickle()])
def test_a_reply_that_never_ends_is_given_up_after_all_attempts(behaviour):
    started = time.monotonic()
    reply, count = one_reply(behaviour, max_retries=1, timeout_seconds=0.4)
    assert (reply.text, reply.problem, count) == (None, ChatProblem.TIMED_OUT, 2)
    assert time.monotonic() - started < 60  # two time-outs and the wait of half a second between them


def test_the_server_s_wish_to_wait_is_honoured():
    with scripted_server(first(1, rate_limited("0.6"), always(right("A man.")))) as server:
        chat_of(server).complete(questions(1))
    refused, answered = (entry["time"] for entry in server.log)
    assert 0.6 <= answered - refused < 60


def test_a_wish_to_wait_for_an_hour_is_not_honoured():
    started = time.monotonic()
    reply, count = one_reply(rate_limited("3600"))
    assert (reply.problem, count) == (ChatProblem.RATE_LIMITED, 1)
    assert time.monotonic() - started < 60


def test_without_a_wish_the_waits_grow():
    with scripted_server(first(2, failed(500), always(right("A man.")))) as server:
        chat_of(server).complete(questions(1))
    times = [entry["time"] for entry in server.log]
    waits = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    assert waits[0] > 0.37 and waits[1] > 0.74  # half a second and a second, less up to a quarter


def test_a_port_where_nobody_listens_is_no_connection():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
        (reply,) = OpenAIChat(ChatSettings("openai", "m", base_url=url, max_retries=0)).complete(questions(1))
    assert reply.problem is ChatProblem.NO_CONNECTION and reply.detail


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("packed", [False, True])
def test_a_reply_beyond_the_bound_is_refused_also_if_it_is_small_until_unpacked(status, packed):
    body = json.dumps({"choices": [{"message": {"content": "a" * openai_server.MAX_REPLY_BYTES}}]}).encode()
    headers = {"Content-Encoding": "gzip"} if packed else {}
    body = gzip.compress(body) if packed else body
    reply, count = one_reply(Behaviour("long", status=status, body=body, headers=headers))
    assert (reply.problem, count) == (ChatProblem.INVALID_REPLY, 1)
    assert "1,000,000 bytes" in reply.detail


def test_a_packed_reply_is_unpacked():
    body = gzip.compress(b'{"choices": [{"message": {"content": "A man."}}]}')
    assert one_reply(Behaviour("gzip", body=body, headers={"Content-Encoding": "gzip"}))[0].text == "A man."


def test_replies_come_in_the_order_of_the_requests_whatever_the_order_of_arrival():
    def later_is_faster(question, number):
        return slow(0.6 - 0.08 * int(question.text.split()[1]), question.text)

    arrived = []
    with scripted_server(later_is_faster) as server:
        replies = chat_of(server).complete(questions(7), lambda index, reply: arrived.append((index, reply.text)))
    assert [reply.text for reply in replies] == [f"question {index}" for index in range(7)]
    assert sorted(arrived) == [(index, f"question {index}") for index in range(7)] and arrived != sorted(arrived)


def test_on_reply_is_called_in_the_caller_s_thread_while_others_are_under_way():
    calls = []

    def second_waits(question, number):
        return slow(600 if question.text == "question 1" else 0, "A man.")

    def note(index, reply):
        calls.append((index, threading.get_ident()))
        server.closing.set()  # the server answers what it holds back

    with scripted_server(second_waits) as server:
        chat_of(server, timeout_seconds=600).complete(questions(2), note)
    assert calls == [(0, threading.get_ident()), (1, threading.get_ident())]


def test_no_more_than_concurrency_are_in_flight():
    with scripted_server(always(slow(0.05))) as server:
        chat_of(server, concurrency=3).complete(questions(12))
    assert server.max_in_flight == 3


def test_no_more_than_concurrency_were_asked_and_not_yet_told_of():
    told, open_requests = [], []

    def write_down(index, reply):
        time.sleep(0.05)  # a slow disk, and a server that answers at once
        open_requests.append(len(server.log) - len(told))
        told.append(index)

    with scripted_server(echo) as server:
        chat_of(server, concurrency=3).complete(questions(12), write_down)
    assert sorted(told) == list(range(12)) and max(open_requests) <= 3


def test_requests_are_evenly_spaced_below_the_limit_also_across_calls():
    with scripted_server() as server:
        chat = chat_of(server, requests_per_minute=600)
        chat.complete(questions(3))
        chat.complete(questions(2))
    times = [entry["time"] for entry in server.log]
    assert len(times) == 5
    # Without a limit they come within milliseconds; a busy machine may delay the first more than the last.
    assert times[-1] - times[0] > 0.2


def test_retries_count_for_the_limit():
    with scripted_server(first(2, rate_limited("0.001"))) as server:
        chat_of(server, requests_per_minute=300).complete(questions(1))
    times = [entry["time"] for entry in server.log]
    # Two turns of 0.2 s, against back-offs of a millisecond.
    assert len(times) == 3 and times[2] - times[0] > 0.2


def chat_of_all(*addresses: str, **settings) -> OpenAIChat:
    return OpenAIChat(ChatSettings("openai", MODEL, base_url=addresses, **({"timeout_seconds": 120} | settings)))


@pytest.fixture
def nobody() -> str:
    """The address of a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


def test_requests_go_to_the_server_with_the_fewest_in_flight():
    with scripted_server(always(slow(0.3))) as busy, scripted_server(always(slow(0.02))) as idle:
        replies = chat_of_all(busy.base_url, idle.base_url, concurrency=4).complete(questions(40))
    assert all(reply.text for reply in replies) and len(busy.log) + len(idle.log) == 40
    # A turn for each in order would give both twenty.
    assert 2 <= len(busy.log) < 12
    assert busy.max_in_flight <= 3


def test_a_server_that_is_not_there_costs_no_reply_and_is_left_out_and_counted(nobody, caplog):
    with scripted_server(echo) as one, scripted_server(echo) as other:
        chat = chat_of_all(nobody, one.base_url, other.base_url, max_retries=0)
        replies = chat.complete(questions(30))
        assert chat.complete(questions(30)) == replies
    assert [reply.text for reply in replies] == [f"question {index}" for index in range(30)]
    assert len(one.log) + len(other.log) == 60 and min(len(one.log), len(other.log)) > 10
    assert chat.servers.failures == {nobody: 1} and f"{nobody} is left out for 5 s" in caplog.text


@pytest.mark.parametrize("behaviour", [failed(503, retry_after="0.01"), slow(600)], ids=["away", "silent"])
def test_a_retry_goes_to_another_server(behaviour):
    with scripted_server(always(behaviour)) as bad, scripted_server(echo) as good:
        chat = chat_of_all(bad.base_url, good.base_url, max_retries=1, timeout_seconds=2, concurrency=2)
        replies = chat.complete(questions(20))
    assert all(reply.text for reply in replies)
    assert len(bad.log) == chat.servers.failures[bad.base_url] == 1


def test_if_all_servers_are_gone_the_error_names_them_with_their_counts(nobody):
    with scripted_server(echo) as server:
        gone = server.base_url
    chat = chat_of_all(nobody, gone, max_retries=0, concurrency=1)
    with pytest.raises(
        ChatOutageError, match=f"{nobody} .left out 1 times., {gone} .left out 1 times. did not answer"
    ):
        chat.complete(questions(60))


def test_a_server_comes_back_after_its_pause(nobody, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(servers.time, "monotonic", lambda: clock[0])
    both = servers.Servers(["one", "two"])
    for pause in (5, 10, 20):
        both.failed("one", "reset")
        both.failed("one", "reset")  # of another request in flight: the same failure
        assert both.choose() == "two" and both.choose(["two"]) is None
        clock[0] += pause
        assert both.choose() == "one"
    both.answered("one")
    both.failed("one", "reset")
    both.failed("two", "reset")
    assert both.choose() == "one" and both.failures == {"one": 4, "two": 1}  # both are left out: the first to return


def test_connections_outlive_a_call_and_calls_share_the_limit():
    with scripted_server(always(slow(0.1))) as server:
        chat = chat_of(server, concurrency=3)
        with ThreadPoolExecutor(2) as pool:
            both = list(pool.map(chat.complete, [questions(6), questions(6)]))
        chat.complete(questions(3))
        assert [len(replies) for replies in both] == [6, 6] and server.max_in_flight == 3
        assert server.connections == 3


def test_it_works_below_a_running_event_loop():
    async def notebook() -> list[ChatReply]:
        return chat_of(server).complete(questions(2))

    with scripted_server(echo) as server:
        assert [reply.text for reply in asyncio.run(notebook())] == ["question 0", "question 1"]


def test_one_client_serves_many_calls():
    with scripted_server(echo) as server:
        chat = chat_of(server)
        assert [chat.complete(questions(1))[0].text for _ in range(3)] == ["question 0"] * 3


def test_an_exception_of_on_reply_cancels_what_is_under_way():
    def fail(index, reply):
        raise OSError("disk full")

    def first_is_fast(question, number):
        return slow(0 if question.text == "question 0" else 600)

    started = time.monotonic()
    with scripted_server(first_is_fast) as server:
        with pytest.raises(OSError, match="disk full"):
            chat_of(server, concurrency=2, timeout_seconds=600).complete(questions(50), fail)
    assert time.monotonic() - started < 60
    assert len(server.log) <= 2


def test_ctrl_c_ends_it_at_once(tmp_path):
    program = tmp_path / "ask.py"
    with scripted_server(always(slow(600))) as server:
        program.write_text(
            "from dataset_scripts.construction.captions import ChatRequest, ChatSettings, build_chat\n"
            f"settings = ChatSettings('openai', {MODEL!r}, base_url={server.base_url!r}, timeout_seconds=600)\n"
            "chat = build_chat(settings)\n"
            "chat.complete([ChatRequest('', 'Who?')] * 20)\n"
        )
        environment = os.environ | {"PYTHONPATH": str(Path(openai_server.__file__).parents[4])}
        process = subprocess.Popen([sys.executable, program], env=environment, stderr=subprocess.PIPE, text=True)
        try:
            end = time.monotonic() + 120
            while len(server.log) < 8 and time.monotonic() < end:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            process.kill()
    assert errors.strip().endswith("KeyboardInterrupt")
    assert "never retrieved" not in errors and "was destroyed" not in errors
    assert len(server.log) == 8  # as many as are in flight at a time


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_refuses_every_request_ends_the_run(status):
    arrived = []
    with scripted_server(always(failed(status, "go away"))) as server:
        with pytest.raises(ChatConfigurationError, match=f"{server.base_url}.*{MODEL}.*{status}.*go away"):
            chat_of(server, concurrency=2).complete(questions(100), lambda index, reply: arrived.append(index))
    assert len(server.log) <= 4 and arrived == []


def test_a_model_that_the_server_does_not_know_ends_the_run():
    with scripted_server() as server:
        settings = ChatSettings("openai", "another", base_url=server.base_url)
        with pytest.raises(ChatConfigurationError, match="'another'.*The model another does not exist"):
            OpenAIChat(settings).complete(questions(1))


def test_a_spent_quota_ends_the_run():
    spent = failed(429, "pay first", code="insufficient_quota", retry_after="0.01")
    with scripted_server(always(spent)) as server:
        with pytest.raises(ChatConfigurationError, match="pay first"):
            chat_of(server).complete(questions(1))


def test_a_403_after_a_reply_is_about_the_picture():
    def second_is_forbidden(question, number):
        return failed(403, "flagged") if question.text == "question 1" else right("A man.")

    with scripted_server(second_is_forbidden) as server:
        replies = chat_of(server, concurrency=1).complete(questions(3))
    assert [reply.problem for reply in replies] == [None, ChatProblem.REFUSED, None]


def test_refusals_in_a_row_end_the_run_and_any_other_reply_between_them_does_not():
    def every_twentieth_is_fine(question, number):
        return right("A man.") if int(question.text.split()[1]) % 20 == 19 else failed(400, "no images here")

    with scripted_server(every_twentieth_is_fine) as server:
        assert len(chat_of(server, concurrency=1).complete(questions(60))) == 60
    with scripted_server(always(failed(400, "no images here"))) as server:
        with pytest.raises(ChatConfigurationError, match="refused 20 requests in a row.*no images here"):
            chat_of(server, concurrency=1).complete(questions(60))
    assert len(server.log) == 20


def test_a_server_that_answers_nothing_any_more_ends_the_run_across_calls():
    def fails_but_for_one_in_fifty(question, number):
        return right("A man.") if int(question.text.split()[1]) % 50 == 49 else server_error()

    settings = {"concurrency": 1, "max_retries": 0}
    with scripted_server(fails_but_for_one_in_fifty) as server:
        assert len(chat_of(server, **settings).complete(questions(100))) == 100
    heard = []
    with scripted_server(always(server_error())) as server:
        chat = chat_of(server, **settings)
        assert len(chat.complete(questions(30))) == 30
        with pytest.raises(ChatOutageError, match="did not answer 50 requests in a row.*server error"):
            chat.complete(questions(60), lambda index, reply: heard.append(index))
    assert len(server.log) == 50
    assert heard == list(range(19))


def test_the_key_comes_from_the_environment_and_only_from_the_named_variable(monkeypatch):
    monkeypatch.setenv("MY_KEY", " secret \n")
    monkeypatch.setenv("OPENAI_API_KEY", "another secret")
    with scripted_server(api_key="secret") as server:
        assert chat_of(server, api_key_env="MY_KEY").complete(questions(1))[0].text
        with pytest.raises(ChatConfigurationError, match="401") as caught:
            chat_of(server).complete(questions(1))
    assert "secret" not in str(caught.value)
    with scripted_server(api_key="another secret") as server:
        with pytest.raises(ChatConfigurationError, match="401"):
            chat_of(server).complete(questions(1))


@pytest.mark.parametrize("value", [None, " "])
def test_a_key_that_is_not_set_is_an_error_at_once(monkeypatch, value):
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(ChatConfigurationError, match="MY_KEY"):
        OpenAIChat(ChatSettings("openai", "m", base_url="http://127.0.0.1:1/v1", api_key_env="MY_KEY"))


def test_a_key_never_reaches_the_log(monkeypatch, caplog):
    monkeypatch.setenv("MY_KEY", "topsecret")
    with scripted_server(api_key="topsecret") as server, caplog.at_level(logging.DEBUG):
        chat_of(server, api_key_env="MY_KEY").complete(questions(1))
    assert "topsecret" not in caplog.text


def test_a_mixed_crowd_gets_the_same_replies_in_any_order_and_concurrency():
    requests = [
        ChatRequest("", "Describe: The [gender] wears a [colored top].", picture((i, i, i))) for i in range(60)
    ]
    shares = dict.fromkeys(("refused", "empty", "cut_off", "server_error", "rate_limited", "html"), 0.1)
    with scripted_server(by_hash(shares)) as server:
        forwards = chat_of(server).complete(requests)
    assert {entry["behaviour"] for entry in server.log} == {*shares, "right"}
    with scripted_server(by_hash(shares)) as server:
        backwards = chat_of(server, concurrency=3).complete(requests[::-1])
    assert forwards == backwards[::-1]
    assert 20 < sum(reply.text is not None for reply in forwards) < 60


def test_the_scripted_captions_fill_the_template():
    prompt = "Follow this template:\nThe [gender] wears a [colored top] and [colored shoes].\n\nNow write."
    with scripted_server(caption) as server:
        (reply,) = chat_of(server).complete([ChatRequest("", prompt, picture())])
    assert reply.text.startswith("The ") and "[" not in reply.text and reply.text.endswith(".")


def test_the_scripted_server_runs_as_a_process_and_ends_by_itself(tmp_path):
    program = Path(sys.modules["scripted_server"].__file__)
    command = [sys.executable, program, "--log", tmp_path / "log.jsonl", "--seconds", "2", "--max-requests", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        port = int(process.stdout.readline())
        settings = ChatSettings("openai", MODEL, base_url=f"http://127.0.0.1:{port}/v1", concurrency=1)
        replies = OpenAIChat(settings).complete(questions(3))
    assert process.returncode == 0
    assert [reply.problem for reply in replies] == [None, None, ChatProblem.REFUSED]
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["status"] for entry in entries] == [200, 200, 410]


@pytest.mark.slow
def test_a_real_server_describes_a_picture(tmp_path):
    save_tiny_llava(tmp_path)
    with transformers_server(tmp_path) as url:
        chat = OpenAIChat(ChatSettings("openai", str(tmp_path), base_url=url))
        requests = [ChatRequest("Describe.", "Who?", picture(colour), seed=1) for colour in ("red", "blue")]
        replies = chat.complete([*requests, ChatRequest("", "Write a template.")])
        (again,) = chat.complete(requests[:1])
        wrong = OpenAIChat(ChatSettings("openai", "another", base_url=url)).complete(requests[:1])
    assert all(reply.text and reply.problem is None for reply in replies), replies
    assert replies[0].text != replies[1].text  # it sees
    assert again == replies[0]
    assert wrong[0].problem is ChatProblem.REFUSED and "another" in wrong[0].detail
