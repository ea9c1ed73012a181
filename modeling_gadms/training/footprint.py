"""Footprint of a training: number of parameters, number of trained parameters, and peak memory."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn


@dataclass(frozen=True)
class Footprint:
    """Parameters and peak memory of an in-process training."""

    trained_parameters: int
    parameters: int  # all of them
    peak_memory_bytes: int | None  # `None` on systems that do not report it
    memory: str  # `GPU` (allocated by PyTorch) or `process` (resident memory, with libraries and data)

    @classmethod
    def of(cls, model: nn.Module) -> "Footprint":
        """Measure after training. `model` may be wrapped by peft."""
        if torch.cuda.is_available():
            return cls(*count_parameters(model), torch.cuda.max_memory_allocated(), "GPU")
        return cls(*count_parameters(model), _peak_resident_bytes(), "process")

    def __str__(self) -> str:
        if self.peak_memory_bytes is None:
            return "Peak memory: not reported by this system"
        kind = {"GPU": "allocated on the GPU", "process": "resident in the process"}[self.memory]
        return f"Peak memory: {self.peak_memory_bytes / 1e6:,.0f} MB, {kind}"


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Count the trained parameters and all parameters of a model.

    The originals that peft keeps beside modules trained whole are not counted.
    """
    counted = [p for name, p in model.named_parameters() if ".original_module." not in name]
    return sum(p.numel() for p in counted if p.requires_grad), sum(p.numel() for p in counted)


def describe_parameters(model: nn.Module) -> str:
    """Return a sentence with the number of trained parameters."""
    trained, total = count_parameters(model)
    return f"{trained:,} of {total:,} parameters are trained ({trained / total:.2%})"


def _peak_resident_bytes() -> int | None:
    try:
        # On Linux. There, getrusage starts from the peak of the parent process.
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
