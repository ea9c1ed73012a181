"""Both encoders as ONNX, in float32 and int8, for runtimes without PyTorch."""

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import nn

from ..configuration_gadms import GADMSConfig, encoder_configs
from ..encoders.atomic_files import atomic_folder, file_digest
from ..encoders.encoding import encode_captions, encode_images
from ..encoders.loading import load_model_and_processor
from ..encoders.onnx_model import INSTALL, Encoder, OnnxFile, OnnxManifest, OnnxModel, encoder_file, external_data_file
from ..modeling_gadms import GADMSModel
from ..processing_gadms import GADMSProcessor


OPSET = 18
"""What PyTorch's exporter writes by itself; others are conversions of it. Later ones bring larger operators, such as a
whole attention (23), which onnxruntime runs no faster on a CPU and older runtimes lack."""
TOLERANCE = 1e-4
"""How far an exported embedding of unit length may be from PyTorch's, in any of its numbers."""
LOWEST_COSINE = 0.99
"""Mean cosine of int8 to float32 embeddings below which an export warns."""
_FILE_LIMIT = 2_000_000_000
"""Bytes of weights beyond which a file does not hold them: the format ends at 2 GiB."""
_PROBE_CAPTIONS = (
    "A woman in a red coat, carrying a black backpack.",
    "Person.",
    "A man with short grey hair wears a dark blue jacket over a white shirt, light jeans and brown leather shoes.",
)


@dataclass(frozen=True)
class OnnxReport:
    """What an export wrote, and how it compares with the model it was made of.

    Attributes:
        source (`str`): the model.
        target (`Path`): the folder.
        opset (`int`): version of ONNX's standard operators.
        files (`tuple[OnnxFile, ...]`): the encoders.
        difference (`float`): the largest of the float32 embeddings to PyTorch's, both of unit length.
        int8_cosine (`float`, *optional*): mean of int8 to PyTorch's embeddings, over made-up images and captions.
    """

    source: str
    target: Path
    opset: int
    files: tuple[OnnxFile, ...]
    difference: float
    int8_cosine: float | None

    def __str__(self) -> str:
        lines = [f"{self.source} -> {self.target}, ONNX opset {self.opset}"]
        lines += [f"  {file.name}: {file.size / 1e6:,.1f} MB" for file in self.files]
        lines.append(f"  float32 embeddings differ from PyTorch's by {self.difference:.1e} at most")
        if self.int8_cosine is not None:
            lines.append(f"  int8 embeddings: mean cosine {self.int8_cosine:.4f} to PyTorch's, of made-up inputs")
        return "\n".join(lines)


def export_onnx(source: str | Path, target: str | Path, *, int8: bool = False) -> OnnxReport:
    """Write the image and the text encoder as ONNX, with all that indexing and searching needs beside them.

    The graphs take `pixel_values`, or `input_ids` and `attention_mask`, for any number of images or captions and any
    length of captions, and give `image_embeds` or `text_embeds`, not normalised. They are float32, whatever the
    source is in. What was written is run and compared with the source before the folder is there.

    In int8, the weights of all matrix products but each encoder's last are stored in 7 of 8 bits, one scale a
    channel; activations are quantised as they come. 7 bits, since the file travels: on an x86 processor without VNNI,
    sums of two products of 8 bits overflow and give other embeddings. The rest stays float32 by measurement
    (ViT-B/16): the convolution of the patches is slower in int8; the last projection costs images half of what int8
    loses, for 1 % of the file; the table of tokens is only looked up: it gains no time, and has one scale for all.

    Args:
        source (`str` or `Path`): folder or Hub name of a GA-DMS model or adapter.
        target (`str` or `Path`): the folder to make.
        int8 (`bool`): whether to add quantised encoders.

    Returns:
        [`OnnxReport`]

    Raises:
        ImportError: if onnx, onnxscript or onnxruntime is not installed.
        FileExistsError: if `target` is there, and not an empty folder.
        ValueError: if the source is no whole GA-DMS model, or what was written computes something else.
        OSError: if something cannot be read or written.

    Warns:
        UserWarning: if int8 embeddings are far from the source's.
    """
    _require_tools()
    target = Path(target)
    with atomic_folder(target) as folder:
        model, processor = load_model_and_processor(source)
        model = model.float().cpu()
        model.config.dtype = torch.float32
        model.config.save_pretrained(folder)
        processor.save_pretrained(folder)
        files: list[OnnxFile] = []
        encoders: tuple[Encoder, ...] = ("image", "text")
        for encoder in encoders:
            path = folder / encoder_file(encoder, int8=False)
            _export_encoder(model, encoder, path)
            files += _described(path)
            if int8:
                quantised = folder / encoder_file(encoder, int8=True)
                _quantise(path, quantised, _metadata(model.config, encoder, "int8"))
                files += _described(quantised)
        OnnxManifest(OPSET, tuple(files)).write(folder)

        expected = _probe(model, processor)
        exported = _probe(OnnxModel(folder, model.config, "onnx"), processor)
        difference = float((exported - expected).abs().max())
        if not difference <= TOLERANCE:  # also of what is not a number
            raise ValueError(
                f"the ONNX encoders of {source} give embeddings that differ from PyTorch's by {difference:.1e}, more "
                f"than {TOLERANCE:.0e}: nothing was written; please report this with your versions of torch, "
                "onnxscript and onnxruntime"
            )
        cosine = None
        if int8:
            quantised_embeds = _probe(OnnxModel(folder, model.config, "onnx-int8"), processor)
            cosine = float((quantised_embeds * expected).sum(-1).mean())
            if not cosine >= LOWEST_COSINE:
                warnings.warn(
                    f"int8 embeddings of {source} have a mean cosine of {cosine:.4f} to float32 ones, less than "
                    f"{LOWEST_COSINE}: this model does not bear quantisation well; measure before you use them",
                    UserWarning,
                    stacklevel=2,
                )
    return OnnxReport(str(source), target, OPSET, tuple(files), difference, cosine)


