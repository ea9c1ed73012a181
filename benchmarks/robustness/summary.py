"""The numbers of the robustness study that its report shows, from the results of its runs."""

from collections.abc import Sequence
from statistics import mean, median, stdev
from typing import Any

from benchmarks.measuring import ratio
from benchmarks.robustness.diagnostics import SCORES
from benchmarks.robustness.runs import TIME, Branches, branches_of, trunks_of
from benchmarks.robustness.study import ABLATION_RATE, ABLATIONS, OBJECTIVES, Scale


METRICS = {"r1": "R@1", "r5": "R@5", "map": "mAP"}
REFERENCE = "none"
KINDS = ("planted", "true", "other")
MASKS = ("noise_mask", "informative_mask")
Values = dict[str, Any]


def run_key(objective: str, rate: float) -> str:
    return f"{objective}-noise{rate:g}"


def summarise(runs: dict[str, Values], scale: Scale, command: str) -> Values:
    """Content of results/robustness.json.

    Args:
        runs (`dict`): results by name of the run.
        scale (`Scale`): size of the study.
        command (`str`): the command of the study.

    Returns:
        `dict`: `runs`, by objective and noise rate the seeds and the metrics of each; `masking`, by objective the mean
        probability of being masked in percent, of planted noise, of true attribute words and of other words;
        `score_quality`, mean and deviation of the AUROC of each score over the trunks; `seconds_per_step`.
    """
    branches, trunks, timed = branches_of(runs), trunks_of(runs), runs[TIME]
    size, schedule = scale.size, scale.schedule
    return {
        "command": command,
        "machine": timed["machine"],
        "setting": {
            "train_persons": size.train_persons,
            "images_per_person": size.images_per_person,
            "test_persons": size.test_persons,
            "trunk_steps": schedule.trunk_steps,
            "branch_steps": schedule.branch_steps,
            "batch_size": schedule.batch_size,
        },
        "runs": {
            run_key(*key): {
                "seeds": sorted(of_seed),
                **{metric: [of_seed[seed]["metrics"][metric] for seed in sorted(of_seed)] for metric in METRICS},
            }
            for key, of_seed in sorted(branches.items())
        },
        "masking": _masking(branches),
        "trunk_r1": {
            stage: [trunk["stages"][stage]["metrics"]["r1"] for trunk in trunks] for stage in _stages_of(trunks)
        },
        "score_quality": _score_quality(trunks),
        "seconds_per_step": {
            name: {
                "median": median(timed["seconds"][name]),
                "over_alignment_only": ratio(timed["seconds"][name], over=timed["seconds"][REFERENCE]),
            }
            for name in OBJECTIVES
        },
    }


def _masking(branches: Branches) -> Values:
    masking = {}
    for name in (*OBJECTIVES, *ABLATIONS):
        reports = [run["masking"] for run in branches.get((name, ABLATION_RATE), {}).values() if "masking" in run]
        if reports:
            masking[name] = {
                mask: [_percent(report[mask].get(kind) for report in reports) for kind in KINDS]
                for mask in MASKS
                if mask in reports[0]
            }
    return masking


def _percent(values: Any) -> float | None:
    given = [100 * value for value in values if value is not None]
    return round(mean(given), 1) if given else None


def _stages_of(trunks: Sequence[Values]) -> list[str]:
    return sorted(trunks[0]["stages"], key=int) if trunks else []


def _score_quality(trunks: Sequence[Values]) -> Values:
    stages = _stages_of(trunks)
    if not stages:
        return {}
    last = stages[-1]
    columns = [*((stage, "colour") for stage in stages)]
    columns += [(last, kind) for kind in ("attribute", "centred colour", "centred attribute")]

    def cell(name: str, stage: str, kind: str) -> list[float] | None:
        values = [trunk["stages"][stage]["score_quality"][name].get(kind) for trunk in trunks]
        return None if None in values else [round(number, 6) for number in mean_and_deviation(values)]

    return {
        "columns": [f"{kind}, {stage} steps" for stage, kind in columns],
        "mean_and_deviation": {name: [cell(name, *column) for column in columns] for name in SCORES},
    }


def mean_and_deviation(values: Sequence[float]) -> list[float]:
    """The mean, and with more than one value the sample deviation."""
    return [mean(values), stdev(values)] if len(values) > 1 else [mean(values)]
