"""The figures of the robustness study."""

from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.robustness.data import IMAGE_SIZE
from benchmarks.robustness.report import differences
from benchmarks.robustness.runs import Branches
from benchmarks.robustness.study import ABLATION_RATE, OBJECTIVES, RATES
from benchmarks.robustness.summary import REFERENCE, run_key
from dataset_scripts.synthetic_persons import PersonSampler


COLOURS = {
    "none": ("black", "o", "-"),
    "random-mtp": ("tab:gray", "s", ":"),
    "random-noise": ("tab:gray", "v", "--"),
    "random-both": ("tab:gray", "D", "-"),
    "cosine-noise": ("tab:blue", "v", "--"),
    "cosine-both": ("tab:blue", "D", "-"),
    "gass-mtp": ("tab:red", "s", ":"),
    "gass-noise": ("tab:red", "v", "--"),
    "gass-both": ("tab:red", "D", "-"),
}
"""A colour by score, a line style by mask."""


def new_figure(width: float, height: float, **layout: Any) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", **layout)
    FigureCanvasAgg(figure)
    return figure


def draw_rates(runs: dict[str, Any], path: Path) -> None:
    """R@1 over the noise rate, and its difference to alignment only, a line an objective.

    Args:
        runs (`dict`): `runs` of results/robustness.json.
        path (`Path`)
    """
    figure = new_figure(11, 4.6)
    left, right = figure.subplots(1, 2)
    for place, (name, objective) in enumerate(OBJECTIVES.items()):
        colour, marker, line = COLOURS[name]
        style = {"color": colour, "marker": marker, "linestyle": line, "markersize": 5, "linewidth": 1.4}
        shift = 0.004 * (place - len(OBJECTIVES) / 2)  # error bars side by side
        for axes, relative in ((left, False), (right, True)):
            points = []
            for rate in RATES:
                if relative:
                    values = differences(runs, name, REFERENCE, rate)
                else:
                    values = runs.get(run_key(name, rate), {}).get("r1", [])
                if values:
                    points.append((rate + shift, mean(values), stdev(values) if len(values) > 1 else 0.0))
            if points:
                x, y, error = zip(*points, strict=True)
                axes.errorbar(x, y, error, capsize=2, elinewidth=0.8, label=objective.label, **style)
    left.set(xlabel="noise rate of the training captions", ylabel="R@1 (%)", title="true captions, unseen persons")
    right.set(
        xlabel="noise rate of the training captions", ylabel="points of R@1", title="over alignment only, paired"
    )
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.set_xticks(RATES)
    right.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)


def draw_scores(branches: Branches, path: Path) -> None:
    """Histograms of the scores of planted noise and of true attribute words, and noise by mask probability."""
    figure = new_figure(11, 3.6)
    first, second, third = figure.subplots(1, 3)
    for axes, name, title in ((first, "gass-both", "GASS"), (second, "cosine-both", "cosine")):
        counts = [run["masking"]["scores"] for run in branches[name, ABLATION_RATE].values()]
        for kind, colour in (("true", "tab:green"), ("planted", "tab:red")):
            if not counts:
                continue
            total = np.sum([count[kind] for count in counts], axis=0)
            edges = np.linspace(0, 1, len(total) + 1)
            label = "true attribute words" if kind == "true" else "planted noise"
            axes.stairs(total / total.sum(), edges, color=colour, label=label, linewidth=1.6)
        axes.set(xlabel="score", ylabel="share of tokens", title=f"{title}, captions of training")
        axes.legend(frameon=False, fontsize=9)
    for name in ("gass-both", "cosine-both"):
        bins = [
            each for run in branches[name, ABLATION_RATE].values() for each in run["masking"].get("calibration", [])
        ]
        if bins:
            probability = [each["probability"] for each in bins]
            share = [each["planted"] / each["tokens"] for each in bins]
            sizes = [2 + 60 * each["tokens"] / max(other["tokens"] for other in bins) for each in bins]
            colour = COLOURS[name][0]
            third.scatter(probability, share, s=sizes, color=colour, alpha=0.6, label=OBJECTIVES[name].label)
            all_share = sum(each["planted"] for each in bins) / sum(each["tokens"] for each in bins)
            third.axhline(all_share, color=colour, linewidth=0.8, linestyle=":")
    third.set(
        xlabel="probability of the noise mask", ylabel="share that is planted noise", ylim=(0, 1),
        title="noise by mask probability (dotted: all)",
    )  # fmt: skip
    third.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)


def draw_captions(branches: Branches, path: Path) -> None:
    """Captions coloured by score beside their images, planted noise underlined."""
    with_examples = [run for of in branches.values() for run in of.values() if "examples" in run]
    if not with_examples:
        return
    examples = with_examples[0]["examples"]
    columns = 2
    rows = (len(examples) + columns - 1) // columns
    figure = new_figure(11, 1.9 * rows)
    colour_map = matplotlib.colormaps["Oranges"]
    sampler = PersonSampler(0, "test")
    grid = figure.subplots(rows, 2 * columns, width_ratios=[1, 5] * columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for number, example in enumerate(examples):
        picture_axes, axes = grid[number // columns, 2 * (number % columns) : 2 * (number % columns) + 2]
        picture, _ = sampler.draw(example["row"], 0, (4 * IMAGE_SIZE[0], 4 * IMAGE_SIZE[1]))
        picture_axes.imshow(np.asarray(picture))
        axes.set(xlim=(0, 1), ylim=(0, 1))
        x, y = 0.0, 0.93
        for token in example["tokens"]:
            word = axes.text(
                x, y, token["text"], fontsize=9.5, family="monospace", va="top",
                bbox={"facecolor": colour_map(0.85 * token["score"]), "edgecolor": "none", "pad": 1.5},
            )  # fmt: skip
            width = 0.0206 * len(token["text"])
            if x + width > 1:
                x, y = 0.0, y - 0.14
                word.set_position((x, y))
            if token["planted"]:
                axes.plot([x, x + width - 0.004], [y - 0.105, y - 0.105], color="tab:blue", linewidth=2)
            x += width + 0.0206
    figure.savefig(path, dpi=110)
