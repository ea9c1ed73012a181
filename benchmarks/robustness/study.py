"""The trainings of the robustness study: objectives, noise rates, seeds, and ablations."""

from dataclasses import dataclass, field
from typing import Any

from benchmarks.robustness.data import Size
from benchmarks.robustness.scores import ScoreVariant
from benchmarks.robustness.training import Schedule


RATES = (0.0, 0.15, 0.3, 0.45)
TRUNK_RATE = 0.15
"""Noise rate of the trunk: a contrastive checkpoint from the web has seen noise as well."""
ABLATION_RATE = 0.3
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Scale:
    """Size of the study: persons, steps, captions to judge scores on, and steps at which a trunk is measured."""

    size: Size
    schedule: Schedule
    judged: int
    stages: tuple[int, ...]


FULL = Scale(Size(4000, 4, 1000), Schedule(trunk_steps=2400, branch_steps=300), judged=500, stages=(800, 1600, 2400))
QUICK = Scale(Size(48, 2, 16), Schedule(trunk_steps=4, branch_steps=2, batch_size=16), judged=16, stages=(2, 4))


@dataclass(frozen=True)
class Objective:
    """How captions are masked after the trunk.

    Attributes:
        label (`str`): name in tables.
        config (`dict`): fields of [`GADMSConfig`] that differ from GASS with both masks.
        variant (`ScoreVariant`, *optional*): a score that replaces the package's.
        truth (`bool`): whether the score is the truth, 0 for tokens of planted noise and 1 for all others.
        start (`float`): where masks begin, as a share of the trunk.
    """

    label: str
    config: dict[str, Any] = field(default_factory=dict)
    variant: ScoreVariant | None = None
    truth: bool = False
    start: float = 1.0


NOISE_ALONE = {"masked_token_prediction": False}
PREDICTION_ALONE = {"noise_masking": False}
OBJECTIVES = {
    "none": Objective("alignment only", {"token_score": "none"}),
    "random-mtp": Objective("random MTP (IRRA)", {"token_score": "random", **PREDICTION_ALONE}),
    "random-noise": Objective("random noise mask", {"token_score": "random", **NOISE_ALONE}),
    "random-both": Objective("random both", {"token_score": "random"}),
    "cosine-noise": Objective("cosine noise mask", {"token_score": "cosine", **NOISE_ALONE}),
    "cosine-both": Objective("cosine both", {"token_score": "cosine"}),
    "gass-noise": Objective("GASS noise mask", NOISE_ALONE),
    "gass-mtp": Objective("GASS MTP", PREDICTION_ALONE),
    "gass-both": Objective("GASS both"),
}
SIGNED = ScoreVariant(rectified="none")
HALFWAY = ScoreVariant(of="embeddings", rectified="none", towards=0.5)
ABOUT_ZERO = ScoreVariant(of="embeddings", rectified="none", towards=0.5, scaled="sign")
STRONG = {"noise_mask_rate": 0.9}
WIDER = STRONG | {"noise_mask_threshold": 0.8}
ABLATIONS = {
    "truth": Objective("noise known", truth=True),
    "truth-strong": Objective("noise known, alpha_n = 1", {"noise_mask_rate": 1.0}, truth=True),
    "halfway": Objective("embedding gradient halfway", variant=HALFWAY),
    "halfway-strong": Objective("embedding gradient halfway, alpha_n = 0.9", STRONG, variant=HALFWAY),
    "halfway-wide": Objective(
        "embedding gradient halfway, alpha_n = 0.9, gamma_n = 0.7",
        STRONG | {"noise_mask_threshold": 0.7},
        variant=HALFWAY,
    ),
    "signed": Objective("no ReLU", variant=SIGNED),
    "signed-strong": Objective("no ReLU, alpha_n = 0.9", STRONG, variant=SIGNED),
    "signed-about-zero": Objective(
        "no ReLU, scaled about 0, alpha_n = 0.9", STRONG, variant=ScoreVariant(rectified="none", scaled="sign")
    ),
    "about-zero": Objective("embedding gradient halfway, scaled about 0, alpha_n = 0.9", STRONG, variant=ABOUT_ZERO),
    "about-zero-wide": Objective(
        "embedding gradient halfway, scaled about 0, alpha_n = 0.9, gamma_n = 0.8", WIDER, variant=ABOUT_ZERO
    ),
    "about-zero-noise": Objective("the same, noise mask alone", WIDER | NOISE_ALONE, variant=ABOUT_ZERO),
    "heads": Objective("no ReLU, attention of each head", variant=ScoreVariant(rectified="none", attention="heads")),
    "alpha-0.5": Objective("alpha_n = 0.5", {"noise_mask_rate": 0.5}),
    "alpha-0.9": Objective("alpha_n = 0.9", STRONG),
    "lambda-5": Objective("lambda = 5", {"mask_sharpness": 5.0}),
    "gamma-n-0.7": Objective("gamma_n = 0.7", {"noise_mask_threshold": 0.7}),
    "gamma-i-0.3": Objective("gamma_i = 0.3", {"informative_mask_threshold": 0.3}),
    "last-layer": Objective("last layer alone", {"score_layers": 1}),
    "scale-1": Objective("MSP scale 1 alone", {"score_scales": (1,)}),
    "no-attention": Objective("no attention factor", variant=ScoreVariant(attention="none")),
    "relu-layer": Objective("ReLU in each layer", variant=ScoreVariant(rectified="layer")),
    "batch-scaled": Objective("scaled over the batch", variant=ScoreVariant(scaled="batch")),
    "centred": Objective("image less the batch's mean", variant=ScoreVariant(centred=True)),
    "start-two-thirds": Objective("masks from two thirds of the trunk", start=2 / 3),
    "start-0": Objective("masks from the first step", start=0.0),
}
"""Each differs from GASS with both masks only in what its label says."""


@dataclass(frozen=True)
class Run:
    """One training: objective, share of wrong attributes in the captions, and seed."""

    objective: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.objective}-noise{self.rate:g}-seed{self.seed}"


def grid(seeds: tuple[int, ...] = SEEDS) -> list[Run]:
    """The runs of the main table, seed by seed."""
    return [Run(name, rate, seed) for seed in seeds for rate in (0.3, 0.0, 0.45, 0.15) for name in OBJECTIVES]


def ablations(seeds: tuple[int, ...] = SEEDS) -> list[Run]:
    return [Run(name, ABLATION_RATE, seed) for seed in seeds for name in ABLATIONS]


# One of each kind.
QUICK_RUNS = [
    Run("none", 0.3, 0),
    Run("random-mtp", 0.3, 0),
    Run("cosine-noise", 0.3, 0),
    Run("gass-both", 0.0, 0),
    Run("gass-both", 0.3, 0),
    Run("truth", 0.3, 0),
    Run("start-0", 0.3, 0),
    Run("batch-scaled", 0.3, 0),
]


def objective(run: Run) -> Objective:
    return {**OBJECTIVES, **ABLATIONS}[run.objective]
