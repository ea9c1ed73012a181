"""What is taken for something that should not be there: who counts as right, and how weights rank."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.exclusion import run as without
from benchmarks.exclusion.run import IN_ONE, KINDS, WEIGHTS, make_pairs, one_sentence, report


ROOT = Path(__file__).parents[2]
PERSONS = [
    {"upper_color": "red", "upper": "coat", "bag": "backpack", "hat": "none", "lower": "jeans"},
    {"upper_color": "red", "upper": "coat", "bag": "none", "hat": "none", "lower": "jeans"},
    {"upper_color": "orange", "upper": "vest", "bag": "backpack", "hat": "cap", "lower": "skirt"},
    {"upper_color": "red", "upper": "coat", "bag": "none", "hat": "none", "lower": "jeans"},
]


def test_pairs_are_those_of_which_some_have_the_thing_and_others_have_not():
    # All red coats wear jeans, and the orange vest is alone.
    (pair,) = make_pairs(PERSONS)
    assert (pair.kind, pair.wanted, pair.unwanted) == ("bag", "a person in a red coat", "a backpack")
    assert pair.wears.tolist() == [True, True, False, True]
    assert pair.has.tolist() == [True, False, True, False]
    assert one_sentence(pair) == "a person in a red coat without a backpack"


def test_scores_are_less_by_the_weight_and_precision_is_that_worked_by_hand(monkeypatch):
    monkeypatch.setattr(without, "FIRST", 1)
    # Two dimensions: how red a coat, and how much of a backpack.
    images = np.array([[0.9, 0.6], [0.8, 0.0], [0.1, 0.9], [0.5, 0.1]])
    text = {
        "a person in a red coat": np.array([1.0, 0.0]),
        "a backpack": np.array([0.0, 1.0]),
        "a person in a red coat without a backpack": np.array([0.5, 1.0]),
    }
    measured = without.measure(list(without.make_pairs(PERSONS)), images, text)
    assert list(measured) == ["bag"] and measured["bag"]["pairs"] == 1
    # Not mentioned: 0, 1, 3, 2; the right ones, 1 and 3, are second and third: (1/2 + 2/3) / 2.
    assert measured["bag"]["0"] == {"map": pytest.approx(100 * 7 / 12), "unwanted": 100}
    # With the weight 0.5: 0.6, 0.8, -0.35, 0.45, so 1, 0, 3: (1 + 2/3) / 2; with 1: 0.3, 0.8, -0.8, 0.4, both first.
    assert measured["bag"]["0.5"] == {"map": pytest.approx(100 * 5 / 6), "unwanted": 0}
    assert measured["bag"]["1"] == {"map": pytest.approx(100), "unwanted": 0}
    # In one sentence: 1.05, 0.4, 0.95, 0.35, so 0, 2, 1, 3: (1/3 + 1/2) / 2.
    assert measured["bag"][without.IN_ONE] == {"map": pytest.approx(100 * 5 / 12), "unwanted": 100}


def test_the_report_tells_the_weight_and_every_kind():
    ways = {way: {"map": 12.34, "unwanted": 56.7} for way in (IN_ONE, *(f"{weight:g}" for weight in WEIGHTS))}
    text = report(
        {
            "command": "c",
            "machine": {"cpu": "m", "cores": 2, "memory_gb": 8},
            "model": "runs/demo/model",
            "persons": 4,
            "weight": 0.5,
            "kinds": {kind: {"pairs": 3, **ways} for kind in KINDS},
        }
    )
    assert "0.5 is the gallery's default" in text and text.count("12.3 (57 %)") == len(KINDS) * len(ways)
