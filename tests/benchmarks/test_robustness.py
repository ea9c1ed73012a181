"""The robustness study: its scores against the package's and naive ones, its trainings, its whole run in small."""

import argparse
import json

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from benchmarks.measuring import read_runs, write_runs
from benchmarks.robustness import run as robustness
from benchmarks.robustness.data import LENGTH
from benchmarks.robustness.laboratory import Laboratory
from benchmarks.robustness.report import differences
from benchmarks.robustness.runs import collect_runs, finished_runs, work_file
from benchmarks.robustness.scores import (
    ScoreVariant,
    embedding_gradient_scores,
    gather_evidence,
    leave_one_out_scores,
    signed_scores,
    variant_scores,
)
from benchmarks.robustness.study import QUICK, RATES, TRUNK_RATE, Run


@pytest.fixture
def model(tiny_model):
    """Four text layers, whose weights are large enough for scores that differ."""
    model = tiny_model(text_config={"num_hidden_layers": 4}, score_layers=4).eval()
    with torch.no_grad():
        for parameter in model.gadms.text_model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3.0)
    return model.gadms


@pytest.fixture
def image_embeds(model, batch) -> torch.Tensor:
    return model.get_image_features(batch["pixel_values"]).pooler_output.detach()


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    """A study in small, and its trunk of seed 0."""
    made = Laboratory(tmp_path_factory.mktemp("study"), QUICK, processes=1)
    assert not made.has_trunk(0)
    made.trunk = made.train_trunk(0)
    return made


@pytest.mark.parametrize(("layers", "scales"), [((0, 1, 2, 3), (1, 2)), ((2, 3), (1,))])
def test_the_paper_s_way_gives_the_score_of_the_package(model, batch, image_embeds, layers, scales):
    model.config.score_layers, model.config.score_scales = len(layers), scales
    inputs = (batch["input_ids"], batch["attention_mask"], image_embeds)
    ours = variant_scores(model, *inputs, ScoreVariant(layers=layers, scales=scales))
    torch.testing.assert_close(ours, model.score_tokens(*inputs))


@pytest.mark.parametrize(
    "change",
    [{"attention": "none"}, {"attention": "heads"}, {"towards": 0.5}, {"importance": False}, {"rectified": "layer"},
     {"rectified": "none"}, {"centred": True}, {"scaled": "batch"}, {"layers": (3,)},
     {"of": "embeddings"}, {"rectified": "none", "scaled": "sign"},
     {"of": "embeddings", "rectified": "none", "towards": 0.5}],
)  # fmt: skip
def test_each_part_of_the_score_can_be_changed_alone(model, batch, image_embeds, change):
    inputs = (batch["input_ids"], batch["attention_mask"], image_embeds)
    paper, changed = (variant_scores(model, *inputs, variant) for variant in (ScoreVariant(), ScoreVariant(**change)))
    assert not torch.allclose(paper, changed)
    assert changed.min() >= 0 and changed.max() == 1
    assert torch.equal((changed > 0) & (batch["attention_mask"] == 0), torch.zeros_like(changed, dtype=torch.bool))


def test_scores_over_the_batch_have_one_least_and_one_greatest(model, batch, image_embeds):
    inputs = (model, batch["input_ids"], batch["attention_mask"], image_embeds)
    scaled = variant_scores(*inputs, ScoreVariant(rectified="none", scaled="batch"))
    evidence = gather_evidence(*inputs, centred=False)
    raw, own = signed_scores(evidence, ScoreVariant(rectified="none")), evidence.own_tokens
    expected = (raw[own] - raw[own].min()) / (raw[own].max() - raw[own].min())
    torch.testing.assert_close(scaled[own], expected)


def test_scores_about_zero_keep_their_sign(model, batch, image_embeds):
    inputs = (model, batch["input_ids"], batch["attention_mask"], image_embeds)
    scaled = variant_scores(*inputs, ScoreVariant(rectified="none", scaled="sign"))
    evidence = gather_evidence(*inputs, centred=False)
    raw, own = signed_scores(evidence, ScoreVariant(rectified="none")), evidence.own_tokens
    for row in range(len(own)):
        mine = raw[row][own[row]]
        torch.testing.assert_close(scaled[row][own[row]], 0.5 + mine / mine.abs().max() / 2)
        assert {-1.0, 1.0} & set((2 * scaled[row][own[row]] - 1).round(decimals=5).tolist())
    assert torch.count_nonzero(scaled[~own]) == 0


