"""The caption rules hold their bounds on the labelled captions, and the counts are those of the captions."""

from collections import Counter

import pytest

from benchmarks.caption_rules.run import CLEANED, REFUSED, SPOILT, UNCHANGED, Labelled, count, judge, read_captions


@pytest.fixture(scope="module")
def judged():
    return judge(read_captions())


def test_the_labelled_captions_are_many_varied_and_labelled_in_full(judged):
    captions = [one.labelled for one in judged]
    sizes = Counter((labelled.set, labelled.is_good) for labelled in captions)
    assert len({labelled.caption for labelled in captions}) == len(captions) >= 400
    assert sizes["held back", True] + sizes["held back", False] >= 200
    assert sum(labelled.is_good for labelled in captions) >= 160
    assert not any(labelled.cleaned for labelled in captions if labelled.is_good)


def test_faults_are_caught_and_good_captions_pass(judged):
    sets = count(judged)["sets"]
    assert all(counts["caught"] >= 0.95 * counts["faulty"] for counts in sets.values())
    assert sets["held back"]["refused"] <= 0.02 * sets["held back"]["good"]
    # The smaller sets together: one caption is 2 % of them.
    assert sum(counts["refused"] for counts in sets.values()) <= 0.02 * sum(counts["good"] for counts in sets.values())


def test_every_kind_of_fault_is_caught(judged):
    kinds = count(judged)["kinds"]
    missed = {kind: counts.get(UNCHANGED, 0) + counts.get(SPOILT, 0) for kind, counts in kinds.items()}
    assert all(count <= 0.1 * sum(kinds[kind].values()) for kind, count in missed.items()), missed


def test_outcomes_are_counted_as_labelled():
    good = "A man wears a red coat, blue jeans and white sneakers."
    seen = f"The image shows {good[0].lower()}{good[1:]}"
    captions = [
        Labelled("a", True, "ordinary", good, ()),
        Labelled("a", True, "ordinary", "A man seems to wear a red coat and blue jeans.", ()),
        Labelled("a", False, "opening", seen, (good,)),
        Labelled("a", False, "opening", seen, ("Another caption.",)),
        Labelled("a", False, "hedge", good, ()),
    ]
    judged = judge(captions)
    assert [one.outcome for one in judged] == [UNCHANGED, REFUSED, CLEANED, SPOILT, UNCHANGED]
    assert count(judged) == {
        "sets": {"a": {"faulty": 3, "caught": 1, "good": 2, "refused": 1}},
        "kinds": {"hedge": {UNCHANGED: 1}, "opening": {CLEANED: 1, SPOILT: 1}},
        "reasons": {"hedges": {"good": 1}},
    }
