"""What a training holds and takes: parameters, those of them that are trained, and memory."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn


@dataclass(frozen=True)
class Footprint:
    """Of a training that ran in this process.

    Attributes:
        trained_parameters (`int`), parameters (`int`): how many numbers are trained, and how many there are.
        peak_memory_bytes (`int`, *optional*): the most that was in use at a time; `None` where the system tells none.
        memory (`str`): of what: `GPU` (allocated by PyTorch) or `process` (resident, with libraries and data).
    """

    trained_parameters: int
    parameters: int
    peak_memory_bytes: int | None
    memory: str

    @classmethod
    def of(cls, model: nn.Module) -> "Footprint":
        """Measure now, after training; `model` may be wrapped by peft."""
        if torch.cuda.is_available():
            return cls(*count_parameters(model), torch.cuda.max_memory_allocated(), "GPU")
        return cls(*count_parameters(model), _peak_resident_bytes(), "process")

    def __str__(self) -> str:
        if self.peak_memory_bytes is None:
            return "Peak memory: this system does not tell"
        kind = {"GPU": "allocated on the GPU", "process": "resident in the process"}[self.memory]
        return f"Peak memory: {self.peak_memory_bytes / 1e6:,.0f} MB, {kind}"


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Trained parameters and all parameters of a model.

    Of a module that peft trains whole it keeps the original beside the copy; that is no part of the model.
    """
    counted = [p for name, p in model.named_parameters() if ".original_module." not in name]
    return sum(p.numel() for p in counted if p.requires_grad), sum(p.numel() for p in counted)


def describe_parameters(model: nn.Module) -> str:
    """Return how many parameters are trained, for people."""
    trained, total = count_parameters(model)
    return f"{trained:,} of {total:,} parameters are trained ({trained / total:.2%})"


def _peak_resident_bytes() -> int | None:
    try:
        # Linux: of this program alone. What getrusage tells begins with the memory of the process that started it.
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
