"""Read weight files (.pt, .pth, .bin, .ckpt, .pth.tar, .safetensors) without running their code."""

import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file


TORCH_SUFFIXES = (".pt", ".pth", ".bin")
WEIGHT_SUFFIXES = (*TORCH_SUFFIXES, ".ckpt", ".pth.tar", ".safetensors")
_WRAPPERS = ("model", "state_dict", "model_state_dict", "net")
_PARALLEL = {"module", "_orig_mod"}
"""Parts of a name that `DistributedDataParallel` and `torch.compile` insert."""
_SETTINGS = ("argparse.Namespace", "easydict.EasyDict", "yacs.config.CfgNode")
"""Classes of settings that are saved beside weights. They are read as dictionaries: their code is not run."""
OTHER_WEIGHTS = "weights beside those that are read"


@dataclass(frozen=True)
class WeightFile:
    """Contents of a weight file.

    Attributes:
        tensors (`dict[str, torch.Tensor]`): tensors on the CPU, by their names without the `module.` of
            `DistributedDataParallel` and the `_orig_mod.` of `torch.compile`.
        ignored (`dict[str, str]`): every other entry with the reason why it is ignored.
    """

    tensors: dict[str, torch.Tensor]
    ignored: dict[str, str]


def is_weight_name(name: str | Path) -> bool:
    """Whether a file of this name is read as a weight file."""
    return str(name).endswith(WEIGHT_SUFFIXES)


def find_weight_file(folder: Path) -> Path | None:
    """Return the weight file of a run folder: `best.*`, else the only one; `None` without one or beside a config.json.

    Raises:
        ValueError: if there are several, and none is called `best`.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and is_weight_name(path.name))
    if not files or (folder / "config.json").exists():
        return None
    chosen = [path for path in files if path.name.startswith("best.")] or files
    if len(chosen) > 1:
        names = ", ".join(path.name for path in chosen)
        raise ValueError(f"{folder} contains {len(chosen)} weight files ({names}); give one of them")
    return chosen[0]


def read_weight_file(path: Path) -> WeightFile:
    """Read the tensors of a PyTorch or safetensors file.

    Only tensors and plain values of a PyTorch file are read, no code is run. The tensors may be at the top level or
    in an entry such as `model` or `state_dict`.

    Raises:
        ValueError: if the file has another suffix, is damaged, requires code to be run, or contains no named tensors.
        OSError: if the file cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if not is_weight_name(path):
        raise ValueError(f"{path} is not a weight file: supported are {', '.join(WEIGHT_SUFFIXES)}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; copy or download it again")
    content = _load_safetensors(path) if path.suffix == ".safetensors" else _load_torch(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} contains a {type(content).__name__}, not named tensors")
    entries, ignored = _unwrap(path, content)
    tensors: dict[str, torch.Tensor] = {}
    for key, value in entries.items():
        name = ".".join(part for part in str(key).split(".") if part not in _PARALLEL)
        if not isinstance(value, torch.Tensor):
            ignored[name] = "not a tensor"
        elif name in tensors:
            raise ValueError(
                f"{path} contains `{name}` twice, with and without {' or '.join(sorted(_PARALLEL))}; keep one of them"
            )
        else:
            tensors[name] = value.detach()
    if not tensors:
        raise ValueError(
            f"{path} contains no named tensors; its entries are: {', '.join(map(str, content)) or 'none'}"
        )
    return WeightFile(tensors, ignored)


def _unwrap(path: Path, content: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], dict[str, str]]:
    """Descend to the entry with the weights. Returns it, and all that is beside it with the reason."""
    ignored: dict[str, str] = {}
    while True:
        with_tensors = [key for key, value in content.items() if _has_tensors(value)]
        named = [key for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
        chosen = [key for key in named if key in with_tensors] or with_tensors or named
        if not chosen or (not with_tensors and _has_tensors(content)):
            return content, ignored
        if len(chosen) > 1:
            raise ValueError(f"{path} has weights under both `{chosen[0]}` and `{chosen[1]}`; save only one of them")
        for key in content.keys() - {chosen[0]}:
            beside = f"not in `{chosen[0]}`, which contains the weights"
            ignored[str(key)] = OTHER_WEIGHTS if key in with_tensors else beside
        content = content[chosen[0]]


def _has_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(entry, torch.Tensor) for entry in value.values())


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
        with torch.serialization.safe_globals([(OrderedDict, name) for name in _SETTINGS]):
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
            "save only its weights, in the program that wrote it or where its code can be imported: "
            f'checkpoint = torch.load("{path}", weights_only=False); '
            f'torch.save({_weights_expression(path)}, "weights.pth")'
        ) from error


def _weights_expression(path: Path) -> str:
    """Python that takes the weights from the unpickled `checkpoint`: a dictionary of them, or a whole model."""
    try:
        opcodes = list(_opcodes(path))
    except Exception:  # damaged behind the class that is refused
        opcodes = []
    mapping = [name == "EMPTY_DICT" or str(value).startswith("collections ") for name, value in opcodes]
    if mapping[:1] == [False]:  # torch.save(model)
        return "checkpoint.state_dict()"
    for place, (_, value) in enumerate(opcodes[:-1]):
        if value in _WRAPPERS:
            return f'checkpoint["{value}"]' + ("" if mapping[place + 1] else ".state_dict()")
    return 'checkpoint["model"]'


def _opcodes(path: Path) -> Iterable[tuple[str, Any]]:
    """Names and arguments of the pickle's opcodes, without those that only remember values."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            stream = pickletools.genops(archive.read(name))
            yield from ((code.name, value) for code, value, _ in stream if not _is_bookkeeping(code.name))
        return
    with path.open("rb") as file:
        for _ in range(3):  # the older format: a number, a version and a description of the machine come first
            list(pickletools.genops(file))
        yield from (
            (code.name, value) for code, value, _ in pickletools.genops(file) if not _is_bookkeeping(code.name)
        )


def _is_bookkeeping(opcode: str) -> bool:
    return opcode in ("PROTO", "FRAME") or "PUT" in opcode or opcode == "MEMOIZE"


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False  # damaged; reading it raises the error
