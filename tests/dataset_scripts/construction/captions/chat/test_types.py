"""Settings of language models are checked when they are written; replies are judged in one place."""

import dataclasses
import subprocess
import sys

import pytest

from dataset_scripts.construction.captions.chat.clients import build_chat
from dataset_scripts.construction.captions.chat.types import (
    ChatProblem,
    ChatReply,
    ChatSettings,
    finished_reply,
    image_type,
)


SERVER = ChatSettings("openai", "qwen", base_url="http://localhost:8000/v1")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "onnx"),
        ("model", " "),
        ("model", None),
        ("revision", ""),
        ("revision", 7),
        ("base_url", None),
        ("base_url", "localhost:8000"),
        ("base_url", "ftp://localhost/v1"),
        ("base_url", "http://"),
        ("base_url", "http://localhost:port/v1"),
        ("base_url", "http://[::1/v1"),
        ("base_url", "https://user:secret@host/v1"),
        ("base_url", ()),
        ("base_url", ("http://one/v1", "two")),
        ("base_url", ("http://one/v1", "http://one/v1")),
        ("python", ""),
        ("tensor_parallel_size", 0),
        ("gpu_memory_utilization", 1.1),
        ("max_model_len", 0),
        ("api_key_env", ""),
        ("concurrency", 0),
        ("concurrency", 2.5),
        ("concurrency", True),
        ("requests_per_minute", 0),
        ("requests_per_minute", "60"),
        ("timeout_seconds", 0),
        ("timeout_seconds", float("inf")),
        ("max_retries", -1),
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("top_p", 1.1),
        ("device", ""),
        ("dtype", "float8"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(field, value):
    with pytest.raises(ValueError, match=f"setting {field} must .*, not ") as caught:
        dataclasses.replace(SERVER, **{field: value})
    assert str(caught.value).endswith(repr(value))


def test_bounds_themselves_are_allowed():
    bounds = {"concurrency": 1, "max_retries": 0, "max_tokens": 1, "temperature": 0, "top_p": 1, "timeout_seconds": 1}
    dataclasses.replace(SERVER, requests_per_minute=0.5, **bounds)


def test_the_error_of_a_number_tells_its_range():
    with pytest.raises(ValueError, match="top_p must be a finite number above 0 and at most 1, not 2"):
        dataclasses.replace(SERVER, top_p=2)
    with pytest.raises(ValueError, match="concurrency must be a whole number of at least 1, not 0"):
        dataclasses.replace(SERVER, concurrency=0)


def test_an_in_process_model_takes_no_address():
    for kind in ("transformers", "vllm"):
        with pytest.raises(ValueError, match="base_url must be omitted"):
            ChatSettings(kind, "qwen", base_url="http://localhost:8000/v1")


def test_the_kind_chooses_the_client():
    chat = build_chat(dataclasses.replace(SERVER, revision="abc"))
    assert (type(chat).__name__, chat.name, chat.revision) == ("OpenAIChat", "qwen", "abc")


def test_reading_settings_loads_neither_torch_nor_openai():
    code = (
        "import sys, dataset_scripts.construction.captions.chat.types; "
        "assert not {'torch', 'openai', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\xff\xd8", b"RIFF\0\0\0\0WEBP", b"text"])
def test_only_jpeg_and_png_are_images_for_a_model(content):
    with pytest.raises(ValueError, match="must be a JPEG or PNG file"):
        image_type(content)


def test_a_reply_is_stripped():
    assert finished_reply("\n A man.  ", is_cut_off=False) == ChatReply("A man.")


def test_a_reply_of_blanks_is_empty():
    assert finished_reply(" \n", is_cut_off=False) == ChatReply(None, ChatProblem.EMPTY_REPLY)


def test_a_reply_that_is_cut_off_shows_its_beginning_only():
    reply = finished_reply("word " * 100, is_cut_off=True)
    assert reply.text is None and reply.problem is ChatProblem.CUT_OFF
    assert "word word" in reply.detail and len(reply.detail) < 250
