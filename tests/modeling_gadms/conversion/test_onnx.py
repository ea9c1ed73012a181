"""ONNX exports compute the same as the model; damaged and foreign exports are refused."""

import copy
import getpass
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from PIL import Image
from transformers import CLIPTokenizer

from modeling_gadms import GADMSConfig, GADMSModel, GADMSProcessor
from modeling_gadms.conversion import onnx_export
from modeling_gadms.conversion.onnx_export import OnnxReport, export_onnx
from modeling_gadms.encoders.atomic_files import file_digest
from modeling_gadms.encoders.encoding import encode_captions, encode_images
from modeling_gadms.encoders.fingerprint import model_fingerprint
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.encoders.onnx_model import MANIFEST, OnnxModel
from modeling_gadms.gallery import schema as gallery_schema
from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord, gallery_model
from tests.command_line import run
from tests.waiting import PATIENCE_SECONDS


pytestmark = pytest.mark.slow


CAPTIONS = ["A man in a red coat and blue jeans walks towards the camera.", "Person.", "A woman with a white hat."]
LENGTH = 24


@dataclass(frozen=True)
class Export:
    """A model, its folder, and its export."""

    model: GADMSModel  # float32
    processor: GADMSProcessor
    source: Path
    report: OnnxReport

    @property
    def folder(self) -> Path:
        return self.report.target


def make_model(tokenizer: CLIPTokenizer, image_size: tuple[int, int], pad_token_id: int) -> GADMSModel:
    torch.manual_seed(0)
    return GADMSModel(
        GADMSConfig(
            text_config={
                "vocab_size": len(tokenizer),
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "max_position_embeddings": LENGTH,
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": pad_token_id,
            },
            vision_config={
                "hidden_size": 24,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 3,
                "image_size": image_size,
                "patch_size": 8,
            },
            projection_dim=16,
            fusion_num_attention_heads=2,
            mask_token_id=tokenizer.mask_token_id,
            score_layers=2,
        )
    ).eval()


@pytest.fixture(scope="module")
def exported(tokenizer, tmp_path_factory) -> Export:
    """Like OpenAI's CLIP: captions padded with EOS. Portrait images, with int8."""
    folder = tmp_path_factory.mktemp("exported")
    processor = GADMSProcessor.from_tokenizer(copy.deepcopy(tokenizer), image_size=(32, 16))
    assert processor.tokenizer.pad_token_id == processor.tokenizer.eos_token_id
    model = make_model(processor.tokenizer, (32, 16), processor.tokenizer.pad_token_id)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    return Export(model, processor, folder / "model", export_onnx(folder / "model", folder / "onnx", int8=True))


@pytest.fixture(scope="module")
def half_exported(tokenizer, tmp_path_factory) -> Iterator[Export]:
    """Like research code: captions padded with 0. Half precision, landscape images, weights in separate files."""
    folder = tmp_path_factory.mktemp("half")
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    processor = GADMSProcessor.from_tokenizer(tokenizer, image_size=(16, 40))
    model = make_model(tokenizer, (16, 40), 0).bfloat16()
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "_FILE_LIMIT", 1000)
        report = export_onnx(folder / "model", folder / "onnx", int8=True)
    yield Export(model.float(), processor, folder / "model", report)


@pytest.fixture(params=["exported", "half_exported"])
def any_export(request) -> Export:
    return request.getfixturevalue(request.param)


@pytest.fixture
def copied(exported, tmp_path) -> Path:
    """An export that a test may damage."""
    return shutil.copytree(exported.folder, tmp_path / "copied")


@pytest.fixture(scope="module")
def runs(exported) -> OnnxModel:
    return OnnxModel(exported.folder, exported.model.config)


