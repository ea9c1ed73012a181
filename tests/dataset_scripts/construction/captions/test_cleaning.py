"""What is removed from a reply, and what is left for the rules to refuse because it cannot be cut exactly."""

import pytest

from dataset_scripts.construction.captions.cleaning import Review, review_reply, without_opening
from dataset_scripts.construction.captions.rules import CaptionProblem, CaptionRules


PERSON = "a man in a red coat, blue jeans and white sneakers"
CLEAN = "A man in a red coat, blue jeans and white sneakers."


def review(reply):
    return review_reply(reply, CaptionRules())


@pytest.mark.parametrize(
    "opening",
    [
        "The image shows",
        "This image features",
        "This is a portrait of",
        "It's a picture of",
        "A full-body shot of",
        "A candid black-and-white photo of",
        "Photo of",
        "In this picture we can see",
        "In the photograph, there is",
        "In the image,",
        "Here we see",
        "Pictured here is",
        "Seen in this photo is",
        "The main subject of the image is",
        "This appears to be a photograph of",
        "Caption: The image shows",
    ],
)
def test_an_opening_is_taken_off(opening):
    done = review(f"{opening} {PERSON}.")
    assert done.caption == CLEAN and done.problem is None and done.removed == ("opening",)


@pytest.mark.parametrize(
    ("clause", "kind"),
    [
        (", set against a plain white background", "scene"),
        (", with tall bookshelves behind him", "scene"),
        (", and the sky is cloudy", "scene"),
        (", while rain pours down and puddles shine", "scene"),
        (". The background is a brick wall", "scene"),
        (". It is snowing", "scene"),
        (", and no bag is present", "absence"),
        (", without a hat or any other headwear", "absence"),
        (". He is not carrying anything", "absence"),
        (". His face is not visible", "unseen"),
        (", and the photo was taken from above", "picture"),
    ],
)
def test_a_clause_that_tells_nothing_of_the_person_is_cut(clause, kind):
    done = review(f"{CLEAN[:-1]}{clause}.")
    assert done.caption == CLEAN and done.problem is None and done.removed == (kind,)


@pytest.mark.parametrize(
    ("caption", "problem"),
    [
        # No clause ends there.
        ("A man in a red coat and blue jeans stands in front of a brick wall.", CaptionProblem.SCENE),
        ("In a busy market, a man in a red coat and blue jeans is walking.", CaptionProblem.SCENE),
        # The verb of the sentence would be lost.
        ("The man, wearing a red coat and blue jeans, is standing in a park.", CaptionProblem.SCENE),
        # Something of the person would be lost.
        ("A man in blue jeans and white shoes, in front of a wall in a red coat.", CaptionProblem.SCENE),
        ("A man in blue jeans and white shoes, without a hat but with a red coat.", CaptionProblem.ABSENT),
        # An enumeration would lack its "and".
        ("A man wears a red coat, blue jeans, white shoes, and no hat.", CaptionProblem.ABSENT),
        # Too little would be left.
        ("A man in a coat, with bookshelves behind him in a room.", CaptionProblem.SCENE),
        # Another fault remains.
        ("A sad man in a red coat and blue jeans, with no bag in his hand.", CaptionProblem.ABSENT),
        ("A painting of a man in a red coat, blue jeans and white sneakers.", CaptionProblem.ARTEFACT),
    ],
)
def test_what_cannot_be_cut_is_refused_as_it_is(caption, problem):
    done = review(caption)
    assert done.caption == caption and done.problem is problem and done.removed == ()


def test_a_person_in_the_picture_and_words_on_clothes_stay():
    assert without_opening("The man in the photo wears a red coat.") == "The man wears a red coat."
    for kept in (
        'A man wears a T-shirt that says "The image shows nothing" and blue jeans.',
        "A man has a picture of a dog in front of a house on his T-shirt and wears jeans.",
        "A boy in a jumper with a little snowman and a fir tree on it wears blue jeans.",
    ):
        assert review(kept) == Review(kept, None)
