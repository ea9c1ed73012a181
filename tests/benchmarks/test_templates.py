"""The figures of template sets: self-BLEU against a literal version, and the table of the guide."""

import math
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.construction.templates import figures, self_bleu, words_of
from dataset_scripts.construction.captions.templates import Template, TemplateSet


GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "build-a-data-set.md"
TEXTS = [
    "A [gender] in [colored top] and [colored bottom].",
    "A [gender] in [colored top] with [colored bottom], in [colored top].",
    "Seen [view], the person wears [colored top] and [colored bottom] and [colored shoes].",
    "The person wears [hair].",
    "With [hair], a [gender] in [colored top] and [colored bottom] is [action].",
]


def literal_bleu(candidate: list[str], references: list[list[str]]) -> float:
    """BLEU-4 as in its paper, with Chen and Cherry's first smoothing."""
    product = 1.0
    for n in range(1, 5):
        grams = Counter(tuple(candidate[i : i + n]) for i in range(len(candidate) - n + 1))
        matches = 0.0
        for gram, count in grams.items():
            matches += min(count, max(sum(ref[i : i + n] == [*gram] for i in range(len(ref))) for ref in references))
        product *= (matches or 0.1) / max(sum(grams.values()), 1)
    closest = min((abs(len(ref) - len(candidate)), len(ref)) for ref in references)[1]
    return product**0.25 * (1 if len(candidate) >= closest else math.exp(1 - closest / len(candidate)))


def test_self_bleu_is_that_of_each_text_against_all_others():
    words = [words_of(text) for text in TEXTS]
    expected = [literal_bleu(own, [other for other in words if other is not own]) for own in words]
    assert self_bleu(TEXTS) == pytest.approx(sum(expected) / len(expected))


def test_equal_texts_have_a_self_bleu_of_one():
    assert self_bleu([TEXTS[0]] * 3) == pytest.approx(1)


def test_the_figures_count_what_they_say():
    found = figures(
        TemplateSet("1", tuple(Template(f"t{n}", text) for n, text in enumerate(TEXTS)), "a test"), 2, 3, 0
    )
    assert found["templates"] == "5" and found["distinct openings of three words"] == "4 (80%)"
    assert found["begin with `A [gender]`"] == "2 (40%)" and found["name no gender"] == "40%"
    assert (
        found["kinds of placeholders"] == "7" and found["words: shortest, median, mean, longest"] == "4, 11, 9.6, 13"
    )


def test_the_guide_has_the_figures_of_the_shipped_set():
    shipped = figures(TemplateSet.load(), 120, 20, 0)
    guide = GUIDE.read_text(encoding="utf-8")
    assert [row for row, value in shipped.items() if f"| {row} | {value} |" not in guide] == []
