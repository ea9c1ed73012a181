"""Encoders that run in onnxruntime, where a [`GADMSModel`] would run in PyTorch."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import cached_file

from ..configuration_gadms import GADMSConfig, encoder_configs
from ..modeling_gadms import GADMSModel, check_image_size
from .atomic_files import file_digest, write_json


MANIFEST = "onnx_export.json"
RUNTIMES = ("torch", "onnx", "onnx-int8")
INSTALL = "pip install 'gadms[onnx]'"
_VERSION = 1

Encoder = Literal["image", "text"]


@dataclass(frozen=True)
class OnnxFile:
    """A file of an export: its name, its size in bytes and its SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class OnnxManifest:
    """What an export consists of, stored beside its files, so that damage and mixtures are noticed before they answer.

    Attributes:
        opset (`int`): version of ONNX's standard operators that the files use.
        files (`tuple[OnnxFile, ...]`): encoders, and where one is larger than a file may be, its weights.
    """

    opset: int
    files: tuple[OnnxFile, ...]

    def write(self, folder: Path) -> None:
        """Store the manifest in the folder of the export."""
        content = {"version": _VERSION, "opset": self.opset, "files": [asdict(file) for file in self.files]}
        write_json(folder / MANIFEST, content)

    @classmethod
    def read(cls, name: str | Path) -> "OnnxManifest":
        """Read the manifest of an export.

        Args:
            name (`str` or `Path`): folder or Hub name of the export.

        Raises:
            ValueError: if the manifest is damaged, or of a newer version.
            OSError: if there is none.
        """
        try:
            path = Path(cast(str, cached_file(str(name), MANIFEST)))
        except OSError as error:
            raise OSError(
                f"{name} holds no ONNX export ({MANIFEST} is not found): make one with "
                f"`gadms export {name} TARGET --format onnx` and give its folder"
            ) from error
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content["version"]
            manifest = cls(int(content["opset"]), tuple(OnnxFile(**file) for file in content["files"]))
            names = [file.name for file in manifest.files]
            if any(Path(name).name != name for name in names):
                raise ValueError(f"it names files elsewhere: {', '.join(names)}")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error!r}): fetch it, or export the model, again") from error
        if version != _VERSION:
            raise ValueError(
                f"{path} is of version {version}, and this program reads {_VERSION}: export the model again"
            )
        return manifest


