"""The section of RESULTS.md on the robustness study."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import provenance, spread_text, table
from benchmarks.robustness.study import ABLATION_RATE, ABLATIONS, OBJECTIVES, RATES, TRUNK_RATE
from benchmarks.robustness.summary import MASKS, METRICS, REFERENCE, mean_and_deviation, run_key


ABLATED = "gass-both"
Values = dict[str, Any]


def report(results: Values) -> str:
    """The section as Markdown.

    Args:
        results (`dict`): content of results/robustness.json.
    """
    runs = results["runs"]
    parts = [
        "## The robustness study: does masking by GASS help where captions are noisy?",
        Path(__file__).with_name("conclusion.md").read_text(encoding="utf-8").strip(),
        _setting(results["setting"]),
        "### Objectives by noise rate",
        *(f"{label}, in percent:\n\n{_metric_table(runs, metric)}" for metric, label in METRICS.items()),
        f"Points of R@1 over alignment only, the same seed in both:\n\n{_paired_table(runs)}",
        "![R@1 by noise rate for each objective](../docs/images/robustness-r1.png)",
        "### What the scores know",
        _quality_text(results),
        "![Scores of planted noise and of true attribute words, and what masks make of them]"
        "(../docs/images/robustness-scores.png)",
        _masking_table(results["masking"]),
        "![Captions of unseen persons, coloured by GASS; planted noise is underlined]"
        "(../docs/images/robustness-captions.png)",
        "### One thing changed at a time",
        _ablation_table(runs),
        "### Time of a step",
        _time_table(results["seconds_per_step"]),
        provenance(results),
    ]
    return "\n\n".join(part for part in parts if part)


def _setting(setting: dict[str, int]) -> str:
    images = setting["train_persons"] * setting["images_per_person"]
    rates = ", ".join(f"{rate:g}" for rate in RATES)
    return (
        f"The setting: {images:,} drawn images (96x36) of {setting['train_persons']:,} persons, two captions each, in "
        f"which each attribute is wrong with a probability of {rates}. Tests use {2 * setting['test_persons']:,} true "
        f"captions and {setting['test_persons']:,} images of other persons. The model has 2 x 4 layers of width 96 "
        f"and starts from random weights: {setting['trunk_steps']:,} steps of alignment only at rate {TRUNK_RATE:g} "
        "(the trunk, one for each seed, because the scores of an untrained model mean nothing), then "
        f"{setting['branch_steps']:,} steps with each objective at each rate. Batches of {setting['batch_size']}, "
        "contrastive alignment with a learned temperature (SDM at 0.02 hardly starts from random weights), masks of "
        "the paper's strength, a learning rate that falls to zero. All objectives of a seed start from the same trunk "
        "and see the same batches in the same order. Mean and sample deviation over seeds."
    )


def _metric_table(runs: Values, metric: str) -> str:
    rows = [
        [objective.label, *(_mean(runs.get(run_key(name, rate), {}).get(metric, [])) for rate in RATES)]
        for name, objective in OBJECTIVES.items()
    ]
    return table(["objective", *(f"noise {rate:g}" for rate in RATES)], rows)


def differences(runs: Values, name: str, reference: str, rate: float, metric: str = "r1") -> list[float]:
    """An objective's metric minus that of the reference, seed by seed, in points."""
    ours, theirs = (
        dict(zip(run["seeds"], run[metric], strict=True))
        for run in (runs.get(run_key(each, rate), {"seeds": [], metric: []}) for each in (name, reference))
    )
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def _paired_table(runs: Values) -> str:
    rows = [
        [objective.label, *(_signed(differences(runs, name, REFERENCE, rate)) for rate in RATES)]
        for name, objective in OBJECTIVES.items()
        if name != REFERENCE
    ]
    return table(["objective", *(f"noise {rate:g}" for rate in RATES)], rows)


