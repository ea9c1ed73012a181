"""ONNX exports: the manifest of an export, and a model that runs it in onnxruntime."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import cached_file

from ..configuration_gadms import GADMSConfig, encoder_configs
from ..modeling_gadms import check_image_size, check_token_ids
from .atomic_files import file_digest, write_json


MANIFEST = "onnx_export.json"
RUNTIMES = ("torch", "onnx", "onnx-int8")
INSTALL = "pip install 'gadms[onnx]'"
_VERSION = 1
_REPAIR = "download it or export the model again"

Encoder = Literal["image", "text"]


@dataclass(frozen=True)
class OnnxFile:
    """A file of an export: name, size in bytes and SHA-256."""

    name: str
    size: int
    sha256: str


def write_manifest(folder: Path, opset: int, files: Sequence[OnnxFile]) -> None:
    """Write the list of the files of an export to its folder, to detect damaged or mixed files.

    Args:
        folder (`Path`): folder of the export.
        opset (`int`): version of the ONNX operator set.
        files (`Sequence[OnnxFile]`): encoders, and the external data of large ones.
    """
    content = {"version": _VERSION, "opset": opset, "files": [asdict(file) for file in files]}
    write_json(folder / MANIFEST, content)


def _read_manifest(name: str | Path) -> list[OnnxFile]:
    try:
        path = Path(cast(str, cached_file(str(name), MANIFEST)))
    except OSError as error:
        raise OSError(
            f"{name} holds no ONNX export ({MANIFEST} is not found): make one with "
            f"`gadms export {name} TARGET --format onnx` and give its folder"
        ) from error
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version, files = content["version"], [OnnxFile(**file) for file in content["files"]]
        if any(Path(file.name).name != file.name for file in files):
            raise ValueError(f"it names files in other folders: {', '.join(file.name for file in files)}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}): {_REPAIR}") from error
    if version != _VERSION:
        raise ValueError(f"{path} has version {version}, and only {_VERSION} is supported: export the model again")
    return files


class OnnxModel(nn.Module):
    """Both encoders of an ONNX export, as a replacement of [`GADMSModel`] for search and evaluation.

    It runs on the CPU with `torch.get_num_threads()` threads. It has no parameters, so it can neither be trained nor
    score tokens. In int8, the activations of a batch share their scale: embeddings depend slightly on the batch.

    Args:
        name (`str` or `Path`): folder or Hub name of an export.
        config ([`GADMSConfig`]): the configuration stored there.
        runtime (`str`): `"onnx"` for float32 encoders, `"onnx-int8"` for quantised ones.

    Raises:
        ImportError: if onnxruntime is not installed.
        ValueError: if a file is damaged, modified or does not match the configuration, or the runtime is unknown or
            was not exported.
        OSError: if there is no export.
    """

    def __init__(self, name: str | Path, config: GADMSConfig, runtime: str = "onnx"):
        super().__init__()
        if runtime not in RUNTIMES[1:]:
            raise ValueError(f"runtime = {runtime!r} must be one of {', '.join(RUNTIMES[1:])}")
        self.config = config
        self.name_or_path = str(name)
        self.runtime = runtime
        self.device, self.dtype = torch.device("cpu"), torch.float32
        files = _read_manifest(name)
        height, width = config.image_size
        self._image, image_digests = self._load("image", files, {"pixel_values": [None, 3, height, width]})
        caption = {"input_ids": [None, None], "attention_mask": [None, None]}
        self._text, text_digests = self._load("text", files, caption)
        self.digests = (*image_digests, *text_digests)

    def get_image_features(self, pixel_values: torch.Tensor) -> BaseModelOutputWithPooling:
        """As [`GADMSModel.get_image_features`], without `last_hidden_state`."""
        check_image_size(pixel_values, self.config.image_size)
        return self._run(self._image, pixel_values=pixel_values.float())

    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """As [`GADMSModel.get_text_features`], without `last_hidden_state`."""
        check_token_ids(input_ids, encoder_configs(self.config)[0])  # ONNX would count negative ids from the end
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self._run(self._text, input_ids=input_ids.long(), attention_mask=mask.long())

    def _load(self, encoder: Encoder, exported: list[OnnxFile], inputs: dict[str, list]) -> tuple[Any, list[str]]:
        """The session of an encoder, and the digests of its files."""
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(f"running ONNX models needs onnxruntime: {INSTALL}") from error
        wanted = encoder_file(encoder, int8=self.runtime == "onnx-int8")
        files = {file.name: file for file in exported if file.name in (wanted, external_data_file(wanted))}
        if wanted not in files:
            raise ValueError(
                f"{self.name_or_path} holds no {wanted}, which the runtime {self.runtime} needs: export the model "
                "with --int8, or take the runtime onnx"
            )
        path = {name: _verified_file(self.name_or_path, file) for name, file in files.items()}[wanted]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors only
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class for each kind of damage
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} does not run in onnxruntime {onnxruntime.__version__}: {reason}") from error
        outputs = {f"{encoder}_embeds": [None, self.config.projection_dim]}
        for kind, expected, found in (
            ("takes", inputs, session.get_inputs()),
            ("gives", outputs, session.get_outputs()),
        ):
            # Dynamic dimensions have names.
            shapes = {value.name: [size if isinstance(size, int) else None for size in value.shape] for value in found}
            if shapes != expected:
                raise ValueError(f"{path} {kind} {shapes}, but {expected} goes with its config.json: export it again")
        return session, [file.sha256 for file in files.values()]

    def _run(self, session: Any, **inputs: torch.Tensor) -> BaseModelOutputWithPooling:
        feeds = {name: tensor.detach().cpu().numpy() for name, tensor in inputs.items()}
        return BaseModelOutputWithPooling(pooler_output=torch.from_numpy(session.run(None, feeds)[0]))


RetrievalModel: TypeAlias = Any
"""A model that encodes images and captions by `get_image_features` and `get_text_features`: [`GADMSModel`], a model of
transformers from [`~modeling_gadms.encoders.families.FAMILIES`], or [`OnnxModel`]."""


def runtime_of(model: RetrievalModel) -> str:
    """The runtime of a model, one of `RUNTIMES`."""
    return model.runtime if isinstance(model, OnnxModel) else RUNTIMES[0]


def encoder_file(encoder: Encoder, *, int8: bool) -> str:
    """File name of an encoder.

    >>> encoder_file("image", int8=False), encoder_file("text", int8=True)
    ('image_encoder.onnx', 'text_encoder_int8.onnx')
    """
    return f"{encoder}_encoder{'_int8' if int8 else ''}.onnx"


def external_data_file(name: str) -> str:
    """Name of the file with the weights of an encoder that is too large for one file."""
    return f"{name}.data"


def _verified_file(name: str | Path, file: OnnxFile) -> Path:
    """Path of an export's file, after its size and SHA-256 were checked."""
    path = Path(cast(str, cached_file(str(name), file.name)))
    size = path.stat().st_size
    if size != file.size:
        raise ValueError(
            f"{path} has {size:,} bytes instead of {file.size:,}: it is truncated or another file; {_REPAIR}"
        )
    if file_digest(path) != file.sha256:
        raise ValueError(
            f"{path} is not the file that was exported (its SHA-256 differs from that in {MANIFEST}): {_REPAIR}"
        )
    return path