def captions_of(export: Export, batch: int, length: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Captions of random length, padded like the tokenizer does, with some tokens masked."""
    tokenizer = export.processor.tokenizer
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, tokenizer.bos_token_id, (batch, length))
    ids[rng.random((batch, length)) < 0.2] = tokenizer.mask_token_id
    ids[:, 0] = tokenizer.bos_token_id
    ends = rng.integers(2, length, batch)
    ends[0] = length - 1  # one without padding
    mask = np.arange(length) <= ends[:, None]
    ids[~mask] = tokenizer.pad_token_id
    ids[np.arange(batch), ends] = tokenizer.eos_token_id
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}


def refusal(match: str, folder: Path, export: Export, runtime: str = "onnx"):
    with pytest.raises(ValueError, match=match):
        OnnxModel(folder, export.model.config, runtime)


# ---------------------------------------------------------------------------------------------------------------------
# The same numbers.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("batch", [1, 3, 7])
def test_image_embeddings_are_those_of_torch(any_export, batch):
    pixels = torch.randn(batch, 3, *any_export.model.config.image_size, generator=torch.Generator().manual_seed(batch))
    ours = OnnxModel(any_export.folder, any_export.model.config).get_image_features(pixels).pooler_output
    with torch.inference_mode():
        theirs = any_export.model.get_image_features(pixels).pooler_output
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert theirs.norm(dim=-1).sub(1).abs().min() > 1e-2, "normalised ones would pass as well"


def test_caption_embeddings_are_those_of_torch_for_every_length_padded_and_masked(any_export):
    ours = OnnxModel(any_export.folder, any_export.model.config)
    for length in range(3, LENGTH + 1):
        for batch in (1, 3, 7):
            inputs = captions_of(any_export, batch, length, seed=length)
            with torch.inference_mode():
                theirs = any_export.model.get_text_features(**inputs).pooler_output
            torch.testing.assert_close(ours.get_text_features(**inputs).pooler_output, theirs, rtol=0, atol=1e-4)


def test_captions_are_embedded_at_their_first_eos_and_nowhere_else(any_export):
    """Tokens after EOS and the amount of padding do not matter; tokens before it do; a mask token is not an end."""
    ours = OnnxModel(any_export.folder, any_export.model.config)
    tokenizer = any_export.processor.tokenizer
    bos, eos, mask = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id
    assert mask > eos, "CLIP's old way of looking for the largest id would pass"
    ids = torch.tensor([[bos, 5, mask, 9, eos]])

    def embed(ids: list[list[int]]) -> torch.Tensor:
        return ours.get_text_features(torch.tensor(ids)).pooler_output

    expected = ours.get_text_features(ids).pooler_output
    for tail in ([eos, eos], [0], [mask, 7], [7, eos, mask, 3]):
        torch.testing.assert_close(embed([[bos, 5, mask, 9, eos, *tail]]), expected)
    for other in ([bos, 6, mask, 9, eos], [bos, 5, mask, 8, eos], [bos, 5, 6, 9, eos]):
        assert (embed([other]) - expected).abs().max() > 1e-2


def test_tokens_that_the_mask_leaves_out_are_not_attended_to(runs, exported):
    inputs = captions_of(exported, 3, 12)
    inputs["attention_mask"][:, 1] = 0  # before EOS, because tokens after it never count
    with torch.inference_mode():
        theirs = exported.model.get_text_features(**inputs).pooler_output
    torch.testing.assert_close(runs.get_text_features(**inputs).pooler_output, theirs, rtol=0, atol=1e-4)
    inputs["attention_mask"][:, 1] = 1
    assert (runs.get_text_features(**inputs).pooler_output - theirs).abs().max() > 1e-2


def test_a_missing_attention_mask_means_that_all_tokens_count(runs, exported):
    inputs = captions_of(exported, 3, 9)
    inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    alone = runs.get_text_features(inputs["input_ids"]).pooler_output
    assert torch.equal(alone, runs.get_text_features(**inputs).pooler_output)


def test_encoding_is_that_of_the_model_and_ends_normalised(any_export, images):
    ours, processor = load_model_and_processor(any_export.folder, runtime="onnx")
    for encode, inputs in ((encode_images, images), (encode_captions, CAPTIONS)):
        embeds = encode(ours, processor, inputs, batch_size=2, progress=False)
        torch.testing.assert_close(
            embeds, encode(any_export.model, any_export.processor, inputs, progress=False), rtol=0, atol=1e-4
        )
        torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(len(embeds)))


def test_int8_embeddings_point_the_same_way(any_export):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(16, 3, *any_export.model.config.image_size, generator=generator)
    captions = captions_of(any_export, 16, 20)
    int8, _ = load_model_and_processor(any_export.folder, runtime="onnx-int8")
    with torch.inference_mode():
        pairs = (
            (int8.get_image_features(pixels), any_export.model.get_image_features(pixels)),
            (int8.get_text_features(**captions), any_export.model.get_text_features(**captions)),
        )
    for ours, theirs in pairs:
        cosine = torch.nn.functional.cosine_similarity(ours.pooler_output, theirs.pooler_output)
        assert 0.99 <= cosine.mean() < 1 - 1e-7
    assert 0.99 <= any_export.report.int8_cosine < 1


def test_an_int8_embedding_depends_on_its_batch_by_a_little(exported):
    int8 = OnnxModel(exported.folder, exported.model.config, "onnx-int8")
    inputs = captions_of(exported, 7, 20)
    together = int8.get_text_features(**inputs).pooler_output
    alone = torch.cat(
        [
            int8.get_text_features(**{name: value[row, None] for name, value in inputs.items()}).pooler_output
            for row in range(7)
        ]
    )
    assert not torch.equal(together, alone)
    assert torch.nn.functional.cosine_similarity(together, alone).min() > 0.99


# ---------------------------------------------------------------------------------------------------------------------
# What is in the files.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["image_encoder", "text_encoder", "image_encoder_int8", "text_encoder_int8"])
def test_a_file_is_valid_and_says_what_it_is(any_export, name):
    path = any_export.folder / f"{name}.onnx"
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": any_export.report.opset} == {"": 18}
    properties = {entry.key: entry.value for entry in model.metadata_props}
    encoder, _, precision = name.partition("_encoder")
    assert properties["encoder"] == encoder and properties["opset"] == "18"
    assert properties["precision"] == (precision.strip("_") or "float32")
    assert properties["embedding_normalised"] == "no"
    height, width = any_export.model.config.image_size
    assert properties.get("image_size") == (f"{height}x{width}" if encoder == "image" else None)
    shapes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    caption = ["batch", "sequence"]
    inputs = {"pixel_values": ["batch", 3, height, width]}
    inputs = inputs if encoder == "image" else {"input_ids": caption, "attention_mask": caption}
    assert shapes == {**inputs, f"{encoder}_embeds": ["batch", 16]}


def test_no_file_tells_where_it_was_made(any_export):
    places = {str(Path(__file__).parents[3]), sys.prefix, str(Path.home()), str(any_export.source.parent)} - {"/"}
    notes = {"site-packages", ".py", "stack_trace", 'File "'}
    for path in any_export.folder.iterdir():
        content = path.read_bytes()
        words = places | {getpass.getuser()} - {"root"} | (notes if ".onnx" in path.suffixes else set())
        for word in words:
            assert word.encode() not in content, (path.name, word)


def test_half_precision_is_exported_in_float32(half_exported):
    for encoder in ("image", "text"):
        graph = onnx.load(half_exported.folder / f"{encoder}_encoder.onnx").graph
        kinds = {tensor.data_type for tensor in graph.initializer}
        assert TensorProto.FLOAT in kinds and not kinds & {TensorProto.BFLOAT16, TensorProto.FLOAT16}
    assert json.loads((half_exported.folder / "config.json").read_text())["dtype"] == "float32"


def test_int8_keeps_seven_bits_of_the_matrices_and_leaves_the_rest(exported):
    """Eight bits would overflow on processors without VNNI; see `export_onnx` for what stays float32."""
    layers = {"image": 2 * 6, "text": 2 * 6}
    for encoder, matrices in layers.items():
        graph = onnx.load(exported.folder / f"{encoder}_encoder_int8.onnx").graph
        counts = {kind: sum(node.op_type == kind for node in graph.node) for kind in ("MatMulInteger", "ConvInteger")}
        assert counts == {"MatMulInteger": matrices, "ConvInteger": 0}
        weights = [numpy_helper.to_array(tensor) for tensor in graph.initializer]
        int8 = [weight for weight in weights if weight.dtype == np.int8 and weight.ndim == 2]
        assert len(int8) == matrices and all(-64 <= weight.min() and weight.max() <= 64 for weight in int8)
        assert all(np.abs(weight).max() > 32 for weight in int8)
        sizes = {weight.shape for weight in weights if weight.dtype == np.float32}
        if encoder == "text":
            assert (len(exported.processor.tokenizer), 32) in sizes, "the table of tokens"


def test_a_large_model_has_its_weights_beside_it(half_exported):
    names = {file.name for file in half_exported.report.files}
    graphs = {f"{encoder}_encoder{kind}.onnx" for encoder in ("image", "text") for kind in ("", "_int8")}
    assert names == graphs | {f"{name}.data" for name in graphs}
    assert all((half_exported.folder / name).stat().st_size < 100_000 for name in graphs)


def test_the_report_counts_the_files_that_are_there(any_export):
    for file in any_export.report.files:
        path = any_export.folder / file.name
        assert (file.size, file.sha256) == (path.stat().st_size, file_digest(path))
    assert {file.name for file in any_export.report.files} == {
        path.name for path in any_export.folder.iterdir() if ".onnx" in path.suffixes
    }
    assert any_export.report.difference < 1e-5
    text = any_export.report.to_text()
    assert "ONNX opset 18" in text and "image_encoder.onnx: 0." in text


# ---------------------------------------------------------------------------------------------------------------------
# Exporting.
# ---------------------------------------------------------------------------------------------------------------------
def test_a_target_that_is_there_is_left_alone(exported, tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=f"{tmp_path} already exists"):
        export_onnx(exported.source, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def use_files_of(export: Export, monkeypatch) -> None:
    """Let an export copy the files of another one, which is fast, and wrong for another model."""
    monkeypatch.setattr(
        onnx_export, "_export_encoder", lambda _, __, encoder, path: shutil.copy(export.folder / path.name, path)
    )
    monkeypatch.setattr(onnx_export, "_quantise", lambda source, path, _: shutil.copy(export.folder / path.name, path))


def test_an_export_that_computes_something_else_is_refused_and_leaves_nothing(exported, tmp_path, monkeypatch):
    use_files_of(exported, monkeypatch)
    other = copy.deepcopy(exported.model)
    with torch.no_grad():
        other.text_projection.weight[3, 3] += 0.05
    other.save_pretrained(tmp_path / "other")
    exported.processor.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="differ from PyTorch's by .*nothing was written"):
        export_onnx(tmp_path / "other", tmp_path / "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_model_that_does_not_bear_quantisation_is_reported(exported, tmp_path, monkeypatch):
    use_files_of(exported, monkeypatch)
    monkeypatch.setattr(onnx_export, "LOWEST_COSINE", exported.report.int8_cosine + 1e-6)
    with pytest.warns(UserWarning, match="evaluate the int8 encoders before you use them"):
        export_onnx(exported.source, tmp_path / "onnx", int8=True)


def test_an_interrupted_export_leaves_nothing(exported, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(onnx_export, "_export_encoder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_onnx(exported.source, tmp_path / "onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("library", ["onnx", "onnxruntime", "onnxscript"])
def test_exporting_without_a_library_says_what_to_install(exported, tmp_path, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"needs {library}: pip install 'gadms\[onnx\]'"):
        export_onnx(exported.source, tmp_path / "onnx")


# ---------------------------------------------------------------------------------------------------------------------
# Running.
# ---------------------------------------------------------------------------------------------------------------------
ALONE = """
import sys
for name in ("onnx", "onnxscript"):
    sys.modules[name] = None
from modeling_gadms.encoders.encoding import encode_captions
from modeling_gadms.encoders.loading import load_model_and_processor

embeds = []
for name in sys.argv[1:]:
    model, processor = load_model_and_processor(name, runtime="onnx")
    embeds.append(encode_captions(model, processor, ["A woman with a white hat."], progress=False).tolist())
print(embeds)
"""


def test_a_folder_and_a_hub_name_run_without_torch_weights_and_without_the_exporter(copied, exported, half_exported):
    """The Hub's cache consists of symbolic links, also to separate weight files."""
    assert not list(copied.glob("*.safetensors"))
    repository, revision = copied.parent / "cache" / "models--ns--persons", "0" * 40
    for part in ("refs", "blobs", f"snapshots/{revision}"):
        (repository / part).mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    for number, path in enumerate(sorted(half_exported.folder.iterdir())):
        shutil.copy(path, repository / "blobs" / str(number))
        (repository / "snapshots" / revision / path.name).symlink_to(f"../../blobs/{number}")
    ran = subprocess.run(
        [sys.executable, "-c", ALONE, str(copied), "ns/persons"],
        env={**os.environ, "HF_HUB_CACHE": str(repository.parent), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    for embeds, export in zip(json.loads(ran.stdout), (exported, half_exported), strict=True):
        expected = encode_captions(export.model, export.processor, ["A woman with a white hat."], progress=False)
        torch.testing.assert_close(torch.tensor(embeds), expected, rtol=0, atol=1e-4)


def test_running_without_onnxruntime_says_what_to_install(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"pip install 'gadms\[onnx\]'"):
        OnnxModel(exported.folder, exported.model.config)


def test_threads_are_those_of_torch(exported, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    model = OnnxModel(exported.folder, exported.model.config)
    assert [s.get_session_options().intra_op_num_threads for s in (model._image, model._text)] == [3, 3]


def test_images_of_another_size_are_refused_in_the_words_of_torch(runs, exported):
    pixels = torch.zeros(1, 3, 16, 32)
    messages = []
    for model in (runs, exported.model):
        with pytest.raises(ValueError) as caught:
            model.get_image_features(pixels)
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and "16x32" in messages[0] and "32x16" in messages[0]


def test_captions_too_long_or_of_unknown_tokens_are_refused(runs):
    with pytest.raises(ValueError, match=f"captions of {LENGTH + 1} tokens are longer than the model's {LENGTH}"):
        runs.get_text_features(torch.ones(1, LENGTH + 1, dtype=torch.long))
    for wrong in (-1, 10_000):
        with pytest.raises(ValueError, match=f"{wrong}.* are not all in the vocabulary"):
            runs.get_text_features(torch.tensor([[1, wrong, 2]]))


@pytest.mark.parametrize("export_name", ["exported", "half_exported"])
@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_a_damaged_file_is_named(request, tmp_path, export_name, damage):
    export = request.getfixturevalue(export_name)
    folder = shutil.copytree(export.folder, tmp_path / "copied")
    path = folder / ("text_encoder.onnx.data" if export_name == "half_exported" else "text_encoder.onnx")
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
        with pytest.raises(OSError, match=path.name):
            OnnxModel(folder, export.model.config)
        return
    content[len(content) // 2] ^= 1
    path.write_bytes(content[:-1] if damage == "cut" else content)
    expected = f"{path.name} has .* bytes instead of" if damage == "cut" else f"{path.name} is not the file"
    refusal(expected, folder, export)


@pytest.mark.parametrize("content", [b"", b"\x08\x0a garbage", b"cut"])
def test_a_file_that_is_no_model_is_refused_though_the_manifest_agrees(copied, exported, content):
    path = copied / "image_encoder.onnx"
    path.write_bytes(path.read_bytes()[:5000] if content == b"cut" else content)
    manifest = json.loads((copied / MANIFEST).read_text())
    for file in manifest["files"]:
        if file["name"] == path.name:
            file |= {"size": path.stat().st_size, "sha256": file_digest(path)}
    (copied / MANIFEST).write_text(json.dumps(manifest))
    refusal("image_encoder.onnx (does not run in onnxruntime|takes)", copied, exported)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"version": 1, "opset": 18, "files": [{"name": "x"}]}'])
def test_a_damaged_manifest_is_named(copied, exported, content):
    (copied / MANIFEST).write_text(content)
    refusal(f"{MANIFEST} is damaged", copied, exported)


def test_a_manifest_may_not_name_files_elsewhere_nor_be_newer(copied, exported):
    manifest = json.loads((copied / MANIFEST).read_text())
    (copied / MANIFEST).write_text(json.dumps({**manifest, "version": 2}))
    refusal("has version 2, and only 1 is supported", copied, exported)
    manifest["files"][0]["name"] = "../image_encoder.onnx"
    (copied / MANIFEST).write_text(json.dumps(manifest))
    refusal("it names files in other folders", copied, exported)


def test_a_configuration_that_does_not_go_with_the_files_is_refused(copied):
    config = json.loads((copied / "config.json").read_text())
    config["vision_config"]["image_size"] = [16, 32]
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="its processor makes images of .*, its model reads"):
        load_model_and_processor(copied, runtime="onnx")
    with pytest.raises(ValueError, match="pixel_values.*goes with its config.json"):
        OnnxModel(copied, GADMSConfig.from_pretrained(copied))


def test_a_folder_of_the_other_kind_says_what_to_do(exported, copied):
    with pytest.raises(ValueError, match="holds an ONNX export and no weights for torch: add --runtime onnx"):
        load_model_and_processor(exported.folder)
    with pytest.raises(OSError, match="holds no ONNX export.*gadms export .* --format onnx"):
        load_model_and_processor(exported.source, runtime="onnx")
    with pytest.raises(ValueError, match="runtime = 'tensorrt' must be one of torch, onnx, onnx-int8"):
        load_model_and_processor(exported.source, runtime="tensorrt")
    manifest = json.loads((copied / MANIFEST).read_text())
    manifest["files"] = [file for file in manifest["files"] if "int8" not in file["name"]]
    (copied / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="holds no image_encoder_int8.onnx.*--int8, or take the runtime onnx"):
        load_model_and_processor(copied, runtime="onnx-int8")


# ---------------------------------------------------------------------------------------------------------------------
# Galleries.
# ---------------------------------------------------------------------------------------------------------------------
def test_a_fingerprint_is_that_of_the_files_in_their_runtime_wherever_they_lie(exported, copied, half_exported):
    config, processor = exported.model.config, exported.processor
    fingerprint = model_fingerprint(OnnxModel(exported.folder, config), processor)
    assert model_fingerprint(OnnxModel(copied, config), processor) == fingerprint
    others = [
        (exported.model, processor),
        (OnnxModel(exported.folder, config, "onnx-int8"), processor),
        (OnnxModel(half_exported.folder, half_exported.model.config), half_exported.processor),
    ]
    assert len({fingerprint, *(model_fingerprint(*other) for other in others)}) == 4
    processor = copy.deepcopy(processor)
    processor.image_processor.image_mean = [0.5, 0.5, 0.5]
    assert model_fingerprint(OnnxModel(exported.folder, config), processor) != fingerprint


def test_a_gallery_of_one_runtime_refuses_another(exported, tmp_path, images):
    model = OnnxModel(exported.folder, exported.model.config)
    PersonGallery.create(tmp_path / "gallery", model, exported.processor).add(
        PersonRecord(image, str(number)) for number, image in enumerate(images)
    )
    reopened = PersonGallery.open(tmp_path / "gallery", model, exported.processor)
    assert len(reopened.search("a red coat")) == len(images)
    for other in (exported.model, OnnxModel(exported.folder, exported.model.config, "onnx-int8")):
        runtime = "torch" if other is exported.model else "onnx-int8"
        with pytest.raises(ValueError, match=f"run by onnx.*run by {runtime}.*cannot be compared.*runtime"):
            PersonGallery.open(tmp_path / "gallery", other, exported.processor)


def test_a_gallery_remembers_its_runtime_and_one_without_is_of_torch(exported, tmp_path, monkeypatch):
    for runtime in ("onnx", "onnx-int8"):
        model = OnnxModel(exported.folder, exported.model.config, runtime)
        PersonGallery.create(tmp_path / runtime, model, exported.processor)
        built_with = gallery_model(tmp_path / runtime)
        assert (built_with.name, built_with.runtime) == (str(exported.folder), runtime)

    fields = gallery_schema.asdict
    monkeypatch.setattr(
        gallery_schema, "asdict", lambda record: {k: v for k, v in fields(record).items() if k != "runtime"}
    )
    PersonGallery.create(tmp_path / "old", exported.model, exported.processor)
    assert gallery_model(tmp_path / "old").runtime == "torch"
    PersonGallery.open(tmp_path / "old", exported.model, exported.processor)


def found(folder: Path, *options: object) -> list[tuple[str, float]]:
    options = ("--top-k", 12, "--json", "--out", folder / "result.png", *options)
    result = run("search", "a red coat", "--gallery", folder, *options)
    assert result.exit_code == 0, result.output
    return [(row["source"], row["score"]) for row in json.loads(result.stdout)]


@pytest.fixture
def persons(tmp_path) -> Path:
    folder = tmp_path / "persons"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (64, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def test_the_command_line_indexes_and_searches_in_onnx_as_in_torch(exported, tmp_path, persons):
    for name, folder, options in (
        ("torch", exported.source, []),
        ("onnx", exported.folder, ["--runtime", "onnx"]),
        ("int8", exported.folder, ["--runtime", "onnx-int8"]),
    ):
        result = run("index", "--source", persons, "--gallery", tmp_path / name, "--model", folder, *options)
        assert result.exit_code == 0, result.output
    in_torch, in_onnx, in_int8 = (found(tmp_path / name) for name in ("torch", "onnx", "int8"))
    assert [source for source, _ in in_onnx] == [source for source, _ in in_torch]
    assert np.allclose([score for _, score in in_onnx], [score for _, score in in_torch], atol=1e-4)
    differences = [abs(dict(in_int8)[source] - score) for source, score in in_torch]
    assert 1e-6 < max(differences) < 0.05
    assert found(tmp_path / "onnx", "--runtime", "onnx", "--model", exported.folder) == in_onnx


def test_the_command_line_refuses_the_wrong_runtime_in_one_line(exported, tmp_path, persons):
    PersonGallery.create(tmp_path / "g", OnnxModel(exported.folder, exported.model.config), exported.processor)
    search, index = ["search", "a coat", "--gallery", tmp_path / "g"], ["index", "--source", persons, "--gallery"]
    for arguments, message in (
        ([*search, "--runtime", "onnx-int8"], "cannot be compared"),
        ([*search, "--model", exported.source, "--runtime", "torch"], "run by torch"),
        ([*index, tmp_path / "new", "--model", exported.folder], "add --runtime onnx"),
        ([*index, tmp_path / "new", "--model", exported.source, "--runtime", "onnx"], "--format onnx"),
        ([*index, tmp_path / "new", "--model", exported.folder, "--runtime", "onx"], "must be one of torch"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 1 and message in errors[0], result.stderr
    assert not (tmp_path / "new").exists()
