"""The reference step computes what ours does, its parts add up, and the results say what was measured."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.training_step.parts import PARTS, timed_parts
from benchmarks.training_step.run import agreement, image_share, without_image
from benchmarks.training_step.worker import make_batch, make_step
from tests.waiting import PATIENCE_SECONDS


ROOT = Path(__file__).parents[2]


@pytest.fixture
def steps():
    return {name: make_step(name, "small") for name in ("ours", "reference")}


@pytest.fixture
def batch(steps):
    return make_batch(steps["ours"].model.config)


def gradients(step, batch) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in step.model.named_parameters() if p.grad is not None}


def test_the_reference_has_the_loss_and_the_gradient_of_ours_in_float64(steps, batch):
    batch = batch | {"pixel_values": batch["pixel_values"].double()}
    losses, of = [], {}
    for name, step in steps.items():
        step.model.double()
        torch.manual_seed(3)
        losses.append(step.loss(batch))
        losses[-1].backward()
        of[name] = gradients(step, batch)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=0)
    assert of["ours"].keys() == of["reference"].keys()
    for name, expected in of["reference"].items():
        torch.testing.assert_close(of["ours"][name], expected, rtol=1e-5, atol=1e-7, msg=lambda text, n=name: n + text)


def test_steps_that_do_not_compute_the_same_are_refused(steps, batch):
    apart = agreement(steps["ours"], steps["reference"], batch)
    assert apart["loss"] < 1e-5 and apart["gradient"] < 1e-4 and apart["scores"] < 1e-4
    with torch.no_grad():
        steps["reference"].model.gadms.text_projection.weight.mul_(1.01).add_(0.01)
    with pytest.raises(RuntimeError, match="do not compute the same"):
        agreement(steps["ours"], steps["reference"], batch)


def test_the_reference_is_literal(steps, batch):
    """77 tokens in three passes of the text encoder, a backward pass a scored layer, all positions to the head."""
    model = steps["reference"].model
    seen: dict[str, list] = {"layers": [], "head": [], "identities": []}
    last_norm = model.gadms.text_model.final_layer_norm
    last_norm.register_forward_hook(lambda module, arguments, result: seen["layers"].append(tuple(result.shape[:2])))
    model.token_head.register_forward_hook(lambda module, arguments, result: seen["head"].append(result.shape))
    whole = torch.autograd.grad

    def recorded(*args, grad_outputs, **keywords):
        seen["identities"].append(grad_outputs)
        return whole(*args, grad_outputs=grad_outputs, **keywords)

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(torch.autograd, "grad", recorded)
        steps["reference"].loss(batch)
    assert seen["layers"] == [(8, 77)] * 3
    assert seen["head"] == [(8, 77, 4000)]
    assert len(seen["identities"]) == model.config.score_layers
    assert all(torch.equal(identity, torch.eye(8)) for identity in seen["identities"])
    assert isinstance(steps["reference"].optimizer, torch.optim.Adam)
    assert not steps["reference"].optimizer.defaults["fused"] and not steps["reference"].optimizer.defaults["foreach"]


def test_captions_have_20_to_50_tokens_of_their_own(batch):
    own = batch["attention_mask"].sum(dim=1) - 2
    assert (own.min(), own.max()) == (20, 50) and batch["input_ids"].shape == (8, 52)
    assert (batch["input_ids"] == 3998).sum(dim=1).tolist() == [1] * 8
    assert batch["input_ids"].gather(1, own[:, None] + 1).unique().tolist() == [3998]


@pytest.mark.parametrize("name", ["ours", "reference"])
def test_a_step_in_parts_moves_the_weights_as_the_whole_step_does(name, batch):
    moved = []
    for in_parts in (False, True):
        step = make_step(name, "small")
        torch.manual_seed(5)
        if in_parts:
            seconds = timed_parts(step, batch)
        else:
            step.run(batch)
        moved.append(dict(step.model.named_parameters()))
    assert tuple(seconds) == PARTS and all(value > 0 for value in seconds.values())
    start = dict(make_step(name, "small").model.named_parameters())
    for parameter, whole in moved[0].items():
        torch.testing.assert_close(moved[1][parameter], whole, rtol=0, atol=2e-8)
        if whole.requires_grad and not parameter.endswith("k_proj.bias"):
            assert not torch.equal(whole, start[parameter]), parameter


def test_time_without_the_image_encoder_leaves_its_share_of_the_optimizer_out(steps):
    parts = {
        "image": 10.0,
        "score": 1.0,
        "captions": 2.0,
        "fusion": 0.5,
        "head": 0.25,
        "losses": 0.0,
        "optimizer": 2.0,
    }
    assert without_image(parts, image_share=0.25) == 1.0 + 2.0 + 0.5 + 0.25 + 1.5
    counted = {name: p.numel() for name, p in steps["ours"].model.named_parameters() if p.requires_grad}
    image = sum(count for name, count in counted.items() if name.startswith(("gadms.vision", "gadms.visual")))
    assert image_share(steps["ours"]) == pytest.approx(image / sum(counted.values()))


def test_the_script_measures_and_writes(tmp_path):
    command = [sys.executable, "-m", "benchmarks.training_step.run", "--quick", "--output", tmp_path]
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    results = json.loads((tmp_path / "results" / "training_step.json").read_text())
    for name in ("time_ratio", "memory_ratio", "non_image_time_ratio", "over_sdm_ratio"):
        assert results[name] > 0
    assert all(value["better"] == "lower" for value in results["guarded"].values())
    assert results["memory_ratio"] < 1
    peaks = {name: memory["peak_bytes"] for name, memory in results["memory"].items()}
    assert results["memory_ratio"] == pytest.approx(peaks["ours"] / peaks["reference"])
    assert {name: len(values) for name, values in results["seconds"].items()} == {"ours": 5, "reference": 5, "sdm": 5}
    for name, runs in results["parts"].items():
        for run, rest in zip(runs, results["seconds_without_image"][name], strict=True):
            share = results["image_share_of_weights"][name]
            expected = sum(run.values()) - run["image"] - share * run["optimizer"]
            assert rest == pytest.approx(expected)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "<!-- training_step: begin -->" in text and "| captions: packed into rows, after that | kept |" in text