class _ImageEncoder(nn.Module):
    """`pixel_values` to embeddings: a graph has tensors for inputs and outputs."""

    def __init__(self, model: GADMSModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model.get_image_features(pixel_values)["pooler_output"]


class _TextEncoder(nn.Module):
    """`input_ids` and `attention_mask` to embeddings."""

    def __init__(self, model: GADMSModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model.get_text_features(input_ids, attention_mask)["pooler_output"]


def _export_encoder(model: GADMSModel, encoder: Encoder, path: Path) -> None:
    import onnx

    wrapped: nn.Module
    inputs: dict[str, torch.Tensor]
    if encoder == "image":
        height, width = model.config.image_size
        wrapped, inputs = _ImageEncoder(model), {"pixel_values": torch.zeros(2, 3, height, width)}
        shapes = {"pixel_values": {0: "batch"}}
    else:
        text, _ = encoder_configs(model.config)
        length = text.max_position_embeddings - 1  # one that is no other size of the graph by design
        ids = torch.full((2, length), cast(int, text.eos_token_id))
        wrapped, inputs = _TextEncoder(model), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        shapes = dict.fromkeys(inputs, {0: "batch", 1: "sequence"})
    with tempfile.TemporaryDirectory(dir=path.parent) as place, _quiet():
        program = torch.onnx.export(
            wrapped.eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=[f"{encoder}_embeds"],
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        written = Path(place) / path.name
        cast(torch.onnx.ONNXProgram, program).save(str(written), external_data=True)
        _save(onnx.load(str(written)), path, _metadata(model.config, encoder, "float32"))


def _quantise(source: Path, target: Path, metadata: dict[str, str]) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    nodes = onnx.load(str(source), load_external_data=False).graph.node
    last = [node.name for node in nodes if node.op_type in ("MatMul", "Gemm")][-1]
    with tempfile.TemporaryDirectory(dir=target.parent) as place, _quiet():
        written = Path(place) / target.name
        quantize_dynamic(
            source,
            written,
            op_types_to_quantize=["MatMul"],
            # The tool replaces a Gemm by a MatMul of this name.
            nodes_to_exclude=[last, f"{last}_MatMul"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            use_external_data_format=source.with_name(external_data_file(source.name)).exists(),
        )
        _save(onnx.load(str(written)), target, metadata)


def _save(model: Any, path: Path, metadata: dict[str, str]) -> None:
    """Write a graph with nothing in it of where it was made, in one file if one holds it, and check it."""
    import onnx

    _strip(model)
    onnx.helper.set_model_props(model, metadata)
    large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > _FILE_LIMIT
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=large,
        location=external_data_file(path.name),
        all_tensors_to_one_file=True,
    )
    onnx.checker.check_model(str(path), full_check=True)


def _strip(message: Any) -> None:
    """Remove notes: the exporter leaves stack traces there, with the names of this machine's folders."""
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.type == field.TYPE_MESSAGE:
            for part in value if isinstance(value, (list, tuple)) or hasattr(value, "append") else [value]:
                _strip(part)


def _metadata(config: GADMSConfig, encoder: Encoder, precision: str) -> dict[str, str]:
    height, width = config.image_size
    size = {"image_size": f"{height}x{width}"} if encoder == "image" else {}
    return {
        "model_type": config.model_type,
        "encoder": encoder,
        "opset": str(OPSET),
        "precision": precision,
        "embedding_size": str(config.projection_dim),
        "embedding_normalised": "no",
        **size,
    }


def _described(path: Path) -> list[OnnxFile]:
    paths = [path, path.with_name(external_data_file(path.name))]
    return [OnnxFile(file.name, file.stat().st_size, file_digest(file)) for file in paths if file.is_file()]


def _probe(model: GADMSModel | OnnxModel, processor: GADMSProcessor) -> torch.Tensor:
    """Embeddings of made-up images and captions: (num_images + num_captions, projection_dim)."""
    gradient = Image.linear_gradient("L")
    images = [
        Image.merge("RGB", (gradient, gradient.rotate(90 * turn), gradient.rotate(180 - 90 * turn)))
        for turn in range(3)
    ]
    return torch.cat(
        [
            encode_images(model, processor, images, progress=False),
            encode_captions(model, processor, _PROBE_CAPTIONS, progress=False),
        ]
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of the exporters about themselves."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _require_tools() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"exporting to ONNX needs {error.name}: {INSTALL}") from error
