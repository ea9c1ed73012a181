"""Training on two processes is training on one with the whole batch."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.waiting import PATIENCE_SECONDS


# One worker of several runs them all, so that the processes are launched once.
pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("distributed_worker.py")
spec = importlib.util.spec_from_file_location("distributed_worker", WORKER)
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
# Draws decide the masks of this one, and every process draws its own.
LOGGED_TERMS = {"loss", "alignment_loss", "query_loss", "mtp_loss", "identity_loss", "temperature"}
LOGGED_TERMS |= {"noise_mask_rate", "informative_mask_rate", "truncated_captions"}
EQUAL_CASES = [name for name in worker.CASES if name != "random_masks"]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, list[dict]]:
    """What every case recorded: on one process, on rank 0 of two, on rank 1 of two."""
    alone, together = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    log = together / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen([*command, WORKER, together], env=environment, stdout=output, stderr=output)
        try:
            worker.main(alone, rank=0, world_size=1)
            assert process.wait(timeout=PATIENCE_SECONDS) == 0, log.read_text()[-4000:]
        finally:
            process.kill()
    ranks = (alone, 0), (together, 0), (together, 1)
    return {
        name: [torch.load(folder / f"{name}-{rank}.pt", weights_only=False) for folder, rank in ranks]
        for name in worker.CASES
    }


def forward_passes(result: dict) -> list[dict]:
    return [seen for seen in result["seen"] if seen["training"]]


@pytest.mark.parametrize("name", worker.CASES)
def test_there_are_two_processes(results, name):
    assert [result["world_size"] for result in results[name]] == [1, 2, 2]


@pytest.mark.parametrize("name", worker.CASES)
def test_persons_are_on_both_processes_at_once(results, name):
    _, first, second = results[name]
    passes = zip(forward_passes(first), forward_passes(second), strict=True)
    shared = [set(one["person_ids"].tolist()) & set(other["person_ids"].tolist()) for one, other in passes]
    assert sum(map(bool, shared)) >= len(shared) - 1


@pytest.mark.parametrize("name", EQUAL_CASES)
def test_losses_are_equal(results, name):
    alone, *ranks = (torch.tensor(result["losses"], dtype=torch.float64) for result in results[name])
    assert len(alone) >= 5
    torch.testing.assert_close(torch.stack(ranks).mean(dim=0), alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", EQUAL_CASES)
def test_updated_parameters_are_equal(results, name):
    alone, *ranks = results[name]
    assert all(value.dtype == torch.float64 for value in alone["parameters"].values())
    for rank in ranks:
        torch.testing.assert_close(rank["parameters"], alone["parameters"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", worker.CASES)
def test_training_moves_the_parameters_far_more_than_the_tolerance(results, name):
    for result in results[name]:
        moves = [(result["parameters"][key] - start).abs().max() for key, start in result["start"].items()]
        assert torch.stack(moves).median() > 1e-4


@pytest.mark.parametrize("name", worker.CASES)
def test_both_processes_hold_the_same_parameters_to_the_bit(results, name):
    _, first, second = results[name]
    for key, value in first["parameters"].items():
        assert torch.equal(value, second["parameters"][key]), key


@pytest.mark.parametrize("name", EQUAL_CASES)
def test_logged_terms_are_equal(results, name):
    alone, first, second = (result["logs"] for result in results[name])
    for expected, got in zip(alone, first, strict=True):
        assert expected.keys() == got.keys()
        for key in LOGGED_TERMS & expected.keys():
            assert got[key] == pytest.approx(expected[key], rel=1e-6), key  # logs are in float32
    assert [entry["alignment_loss"] for entry in first] == [entry["alignment_loss"] for entry in second]


def test_padded_lengths_and_numbers_of_predicted_tokens_differ_between_the_processes(results):
    _, first, second = results["sdm"]
    passes = list(zip(forward_passes(first), forward_passes(second), strict=True))
    assert sum(one["input_ids"].shape != other["input_ids"].shape for one, other in passes) >= 3
    assert sum(bool(one["num_predicted_tokens"] != other["num_predicted_tokens"]) for one, other in passes) >= 3


def test_one_process_may_have_nothing_to_predict(results):
    _, first, second = results["one_rank_predicts_nothing"]
    counts = [
        (int(one["num_predicted_tokens"]), int(other["num_predicted_tokens"]))
        for one, other in zip(forward_passes(first), forward_passes(second), strict=True)
    ]
    assert sum(one > 0 and other == 0 for one, other in counts) >= 2


def test_prediction_starts_late_on_both_processes(results):
    alone, first, second = (forward_passes(result) for result in results["late_masking"])
    for passes in (alone, first, second):
        assert [seen["num_predicted_tokens"] is None for seen in passes] == [True, True, True, False, False]


def test_processes_draw_masks_of_their_own(results):
    _, first, second = results["random_masks"]
    for one, other in zip(forward_passes(first), forward_passes(second), strict=True):
        assert torch.equal(one["input_ids"], other["input_ids"])
        assert not torch.equal(one["noise_mask"], other["noise_mask"])


def test_evaluation_on_two_processes_ranks_the_whole_set(results):
    alone, *ranks = (result["evaluation"] for result in results["sdm"])
    names = [name for name in alone if name.endswith(("r1", "r5", "r10", "map", "minp"))]
    assert len(names) == 10
    assert 0 < alone["eval_r1"] < 100  # a value that a lost row would change
    for rank in ranks:
        assert {name: rank[name] for name in names} == pytest.approx({name: alone[name] for name in names})
