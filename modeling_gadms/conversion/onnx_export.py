"""Export the image and the text encoder to ONNX files, in float32 and optionally in int8."""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import nn

from ..encoders.atomic_files import atomic_folder, file_digest
from ..encoders.encoding import embedding_dim, encode_captions, encode_images
from ..encoders.loading import load_model_and_processor
from ..encoders.onnx_model import (
    INSTALL,
    Encoder,
    OnnxFile,
    RetrievalModel,
    encoder_file,
    external_data_file,
    write_manifest,
)
from ..encoders.processors import RetrievalProcessor, family_of


OPSET = 18
"""Native version of PyTorch's exporter. Later versions add larger operators, such as attention (23), which are not
faster in onnxruntime on a CPU and are missing in older runtimes."""
TOLERANCE = 1e-4
"""Largest difference in any dimension between an exported embedding of unit length and PyTorch's."""
LOWEST_COSINE = 0.99
"""An export warns if the mean cosine similarity of int8 to float32 embeddings is lower."""
_FILE_LIMIT = 2_000_000_000
"""Larger weights, in bytes, are stored in a separate file: an ONNX file is limited to 2 GiB."""
_PROBE_CAPTIONS = (
    "A woman in a red coat, carrying a black backpack.",
    "Person.",
    "A man with short grey hair wears a dark blue jacket over a white shirt, light jeans and brown leather shoes.",
)


@dataclass(frozen=True)
class OnnxReport:
    """Result of an export, compared with the original model.

    Attributes:
        source (`str`): the model.
        target (`Path`): the folder that was written.
        opset (`int`): version of the ONNX operators.
        files (`tuple[OnnxFile, ...]`): the encoders.
        difference (`float`): largest difference of float32 embeddings to PyTorch's, both of unit length.
        int8_cosine (`float`, *optional*): mean cosine similarity of int8 embeddings to PyTorch's on synthetic inputs.
    """

    source: str
    target: Path
    opset: int
    files: tuple[OnnxFile, ...]
    difference: float
    int8_cosine: float | None

    def to_text(self) -> str:
        """Format the report as text."""
        lines = [f"{self.source} -> {self.target}, ONNX opset {self.opset}"]
        lines += [f"  {file.name}: {file.size / 1e6:,.1f} MB" for file in self.files]
        lines.append(f"  float32 embeddings differ from PyTorch's by at most {self.difference:.1e}")
        if self.int8_cosine is not None:
            lines.append(f"  int8 embeddings: mean cosine {self.int8_cosine:.4f} to PyTorch's, on synthetic inputs")
        return "\n".join(lines)


def export_onnx(source: str | Path, target: str | Path, *, int8: bool = False) -> OnnxReport:
    """Export both encoders to ONNX, with the configuration and the processor that indexing and searching need.

    The graphs take `pixel_values`, or `input_ids` and `attention_mask`, with dynamic batch size and caption length,
    and return `image_embeds` or `text_embeds`, not normalised. That of SigLIP takes `input_ids` alone, padded to the
    length that it was trained with. They are float32 regardless of the precision of the source. The exported encoders
    are run and compared with the source, with the exported processor, before the folder is moved to its place.

    In int8, the weights of all matrix products except the last one of each encoder are quantised per channel to 7
    bits, and activations dynamically. 7 bits, because on x86 processors without VNNI sums of two 8-bit products
    overflow and change the embeddings. The rest stays float32, by measurements on ViT-B/16: the patch convolution is
    slower in int8; the last projection causes half of the int8 error on images and is 1 % of the file; and the token
    embeddings are a table lookup, which would not be faster and would share one scale.

    Args:
        source (`str` or `Path`): folder or Hub name of a dual encoder, or of a GA-DMS adapter.
        target (`str` or `Path`): folder to write.
        int8 (`bool`): whether to add quantised encoders.

    Returns:
        [`OnnxReport`]

    Raises:
        ImportError: if onnx, onnxscript or onnxruntime is not installed.
        FileExistsError: if `target` exists and is not an empty folder.
        ValueError: if the source is not a complete model, its family cannot be exported, or the exported encoders
            compute other embeddings.
        OSError: if a file cannot be read or written.

    Warns:
        UserWarning: if int8 embeddings differ much from those of the source.
    """
    _check_installed()
    target = Path(target)
    with atomic_folder(target) as folder:
        model, processor = load_model_and_processor(source)
        family_of(processor).check_can("ONNX export")
        model = model.float().cpu()
        model.config.dtype = torch.float32
        model.config.save_pretrained(folder)
        processor.save_pretrained(folder)
        files: list[OnnxFile] = []
        encoders: tuple[Encoder, ...] = ("image", "text")
        for encoder in encoders:
            path = folder / encoder_file(encoder, int8=False)
            _export_encoder(model, processor, encoder, path)
            files += _files_of(path)
            if int8:
                quantised = folder / encoder_file(encoder, int8=True)
                _quantise(path, quantised, _metadata(model, processor, encoder, "int8"))
                files += _files_of(quantised)
        write_manifest(folder, OPSET, files)

        expected = _probe_embeddings(model, processor)
        exported = _probe_embeddings(*load_model_and_processor(folder, runtime="onnx"))
        difference = float((exported - expected).abs().max())
        if not difference <= TOLERANCE:  # true for NaN
            raise ValueError(
                f"embeddings of the ONNX encoders of {source} differ from PyTorch's by {difference:.1e}, more "
                f"than {TOLERANCE:.0e}: nothing was written; please report this with your versions of torch, "
                "onnxscript and onnxruntime"
            )
        cosine = None
        if int8:
            quantised_embeds = _probe_embeddings(*load_model_and_processor(folder, runtime="onnx-int8"))
            cosine = float((quantised_embeds * expected).sum(-1).mean())
            if not cosine >= LOWEST_COSINE:
                warnings.warn(
                    f"int8 embeddings of {source} have a mean cosine of {cosine:.4f} to float32 ones, less than "
                    f"{LOWEST_COSINE}: evaluate the int8 encoders before you use them",
                    UserWarning,
                    stacklevel=2,
                )
    return OnnxReport(str(source), target, OPSET, tuple(files), difference, cosine)


