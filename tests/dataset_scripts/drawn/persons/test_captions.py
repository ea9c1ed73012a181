"""Captions: grammar, what they may tell, and the noise planted on them."""

import re
from dataclasses import replace

import numpy as np
import pytest

from dataset_scripts.drawn.persons.attributes import View
from dataset_scripts.drawn.persons.captions import Caption, write_caption
from dataset_scripts.synthetic_persons import PersonSampler


COUNT = 400
# An independent dictionary: every attribute word -> the values of a person that would make it true.
TRUE_OF = {
    "color": {
        "black": {"black"}, "jet black": {"black"}, "white": {"white"}, "pure white": {"white"}, "gray": {"gray"},
        "grey": {"gray"}, "ash gray": {"gray"}, "red": {"red"}, "crimson": {"red"}, "scarlet": {"red"},
        "bright red": {"red"}, "orange": {"orange"}, "tangerine": {"orange"}, "bright orange": {"orange"},
        "yellow": {"yellow"}, "bright yellow": {"yellow"}, "lemon yellow": {"yellow"}, "green": {"green"},
        "emerald": {"green"}, "forest green": {"green"}, "blue": {"blue", "navy", "light blue"}, "cobalt": {"blue"},
        "royal blue": {"blue"}, "navy": {"navy"}, "dark blue": {"navy"}, "navy blue": {"navy"},
        "light blue": {"light blue"}, "sky blue": {"light blue"}, "pale blue": {"light blue"}, "purple": {"purple"},
        "violet": {"purple"}, "deep purple": {"purple"}, "pink": {"pink"}, "rose": {"pink"}, "light pink": {"pink"},
        "brown": {"brown"}, "chocolate": {"brown"}, "chestnut brown": {"brown"}, "beige": {"beige"}, "tan": {"beige"},
        "cream": {"beige"}, "khaki": {"beige"},
    },
    "hair_color": {
        "black": {"black"}, "jet-black": {"black"}, "raven": {"black"}, "brown": {"brown"}, "chestnut": {"brown"},
        "brunette": {"brown"}, "blond": {"blond"}, "golden": {"blond"}, "fair": {"blond"}, "red": {"red"},
        "ginger": {"red"}, "copper": {"red"}, "gray": {"gray"}, "grey": {"gray"}, "silver": {"gray"},
    },
    "hair_style": {
        "short": {"short"}, "cropped": {"short"}, "short-haired": {"short"}, "long": {"long"},
        "shoulder-length": {"long"}, "long-haired": {"long"}, "ponytail": {"ponytail"}, "bun": {"bun"},
        "bald": {"bald"},
    },
    "pattern": {
        "plain": {"plain"}, "solid": {"plain"}, "striped": {"striped", "pinstriped"}, "pinstriped": {"pinstriped"},
        "checked": {"checked"}, "plaid": {"checked"}, "checkered": {"checked"}, "dotted": {"dotted"},
        "spotted": {"dotted"}, "polka-dot": {"dotted"}, "two-tone": {"two-tone"}, "color-block": {"two-tone"},
        "printed": {"printed"}, "graphic": {"printed"},
    },
    "garment": {
        "t-shirt": {"t-shirt"}, "tee": {"t-shirt"}, "crew-neck t-shirt": {"t-shirt"}, "shirt": {"shirt", "t-shirt"},
        "button-up shirt": {"shirt"}, "hoodie": {"hoodie"}, "hooded sweatshirt": {"hoodie"}, "sweater": {"sweater"},
        "pullover": {"sweater"}, "knit sweater": {"sweater"}, "jacket": {"jacket"}, "open jacket": {"jacket"},
        "coat": {"coat"}, "overcoat": {"coat"}, "long coat": {"coat"}, "vest": {"vest"}, "gilet": {"vest"},
        "puffer vest": {"vest"}, "tank top": {"tank top"}, "sleeveless top": {"tank top", "vest"}, "dress": {"dress"},
        "flared dress": {"dress"}, "trousers": {"trousers", "jeans", "joggers", "wide trousers"},
        "pants": {"trousers", "jeans", "joggers", "wide trousers"}, "slacks": {"trousers"}, "jeans": {"jeans"},
        "denims": {"jeans"}, "denim jeans": {"jeans"}, "joggers": {"joggers"}, "sweatpants": {"joggers"},
        "track pants": {"joggers"}, "leggings": {"leggings"}, "tights": {"leggings"}, "shorts": {"shorts"},
        "bermuda shorts": {"shorts"}, "wide-leg trousers": {"wide trousers"}, "baggy pants": {"wide trousers"},
        "flared trousers": {"wide trousers"}, "skirt": {"skirt"},
    },
    "shoes": {
        "sneakers": {"sneakers"}, "trainers": {"sneakers"}, "running shoes": {"sneakers"}, "boots": {"boots"},
        "high boots": {"boots"}, "sandals": {"sandals"}, "open sandals": {"sandals"}, "loafers": {"dress shoes"},
        "dress shoes": {"dress shoes"},
    },
    "bag": {
        "backpack": {"backpack"}, "rucksack": {"backpack"}, "hiking backpack": {"backpack"},
        "shoulder bag": {"shoulder bag"}, "crossbody bag": {"shoulder bag"}, "messenger bag": {"shoulder bag"},
        "handbag": {"handbag"}, "purse": {"handbag"}, "leather handbag": {"handbag"}, "tote": {"tote"},
        "tote bag": {"tote"}, "shopping bag": {"tote"}, "suitcase": {"suitcase"}, "trolley": {"suitcase"},
        "rolling suitcase": {"suitcase"},
    },
    "hat": {
        "cap": {"cap"}, "baseball cap": {"cap"}, "beanie": {"beanie"}, "wool beanie": {"beanie"},
        "sunhat": {"brimmed hat"}, "brimmed hat": {"brimmed hat"},
    },
    "eyewear": {
        "glasses": {"glasses"}, "spectacles": {"glasses"}, "sunglasses": {"sunglasses"}, "shades": {"sunglasses"},
    },
    "neck": {"scarf": {"scarf"}, "tie": {"tie"}, "necktie": {"tie"}},
    "held": {
        "phone": {"phone"}, "smartphone": {"phone"}, "mobile phone": {"phone"}, "umbrella": {"umbrella"},
        "folded umbrella": {"umbrella"}, "bottle": {"bottle"}, "water bottle": {"bottle"}, "cup": {"cup"},
        "coffee cup": {"cup"},
    },
}  # fmt: skip
KIND_OF_FIELD = {
    "hair_length": "hair_style", "hair_knot": "hair_style", "haired": "hair_style", "upper": "garment",
    "lower": "garment", "inner": "garment", "upper_pattern": "pattern", "lower_pattern": "pattern",
    "hair_color": "hair_color", "shoes": "shoes", "bag": "bag", "hat": "hat", "eyewear": "eyewear", "neck": "neck",
    "held": "held",
}  # fmt: skip


