"""Exports for sentence-transformers encode captions and images in a process without this package."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import modeling_gadms
from modeling_gadms.conversion.sentence_transformers_export import export_sentence_transformers
from modeling_gadms.conversion.sentence_transformers_module import GADMSEncoder
from modeling_gadms.encoders.encoding import encode_captions, encode_images
from modeling_gadms.encoders.loading import load_model_and_processor
from tests.modeling_gadms.without_package import run_without_package


pytestmark = pytest.mark.slow


SHIPPED = {path.name for path in Path(modeling_gadms.__file__).parent.glob("*_gadms.py")}
CAPTIONS = ["a woman in a red coat", "a man", "someone with a green shirt, grey trousers and a yellow bag " * 3]

PROGRAM = """
import numpy as np
from PIL import Image
from sentence_transformers import SentenceTransformer

try:
    SentenceTransformer(FOLDER, device="cpu")
except ValueError as error:
    assert "trust_remote_code=True" in str(error), error
else:
    sys.exit("loaded without being trusted")
assert not [name for name in sys.modules if name.startswith("transformers_modules.")], "code was executed"

def embed(folder):
    model = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
    images = [Image.open(path) for path in IMAGES]
    captions = model.encode(CAPTIONS)
    similarity = model.similarity(captions, model.encode(images)).numpy()
    assert model.similarity_fn_name == "cosine" and model.get_embedding_dimension() == captions.shape[1]
    return model, {"captions": captions, "images": model.encode(images, batch_size=2), "similarity": similarity}

model, first = embed(FOLDER)
model.save(AGAIN)
again, second = embed(AGAIN)
for name, value in first.items():
    assert np.array_equal(value, second[name]), name
np.savez(RESULT, **first)
"""


@pytest.fixture
def exported(model_folder, tmp_path) -> Path:
    return export_sentence_transformers(model_folder, tmp_path / "exported").target


@pytest.fixture
def encoder(model, processor) -> GADMSEncoder:
    return GADMSEncoder(model, copy.deepcopy(processor))  # other tests share the tokenizer


@pytest.fixture
def picture_files(tmp_path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    rng = np.random.default_rng(0)
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (64, 32, 3), dtype=np.uint8)).save(path)
    return paths


def test_captions_and_images_share_a_space_where_the_package_is_absent(
    tmp_path, exported, picture_files, model, processor
):
    """Requires `trust_remote_code`. Embeddings equal this package's, have unit length, and survive saving."""
    run_without_package(
        tmp_path,
        PROGRAM,
        FOLDER=exported,
        AGAIN=tmp_path / "again",
        RESULT=tmp_path / "result.npz",
        IMAGES=[str(path) for path in picture_files],
        CAPTIONS=CAPTIONS,
    )
    there = {name: torch.from_numpy(value) for name, value in np.load(tmp_path / "result.npz").items()}
    captions = encode_captions(model, processor, CAPTIONS, progress=False)
    images = encode_images(model, processor, [Image.open(path) for path in picture_files], progress=False)
    for name, expected in (("captions", captions), ("images", images)):
        torch.testing.assert_close(there[name], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(there[name].norm(dim=-1), torch.ones(len(expected)))
    torch.testing.assert_close(there["similarity"], captions @ images.T, rtol=0, atol=1e-5)


def test_the_folder_is_whole_and_still_one_of_this_package(exported, model):
    names = {path.name for path in exported.iterdir()}
    assert (
        SHIPPED | {"sentence_transformers_module.py", "modules.json", "model.safetensors", "tokenizer.json"} <= names
    )
    modules = json.loads((exported / "modules.json").read_text())
    assert [module["type"].rpartition(".")[2] for module in modules] == ["GADMSEncoder", "Normalize"]
    loaded, _ = load_model_and_processor(exported)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.cpu().state_dict().items())


def test_a_target_that_is_there_is_left_alone(model_folder, tmp_path):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(FileExistsError, match=f"{tmp_path} already exists"):
        export_sentence_transformers(model_folder, tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_a_source_that_is_no_model_leaves_nothing(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ValueError, match="not a GA-DMS one"):
        export_sentence_transformers(tmp_path / "source", tmp_path / "exported")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_prompt_precedes_captions_and_does_not_hide_empty_ones(encoder):
    features = encoder.preprocess(["a man", "a woman"], prompt="a photo of ")
    expected = encoder.processor(text=["a photo of a man", "a photo of a woman"])
    assert torch.equal(features["input_ids"], expected["input_ids"])
    with pytest.raises(ValueError, match="caption 1 is empty"):
        encoder.preprocess(["a man", " "], prompt="a photo of ")


@pytest.mark.parametrize(
    ("item", "match"),
    [
        (7, "a int is not a caption"),
        ({"text": "a man"}, "a dict is not a caption"),
        (np.zeros((4, 4, 3)), "a ndarray is not a caption"),
        (Image.new("RGB", (16, 32)), "a Image is not a caption"),
        ("https://example.org/person.jpg", "is the path of an image, not a caption"),
        ("  ", "is empty"),
    ],
)
def test_what_is_neither_a_caption_nor_an_image_is_refused(encoder, item, match):
    with pytest.raises(ValueError, match=match):
        encoder.preprocess(["a man", item])


def test_the_name_of_an_image_file_is_not_taken_for_a_caption(encoder, picture_files):
    with pytest.raises(ValueError, match="open it with PIL.Image.open"):
        encoder.preprocess([str(picture_files[0])])
    encoder.preprocess(["a caption that ends in nothing.png"])


def test_the_length_of_captions_can_be_lowered_but_not_beyond_the_positions(encoder):
    encoder.max_seq_length = 5
    features = encoder.preprocess([CAPTIONS[2]])
    assert features["input_ids"].shape == (1, 5) and encoder.max_seq_length == 5
    assert features["input_ids"][0, -1] == encoder.tokenizer.eos_token_id
    for wrong in (2, 25):
        with pytest.raises(ValueError, match=f"max_seq_length = {wrong} must lie between 3 and the model's 24"):
            encoder.max_seq_length = wrong


def test_half_precision_weights_give_embeddings_of_unit_length(model_folder, tmp_path, model, processor):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize

    half = SentenceTransformer(modules=[GADMSEncoder(model.bfloat16(), processor), Normalize()], device="cpu")
    for inputs in (["a man"], [Image.new("RGB", (16, 32), "red")]):
        embeds = torch.from_numpy(half.encode(inputs))
        torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(1))
