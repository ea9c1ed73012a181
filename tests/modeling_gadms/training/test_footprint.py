"""What a training holds and takes, for people and for records."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from modeling_gadms.training.footprint import Footprint, count_parameters, describe_parameters


def test_trained_and_frozen_parameters_are_counted():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    model[0].requires_grad_(False)
    assert count_parameters(model) == (25, 41)
    assert describe_parameters(model) == "25 of 41 parameters are trained (60.98%)"


@pytest.mark.parametrize(
    ("footprint", "text"),
    [
        (Footprint(1, 2, 1_234_000_000, "process"), "Peak memory: 1,234 MB, resident in the process"),
        (Footprint(1, 2, 5_000_000, "GPU"), "Peak memory: 5 MB, allocated on the GPU"),
        (Footprint(1, 2, None, "process"), "Peak memory: not reported by this system"),
    ],
)
def test_memory_is_told_with_what_it_is_of(footprint, text):
    assert str(footprint) == text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there the memory of the GPU counts")
def test_the_peak_is_that_of_the_process_and_outlasts_what_it_was_made_of():
    before = Footprint.of(nn.Identity()).peak_memory_bytes
    block = torch.ones(max(0, before - 50_000_000) // 4 + 100_000_000)  # more than was ever in use
    del block
    assert Footprint.of(nn.Identity()).peak_memory_bytes >= before + 200_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system tells it differently")
def test_the_peak_of_a_program_is_not_that_of_the_one_that_started_it():
    block = torch.ones(300_000_000)  # 1,200 MB
    program = (
        "from torch import nn; from modeling_gadms.training.footprint import Footprint; "
        "print(Footprint.of(nn.Identity()))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(block) and int(done.stdout.split()[2].replace(",", "")) < 1_100
