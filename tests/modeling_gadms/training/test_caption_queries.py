"""Queries from captions: what a caption states, queries of some of it, and the images that fit."""

from collections import Counter
from itertools import product

import numpy as np
import pytest

from dataset_scripts.synthetic_persons import PersonSampler
from modeling_gadms.training.caption_queries import (
    content_words,
    draw_query,
    encode_statements,
    fitting_images,
    split_statements,
    stated,
)


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
        ("Her coat is red and her boots are black.", "", ["her coat is red", "her boots are black"]),
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


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("wearing a grey pullover", {"gray", "sweater"}),
        ("the straps of a dark blue rucksack over both shoulders", {"navy", "backpack"}),
        ("a dark-blue dress", {"dark-blue", "dress"}),
        ("a red coat over a white tee", {"red", "coat", "white", "t-shirt"}),
        ("dress shoes", {"dress-shoes"}),
        ("walking away from the camera", set()),
    ],
)
def test_content_words_have_one_name_for_synonyms(statement, words):
    assert content_words(statement) == words


CAPTION = "A woman wears a red coat, blue jeans and white boots. Her scarf is green. She carries a black backpack."
THINGS = ["red coat", "blue jeans", "white boots", "green scarf", "black backpack"]


def test_queries_name_one_to_three_things_of_the_caption():
    rng = np.random.default_rng(0)
    queries = [draw_query(CAPTION, rng) for _ in range(600)]
    counts = Counter(sum(thing in query.text for thing in THINGS) for query in queries)
    assert set(counts) == {1, 2, 3} and counts[1] > counts[2] + counts[3] > 150
    for query in queries:
        named = {frozenset(thing.split()) for thing in THINGS if thing in query.text}
        assert set(query.statements) == named, query
    texts = {query.text for query in queries}
    assert {"a person wearing a red coat", "someone in a green scarf", "a woman carrying a black backpack"} < texts
    assert any(text.startswith("red coat, ") for text in texts)  # keywords


def test_half_of_the_queries_leave_adjectives_out():
    caption = "A man in a black and white striped shirt over a gray tee."
    rng = np.random.default_rng(0)
    queries = [draw_query(caption, rng) for _ in range(400)]
    words = Counter(query.statements[0] for query in queries)
    whole = frozenset({"black", "white", "striped", "shirt", "gray", "t-shirt"})
    assert 150 < words[whole] < 250 and all("shirt" in drawn for drawn in words)
    assert {"a person in a black shirt", "a person in a striped shirt"} < {query.text for query in queries}


def test_a_caption_without_statements_is_its_own_query():
    assert draw_query("A tall man.", np.random.default_rng(0)) == ("A tall man.", (frozenset({"tall", "man"}),))


def test_a_caption_of_a_pose_alone_fits_no_other_image():
    query = draw_query("Walking away.", np.random.default_rng(0))
    assert query.text == "Walking away."
    images = encode_statements([stated(["A man in a red coat."]), stated(["Walking away."])])
    assert not fitting_images(encode_statements([query.statements]), images).any()


def test_queries_fit_the_images_that_state_all_of_them():
    """Drawn captions against sets of words in plain Python, and against the attributes that they were drawn from."""
    sampler = PersonSampler(0, "train")
    rows = [[caption.text for caption in sampler.captions(index, 0, noise=0)] for index in range(60)]
    rng = np.random.default_rng(0)
    queries = [draw_query(row[0], rng) for row in rows for _ in range(3)]
    facts = [stated(row) for row in rows]
    fits = fitting_images(
        encode_statements([query.statements for query in queries]),
        encode_statements([sorted(f, key=sorted) for f in facts]),
    )
    assert fits.shape == (180, 60)
    for (place, query), (number, fact) in product(enumerate(queries), enumerate(facts)):
        expected = all(any(words <= statement for statement in fact) for words in query.statements)
        assert bool(fits[place, number]) == expected, (query, rows[number])
    own = fits.view(60, 3, 60).diagonal(dim1=0, dim2=2)
    assert own.all() and 60 * 3 < fits.sum() < 0.2 * fits.numel()


def test_padding_fits_everything_and_states_nothing():
    query_words = encode_statements([(frozenset({"red", "coat"}), frozenset({"hat"})), (frozenset({"hat"}),)])
    image_words = encode_statements(
        [[frozenset({"red", "long", "coat"}), frozenset({"hat"})], [frozenset({"hat"})], []]
    )
    assert query_words.shape == (2, 2, 2) and image_words.shape == (3, 2, 3)
    assert fitting_images(query_words, image_words).tolist() == [[True, False, False], [True, True, False]]
    assert encode_statements([]).shape == (0, 0, 0)
