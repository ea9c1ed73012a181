"""A tiny model with random weights and a byte-level tokenizer, for the tests of search."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from modeling_gadms import GADMSConfig, GADMSModel, GADMSProcessor


def save_tiny_model(folder: Path, seed: int = 0) -> None:
    """Save a model of 32 dimensions and its processor: images of 32x16, captions of at most 40 tokens."""
    # Latin-1 letters stand for the bytes; "red" is one token, "coat" two, "jacket" six, an emoji four.
    letters = [*map(chr, range(33, 127)), *map(chr, range(161, 173)), *map(chr, range(174, 256))]
    letters += [chr(256 + index) for index in range(256 - len(letters))]
    pieces = [*letters, *(letter + "</w>" for letter in letters), "re", "red</w>", "co", "at</w>"]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=[("r", "e"), ("re", "d</w>"), ("c", "o"), ("a", "t</w>")],
        model_max_length=40,
    )
    processor = GADMSProcessor.from_tokenizer(tokenizer, image_size=(32, 16))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = GADMSConfig(
        text_config=CLIPTextConfig(
            **sizes,
            vocab_size=len(tokenizer),
            max_position_embeddings=40,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ).to_dict(),
        vision_config=CLIPVisionConfig(**sizes, image_size=(32, 16), patch_size=8).to_dict(),
        projection_dim=32,
        mask_token_id=tokenizer.mask_token_id,
        score_layers=2,
    )
    torch.manual_seed(seed)
    GADMSModel(config).save_pretrained(folder)
    processor.save_pretrained(folder)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "first"
    save_tiny_model(folder)
    return folder


@pytest.fixture(scope="session")
def other_model_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "second"
    save_tiny_model(folder, seed=1)
    return folder


@pytest.fixture(scope="session")
def model(model_folder) -> GADMSModel:
    return GADMSModel.from_pretrained(model_folder).eval()


@pytest.fixture(scope="session")
def processor(model_folder) -> GADMSProcessor:
    return GADMSProcessor.from_pretrained(model_folder)


@pytest.fixture(scope="session")
def person_folder(tmp_path_factory) -> Path:
    """Twelve sound images, and six files that `load_image` refuses, one for each reason that a file can have."""
    folder = tmp_path_factory.mktemp("persons")
    rng = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (64, 32, 3), dtype=np.uint8)).save(folder / f"person{number:02d}.png")
    content = (folder / "person00.png").read_bytes()
    (folder / "cut.png").write_bytes(content[: len(content) // 2])
    (folder / "empty.jpg").touch()
    (folder / "letter.jpg").write_text("Dear Sir or Madam")
    (folder / "notes.txt").write_text("not counted: no image suffix")
    Image.new("RGB", (1, 1)).save(folder / "beacon.png")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    Image.new("1", (9_500, 9_500)).save(folder / "vast.png")
    return folder
