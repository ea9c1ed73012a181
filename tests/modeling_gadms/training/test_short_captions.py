"""Short captions: what a caption states, and captions of some of it."""

from collections import Counter

import numpy as np
import pytest

from dataset_scripts.synthetic_persons import PersonSampler
from modeling_gadms.training.short_captions import shorten_caption, split_statements


@pytest.mark.parametrize(
    ("caption", "subject", "statements"),
    [
        (
            "A man is walking in a black and white striped pullover, a pair of blue jeans and tan sneakers. He wears "
            "an emerald scarf and has short fair hair.",
            "a man",
            ["walking in a black and white striped pullover", "a pair of blue jeans", "tan sneakers",
             "wearing an emerald scarf", "with short fair hair"],
        ),
        (
            "The picture shows this bald man who wears light blue jeans.",
            "this bald man",
            ["wearing light blue jeans"],
        ),
        (
            "In blue jeans and a red coat, a pedestrian is facing away; the pedestrian has on white boots.",
            "a pedestrian",
            ["in blue jeans", "a red coat", "facing away", "wearing white boots"],
        ),
        (
            "The woman has long, dark hair and is wearing a grey, knitted sweater, black trousers, and brown shoes.",
            "the woman",
            ["with long dark hair", "wearing a grey knitted sweater", "black trousers", "brown shoes"],
        ),
        ("She is coming towards the viewer. The t-shirt is jet black and the shorts are blue.", "",
         ["coming towards the viewer", "the t-shirt is jet black", "the shorts are blue"]),
        ("A tall man.", "a tall man", []),
        ("red coat, blue jeans", "", ["red coat", "blue jeans"]),
        ("", "", []),
    ],
)  # fmt: skip
def test_statements_of_a_caption(caption, subject, statements):
    assert split_statements(caption) == (subject, statements)


def test_every_word_of_an_attribute_is_in_one_statement():
    """Of drawn captions it is known which words name attributes."""
    sampler = PersonSampler(0, "train")
    for index in range(100):
        for caption in sampler.captions(index, 0, noise=0):
            words = caption.text.lower().split()
            named = Counter(words[place].strip(".,") for place in caption.attribute_positions)
            subject, statements = split_statements(caption.text)
            stated = Counter(" ".join([subject, *statements]).split())
            assert not named - stated, caption.text


def test_short_captions_have_one_to_all_statements_of_the_caption():
    caption = "A woman wears a red coat, blue jeans and white boots. She carries a black backpack and has long hair."
    things = ["red coat", "blue jeans", "white boots", "black backpack", "long hair"]
    rng = np.random.default_rng(0)
    short = [shorten_caption(caption, rng) for _ in range(600)]
    counts = Counter(sum(thing in text for thing in things) for text in short)
    assert set(counts) == {1, 2, 3, 4, 5}
    assert counts[1] + counts[2] + counts[3] > 3 * (counts[4] + counts[5]) > 0
    assert all(sum(thing in text for text in short) > 100 for thing in things)
    assert {"a person wearing a red coat", "someone with long hair", "a woman carrying a black backpack"} < set(short)
    assert any(text.startswith("red coat, ") for text in short)  # keywords


@pytest.mark.parametrize("caption", ["A tall man.", "A woman in a red coat.", "person"])
def test_a_caption_of_one_statement_stays_as_it_is(caption):
    assert shorten_caption(caption, np.random.default_rng(0)) == caption