def _quality_text(results: Values) -> str:
    """AUROC by score and stage of the trunks."""
    stages = list(results["trunk_r1"])
    if not stages:
        return ""
    headings = [f"colours, {int(stage):,} steps" for stage in stages]
    headings += ["all attributes", "colours, less the mean image", "all attributes, less the mean image"]
    rows = [
        [name, *("" if cell is None else _plus_minus(cell, 3) for cell in cells)]
        for name, cells in results["score_quality"]["mean_and_deviation"].items()
    ]
    accuracy = ", ".join(
        f"{_mean(values)} after {int(stage):,} steps" for stage, values in results["trunk_r1"].items()
    )
    return (
        'AUROC of "this word is planted noise", where a low score means noise, among the tokens of colour words or of '
        "all attribute words, in captions of unseen persons with noise at 0.3, for the trunks during training (R@1 "
        f"{accuracy}, the learning rate still high). `GASS` is the paper's score with all four layers. The scores "
        "below it keep the sign (no ReLU) and change one more thing. `attention of each head` weighs each head's "
        "channels of g . v by its own attention instead of the mean over heads. `embedding gradient` is the gradient "
        "with respect to the token embeddings times their distance to the mean embedding; `halfway` takes it where "
        "the whole caption has moved half of that way. `leave one out` masks each word alone, one pass a word: the "
        "oracle. `less the mean image`: similarity to the image minus the mean of all images.\n\n"
        + table(["score", *headings], rows)
    )


def _masking_table(masking: Values) -> str:
    labels = {name: objective.label for name, objective in {**OBJECTIVES, **ABLATIONS}.items()}
    rows = []
    for name, of_masks in masking.items():
        values = [value for mask in MASKS for value in of_masks.get(mask, [None] * 3)]
        rows.append([labels[name], *("" if value is None else f"{value:.1f}" for value in values)])
    headings = ["objective", "noise mask: planted", "true", "other", "to predict: planted", "true", "other"]
    return (
        f"Probability of being masked, in percent, at the end of training at noise {ABLATION_RATE:g}, for tokens of "
        f"planted noise, of true attribute words, and of all other words:\n\n{table(headings, rows)}"
    )


def _ablation_table(runs: Values) -> str:
    if run_key(ABLATED, ABLATION_RATE) not in runs:
        return ""
    rows = []
    for name, objective in {ABLATED: OBJECTIVES[ABLATED], **ABLATIONS}.items():
        run = runs.get(run_key(name, ABLATION_RATE))
        if run:
            change = "" if name == ABLATED else _signed(differences(runs, name, ABLATED, ABLATION_RATE))
            against = _signed(differences(runs, name, REFERENCE, ABLATION_RATE))
            rows.append([objective.label, *(_mean(run[metric]) for metric in METRICS), change, against])
    headings = ["", *METRICS.values(), "R@1 over GASS both", "R@1 over alignment only"]
    return f"At noise {ABLATION_RATE:g}; GASS with both masks, and its variants:\n\n{table(headings, rows)}"


def _time_table(seconds: Values) -> str:
    rows = [
        [OBJECTIVES[name].label, f"{values['median']:.3f}", spread_text(values["over_alignment_only"], 2)]
        for name, values in seconds.items()
    ]
    return (
        "One thread, batches of 64, all objectives in turn in each repetition; medians (minimum to maximum), ratios "
        f"within a repetition.\n\n{table(['objective', 's/step', 'over alignment only'], rows)}"
    )


def _mean(values: Sequence[float], digits: int = 2) -> str:
    return _plus_minus(mean_and_deviation(values), digits) if values else "-"


def _plus_minus(values: Sequence[float], digits: int) -> str:
    return " ± ".join(f"{value:.{digits}f}" for value in values)


def _signed(values: Sequence[float]) -> str:
    """Mean and deviation of differences, and each of them."""
    if not values:
        return "-"
    each = ", ".join(f"{value:+.1f}" for value in values)
    if len(values) == 1:
        return each
    average, deviation = mean_and_deviation(values)
    return f"{average:+.2f} ± {deviation:.2f} ({each})"