def captions(noise: float, count: int = COUNT) -> list[tuple[dict[str, str], Caption]]:
    sampler = PersonSampler(5, "train")
    return [
        (sampler.person(index).attributes(), caption)
        for index in range(count)
        for caption in sampler.captions(index, 0, noise=noise)
    ]


@pytest.fixture(scope="module")
def clean() -> list[tuple[dict[str, str], Caption]]:
    return captions(0.0)


@pytest.fixture(scope="module")
def noisy() -> list[tuple[dict[str, str], Caption]]:
    return captions(0.3)


def values_worn(person: dict[str, str], field: str) -> set[str]:
    """What of `person` could make a word at this place of a caption true, read off the ground truth."""
    if field == "inner":
        return {"t-shirt", person["upper"]}
    if field == "upper":
        return {person["upper"]} | ({"t-shirt"} if person["inner_color"] != "none" else set())
    if field in ("upper_color", "upper_color2"):
        return {person["upper_color"], person["upper_color2"]}
    return {person[{"hair_length": "hair_style", "hair_knot": "hair_style", "haired": "hair_style"}.get(field, field)]}


def words_at(caption: Caption, positions: tuple[int, ...]) -> str:
    words = caption.text.split()
    return " ".join(words[place] for place in positions).rstrip(".,").lower()


def test_captions_read_as_english(clean, noisy):
    for _, caption in [*clean, *noisy]:
        text = caption.text
        assert re.match(r"[A-Z]", text) and text.endswith("."), text
        assert "  " not in text and " ." not in text and " ," not in text and ".." not in text, text
        assert not re.search(r"\b[Aa] [aeiou]", text), text
        assert not re.search(r"\b[Aa]n [^aeiou]", text), text
        assert not re.search(r"\. [a-z]", text), text
        assert not re.search(r"\b(\w+) \1\b", text), text


def test_number_agrees(clean, noisy):
    plural = r"(trousers|pants|slacks|jeans|joggers|sweatpants|leggings|tights|shorts|sneakers|boots|sandals|loafers)"
    for _, caption in [*clean, *noisy]:
        assert not re.search(rf"\b{plural} is\b", caption.text), caption.text
        # From an article to a plural noun there is "pair of", or the end of the article's own phrase.
        for phrase, _ in re.findall(rf"\b(?:a|an) ([^.,]*?)\b{plural}\b", caption.text.lower()):
            assert re.search(r"\b(pair of|and|in|with|wearing|wears|on|has)\b", phrase), caption.text


