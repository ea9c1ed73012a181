"""A folder in which the commands and Python blocks of a page run as a reader would run them.

It contains what the pages name: tiny models from random weights (`MODEL`, `me/my-model`, the default model), images of
drawn persons (`persons/`, `person.jpg`, `a.jpg`, `b.jpg`), full frames (`frames/`), videos (`cctv.mp4`, `gate3.mp4`),
a table (`products.csv`) and data sets (`data/persons`, `data/my_persons`).
"""

import csv
import shutil
from pathlib import Path

import cv2
import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from dataset_scripts.synthetic_persons import PersonSampler
from modeling_gadms import GADMSForPreTraining
from modeling_gadms.encoders.default_model import DEFAULT_MODEL
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord
from tests.docs.pages import ROOT
from tests.dual_encoders import save_dual_encoder


PERSONS = 6
CAPTIONS = ("a man in a red coat", "a woman in a blue jacket and jeans", "a man in a suit")


@pytest.fixture(scope="module")
def drawn_persons() -> list[Image.Image]:
    sampler = PersonSampler(0, "train")
    return [sampler.draw(index, 0, (216, 72))[0] for index in range(PERSONS)]


def write_video(path: Path, person: Image.Image, frames: int) -> None:
    """A person who walks past a grey wall, at ten frames a second."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (320, 240))
    for number in range(frames):
        writer.write(np.asarray(frame_with(person, 40 + 4 * number))[..., ::-1])
    writer.release()


def frame_with(person: Image.Image, left: int) -> Image.Image:
    frame = Image.effect_noise((320, 240), 20).convert("RGB")
    frame.paste(person, (left, 15))
    return frame


@pytest.fixture
def story(tmp_path, monkeypatch, drawn_persons, tiny_config, processor) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("benchmarks", "examples", "modeling_gadms"):
        (tmp_path / name).symlink_to(ROOT / name)
    torch.manual_seed(0)
    heads = {"hidden_size": 64, "num_attention_heads": 1}  # 64 wide, as OpenAI's layout supposes
    config = tiny_config(text_config=heads, vision_config=heads, projection_dim=64, fusion_num_attention_heads=1)
    GADMSForPreTraining(config).save_pretrained("MODEL")
    processor.save_pretrained("MODEL")
    shutil.copytree("MODEL", "me/my-model")
    save_dual_encoder("SigLIP 2", Path(DEFAULT_MODEL))

    Path("persons").mkdir()
    Path("frames").mkdir()
    for number, person in enumerate(drawn_persons):
        person.save(f"persons/person{number:02d}.png")
        frame_with(person, 100).save(f"frames/{number:06d}.jpg")
    for name, person in zip(("person.jpg", "a.jpg", "b.jpg"), drawn_persons, strict=False):
        person.save(name)
    write_video(Path("cctv.mp4"), drawn_persons[0], 20)
    write_video(Path("gate3.mp4"), drawn_persons[1], 6)

    with open("products.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image_path", "title", "price"])
        rows.writerows(
            [f"persons/person{number:02d}.png", f"coat {number}", 20.5 + number] for number in range(PERSONS)
        )
    rows = {
        "image": drawn_persons,
        "caption": [CAPTIONS[number % len(CAPTIONS)] for number in range(PERSONS)],
        "person_id": list(range(PERSONS)),
    }
    features = datasets.Features(
        {"image": datasets.Image(), "caption": datasets.Value("string"), "person_id": datasets.Value("int64")}
    )
    splits = datasets.DatasetDict(
        {
            name: datasets.Dataset.from_dict({column: values[half] for column, values in rows.items()}, features)
            for name, half in (("train", slice(0, 3)), ("test", slice(3, None)))
        }
    )
    for name in ("data/persons", "data/my_persons"):
        splits.save_to_disk(name)
    return tmp_path


@pytest.fixture
def my_gallery(story, drawn_persons) -> Path:
    """For pages that search a gallery without making it."""
    gallery = PersonGallery.create("my_gallery", *load_model_and_processor("MODEL"))
    gallery.add(PersonRecord(person, f"p{number}.png", camera="gate-2") for number, person in enumerate(drawn_persons))
    return story / "my_gallery"
