"""The section of RESULTS.md on the robustness study: tables from the files of its runs."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from figures import draw_captions, draw_rates, draw_scores
from measuring import provenance, ratio, spread_text, table, write_section
from study import ABLATION_RATE, ABLATIONS, OBJECTIVES, RATES, TRUNK_RATE, Scale


METRICS = {"r1": "R@1", "r5": "R@5", "map": "mAP"}
REFERENCE = "none"
ABLATED = "gass-both"
RunResults = dict[tuple[str, float], dict[int, dict[str, Any]]]


def read_runs(folder: Path) -> RunResults:
    """Branches by (objective, rate), then by seed."""
    runs: RunResults = defaultdict(dict)
    for path in sorted(folder.glob("*-noise*-seed*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        runs[run["objective"], run["rate"]][run["seed"]] = run
    return runs


def write_report(folder: Path, output: Path, pictures: Path, scale: Scale, command: str) -> None:
    """Write the section and its pictures.

    Args:
        folder (`Path`): of the runs' results.
        output (`Path`): of RESULTS.md.
        pictures (`Path`): of the pictures.
        scale (`Scale`): the study's.
        command (`str`): that made it.
    """
    runs = read_runs(folder)
    trunks = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("trunk-seed*.json"))]
    timed = json.loads((folder / "time.json").read_text(encoding="utf-8"))
    pictures.mkdir(parents=True, exist_ok=True)
    draw_rates(runs, pictures / "robustness-r1.png")
    draw_scores(runs, pictures / "robustness-scores.png")
    draw_captions(runs, pictures / "robustness-captions.png")
    conclusion = Path(__file__).with_name("conclusion.md").read_text(encoding="utf-8").strip()
    parts = [
        "## The robustness study: does masking by GASS help where captions are noisy?",
        conclusion,
        _setting(scale),
        "### Objectives by noise rate",
        *(f"{label}, in percent:\n\n{_metric_table(runs, metric)}" for metric, label in METRICS.items()),
        f"Points of R@1 over alignment only, the same seed in both:\n\n{_paired_table(runs)}",
        "![R@1 by noise rate for each objective](../docs/images/robustness-r1.png)",
        "### What the scores know",
        _quality_text(trunks),
        "![Scores of planted noise and of true attribute words, and what masks make of them]"
        "(../docs/images/robustness-scores.png)",
        _masking_table(runs),
        "![Captions of unseen persons, coloured by GASS; planted noise is underlined]"
        "(../docs/images/robustness-captions.png)",
        "### One thing changed at a time",
        _ablation_table(runs),
        "### Time of a step",
        _time_table(timed["seconds"]),
        provenance({"command": command, "machine": timed["machine"]}),
    ]
    write_section(output / "RESULTS.md", "robustness", "\n\n".join(part for part in parts if part))


def _setting(scale: Scale) -> str:
    size, schedule = scale.size, scale.schedule
    images = size.train_persons * size.images_per_person
    rates = ", ".join(f"{rate:g}" for rate in RATES)
    return (
        f"{images:,} drawn images (96x36) of {size.train_persons:,} persons, two captions each, in which an attribute "
        f"is told wrong with a probability of {rates}; tested on {2 * size.test_persons:,} true captions and "
        f"{size.test_persons:,} images of other persons. A model of 2 x 4 layers, 96 wide, from random weights: "
        f"{schedule.trunk_steps:,} steps of alignment alone at rate {TRUNK_RATE:g} (the trunk, one for each seed, "
        f"because scores of a model that knows nothing mean nothing), then {schedule.branch_steps:,} steps with "
        f"each objective at each rate, batches of {schedule.batch_size}, contrastive alignment with a learned "
        "temperature (SDM at 0.02 hardly starts from random weights), masks of the paper's strength, the learning "
        "rate falling to zero. All objectives of a seed go on from one trunk, over the same batches in the same "
        "order. Mean and sample deviation over seeds."
    )


def _metric_table(runs: RunResults, metric: str) -> str:
    rows = []
    for name, objective in OBJECTIVES.items():
        cells = []
        for rate in RATES:
            cells.append(_mean([run["metrics"][metric] for run in runs[name, rate].values()]))
        rows.append([objective.label, *cells])
    return table(["objective", *(f"noise {rate:g}" for rate in RATES)], rows)


def differences(runs: RunResults, name: str, reference: str, rate: float, metric: str = "r1") -> list[float]:
    """Of an objective to another, seed by seed, in points."""
    ours, theirs = runs[name, rate], runs[reference, rate]
    return [
        ours[seed]["metrics"][metric] - theirs[seed]["metrics"][metric] for seed in sorted(ours.keys() & theirs.keys())
    ]


def _paired_table(runs: RunResults) -> str:
    rows = []
    for name, objective in OBJECTIVES.items():
        if name != REFERENCE:
            rows.append([objective.label, *(_signed(differences(runs, name, REFERENCE, rate)) for rate in RATES)])
    return table(["objective", *(f"noise {rate:g}" for rate in RATES)], rows)


def _quality_text(trunks: Sequence[dict[str, Any]]) -> str:
    """AUROC by score and stage of the trunks."""
    if not trunks:
        return ""
    stages = list(trunks[0]["stages"])
    names = list(trunks[0]["stages"][stages[-1]]["score_quality"])

    def cell(stage: str, name: str, kind: str) -> str:
        values = [trunk["stages"][stage]["score_quality"][name].get(kind) for trunk in trunks]
        return "" if None in values else _mean(values, 3)

    kinds = ("colour", "attribute", "centred colour", "centred attribute")
    rows = [
        [
            name,
            *(cell(stage, name, "colour") for stage in stages[:-1]),
            *(cell(stages[-1], name, kind) for kind in kinds),
        ]
        for name in names
    ]
    headings = [f"colours, {int(stage):,} steps" for stage in stages]
    headings += ["all attributes", "colours, less the mean image", "all attributes, less the mean image"]
    accuracy = ", ".join(
        f"{_mean([trunk['stages'][stage]['metrics']['r1'] for trunk in trunks])} after {int(stage):,} steps"
        for stage in stages
    )
    return (
        'AUROC of "this word is planted noise", a low score meaning noise, among tokens of words that tell a colour, '
        "or any attribute, in captions of unseen persons with noise at 0.3, by the trunks while they learn (R@1 "
        f"{accuracy}, the learning rate still high). GASS is the paper's, of all four layers; those below keep "
        "the sign, without the ReLU, and change one thing more. `Attention of each head` weighs each head's channels "
        "of g . v by its own attention instead of by the mean of all heads. `Embedding gradient` is the gradient by "
        "the token embeddings times their distance to the mean embedding; `halfway` takes it where the whole caption "
        "has gone half of that way. `Leave one out` masks each word by itself, at a pass a word: the oracle. `Less "
        "the mean image`: the similarity is that to the image less the mean of all images.\n\n"
        + table(["score", *headings], rows)
    )


def _masking_table(runs: RunResults) -> str:
    rows = []
    for name in (*OBJECTIVES, *ABLATIONS):
        of = [run["masking"] for run in runs[name, ABLATION_RATE].values() if "masking" in run]
        if not of:
            continue
        cells = []
        for mask in ("noise_mask", "informative_mask"):
            for kind in ("planted", "true", "other"):
                values = [100 * report[mask][kind] for report in of if mask in report]
                cells.append(f"{mean(values):.1f}" if values else "")
        rows.append([{**OBJECTIVES, **ABLATIONS}[name].label, *cells])
    headings = ["objective", "noise mask: planted", "true", "other", "to predict: planted", "true", "other"]
    return (
        f"Probability of being masked, in percent, at the end of training at noise {ABLATION_RATE:g}, of tokens of "
        f"planted noise, of true attribute words, and of all other words:\n\n{table(headings, rows)}"
    )


def _ablation_table(runs: RunResults) -> str:
    rows = []
    base = runs[ABLATED, ABLATION_RATE].values()
    if not base:
        return ""
    for name, objective in {ABLATED: OBJECTIVES[ABLATED], **ABLATIONS}.items():
        of = runs[name, ABLATION_RATE].values()
        if not of:
            continue
        cells = [_mean([run["metrics"][metric] for run in of]) for metric in METRICS]
        change = "" if name == ABLATED else _signed(differences(runs, name, ABLATED, ABLATION_RATE))
        against = _signed(differences(runs, name, REFERENCE, ABLATION_RATE))
        rows.append([objective.label, *cells, change, against])
    headings = ["", *METRICS.values(), "R@1 over GASS both", "R@1 over alignment only"]
    return f"At noise {ABLATION_RATE:g}; GASS with both masks, and what differs from it:\n\n{table(headings, rows)}"


def _time_table(seconds: dict[str, list[float]]) -> str:
    rows = [
        [OBJECTIVES[name].label, f"{median(values):.3f}", spread_text(ratio(values, over=seconds[REFERENCE]), 2)]
        for name, values in seconds.items()
    ]
    return (
        "One thread, batches of 64, all objectives in turn in each repetition; medians (least to most), ratios within "
        f"a repetition.\n\n{table(['objective', 's/step', 'over alignment only'], rows)}"
    )


def _mean(values: Sequence[float], digits: int = 2) -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def _signed(values: Sequence[float]) -> str:
    """Mean and deviation of differences, and each of them."""
    if not values:
        return "-"
    each = ", ".join(f"{value:+.1f}" for value in values)
    return f"{mean(values):+.2f} ± {stdev(values):.2f} ({each})" if len(values) > 1 else each