def test_captions_are_ten_to_sixty_words_long_and_vary(clean):
    lengths = [len(caption.text.split()) for _, caption in clean]
    assert 10 <= min(lengths) and max(lengths) <= 60
    assert np.percentile(lengths, 90) - np.percentile(lengths, 10) > 12
    assert len({caption.text for _, caption in clean}) > 0.98 * len(clean)
    starts = {" ".join(caption.text.split()[:2]) for _, caption in clean}
    assert len(starts) > 15


def test_upper_and_lower_garments_and_their_colours_are_always_told(clean):
    for person, caption in clean:
        told = {mention.field for mention in caption.mentions}
        assert {"upper", "upper_color"} <= told, caption.text
        assert person["lower"] == "none" or {"lower", "lower_color"} <= told, caption.text


def test_clean_captions_are_true_by_an_independent_reading(clean):
    for person, caption in clean:
        assert caption.noise_positions == []
        for mention in caption.mentions:
            written = words_at(caption, mention.positions)
            meaning = TRUE_OF[KIND_OF_FIELD.get(mention.field, "color")][written]
            assert meaning & values_worn(person, mention.field), (caption.text, mention)


def test_noise_words_are_false_by_an_independent_reading(noisy):
    planted = 0
    for person, caption in noisy:
        for mention in caption.mentions:
            if set(mention.positions) & set(caption.noise_positions):
                written = words_at(caption, mention.positions)
                table = TRUE_OF["garment" if mention.field == "lower" else KIND_OF_FIELD.get(mention.field, "color")]
                assert not table[written] & values_worn(person, mention.field), (caption.text, mention)
                planted += 1
    assert planted > 500


def test_words_outside_the_attribute_positions_are_no_attribute_words(noisy):
    """The vocabulary of attributes, read from the dictionary above, is at the recorded places and nowhere else."""
    vocabulary = {word for table in TRUE_OF.values() for form in table for word in form.split()}
    for _, caption in noisy:
        for place, word in enumerate(caption.text.split()):
            known = word.rstrip(".,").lower() in vocabulary
            assert known == (place in caption.attribute_positions), (caption.text, word)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.6])
def test_the_share_of_wrong_attributes_is_the_rate(rate):
    mentions = [mention for _, caption in captions(rate) for mention in caption.mentions]
    wrong = sum(mention.noisy for mention in mentions)
    spread = np.sqrt(rate * (1 - rate) * len(mentions))
    assert abs(wrong - rate * len(mentions)) < 3.5 * spread


def test_noise_never_gives_a_pattern_one_colour_twice():
    pairs = 0
    for _, caption in [*captions(1.0, 200), *captions(0.5, 200)]:
        written = {mention.field: mention.written for mention in caption.mentions}
        pairs += "upper_color2" in written
        assert written["upper_color"] != written.get("upper_color2"), caption.text
    assert pairs > 100


def test_at_rate_one_every_attribute_is_wrong():
    for _, caption in captions(1.0, 50):
        assert caption.noise_positions == caption.attribute_positions


def test_captions_at_two_rates_differ_only_where_noise_was_planted_and_errors_accumulate():
    series = [captions(rate, 100) for rate in (0.0, 0.1, 0.3, 0.7)]
    for (_, first), *others in zip(*series, strict=True):
        before: set[int] = set()
        for _, caption in others:
            assert before <= set(caption.noise_positions)
            before = set(caption.noise_positions)
            assert caption.attribute_positions == first.attribute_positions
            for place, (clean_word, word) in enumerate(zip(first.text.split(), caption.text.split(), strict=True)):
                assert (clean_word != word) == (place in before) or clean_word.lower() in ("a", "an")


def test_the_two_captions_of_an_image_are_drawn_independently(clean):
    pairs = list(zip(clean[::2], clean[1::2], strict=True))
    assert sum(first[1].text == second[1].text for first, second in pairs) < 0.02 * len(pairs)


def test_nothing_invisible_is_told():
    sampler = PersonSampler(5, "train")
    hidden_from_behind, feet = {"eyewear", "inner"}, {"shoes", "shoes_color"}
    seen_in_front: set[str] = set()
    for index in range(200):
        person = replace(sampler.person(index), upper="jacket", inner_color="white", upper_pattern="plain")
        rngs = [np.random.default_rng(index) for _ in range(6)]
        behind = write_caption(person, View(np.pi, "walking"), rngs[0], rngs[1])
        assert not hidden_from_behind & {mention.field for mention in behind.mentions}, behind.text
        covered = write_caption(person, View(0.0, "walking", occluder="hood"), rngs[2], rngs[3])
        assert not feet & {mention.field for mention in covered.mentions}, covered.text
        assert person.bag != "backpack" or "strap" in covered.text or "bag" not in {m.field for m in covered.mentions}
        seen_in_front |= {m.field for m in write_caption(person, View(0.0, "walking"), rngs[4], rngs[5]).mentions}
    assert hidden_from_behind | feet <= seen_in_front
