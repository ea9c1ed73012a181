"""Weight files of other code bases: read without running anything that they bring, written whole."""

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

from ..encoders.atomic_files import atomic_file


TORCH_SUFFIXES = (".pt", ".pth", ".bin")
WEIGHT_SUFFIXES = (*TORCH_SUFFIXES, ".safetensors")
_WRAPPERS = ("model", "state_dict")


@dataclass(frozen=True)
class WeightFile:
    """What a weight file holds.

    Attributes:
        tensors (`dict[str, torch.Tensor]`): on the CPU, as stored, by their names without `module.`, which models
            wrapped for several processes put there.
        ignored (`dict[str, str]`): every other entry, with the reason why it is not among the tensors.
    """

    tensors: dict[str, torch.Tensor]
    ignored: dict[str, str]


def read_weight_file(path: Path) -> WeightFile:
    """Read the tensors of a PyTorch or safetensors file.

    Of a PyTorch file tensors and plain values are read, and nothing is run. The tensors are looked for at the top and
    in the entries `model` and `state_dict`.

    Args:
        path (`Path`): a file that ends in .pt, .pth, .bin or .safetensors.

    Returns:
        [`WeightFile`]

    Raises:
        ValueError: if it is of another kind or damaged, needs code to be run, or holds no tensors by name.
        OSError: if it cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix not in WEIGHT_SUFFIXES:
        raise ValueError(f"{path} is no weight file that is known here: {', '.join(WEIGHT_SUFFIXES)}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; copy or download it again")
    content = _load_safetensors(path) if path.suffix == ".safetensors" else _load_torch(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not tensors by their names")
    entries, ignored = _unwrap(path, content)
    tensors: dict[str, torch.Tensor] = {}
    for key, value in entries.items():
        name = ".".join(part for part in str(key).split(".") if part != "module")
        if not isinstance(value, torch.Tensor):
            ignored[name] = "not a tensor"
        elif name in tensors:
            raise ValueError(f"{path} holds `{name}` twice, with and without `module.`; keep one of them")
        else:
            tensors[name] = value.detach()
    if not tensors:
        raise ValueError(f"{path} holds no tensors by name; its entries are: {', '.join(map(str, content)) or 'none'}")
    return WeightFile(tensors, ignored)


def write_weight_file(path: Path, content: Mapping[str, Any]) -> None:
    """Write a PyTorch file that is whole or not there at all."""
    with atomic_file(path) as part:
        try:
            torch.save(content, part)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _unwrap(path: Path, content: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], dict[str, str]]:
    wrappers = [name for name in _WRAPPERS if isinstance(content.get(name), Mapping)]
    if len(wrappers) > 1:
        raise ValueError(f"{path} has weights under both `model` and `state_dict`; save the ones that you mean alone")
    if not wrappers:
        return content, {}
    wrapper = wrappers[0]
    return content[wrapper], {
        str(key): f"beside the weights, which are under `{wrapper}`" for key in content.keys() - {wrapper}
    }


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}); copy or download it again") from error


def _load_torch(path: Path) -> Any:
    if _is_torchscript(path):
        raise ValueError(
            f"{path} is a TorchScript archive, a program with its weights, as OpenAI's own downloads are; no program "
            "is run here. If you trust it, save its weights alone: "
            f'torch.save(torch.jit.load("{path}", map_location="cpu").state_dict(), "weights.pth")'
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # a damaged file raises whatever its reader stumbles over
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if not wanted:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise ValueError(f"{path} is damaged or no PyTorch file ({reason}); copy or download it again") from error
        raise ValueError(
            f"{path} is refused: it asks to run `{wanted[1]}`, and weights need nothing but tensors. If you trust "
            "where it comes from, save its weights alone in the program that wrote it, or by: "
            f'checkpoint = torch.load("{path}", weights_only=False); torch.save(checkpoint["model"], "weights.pth")'
        ) from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False  # and damaged, as reading it will tell
