"""Exclusion (`without`): the weight of an excluded attribute in the score.

    make demo && python -m benchmarks.exclusion.run           # 1 minute on two cores, after the demo's 13
    python -m benchmarks.exclusion.run --model MODEL          # of another model

Queries describe an upper garment with its colour and exclude something: "a person in a red jacket" without "a
backpack". They are asked of the drawn test persons (1,000, one image each). Correct are persons who wear the garment
and do not have the excluded thing; a pair is used only if some wearers have it and others do not. Measures mean
average precision over the pairs for several weights, the package's `WITHOUT_WEIGHT` among them, and for the same
query in one sentence ("a person in a red jacket without a backpack"). Writes results/exclusion.json and a section of
RESULTS.md.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from benchmarks.measuring import ROOT, command_of, machine, parser, provenance, save, table
from dataset_scripts.loading import load_splits
from modeling_gadms.encoders.encoding import encode_captions, encode_images
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.gallery.records import WITHOUT_WEIGHT
from modeling_gadms.training.run_config import load_run_config


DEMO_MODEL = "runs/demo/model"
CONFIG = ROOT / "examples" / "configs" / "demo.yaml"
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
KINDS = {
    "bag": {name: f"a {name}" for name in ("backpack", "handbag", "tote", "suitcase", "shoulder bag")},
    "hat": {name: f"a {name}" for name in ("cap", "beanie", "brimmed hat")},
    "lower": {"skirt": "a skirt", "shorts": "shorts", "jeans": "jeans", "leggings": "leggings"},
}
"""Attributes of a drawn person, and the phrases for their values."""
FIRST = 10
IN_ONE = "in one sentence"


@dataclass(frozen=True)
class Pair:
    """A description, the excluded thing, and which persons wear the garment and have the thing."""

    kind: str
    wanted: str
    unwanted: str
    wears: np.ndarray
    has: np.ndarray


def make_pairs(persons: list[dict[str, str]]) -> Iterator[Pair]:
    """All pairs for which some wearers have the thing and others do not."""
    garments = sorted({(person["upper_color"], person["upper"]) for person in persons})
    for color, upper in garments:
        wears = np.array([(person["upper_color"], person["upper"]) == (color, upper) for person in persons])
        article = "an" if color[0] in "aeiou" else "a"
        for kind, things in KINDS.items():
            for value, thing in things.items():
                has = np.array([person[kind] == value for person in persons])
                if (wears & has).any() and (wears & ~has).any():
                    yield Pair(kind, f"a person in {article} {color} {upper}", thing, wears, has)


def measure(pairs: list[Pair], images: np.ndarray, text: dict[str, np.ndarray]) -> dict[str, Any]:
    """By kind and weight: mean average precision, and the share of the first ten who have the excluded thing."""
    scores: dict[str, list[np.ndarray]] = {IN_ONE: [images @ text[one_sentence(pair)] for pair in pairs]}
    for weight in WEIGHTS:
        scores[f"{weight:g}"] = [images @ (text[pair.wanted] - weight * text[pair.unwanted]) for pair in pairs]
    measured: dict[str, Any] = {}
    for kind in dict.fromkeys(pair.kind for pair in pairs):
        chosen = [number for number, pair in enumerate(pairs) if pair.kind == kind]
        measured[kind] = {"pairs": len(chosen)}
        for way, of_pairs in scores.items():
            right = [pairs[n].wears & ~pairs[n].has for n in chosen]
            precision = [average_precision_score(y, of_pairs[n]) for y, n in zip(right, chosen, strict=True)]
            unwanted = [pairs[n].has[np.argsort(-of_pairs[n])[:FIRST]].mean() for n in chosen]
            measured[kind][way] = {"map": 100 * np.mean(precision), "unwanted": 100 * np.mean(unwanted)}
    return measured


def one_sentence(pair: Pair) -> str:
    return f"{pair.wanted} without {pair.unwanted}"


def report(results: dict[str, Any]) -> str:
    """The section of RESULTS.md."""
    ways = [IN_ONE, *(f"{weight:g}" for weight in WEIGHTS)]
    rows = []
    for kind, measured in results["kinds"].items():
        cells = [f"{measured[way]['map']:.1f} ({measured[way]['unwanted']:.0f} %)" for way in ways]
        rows.append([kind, f"{measured['pairs']}", *cells])
    return "\n\n".join(
        [
            "## Exclusion",
            "Claim: subtracting the similarity to the excluded text ranks persons without it higher. Mean average "
            "precision, in percent, of persons who wear a garment and do not have a thing, by the weight with which "
            "the similarity to the thing is subtracted; in brackets the share of the first "
            f"{FIRST} who have the thing. At 0 it is not mentioned; {results['weight']:g} is the gallery's default. "
            f"`{results['model']}` and {results['persons']:,} drawn test persons.",
            table(["without", "pairs", *ways], rows),
            "What falls short: at the default weight mAP hardly changes, and one sentence with `without` has a higher "
            "one. The share of wrong persons falls clearly only for garments of the lower body.",
            provenance(results),
        ]
    )


def main(arguments: argparse.Namespace) -> None:
    data = load_run_config(CONFIG, []).data
    rows = load_splits(data.dataset, **data.dataset_args)["test"]
    model, processor = load_model_and_processor(arguments.model)
    pairs = list(make_pairs(rows["attributes"]))
    said = sorted({said for pair in pairs for said in (pair.wanted, pair.unwanted, one_sentence(pair))})
    images = encode_images(model, processor, rows["image"], total=len(rows)).numpy()
    text = dict(zip(said, encode_captions(model, processor, said).numpy(), strict=True))
    results = {
        "command": command_of("exclusion", *["--model", arguments.model] * (arguments.model != DEMO_MODEL)),
        "machine": machine("transformers", "scikit-learn"),
        "model": arguments.model,
        "persons": len(rows),
        "weight": WITHOUT_WEIGHT,
        "kinds": measure(pairs, images, text),
    }
    save("exclusion", results, report, arguments.output)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--model", default=DEMO_MODEL, help=f"folder or Hub name (default: {DEMO_MODEL})")
    main(options.parse_args())
