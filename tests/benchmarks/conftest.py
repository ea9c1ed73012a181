"""Benchmarks that run in the process of their test."""

import pytest
import torch


@pytest.fixture
def threads_restored():
    """Benchmarks set the number of torch's threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
