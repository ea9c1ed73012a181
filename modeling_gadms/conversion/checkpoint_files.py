"""Read weight files (.pt, .pth, .bin, .safetensors) without running their code."""

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file


TORCH_SUFFIXES = (".pt", ".pth", ".bin")
WEIGHT_SUFFIXES = (*TORCH_SUFFIXES, ".safetensors")
_WRAPPERS = ("model", "state_dict")


@dataclass(frozen=True)
class WeightFile:
    """Contents of a weight file.

    Attributes:
        tensors (`dict[str, torch.Tensor]`): tensors on the CPU, by their names without the `module.` of
            `DistributedDataParallel`.
        ignored (`dict[str, str]`): every other entry with the reason why it is ignored.
    """

    tensors: dict[str, torch.Tensor]
    ignored: dict[str, str]


def read_weight_file(path: Path) -> WeightFile:
    """Read the tensors of a PyTorch or safetensors file.

    Only tensors and plain values of a PyTorch file are read, no code is run. The tensors may be at the top level or
    in the entry `model` or `state_dict`.

    Raises:
        ValueError: if the file has another suffix, is damaged, requires code to be run, or contains no named tensors.
        OSError: if the file cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix not in WEIGHT_SUFFIXES:
        raise ValueError(f"{path} is not a weight file: supported are {', '.join(WEIGHT_SUFFIXES)}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; copy or download it again")
    content = _load_safetensors(path) if path.suffix == ".safetensors" else _load_torch(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} contains a {type(content).__name__}, not named tensors")
    entries, ignored = _unwrap(path, content)
    tensors: dict[str, torch.Tensor] = {}
    for key, value in entries.items():
        name = ".".join(part for part in str(key).split(".") if part != "module")
        if not isinstance(value, torch.Tensor):
            ignored[name] = "not a tensor"
        elif name in tensors:
            raise ValueError(f"{path} contains `{name}` twice, with and without `module.`; keep one of them")
        else:
            tensors[name] = value.detach()
    if not tensors:
        raise ValueError(
            f"{path} contains no named tensors; its entries are: {', '.join(map(str, content)) or 'none'}"
        )
    return WeightFile(tensors, ignored)


def _unwrap(path: Path, content: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], dict[str, str]]:
    wrappers = [name for name in _WRAPPERS if isinstance(content.get(name), Mapping)]
    if len(wrappers) > 1:
        raise ValueError(f"{path} has weights under both `model` and `state_dict`; save only one of them")
    if not wrappers:
        return content, {}
    wrapper = wrappers[0]
    return content[wrapper], {
        str(key): f"not in `{wrapper}`, which contains the weights" for key in content.keys() - {wrapper}
    }


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged or not a safetensors file ({error}); copy or download it again"
        ) from error


def _load_torch(path: Path) -> Any:
    if _is_torchscript(path):
        raise ValueError(
            f"{path} is a TorchScript archive, as downloaded from OpenAI: it contains a program, which is not run. If "
            "you trust it, save only its weights: "
            f'torch.save(torch.jit.load("{path}", map_location="cpu").state_dict(), "weights.pth")'
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # damaged files raise errors of any type
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if not wanted:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise ValueError(
                f"{path} is damaged or not a PyTorch file ({reason}); copy or download it again"
            ) from error
        raise ValueError(
            f"{path} is refused: it would run `{wanted[1]}`, but weights need only tensors. If you trust its source, "
            "save only its weights, in the program that wrote it or by: "
            f'checkpoint = torch.load("{path}", weights_only=False); torch.save(checkpoint["model"], "weights.pth")'
        ) from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False  # damaged; reading it raises the error
