"""Saved folders contain the model's code, which runs without this package."""

import ast
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import modeling_gadms
from modeling_gadms import GADMSForPreTraining, GADMSModel, GADMSProcessor
from tests.dual_encoders import save_dual_encoder
from tests.modeling_gadms.without_package import run_without_package


pytestmark = pytest.mark.slow


PACKAGE = Path(modeling_gadms.__file__).parent
SHIPPED = {
    "configuration_gadms.py",
    "losses_gadms.py",
    "masking_gadms.py",
    "modeling_gadms.py",
    "packing_gadms.py",
    "pipeline_gadms.py",
    "processing_gadms.py",
    "token_scoring_gadms.py",
}
# ftfy is optional: only captions that it may change need it.
SHIPPED_IMPORTS = {"torch", "transformers", "huggingface_hub", "ftfy"} | set(sys.stdlib_module_names)


def imports_of(path: Path) -> tuple[set[str], set[str]]:
    """Modules of this package, without the leading dot, and top-level names of all others; also inside functions."""
    own, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1, f"{path.name} imports from above its folder"
            own |= {node.module} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            others.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            others |= {alias.name.split(".")[0] for alias in node.names}
    return own, others


# Imports.


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_shipped_files_import_each_other_torch_and_transformers_alone(name):
    own, others = imports_of(PACKAGE / name)
    assert others <= SHIPPED_IMPORTS
    assert {f"{module}.py" for module in own} <= SHIPPED  # flat: no dots, nothing that stays behind


def test_files_that_ship_and_no_others_carry_the_suffix():
    assert {path.name for path in PACKAGE.rglob("*_gadms.py")} == SHIPPED


# A folder without the package.

UNTRUSTED = """
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor

task = "zero-shot-image-classification"
loaders = {
    "AutoConfig": AutoConfig.from_pretrained,
    "AutoModel": AutoModel.from_pretrained,
    "AutoModelForPreTraining": AutoModelForPreTraining.from_pretrained,
    "AutoModelForZeroShotImageClassification":
        transformers.AutoModelForZeroShotImageClassification.from_pretrained,
    "AutoProcessor": AutoProcessor.from_pretrained,
    "pipeline": lambda folder, **options: transformers.pipeline(task, model=folder, **options),
}
for name, load in loaders.items():
    for trust in (None, False):
        try:
            load(FOLDER, trust_remote_code=trust)
        except ValueError as error:
            assert "trust_remote_code=True" in str(error), error
        else:
            sys.exit(f"{name} loaded with trust_remote_code={trust}")
assert not [name for name in sys.modules if name.startswith("transformers_modules.")], "code was executed"
"""

EMBED = """
import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor

task = "zero-shot-image-classification"
config = AutoConfig.from_pretrained(FOLDER, trust_remote_code=True)
model = AutoModel.from_pretrained(FOLDER, trust_remote_code=True).eval()
training_model = AutoModelForPreTraining.from_pretrained(FOLDER, trust_remote_code=True).train()
processor = AutoProcessor.from_pretrained(FOLDER, trust_remote_code=True)
names = [type(x).__name__ for x in (config, model, training_model, processor)]
assert names == ["GADMSConfig", "GADMSModel", "GADMSForPreTraining", "GADMSProcessor"], names
assert all(type(x).__module__.startswith("transformers_modules.") for x in (config, model, training_model, processor))

images = [Image.new("RGB", (20, 50), color) for color in ("red", "green")]
inputs = processor(images=images, text=["a man in a red coat", "a woman"])
with torch.inference_mode():
    outputs = model(**inputs)
    scores = model.score_tokens(inputs["input_ids"], inputs["attention_mask"], outputs.image_embeds)
training_model(**inputs).mtp_loss.backward()
classify = transformers.pipeline(task, model=FOLDER, trust_remote_code=True)
descriptions = ["a man in a red coat", "a woman"]
labelled = classify(images[0], candidate_labels=descriptions, hypothesis_template="{}")
shares = {entry["label"]: entry["score"] for entry in labelled}
expected = outputs.logits_per_image[0].softmax(-1)
torch.testing.assert_close(torch.tensor([shares[text] for text in descriptions]), expected)
search = transformers.pipeline("text-to-person-retrieval", model=FOLDER, trust_remote_code=True)
images = [Image.new("RGB", (20, 50), color) for color in ("red", "green")]
(best, other) = search("a man in a red coat", images=images)
ranked = torch.nn.functional.cosine_similarity(outputs.image_embeds, outputs.text_embeds[:1])
assert [best["index"], other["index"]] == ranked.argsort(descending=True).tolist()
torch.testing.assert_close(torch.tensor([best["score"], other["score"]]), ranked.sort(descending=True).values)
torch.save({"image": outputs.image_embeds, "text": outputs.text_embeds, "scores": scores}, RESULT)
"""

