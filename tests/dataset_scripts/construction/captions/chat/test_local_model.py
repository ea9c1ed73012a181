"""An in-process model answers as its own code does by hand, each request independently."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_llava import save_tiny_llava
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from dataset_scripts.construction.captions.chat import local_model
from dataset_scripts.construction.captions.chat.clients import build_chat
from dataset_scripts.construction.captions.chat.local_model import TransformersChat
from dataset_scripts.construction.captions.chat.types import (
    ChatConfigurationError,
    ChatProblem,
    ChatReply,
    ChatRequest,
    ChatSettings,
)


SYSTEM, TEXT = "Describe the person.", "Who?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("llava")
    save_tiny_llava(path)
    return path


@pytest.fixture(scope="module")
def chat(folder):
    return chat_of(folder)


def chat_of(folder, **settings) -> TransformersChat:
    return TransformersChat(ChatSettings("transformers", str(folder), **settings))


def picture(seed: int = 0, file_format: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 20, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format)
    return buffer.getvalue()


def test_a_greedy_reply_is_the_likeliest_word_after_word(folder, chat):
    (reply,) = chat.complete([ChatRequest(SYSTEM, TEXT, picture())])
    # By hand: the prompt written out, no `generate`; words are not repeated, and nothing but words is said.
    processor, model = (
        AutoProcessor.from_pretrained(folder),
        AutoModelForImageTextToText.from_pretrained(folder).eval(),
    )
    prompt = f"system: {SYSTEM} \nuser: <image> {TEXT} \nassistant: "
    inputs = processor(images=Image.open(io.BytesIO(picture())), text=prompt, return_tensors="pt")
    tokens, start = inputs["input_ids"], inputs["input_ids"].shape[1]
    while True:
        with torch.no_grad():
            scores = model(input_ids=tokens, pixel_values=inputs["pixel_values"]).logits[0, -1]
        scores[model.generation_config.suppress_tokens] = -torch.inf
        scores[tokens[0]] = -torch.inf
        best = scores.argmax()
        if best == processor.tokenizer.eos_token_id:
            break
        tokens = torch.cat([tokens, best[None, None]], dim=1)
    expected = processor.decode(tokens[0, start:]).strip()
    assert reply == ChatReply(expected) and len(expected.split()) > 2


def test_a_reply_does_not_depend_on_its_neighbours(chat):
    requests = [ChatRequest(SYSTEM, TEXT + " So." * index, picture(index)) for index in range(5)]
    together = chat.complete(requests)
    assert len(set(together)) > 1
    assert [chat.complete([request])[0] for request in requests[::-1]] == together[::-1]


def test_the_picture_changes_the_reply(chat):
    replies = chat.complete([ChatRequest(SYSTEM, TEXT, picture(seed)) for seed in range(4)])
    assert len({reply.text for reply in replies}) > 1


def test_text_alone_is_answered(chat):
    (reply,) = chat.complete([ChatRequest("", "Write a template.")])
    assert reply.text and reply.problem is None


def test_on_reply_hears_each_in_turn(chat):
    heard = []
    replies = chat.complete([ChatRequest("", "One."), ChatRequest("", "Two.")], lambda *event: heard.append(event))
    assert heard == list(enumerate(replies))


def test_sampling_depends_on_the_request_s_seed_alone(folder):
    chat = chat_of(folder, temperature=5.0)
    requests = [ChatRequest(SYSTEM, TEXT, picture(), seed) for seed in range(4)]
    replies = chat.complete(requests)
    assert len({reply.text for reply in replies}) > 1
    torch.manual_seed(99)
    assert chat.complete(requests[::-1]) == replies[::-1]
    assert chat.complete([ChatRequest(SYSTEM, TEXT, picture(), None)]) == replies[:1]


def test_sampling_leaves_the_caller_s_random_numbers_and_threads_alone(folder):
    chat = chat_of(folder, temperature=1.0)
    before = torch.random.get_rng_state()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        chat.complete([ChatRequest("", TEXT, seed=3)])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_small_top_p_is_greedy(folder, chat):
    request = ChatRequest(SYSTEM, TEXT, picture(), seed=5)
    assert chat_of(folder, temperature=1.0, top_p=1e-6).complete([request]) == chat.complete([request])


def test_a_reply_that_reaches_the_limit_is_cut_off_unless_it_ends_there(folder, chat):
    request = ChatRequest(SYSTEM, TEXT, picture())
    (whole,) = chat.complete([request])
    num_tokens = len(whole.text.split()) + 1  # each word is a token, and the end is one
    assert chat_of(folder, max_tokens=num_tokens).complete([request]) == [whole]
    (cut,) = chat_of(folder, max_tokens=num_tokens - 1).complete([request])
    assert (cut.text, cut.problem) == (None, ChatProblem.CUT_OFF)


def test_a_damaged_picture_is_refused_and_the_next_request_answered(chat):
    damaged, fine = chat.complete([ChatRequest("", TEXT, picture(0, "JPEG")[:200]), ChatRequest("", TEXT)])
    assert damaged.problem is ChatProblem.REFUSED and "truncated" in damaged.detail
    assert fine.text


def test_another_kind_of_image_is_an_error_before_anything_is_computed(chat):
    heard = []
    with pytest.raises(ValueError, match="JPEG or PNG"):
        chat.complete([ChatRequest("", TEXT), ChatRequest("", TEXT, b"GIF89a")], lambda *event: heard.append(event))
    assert heard == []


def test_the_dtype_is_that_of_the_settings(folder):
    chat = chat_of(folder, dtype="bfloat16")
    assert {weights.dtype for weights in chat._model.parameters()} == {torch.bfloat16}
    (reply,) = chat.complete([ChatRequest(SYSTEM, TEXT, picture())])
    assert reply.text


def test_name_and_revision_are_those_of_the_settings(folder):
    chat = build_chat(ChatSettings("transformers", str(folder), revision="abc"))
    assert isinstance(chat, TransformersChat)
    assert (chat.name, chat.revision) == (str(folder), "abc")


@pytest.mark.parametrize("part", ["AutoConfig", "AutoProcessor", "AutoModelForImageTextToText"])
def test_each_part_is_loaded_from_the_revision(folder, monkeypatch, part):
    loader = getattr(local_model, part)
    revisions = []

    def load(*arguments, revision=None, **options):
        revisions.append(revision)
        return original(*arguments, revision=revision, **options)

    original = loader.from_pretrained
    monkeypatch.setattr(loader, "from_pretrained", load)
    chat_of(folder, revision="abc")
    assert "abc" in revisions and None not in revisions


def test_a_model_that_is_not_there_is_an_error_with_its_name(tmp_path):
    with pytest.raises(ChatConfigurationError, match="nowhere cannot be loaded"):
        chat_of(tmp_path / "nowhere")


def test_a_model_without_chat_template_is_an_error(tmp_path):
    save_tiny_llava(tmp_path, chat_template=None)
    with pytest.raises(ChatConfigurationError, match="has no chat template"):
        chat_of(tmp_path)


def test_a_chat_template_that_refuses_the_messages_is_an_error(tmp_path):
    save_tiny_llava(tmp_path, chat_template="{{ raise_exception('System role not supported') }}")
    with pytest.raises(ChatConfigurationError, match="rejects the messages: System role not supported"):
        chat_of(tmp_path).complete([ChatRequest(SYSTEM, TEXT)])


@pytest.fixture(scope="module")
def language_model(folder, tmp_path_factory):
    """The tokenizer of the LLaVA with a language model that sees nothing, and a template that knows no parts."""
    path = tmp_path_factory.mktemp("llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}{% endfor %}"
    )
    tokenizer.save_pretrained(path)
    config = LlamaConfig(**json.loads((folder / "config.json").read_text())["text_config"])
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def test_a_language_model_without_eyes_answers_text(language_model):
    (reply,) = chat_of(language_model, max_tokens=5).complete([ChatRequest("Be brief.", "Write a template.")])
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    tokens = tokenizer("system: Be brief.user: Write a template.", return_tensors="pt")
    model = LlamaForCausalLM.from_pretrained(language_model)
    expected = tokenizer.decode(model.generate(**tokens, max_new_tokens=5)[0, tokens["input_ids"].shape[1] :])
    # Without a limit of its own this model goes on for ever.
    assert reply == ChatReply(None, ChatProblem.CUT_OFF, f"reached max_tokens: {expected.strip()}")


def test_a_language_model_without_eyes_refuses_a_picture(language_model):
    with pytest.raises(ValueError, match="accepts no images"):
        chat_of(language_model).complete([ChatRequest("", TEXT, picture())])
