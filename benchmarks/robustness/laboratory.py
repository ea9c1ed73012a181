"""Trains the trunks and branches of the robustness study, with the persons in memory, and measures them."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.robustness.data import TEST_NOISE, Persons, load, normalised
from benchmarks.robustness.diagnostics import Sample, retrieval, score_quality
from benchmarks.robustness.masking_report import caption_examples, masking_report
from benchmarks.robustness.scores import variant_scores
from benchmarks.robustness.study import ABLATIONS, OBJECTIVES, RATES, TRUNK_RATE, Objective, Run, Scale, objective
from benchmarks.robustness.training import Batches, Scorer, make_model, make_optimizer, model_config, train
from modeling_gadms import GADMSForPreTraining, GADMSProcessor
from modeling_gadms.encoders.atomic_files import atomic_file


EXAMPLES_OF = Run("gass-both", 0.3, 0)
"""The run whose captions are shown in a figure, coloured by score."""


class Laboratory:
    """Trains models and measures them.

    Args:
        folder (`Path`): where persons and trunks are stored.
        scale (`Scale`): size of the study.
        processes (`int`): number of processes that draw the persons.
    """

    def __init__(self, folder: Path, scale: Scale, processes: int = 2):
        self.folder, self.scale = folder, scale
        drawn = load(folder, scale.size, RATES, processes)
        self.train_split: Persons = drawn["train"]
        self.test_split: Persons = drawn["test"]
        self.processor = GADMSProcessor.from_tokenizer(drawn["tokenizer"], image_size=self.train_split.image_size)
        self.train_pixels = normalised(self.train_split.pixels, self.processor)
        self.test_pixels = normalised(self.test_split.pixels, self.processor)

    @cached_property
    def judged(self) -> Sample:
        """Captions of unseen persons with planted noise, to judge scores."""
        return Sample.of(self.test_split.captions[TEST_NOISE], self.test_pixels, self.scale.judged)

    def trunk_path(self, seed: int, step: int) -> Path:
        size = self.scale.size
        return self.folder / f"trunk-{size.train_persons}x{size.images_per_person}-seed{seed}-step{step}.pt"

    def has_trunk(self, seed: int) -> bool:
        """Whether the trunk is trained to its end."""
        return self.trunk_path(seed, self.scale.schedule.trunk_steps).is_file()

    def needs_trunk(self, run: Run) -> bool:
        """Whether the run starts from a trunk instead of random weights."""
        return self._start(objective(run)) > 0

    def train_trunk(self, seed: int) -> dict[str, Any]:
        """Train with alignment only, and store the model at the steps where masks may begin.

        Returns:
            `dict`: losses, metrics and score quality by step.
        """
        torch.manual_seed(seed)
        batches = self._batches(TRUNK_RATE, seed)
        model = make_model(model_config(self.processor), seed)
        _set_objective(model, OBJECTIVES["none"])
        optimizer = make_optimizer(model, self.scale.schedule)
        stages, done = {}, 0
        for stage in sorted({*self.scale.stages, *self._starts()} - {0}):
            losses = train(model, optimizer, batches, range(done, stage))
            self._keep(model, optimizer, seed, stage)
            done = stage
            stages[str(stage)] = {
                **losses,
                "metrics": retrieval(model, self.test_split, self.test_pixels),
                "score_quality": score_quality(model, self.judged, oracle=True),
            }
        return {"seed": seed, "stages": stages}

    def train_branch(self, run: Run) -> dict[str, Any]:
        """Train with masks, from the trunk or from the initial weights of the trunk.

        Returns:
            `dict`: the run, its losses, its metrics, its score quality and masking report.
        """
        of = objective(run)
        start = self._start(of)
        schedule = self.scale.schedule
        batches = self._batches(run.rate, run.seed)
        model = make_model(model_config(self.processor), run.seed)
        optimizer = make_optimizer(model, schedule)
        if start:
            state = torch.load(self.trunk_path(run.seed, start), weights_only=True)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        _set_objective(model, of)
        torch.manual_seed(1_000 + run.seed)  # of the masks
        losses = train(model, optimizer, batches, range(start, schedule.steps), self._scorer(model, of))
        result = {
            **vars(run),
            "label": of.label,
            "training": losses,
            "metrics": retrieval(model, self.test_split, self.test_pixels),
            "score_quality": score_quality(model, self.judged, oracle=False),
        }
        if model.config.token_score != "none":
            sample = Sample.of(self.train_split.captions[run.rate], self.train_pixels, self.scale.judged)
            result["masking"] = masking_report(model, sample, self._scorer(model, of))
        if run == EXAMPLES_OF:
            result["examples"] = caption_examples(model, self.judged, self.processor.tokenizer)
        return result

    def step_calls(self, names: list[str], seed: int) -> dict[str, Any]:
        """By objective, a function that runs a training step, all on the same batches."""
        calls = {}
        for name in names:
            of = objective(Run(name, 0.3, seed))
            model = make_model(model_config(self.processor), seed)
            optimizer = make_optimizer(model, self.scale.schedule)
            _set_objective(model, of)
            steps = iter(range(self.scale.schedule.trunk_steps, self.scale.schedule.steps))
            batches, scorer = self._batches(0.3, seed), self._scorer(model, of)

            def call(model=model, optimizer=optimizer, batches=batches, steps=steps, scorer=scorer) -> None:
                step = next(steps)
                train(model, optimizer, batches, range(step, step + 1), scorer)

            calls[name] = call
        return calls

    def _batches(self, rate: float, seed: int) -> Batches:
        return Batches(
            self.train_split, self.train_pixels, self.scale.schedule, trunk_rate=TRUNK_RATE, rate=rate, seed=seed
        )

    def _starts(self) -> set[int]:
        return {self._start(of) for of in (*OBJECTIVES.values(), *ABLATIONS.values())}

    def _start(self, of: Objective) -> int:
        return round(of.start * self.scale.schedule.trunk_steps)

    def _keep(self, model: GADMSForPreTraining, optimizer: torch.optim.Optimizer, seed: int, step: int) -> None:
        with atomic_file(self.trunk_path(seed, step)) as part:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, part)

    def _scorer(self, model: GADMSForPreTraining, of: Objective) -> Scorer | None:
        if of.truth:
            return lambda batch, noise, image_embeds: (~noise).float()
        if of.variant is None:
            return None
        variant = of.variant

        def score(batch: dict[str, torch.Tensor], noise: torch.Tensor, image_embeds: torch.Tensor) -> torch.Tensor:
            return variant_scores(model.gadms, batch["input_ids"], batch["attention_mask"], image_embeds, variant)

        return score


def _set_objective(model: GADMSForPreTraining, of: Objective) -> None:
    """Set the configuration of the objective, which each step reads; the model has all modules."""
    for name, value in of.config.items():
        setattr(model.config, name, value)