SAVE_AGAIN = """
training_model.save_pretrained(AGAIN)
processor.save_pretrained(AGAIN)
"""

SIGLIP = """
siglip = AutoModelForPreTraining.from_pretrained(SIGLIP_FOLDER, trust_remote_code=True).eval()
assert siglip.token_head.decoder.weight is siglip.gadms.text_model.embeddings.token_embedding.weight
siglip_inputs = AutoProcessor.from_pretrained(SIGLIP_FOLDER, trust_remote_code=True)(images=images, text=descriptions)
with torch.inference_mode():
    outputs = siglip.gadms(**siglip_inputs)
torch.save({"image": outputs.image_embeds, "text": outputs.text_embeds}, SIGLIP_RESULT)
siglip.save_pretrained(SIGLIP_AGAIN)
"""


@pytest.fixture
def siglip_folder(tmp_path) -> Path:
    """GA-DMS on SigLIP 2, with a token head that shares the embeddings."""
    checkpoint, folder = save_dual_encoder("SigLIP 2", tmp_path / "siglip2"), tmp_path / "siglip"
    settings = {"score_layers": 1, "fusion_num_attention_heads": 2, "tie_word_embeddings": True}
    GADMSForPreTraining.from_dual_encoder(checkpoint, image_size=(32, 16), **settings).save_pretrained(folder)
    GADMSProcessor.from_dual_encoder(checkpoint, image_size=(32, 16)).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path, tiny_model, processor) -> Path:
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_folder_holds_the_shipped_code_as_it_is(folder):
    assert {path.name for path in folder.glob("*.py")} == SHIPPED
    for name in SHIPPED:
        assert (folder / name).read_bytes() == (PACKAGE / name).read_bytes()


def test_a_retrieval_model_alone_ships_its_code(tmp_path, tiny_model):
    tiny_model().gadms.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == SHIPPED - {"processing_gadms.py"}


def test_a_folder_runs_where_the_package_is_absent(tmp_path, folder, siglip_folder, processor):
    """Not before it is trusted; then equal to here; and once more after being saved from there."""
    again = tmp_path / "again"
    run_without_package(
        tmp_path,
        UNTRUSTED + EMBED + SAVE_AGAIN + SIGLIP,
        FOLDER=folder,
        RESULT=tmp_path / "first.pt",
        AGAIN=again,
        SIGLIP_FOLDER=siglip_folder,
        SIGLIP_RESULT=tmp_path / "siglip.pt",
        SIGLIP_AGAIN=tmp_path / "siglip_again",
    )
    assert {path.name for path in again.glob("*.py")} == SHIPPED
    run_without_package(tmp_path, EMBED, FOLDER=again, RESULT=tmp_path / "second.pt")

    images = [Image.new("RGB", (20, 50), color) for color in ("red", "green")]
    inputs = processor(images=images, text=["a man in a red coat", "a woman"])
    model = GADMSModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        outputs = model(**inputs)
        scores = model.score_tokens(inputs["input_ids"], inputs["attention_mask"], outputs.image_embeds)
    for name in ("first.pt", "second.pt"):
        there = torch.load(tmp_path / name)
        torch.testing.assert_close(there["image"], outputs.image_embeds)
        torch.testing.assert_close(there["text"], outputs.text_embeds)
        torch.testing.assert_close(there["scores"], scores, rtol=0, atol=1e-5)
    for saved in (siglip_folder, tmp_path / "siglip_again"):
        siglip, there = GADMSModel.from_pretrained(saved).eval(), torch.load(tmp_path / "siglip.pt")
        texts = ["a man in a red coat", "a woman"]
        with torch.inference_mode():
            outputs = siglip(**GADMSProcessor.from_pretrained(siglip_folder)(images=images, text=texts))
        torch.testing.assert_close(there["image"], outputs.image_embeds)
        torch.testing.assert_close(there["text"], outputs.text_embeds)
    # What was saved there loads here, by the package's own classes.
    assert torch.equal(GADMSModel.from_pretrained(again).visual_projection.weight, model.visual_projection.weight)