class OnnxModel(nn.Module):
    """Both encoders of an ONNX export, to be used where a [`GADMSModel`] encodes: search, evaluation.

    It runs on the CPU, with as many threads as `torch.get_num_threads()` says when it is made. There are no
    parameters: it cannot be trained, and token scores are not to be had from it.

    In int8 the activations of a batch share their scale, so an embedding depends a little on its batch.

    Args:
        name (`str` or `Path`): folder or Hub name of an export.
        config ([`GADMSConfig`]): the one stored there.
        runtime (`str`): `"onnx"` for the encoders in float32, `"onnx-int8"` for the quantised ones.

    Raises:
        ImportError: if onnxruntime is not installed.
        ValueError: if a file is damaged, was changed or belongs to another configuration, or the runtime is unknown or
            not among the files.
        OSError: if there is no export.
    """

    def __init__(self, name: str | Path, config: GADMSConfig, runtime: str = "onnx"):
        super().__init__()
        if runtime not in RUNTIMES[1:]:
            raise ValueError(f"runtime = {runtime!r} must be one of {', '.join(RUNTIMES[1:])}")
        self.config = config
        self.name_or_path = str(name)
        self.runtime = runtime
        self.device = torch.device("cpu")
        manifest = OnnxManifest.read(name)
        height, width = config.image_size
        self._image, image_digests = self._load("image", manifest, {"pixel_values": [None, 3, height, width]})
        caption = {"input_ids": [None, None], "attention_mask": [None, None]}
        self._text, text_digests = self._load("text", manifest, caption)
        self.digests = (*image_digests, *text_digests)

    def get_image_features(self, pixel_values: torch.Tensor) -> BaseModelOutputWithPooling:
        """Encode images.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(num_images, 3, height, width)`)

        Returns:
            [`~transformers.modeling_outputs.BaseModelOutputWithPooling`]: `pooler_output` of shape
            `(num_images, projection_dim)` is the embedding, not normalised. There is nothing else.

        Raises:
            ValueError: for another image size than the configuration's.
        """
        check_image_size(pixel_values, self.config.image_size)
        return self._run(self._image, pixel_values=pixel_values.float())

    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """Encode captions.

        Args:
            input_ids (`torch.LongTensor` of shape `(num_captions, sequence_length)`)
            attention_mask (`torch.LongTensor` of shape `(num_captions, sequence_length)`, *optional*)

        Returns:
            [`~transformers.modeling_outputs.BaseModelOutputWithPooling`]: `pooler_output` of shape
            `(num_captions, projection_dim)` is the embedding, not normalised. There is nothing else.

        Raises:
            ValueError: for captions longer than the model has positions, or of tokens outside the vocabulary.
        """
        text, _ = encoder_configs(self.config)
        if input_ids.shape[-1] > text.max_position_embeddings:
            raise ValueError(
                f"captions of {input_ids.shape[-1]} tokens are longer than the model's {text.max_position_embeddings} "
                "positions; truncate them with the model's own processor"
            )
        # A graph would take negative ids as counted from the end.
        if input_ids.numel() and not 0 <= int(input_ids.min()) <= int(input_ids.max()) < text.vocab_size:
            raise ValueError(
                f"token ids from {int(input_ids.min())} to {int(input_ids.max())} are not all in the vocabulary of "
                f"{text.vocab_size}; prepare captions with the model's own processor"
            )
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self._run(self._text, input_ids=input_ids.long(), attention_mask=mask.long())

    def _load(self, encoder: Encoder, manifest: OnnxManifest, inputs: dict[str, list]) -> tuple[Any, list[str]]:
        """A session, and the digests of the files it was loaded from."""
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(f"running ONNX models needs onnxruntime: {INSTALL}") from error
        wanted = encoder_file(encoder, int8=self.runtime == "onnx-int8")
        files = [file for file in manifest.files if file.name == wanted or file.name == weights_file(wanted)]
        if wanted not in [file.name for file in files]:
            raise ValueError(
                f"{self.name_or_path} holds no {wanted}, which the runtime {self.runtime} needs: export the model "
                "with --int8, or take the runtime onnx"
            )
        paths = [checked_file(self.name_or_path, file) for file in files]
        path = paths[[file.name for file in files].index(wanted)]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors, which are raised as well
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of a class of its own for each kind of damage
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} does not run in onnxruntime {onnxruntime.__version__}: {reason}") from error
        outputs = {f"{encoder}_embeds": [None, self.config.projection_dim]}
        for kind, expected, found in (
            ("takes", inputs, session.get_inputs()),
            ("gives", outputs, session.get_outputs()),
        ):
            # Dimensions that may vary have names there.
            shapes = {value.name: [size if isinstance(size, int) else None for size in value.shape] for value in found}
            if shapes != expected:
                raise ValueError(f"{path} {kind} {shapes}, and {expected} goes with its config.json: export it again")
        return session, [file.sha256 for file in files]

    def _run(self, session: Any, **inputs: torch.Tensor) -> BaseModelOutputWithPooling:
        feeds = {name: tensor.detach().cpu().numpy() for name, tensor in inputs.items()}
        return BaseModelOutputWithPooling(pooler_output=torch.from_numpy(session.run(None, feeds)[0]))


RetrievalModel = GADMSModel | OnnxModel
"""What encodes images and captions, in either runtime."""


def runtime_of(model: RetrievalModel) -> str:
    """One of [`RUNTIMES`]."""
    return model.runtime if isinstance(model, OnnxModel) else RUNTIMES[0]


def encoder_file(encoder: Encoder, *, int8: bool) -> str:
    """Name of the file of an encoder.

    >>> encoder_file("image", int8=False), encoder_file("text", int8=True)
    ('image_encoder.onnx', 'text_encoder_int8.onnx')
    """
    return f"{encoder}_encoder{'_int8' if int8 else ''}.onnx"


def weights_file(name: str) -> str:
    """Name of the file beside an encoder's that holds its weights, if they are more than fit into one."""
    return f"{name}.data"


def checked_file(name: str | Path, file: OnnxFile) -> Path:
    """Where a file of an export lies, if it is as it was exported.

    Args:
        name (`str` or `Path`): folder or Hub name of the export.

    Raises:
        ValueError: if the file is cut or otherwise another.
        OSError: if it is missing.
    """
    path = Path(cast(str, cached_file(str(name), file.name)))
    size = path.stat().st_size
    if size != file.size:
        raise ValueError(
            f"{path} has {size:,} bytes instead of {file.size:,}: it is cut or another file; fetch it, or export the "
            "model, again"
        )
    if file_digest(path) != file.sha256:
        raise ValueError(
            f"{path} is not the file that was exported (its SHA-256 differs from that in {MANIFEST}): fetch it, or "
            "export the model, again"
        )
    return path