def test_leaving_a_word_out_is_what_masking_it_alone_does(model, batch, image_embeds):
    ids, mask = batch["input_ids"], batch["attention_mask"]
    chosen = torch.zeros(ids.shape, dtype=torch.bool)
    chosen[0, 2], chosen[0, 3], chosen[2, 1] = True, True, True
    scores = leave_one_out_scores(model, ids, mask, image_embeds, chosen, centred=False)
    for row, place in chosen.nonzero().tolist():
        similarities = []
        for masked in (False, True):
            one = ids[row : row + 1].clone()
            if masked:
                one[0, place] = model.config.mask_token_id
            text = model.get_text_features(one, mask[row : row + 1]).pooler_output[0]
            similarities.append(nn.functional.cosine_similarity(text, image_embeds[row], dim=0))
        torch.testing.assert_close(scores[row, place], similarities[0] - similarities[1])
    assert torch.count_nonzero(scores[~chosen]) == 0


@pytest.mark.parametrize("towards", [0.0, 0.5])
def test_the_embedding_gradient_is_the_slope_towards_no_meaning(model, batch, image_embeds, towards):
    model = model.double()
    ids, mask, images = batch["input_ids"], batch["attention_mask"], image_embeds.double()
    scores = embedding_gradient_scores(model, ids, mask, images, centred=False, towards=towards)
    table = model.text_model.embeddings.token_embedding
    effaced = table.weight[: model.config.mask_token_id].mean(dim=0)
    row, place, step = 0, 3, 1e-5
    length = int(mask[row].sum())
    similarities = []
    for moved in (0.0, step):

        def move(module, arguments, result, moved=moved):
            result = result.clone()
            token = result[0, place].clone()
            result[0, 1 : length - 1] += towards * (effaced - result[0, 1 : length - 1])  # not BOS, not EOS
            result[0, place] += moved * (effaced - token)
            return result

        handle = table.register_forward_hook(move)
        text = model.get_text_features(ids[row : row + 1], mask[row : row + 1]).pooler_output[0]
        handle.remove()
        similarities.append(nn.functional.cosine_similarity(text, images[row], dim=0))
    assert scores[row, place].item() == pytest.approx((similarities[0] - similarities[1]).item() / step, rel=1e-3)


def test_all_rates_share_pictures_and_true_captions(laboratory):
    split = laboratory.train_split
    true = split.captions[0.0]
    assert not true.noise.any() and true.attribute.any()
    wrong = [split.captions[rate].noise.float().mean() for rate in RATES]
    assert wrong == sorted(wrong) and wrong[-1] > wrong[1] > 0
    for rate in RATES:
        captions = split.captions[rate]
        assert captions.input_ids.shape == (len(split.pixels), 2, LENGTH)
        assert captions.colour.any() and not (captions.attribute & captions.colour).equal(captions.attribute)
        for part in (captions.noise, captions.colour):
            assert not (part & ~captions.attribute).any()
        ids, lengths = captions.input_ids.long(), captions.lengths
        ends = ids.gather(-1, (lengths - 1)[..., None])
        assert (ends == laboratory.processor.tokenizer.eos_token_id).all()
        assert ((ids == laboratory.processor.tokenizer.eos_token_id).sum(-1) == LENGTH - lengths + 1).all()


def test_planted_noise_is_where_captions_differ(laboratory):
    """Where all exchanged words kept their numbers of tokens, the ids differ at their places and nowhere else."""
    split = laboratory.train_split
    true, noisy = split.captions[0.0], split.captions[0.45]
    alike = true.lengths == noisy.lengths
    compared = 0
    for row, which in alike.nonzero().tolist():
        differs = true.input_ids[row, which] != noisy.input_ids[row, which]
        if (differs & ~noisy.noise[row, which]).any():
            continue  # two words changed their lengths against one another, or "a" became "an"
        compared += bool(noisy.noise[row, which].any())
    assert compared > 5


def test_batches_are_a_function_of_seed_and_step_alone(laboratory):
    first, second = laboratory._batches(0.3, 0), laboratory._batches(0.3, 0)
    step = laboratory.scale.schedule.trunk_steps + 1
    for other in (9, 0, 2):
        second[other]
    (ours, noise), (theirs, _) = first[step], second[step]
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert noise.shape == ours["input_ids"].shape
    cleaner, _ = laboratory._batches(0.0, 0)[step]
    assert torch.equal(cleaner["pixel_values"], ours["pixel_values"])
    assert not torch.equal(laboratory._batches(0.3, 1)[step][0]["person_ids"], ours["person_ids"])


def test_an_epoch_shows_each_image_once(laboratory):
    batches = laboratory._batches(0.3, 0)
    shown = torch.cat([batches[step][0]["pixel_values"] for step in range(batches.per_epoch)])
    pixels = laboratory.train_pixels
    assert len(shown) == batches.per_epoch * batches.batch_size <= len(pixels)
    assert len(torch.unique(shown.flatten(1), dim=0)) == len(shown)