class _Encoder(nn.Module):
    """An encoder that takes and gives tensors alone, as an exported graph does."""

    def __init__(self, model: Any, encoder: Encoder, names: Sequence[str]):
        super().__init__()
        self.model = model
        self._encode = f"get_{encoder}_features"
        self._names = tuple(names)

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        outputs = getattr(self.model, self._encode)(**dict(zip(self._names, tensors, strict=True)))
        embeds: torch.Tensor = outputs["pooler_output"]
        return embeds


def _export_encoder(model: RetrievalModel, processor: RetrievalProcessor, encoder: Encoder, path: Path) -> None:
    import onnx

    dynamic = {0: "batch"}
    if encoder == "image":
        inputs = dict(processor(images=[Image.new("RGB", (8, 8))] * 2))
    else:
        inputs = dict(processor(text=["person " * 500] * 2))
        if family_of(processor).padding == "longest":
            # One token fewer than the model reads: unlikely to equal another dimension of the graph.
            inputs = {name: tokens[:, :-1] for name, tokens in inputs.items()}
            dynamic |= {1: "sequence"}
    wrapped = _Encoder(model, encoder, tuple(inputs))
    with tempfile.TemporaryDirectory(dir=path.parent) as place, _quiet():
        program = torch.onnx.export(
            wrapped.eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=[f"{encoder}_embeds"],
            dynamic_shapes={"tensors": (dynamic,) * len(inputs)},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        written = Path(place) / path.name
        cast(torch.onnx.ONNXProgram, program).save(str(written), external_data=True)
        _save(onnx.load(str(written)), path, _metadata(model, processor, encoder, "float32"))


def _quantise(source: Path, target: Path, metadata: dict[str, str]) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    nodes = onnx.load(str(source), load_external_data=False).graph.node
    # The projection stays in float32. ALIGN's convolutional image encoder has no products of matrices at all.
    last = [node.name for node in nodes if node.op_type in ("MatMul", "Gemm")][-1:]
    with tempfile.TemporaryDirectory(dir=target.parent) as place, _quiet():
        written = Path(place) / target.name
        quantize_dynamic(
            source,
            written,
            op_types_to_quantize=["MatMul"],
            # The quantiser replaces a Gemm by a MatMul of this name.
            nodes_to_exclude=[*last, *(f"{name}_MatMul" for name in last)],
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            use_external_data_format=source.with_name(external_data_file(source.name)).exists(),
        )
        _save(onnx.load(str(written)), target, metadata)


def _save(model: Any, path: Path, metadata: dict[str, str]) -> None:
    """Write a graph without local paths, with a second file if the weights exceed the limit, and check it."""
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
    """Remove notes recursively: the exporter writes stack traces with local paths into them."""
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.type == field.TYPE_MESSAGE:
            for part in value if isinstance(value, (list, tuple)) or hasattr(value, "append") else [value]:
                _strip(part)


def _metadata(
    model: RetrievalModel, processor: RetrievalProcessor, encoder: Encoder, precision: str
) -> dict[str, str]:
    height, width = cast(tuple[int, int], processor.image_size)  # NaFlex, which has none, is refused
    size = {"image_size": f"{height}x{width}"} if encoder == "image" else {}
    return {
        "model_type": model.config.model_type,
        "encoder": encoder,
        "opset": str(OPSET),
        "precision": precision,
        "embedding_size": str(embedding_dim(model, processor)),
        "embedding_normalised": "no",
        **size,
    }


def _files_of(path: Path) -> list[OnnxFile]:
    paths = [path, path.with_name(external_data_file(path.name))]
    return [OnnxFile(file.name, file.stat().st_size, file_digest(file)) for file in paths if file.is_file()]


def _probe_embeddings(model: RetrievalModel, processor: RetrievalProcessor) -> torch.Tensor:
    """Return embeddings of synthetic images and captions: (num_images + num_captions, projection_dim)."""
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
    """Suppress the exporters' warnings."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _check_installed() -> None:
    try:
        for library in ("onnx", "onnxruntime", "onnxscript"):
            import_module(library)
    except ImportError as error:
        raise ImportError(f"exporting to ONNX needs {error.name}: {INSTALL}") from error
