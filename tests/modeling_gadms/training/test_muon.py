"""Muon and AdamW in one optimizer, against torch's own optimizers and the singular value decomposition."""

import copy

import pytest
import torch
from torch import nn

from modeling_gadms.training.muon import MuonAdamW, orthogonalize


def make_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 12), nn.Linear(12, 12), nn.Linear(12, 1))


def groups_of(network, **muon):
    matrices = [layer.weight for layer in network[:4] if isinstance(layer, nn.Linear)]
    others = [parameter for parameter in network.parameters() if not any(parameter is matrix for matrix in matrices)]
    return matrices, others, [{"params": others, "weight_decay": 0.01}, {"params": matrices, "muon": True, **muon}]


def backward(network, step):
    generator = torch.Generator().manual_seed(step)
    network.zero_grad()
    inputs = torch.randn(16, 12, generator=generator)
    (network(inputs)[:, 0] - inputs.sum(dim=1)).square().mean().backward()


def train(network, optimizer, steps):
    for step in steps:
        backward(network, step)
        optimizer.step()


def test_updates_equal_those_of_torch():
    """torch's Muon iterates in bfloat16, so its matrices differ by rounding."""
    network, reference = make_network(), make_network()
    start = copy.deepcopy(network.state_dict())
    _, _, groups = groups_of(network, lr=0.02, weight_decay=0.1)
    ours = MuonAdamW(groups, lr=1e-2, betas=(0.9, 0.98))
    matrices, others, _ = groups_of(reference)
    theirs = [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, momentum=0.95),
        torch.optim.AdamW(others, lr=1e-2, betas=(0.9, 0.98), weight_decay=0.01),
    ]
    # Gradients of full rank: rounding in bfloat16 decides the directions in which a gradient has no size.
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for parameter, same in zip(network.parameters(), reference.parameters(), strict=True):
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            same.grad = parameter.grad.clone()
        ours.step()
        for optimizer in theirs:
            optimizer.step()
    for (name, parameter), same in zip(network.named_parameters(), reference.parameters(), strict=True):
        if any(same is other for other in others):
            torch.testing.assert_close(parameter, same, rtol=0, atol=0)
        else:
            change, expected = parameter - start[name], same - start[name]
            assert (change - expected).norm() < 0.05 * expected.norm(), name


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 20), (2, 20, 8)])
def test_singular_vectors_stay_and_singular_values_become_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    # Small singular values need more iterations: these matrices have none.
    matrices = (left * (0.5 + values / values.max())[:, None]) @ right
    result = left.mT @ orthogonalize(matrices) @ right.mT
    new_values = result.diagonal(dim1=1, dim2=2)
    assert new_values.min() > 0.65 and new_values.max() < 1.25
    assert (result - torch.diag_embed(new_values)).abs().max() < 1e-9


def test_a_zero_gradient_changes_nothing():
    weight = nn.Parameter(torch.ones(4, 4))
    optimizer = MuonAdamW([{"params": [weight], "muon": True}], lr=0.1, weight_decay=0.0)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert torch.equal(weight, torch.ones(4, 4))


def test_a_restored_optimizer_continues_exactly():
    whole = make_network()
    train(whole, MuonAdamW(groups_of(whole, lr=0.02)[2], lr=1e-2), range(6))
    first = make_network()
    optimizer = MuonAdamW(groups_of(first, lr=0.02)[2], lr=1e-2)
    train(first, optimizer, range(3))
    second = copy.deepcopy(first)
    restored = MuonAdamW(groups_of(second)[2], lr=1e-4)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(second, restored, range(3, 6))
    for parameter, same in zip(second.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(parameter, same, rtol=0, atol=0)


def test_only_matrices():
    with pytest.raises(ValueError, match=r"Muon optimises matrices, not parameters of shape \(3,\)"):
        MuonAdamW([{"params": [nn.Parameter(torch.ones(3))], "muon": True}], lr=0.1)