def test_captions_in_the_trunk_have_its_noise(laboratory):
    step = laboratory.scale.schedule.trunk_steps - 1
    ours, _ = laboratory._batches(0.45, 0)[step]
    trunk, _ = laboratory._batches(TRUNK_RATE, 0)[step]
    assert torch.equal(ours["input_ids"], trunk["input_ids"])


def test_a_branch_repeats_itself(laboratory):
    run = Run("gass-both", 0.3, 0)
    first, second = laboratory.train_branch(run), laboratory.train_branch(run)
    for result in (first, second):
        del result["training"]["seconds_per_step"]
    assert first == second
    assert len(first["examples"]) == 6


def test_alignment_only_masks_nothing_and_masks_that_know_the_noise_take_it_alone(laboratory):
    assert "masking" not in laboratory.train_branch(Run("none", 0.3, 0))
    known = laboratory.train_branch(Run("truth-strong", 0.3, 0))["masking"]["noise_mask"]
    assert known["planted"] == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-3)  # alpha_n = 1, lambda (1 - gamma_n) = 2
    assert known["true"] < 1e-4 and known["other"] < 1e-4


def test_masks_that_begin_with_the_trunk_s_end_train_only_the_branch(laboratory):
    """The trunk is the same whatever follows; a branch from its start sees the trunk's steps too."""
    late, early = (laboratory.train_branch(Run(name, 0.3, 0)) for name in ("gass-both", "start-0"))
    assert late["metrics"] != early["metrics"]


def test_the_auroc_of_the_truth_is_one(laboratory):
    sample = laboratory.judged
    truth = (~sample.noise).float()[sample.attribute].numpy()
    assert roc_auc_score(sample.noise[sample.attribute].numpy(), -truth) == 1.0


def test_differences_are_of_the_same_seed():
    found = {
        "gass-both-noise0.3": {"seeds": [0, 1, 2], "r1": [5.0, 7.0, 1.0]},
        "none-noise0.3": {"seeds": [0, 2], "r1": [4.0, 2.0]},
    }
    assert differences(found, "gass-both", "none", 0.3) == [1.0, -1.0]


def test_a_finished_run_of_the_work_folder_replaces_its_row_and_is_collected_once(tmp_path):
    work, output = tmp_path / "work", tmp_path / "benchmarks"
    work.mkdir()
    rows = [{"name": name, "objective": "none", "rate": 0.3, "seed": seed, "metrics": {"r1": 1.0 + seed}}
            for seed, name in enumerate(("none-noise0.3-seed0", "none-noise0.3-seed1"))]  # fmt: skip
    write_runs("robustness", rows, output)
    newer = {"objective": "none", "rate": 0.3, "seed": 1, "metrics": {"r1": 9.0}}
    work_file(work, "none-noise0.3-seed1").write_text(json.dumps(newer))
    collected = collect_runs(work, output)
    assert collected == {
        "none-noise0.3-seed0": rows[0],
        "none-noise0.3-seed1": {"name": "none-noise0.3-seed1", **newer},
    }
    assert not list(work.iterdir())
    assert finished_runs(work, output) == collected


@pytest.mark.slow
@pytest.mark.usefixtures("threads_restored")
def test_the_study_runs_in_small_and_does_not_repeat_what_it_has(tmp_path):
    output = tmp_path / "benchmarks"
    arguments = {"quick": True, "processes": 1, "folder": tmp_path / "runs", "output": output, "only": None,
                 "seeds": robustness.SEEDS}  # fmt: skip
    robustness.main(argparse.Namespace(**arguments, part=robustness.PARTS))
    runs = {run["name"]: run for run in read_runs("robustness", output)}
    assert {"trunk-seed0", "time", "gass-both-noise0.3-seed0", "none-noise0.3-seed0"} <= set(runs)
    assert not list((tmp_path / "runs" / "finished-quick").iterdir())
    text = (output / "RESULTS.md").read_text()
    run = runs["gass-both-noise0.3-seed0"]
    assert f"| GASS both | {run['metrics']['r1']:.2f} |" in text.replace("| - ", "").replace(" | - |", " |")
    for figure in ("robustness-r1", "robustness-scores", "robustness-captions"):
        assert (tmp_path / "docs" / "images" / f"{figure}.png").stat().st_size > 10_000

    others = [run for name, run in runs.items() if name != "gass-both-noise0.3-seed0"]
    write_runs("robustness", others, output)
    robustness.main(argparse.Namespace(**arguments, part=["grid"]))
    renewed = {run["name"]: run for run in read_runs("robustness", output)}
    assert renewed["gass-both-noise0.3-seed0"]["metrics"] == run["metrics"]
    changed = [name for name, before in runs.items() if renewed[name] != before]
    assert changed == ["gass-both-noise0.3-seed0"]  # its seconds are others
