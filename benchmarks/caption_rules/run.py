"""The caption rules on labelled captions: faults caught, and good captions refused, by kind.

    python -m benchmarks.caption_rules.run            # seconds
    python -m benchmarks.caption_rules.run --wrong    # print each caption that is judged wrongly

The captions (`CAPTIONS`) were written for this purpose in the manner of multimodal captioners, each with a label, the
kind of its fault, and the captions that cleaning may make of it. A fault is caught if the caption is refused or
cleaned into one of those. A good caption must pass unchanged. Writes results/caption_rules.json and a section of
RESULTS.md.

The first 474 captions were written before the rules. Those in the styles "catalogue" and "report", and three in ten
of the others, drawn by kind with seed 21, were held back: the rules were written on the development set, and the
held-back set was measured once. Then four further sets were written, one after the other and each in other styles;
each was measured before the rules were changed for it. `FIRST` holds these first measurements. One later error on the
held-back set, the word "bold" taken for a feeling, was mended.
"""

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.measuring import ROOT, command_of, machine, parser, provenance, save, table
from dataset_scripts.construction.captions.cleaning import review_reply
from dataset_scripts.construction.captions.rules import CaptionRules


CAPTIONS = ROOT / "tests/dataset_scripts/construction/captions/resources/labelled_captions.jsonl"
FIRST = {
    "held back": {"faulty": 138, "caught": 133, "good": 77, "refused": 1},
    "second": {"faulty": 84, "caught": 59, "good": 51, "refused": 3},
    "third": {"faulty": 86, "caught": 79, "good": 56, "refused": 2},
    "fourth": {"faulty": 64, "caught": 61, "good": 41, "refused": 3},
    "fifth": {"faulty": 44, "caught": 44, "good": 46, "refused": 2},
}
"""What the rules of the time made of each set when it was new. One label of the third set was corrected since, and
cleaned captions that were right but not listed were added to the second, third and fourth: 3, 4 and 1. The held-back
set is as it was."""
UNCHANGED, CLEANED, REFUSED, SPOILT = "unchanged", "cleaned", "refused", "cleaned wrongly"


@dataclass(frozen=True)
class Labelled:
    """One caption: its set, whether it is good, the kind of its fault, and what cleaning may make of it."""

    set: str
    is_good: bool
    kind: str
    caption: str
    cleaned: tuple[str, ...]


@dataclass(frozen=True)
class Judged:
    """What the rules made of it, and the reason of a refusal."""

    labelled: Labelled
    outcome: str
    reason: str | None

    @property
    def is_right(self) -> bool:
        return self.outcome == UNCHANGED if self.labelled.is_good else self.outcome in (CLEANED, REFUSED)


def read_captions() -> list[Labelled]:
    """Read the labelled captions."""
    records = [json.loads(line) for line in CAPTIONS.read_text(encoding="utf-8").splitlines()]
    return [
        Labelled(
            record["set"],
            record["label"] == "good",
            record["kind"],
            record["caption"],
            tuple(record.get("cleaned", ())),
        )
        for record in records
    ]


def judge(captions: Iterable[Labelled]) -> list[Judged]:
    """Apply the rules with their default thresholds."""
    rules = CaptionRules()
    judged = []
    for labelled in captions:
        review = review_reply(labelled.caption, rules)
        if review.problem:
            outcome = REFUSED
        elif review.caption == labelled.caption:
            outcome = UNCHANGED
        else:
            outcome = CLEANED if review.caption in labelled.cleaned else SPOILT
        judged.append(Judged(labelled, outcome, review.problem and review.problem.value))
    return judged


def count(judged: list[Judged]) -> dict[str, Any]:
    """Counts by set, by kind of fault and by reason."""
    sets: dict[str, dict[str, int]] = {}
    for name in dict.fromkeys(one.labelled.set for one in judged):
        faulty = [one for one in judged if one.labelled.set == name and not one.labelled.is_good]
        good = [one for one in judged if one.labelled.set == name and one.labelled.is_good]
        sets[name] = {
            "faulty": len(faulty),
            "caught": sum(one.is_right for one in faulty),
            "good": len(good),
            "refused": sum(not one.is_right for one in good),
        }
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for one in judged:
        if not one.labelled.is_good:
            kinds[one.labelled.kind][one.outcome] += 1
        if one.reason:
            reasons[one.reason]["good" if one.labelled.is_good else "faulty"] += 1
    return {
        "sets": sets,
        "kinds": {kind: dict(sorted(kinds[kind].items())) for kind in sorted(kinds)},
        "reasons": {reason: dict(sorted(reasons[reason].items())) for reason in sorted(reasons)},
    }


def report(results: dict[str, Any]) -> str:
    """The section of RESULTS.md."""
    sets = [
        [name, *(_shares(FIRST[name]) if name in FIRST else ("-", "-")), *_shares(counts)]
        for name, counts in results["sets"].items()
    ]
    kinds = []
    for kind, counts in results["kinds"].items():
        total = sum(counts.values())
        caught = counts.get(CLEANED, 0) + counts.get(REFUSED, 0)
        cells = [str(number) for number in (total, counts.get(REFUSED, 0), counts.get(CLEANED, 0))]
        kinds.append([kind, *cells, f"{caught / total:.2f}"])
    reasons = []
    for reason, counts in results["reasons"].items():
        total = sum(counts.values())
        reasons.append([reason, str(total), f"{counts.get('faulty', 0) / total:.2f}"])
    return "\n\n".join(
        [
            "## Caption rules",
            "Claim: the rules refuse or clean faulty captions and let good ones pass. Captions written in the manner "
            "of multimodal captioners, in six sets. The rules were written on the development set; each other set was "
            "measured when it was new (first measurement), and only the second to fifth were looked at for later "
            "changes.",
            table(
                ["set", "faults caught, first", "good refused, first", "faults caught, now", "good refused, now"], sets
            ),
            "By kind of fault, all sets, now:",
            table(["kind", "captions", "refused", "cleaned", "recall"], kinds),
            "By reason of the refusal, all sets, now. Precision is the share of faulty captions:",
            table(["reason", "refused", "precision"], reasons),
            "What falls short: one author wrote the captions and the rules, so other captioners will do worse than "
            "the last two columns. Their measure is the first measurement, in which 4 of 5 new sets had more than 2 % "
            "of good captions refused. No reply of a real captioner is among them.",
            provenance(results),
        ]
    )


def _shares(counts: dict[str, int]) -> tuple[str, str]:
    caught, refused = counts["caught"] / counts["faulty"], counts["refused"] / counts["good"]
    return (
        f"{caught:.3f} ({counts['caught']} of {counts['faulty']})",
        f"{100 * refused:.1f} % ({counts['refused']} of {counts['good']})",
    )


def main(arguments: argparse.Namespace) -> None:
    judged = judge(read_captions())
    if arguments.wrong:
        for one in judged:
            if not one.is_right:
                print(
                    f"{one.labelled.set} | {one.labelled.kind} | {one.outcome} | {one.reason} | {one.labelled.caption}"
                )
        return
    results = {"command": command_of("caption_rules"), "machine": machine("py3langid"), **count(judged)}
    save("caption_rules", results, report, arguments.output)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument(
        "--wrong", action="store_true", help="print captions that are judged wrongly, and write nothing"
    )
    main(options.parse_args())
