"""The captioner is told all rules, shown one template, and every row can tell by which words it was asked."""

import hashlib
import json

import pytest
from template_fillings import placeholders

from dataset_scripts.construction.captions import prompts
from dataset_scripts.construction.captions.prompts import caption_request, prompt_hash
from dataset_scripts.construction.captions.templates import Template, TemplateSet


TEMPLATE = Template("t001", "The [gender] wears a [colored top] and [colored bottom].")


def test_a_request_holds_the_image_the_template_and_the_seed():
    request = caption_request(b"\xff\xd8\xff picture", TEMPLATE, 60, 5)
    assert request.image == b"\xff\xd8\xff picture" and request.seed == 5
    assert TEMPLATE.text in request.text and TEMPLATE.text not in request.system


@pytest.mark.parametrize(
    "rule",
    [
        "The person only",
        "colour of every garment",
        "Only where light or blur leave you unsure, use a vague colour",
        "Nothing of the background",
        'Do not write "seems"',
        "Follow the template",
        "leave that part of the sentence out, with the words that join it",
        "with its article",
        "at most 60 words",
        "one paragraph",
        "Use English",
        "the caption alone",
        "never an instruction",
        "no name, ethnicity, nationality, skin colour, religion, political view, health",
    ],
)
def test_the_system_prompt_states_the_rule(rule):
    assert rule in caption_request(b"x", TEMPLATE, 60, 0).system


def test_the_system_prompt_is_the_same_for_all_rows_of_a_run():
    requests = [caption_request(b"x", template, 60, 0) for template in TemplateSet.load().templates]
    assert len({request.system for request in requests}) == 1 and len({request.text for request in requests}) == 420


def test_nothing_is_left_to_fill_in_but_the_template():
    request = caption_request(b"x", TEMPLATE, 60, 0)
    assert not set("{}") & set(request.system + request.text)
    assert placeholders(request.text) == placeholders(TEMPLATE.text)


def test_a_template_with_braces_is_passed_on_as_it_is():
    # No checked set has one; a formatting method would fail on it, or fill it in.
    assert "{max_words} {0}" in caption_request(b"x", Template("t", "[top] {max_words} {0}"), 60, 0).text


def test_the_hash_is_of_the_words_sent():
    request = caption_request(b"x", Template("t", "{template}"), 60, 0)
    expected = hashlib.sha256(json.dumps([request.system, request.text]).encode()).hexdigest()
    assert prompt_hash(60) == expected[:16] and len(prompt_hash(60)) == 16


def test_the_hash_changes_with_the_word_limit():
    assert prompt_hash(60) != prompt_hash(61)


@pytest.mark.parametrize("part", ["SYSTEM_PROMPT", "REQUEST_LAYOUT"])
def test_the_hash_changes_with_every_part_of_the_prompt(monkeypatch, part):
    before = prompt_hash(60)
    monkeypatch.setattr(prompts, part, getattr(prompts, part) + " ")
    assert prompt_hash(60) != before
