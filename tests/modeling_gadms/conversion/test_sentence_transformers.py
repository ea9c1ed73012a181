"""sentence-transformers encodes captions and images with a saved folder as it is, where this package is absent."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_gadms.encoders.encoding import encode_captions, encode_images
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.training.adapters import AdapterArguments, add_adapter
from modeling_gadms.training.model_setup import build_model_and_processor
from modeling_gadms.training.run_config import ModelArguments
from tests.command_line import run
from tests.modeling_gadms.without_package import run_without_package


pytestmark = pytest.mark.slow


CAPTIONS = [
    "a man",
    "someone with a green shirt, grey trousers and a yellow bag " * 3,  # longer than the model's positions
    "a woman in a red coat",
    "A MAN<|endoftext|> in <|mask|> black",  # plain text, not special tokens
    "a  man’s &amp; a woman's coat",
]
PROMPT = "a photo of "
SIZES = [(64, 32), (20, 50), (30, 300), (7, 7)]  # width, height

PROGRAM = """
import numpy as np
from PIL import Image
from sentence_transformers import SentenceTransformer

try:
    SentenceTransformer(FOLDERS["model"], device="cpu")
except ValueError as error:
    assert "trust_remote_code=True" in str(error), error
else:
    sys.exit("loaded without being trusted")
assert not [name for name in sys.modules if name.startswith("transformers_modules.")], "code was executed"

def embed(model):
    images = [Image.open(path) for path in IMAGES]
    model.similarity_fn_name == "cosine" or sys.exit(model.similarity_fn_name)
    captions = model.encode(CAPTIONS)
    assert model.get_embedding_dimension() == captions.shape[1]
    return {
        "captions": model.encode(CAPTIONS, normalize_embeddings=True),
        "captions in small batches": model.encode(CAPTIONS, batch_size=2, normalize_embeddings=True),
        "one caption": model.encode(CAPTIONS[0], normalize_embeddings=True)[None],
        "one prompted": model.encode(CAPTIONS[2], prompt=PROMPT, normalize_embeddings=True)[None],
        "all prompted": model.encode(CAPTIONS, prompt=PROMPT, normalize_embeddings=True),
        "images": model.encode(images, batch_size=3, normalize_embeddings=True),
        "one image": model.encode(images[2], normalize_embeddings=True)[None],
        "similarity": model.similarity(captions, model.encode(images)).numpy(),
    }

embeds = {}
for name, folder in FOLDERS.items():
    model = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
    embeds |= {f"{name}: {kind}": value for kind, value in embed(model).items()}
    try:
        model.encode(["a man", " "])
    except ValueError as error:
        assert "caption 1 is empty" in str(error), error
    else:
        sys.exit("an empty caption was encoded")
model = SentenceTransformer(FOLDERS["model"], trust_remote_code=True, device="cpu")
model.save(AGAIN)
model = SentenceTransformer(AGAIN, trust_remote_code=True, device="cpu")
np.savez(RESULT, **embeds, **{f"again: {kind}": value for kind, value in embed(model).items()})
"""


@pytest.fixture
def folders(tmp_path, model_folder, processor) -> dict[str, Path]:
    """A saved model, one whose captions are cleaned, and an adapter."""
    model, _ = load_model_and_processor(model_folder)
    model.save_pretrained(tmp_path / "cleaned")
    type(processor)(processor.image_processor, processor.tokenizer, clean_text=True).save_pretrained(
        tmp_path / "cleaned"
    )
    start = ModelArguments(from_pretrained=str(model_folder), config={"num_identities": 3})
    adapter = add_adapter(build_model_and_processor(start, [])[0], AdapterArguments(), str(model_folder))
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    adapter.save_pretrained(tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")
    return {"model": model_folder, "cleaned": tmp_path / "cleaned", "adapter": tmp_path / "adapter"}


@pytest.fixture
def picture_files(tmp_path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(len(SIZES) + 1)]
    for path, (width, height) in zip(paths, SIZES, strict=False):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    Image.new("L", (20, 50), 99).save(paths[-1])
    return paths


def test_embeddings_are_those_of_this_package(tmp_path, folders, picture_files):
    run_without_package(
        tmp_path,
        PROGRAM,
        FOLDERS={name: str(folder) for name, folder in folders.items()},
        AGAIN=tmp_path / "again",
        RESULT=tmp_path / "result.npz",
        IMAGES=[str(path) for path in picture_files],
        CAPTIONS=CAPTIONS,
        PROMPT=PROMPT,
    )
    there = {name: torch.from_numpy(value) for name, value in np.load(tmp_path / "result.npz").items()}
    images = [Image.open(path) for path in picture_files]
    for name, folder in {**folders, "again": tmp_path / "again"}.items():
        model, processor = load_model_and_processor(folder)
        captions = encode_captions(model, processor, CAPTIONS, progress=False)
        prompted = encode_captions(model, processor, [PROMPT + caption for caption in CAPTIONS], progress=False)
        pictures = encode_images(model, processor, images, progress=False)
        expected = {
            "captions": captions,
            "captions in small batches": captions,
            "one caption": captions[:1],
            "one prompted": prompted[2:3],
            "all prompted": prompted,
            "images": pictures,
            "one image": pictures[2:3],
            "similarity": captions @ pictures.T,
        }
        for kind, values in expected.items():
            torch.testing.assert_close(there.pop(f"{name}: {kind}"), values, rtol=0, atol=1e-5, msg=f"{name}: {kind}")
    assert not there


def test_the_command_says_that_nothing_needs_to_be_exported(tmp_path, model_folder, capsys):
    result = run("export", model_folder, tmp_path / "exported", "--format", "sentence-transformers")
    assert result.exit_code == 2 and not (tmp_path / "exported").exists()
    (line,) = result.stderr.splitlines()
    assert "sentence-transformers loads" in line and "as it is" in line
    names: dict[str, object] = {}
    exec(result.stdout, names)  # the two lines that load the folder
    embeds = names["model"].encode(CAPTIONS, normalize_embeddings=True)
    expected = encode_captions(*load_model_and_processor(model_folder), CAPTIONS, progress=False)
    torch.testing.assert_close(torch.from_numpy(embeds), expected, rtol=0, atol=1e-5)
