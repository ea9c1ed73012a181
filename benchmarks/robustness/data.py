"""The drawn persons of the robustness study, ready for training: pixels and tokens in memory.

All noise rates share the images, the true captions and the vocabulary. A caption at a higher rate is the caption at a
lower one with more wrong attributes.
"""

from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CLIPTokenizer

from dataset_scripts.drawn.persons.captions import Caption, word_mask_to_token_mask
from dataset_scripts.synthetic_persons import PersonSampler
from modeling_gadms import GADMSProcessor
from modeling_gadms.encoders.atomic_files import atomic_file
from modeling_gadms.training.tokenizer import train_tokenizer


IMAGE_SIZE = (96, 36)
"""Height and width in pixels: 8 x 3 patches of 12."""
LENGTH = 77
VOCABULARY = 1024
TEST_NOISE = 0.3
"""Noise rate of the captions on which scores are judged, for every rate in training."""


@dataclass(frozen=True)
class Captions:
    """Two captions of each of N images, as tokens.

    Attributes:
        input_ids (`torch.ShortTensor` of shape `(N, 2, LENGTH)`): padded.
        lengths (`torch.LongTensor` of shape `(N, 2)`): tokens from BOS to EOS, both included.
        attribute (`torch.BoolTensor` of shape `(N, 2, LENGTH)`): tokens of attribute words.
        colour (`torch.BoolTensor` of shape `(N, 2, LENGTH)`): those among them of colour words.
        noise (`torch.BoolTensor` of shape `(N, 2, LENGTH)`): those among them of wrong words.
    """

    input_ids: torch.Tensor
    lengths: torch.Tensor
    attribute: torch.Tensor
    colour: torch.Tensor
    noise: torch.Tensor


@dataclass(frozen=True)
class Persons:
    """Images of a split, and their captions by noise rate.

    Attributes:
        pixels (`torch.ByteTensor` of shape `(N, 3, height, width)`)
        person_ids (`torch.LongTensor` of shape `(N,)`)
        captions (`dict[float, Captions]`): by rate.
    """

    pixels: torch.Tensor
    person_ids: torch.Tensor
    captions: dict[float, Captions]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.pixels.shape[-2:]
        return height, width


@dataclass(frozen=True)
class Size:
    """Number of drawn persons, and of images of each in training; a test person has one."""

    train_persons: int
    images_per_person: int
    test_persons: int


def load(folder: Path, size: Size, rates: tuple[float, ...], processes: int = 2) -> dict[str, Any]:
    """Draw the persons, or read them if they were drawn before.

    Args:
        folder (`Path`): where they are stored.
        size (`Size`): number of persons and images.
        rates (`tuple[float, ...]`): shares of wrong attributes in training captions.
        processes (`int`): number of drawing processes; the rows do not depend on it.

    Returns:
        `dict`: `train` and `test` as [`Persons`], `tokenizer`. Test captions have no noise, or that of `TEST_NOISE`.
    """
    path = folder / f"persons-{size.train_persons}x{size.images_per_person}-{size.test_persons}.pt"
    tokenizer_folder = folder / f"tokenizer-{size.train_persons}x{size.images_per_person}"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        sampler = PersonSampler(0, "train")
        texts = [
            caption.text
            for person in range(size.train_persons)
            for image in range(size.images_per_person)
            for caption in sampler.captions(person, image, noise=0.0)
        ]
        train_tokenizer(texts, vocab_size=VOCABULARY, max_length=LENGTH).save_pretrained(tokenizer_folder)
        counts = (size.train_persons, size.images_per_person)
        splits = {
            "train": _draw("train", *counts, rates, tokenizer_folder, processes),
            "test": _draw("test", size.test_persons, 1, (0.0, TEST_NOISE), tokenizer_folder, processes),
        }
        with atomic_file(path) as part:
            torch.save({split: _plain(persons) for split, persons in splits.items()}, part)
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    stored = torch.load(path, weights_only=True)
    return {split: _from_plain(values) for split, values in stored.items()} | {"tokenizer": tokenizer}


def normalised(pixels: torch.Tensor, processor: GADMSProcessor) -> torch.Tensor:
    """Normalised pixels for the image encoder: `torch.FloatTensor` of the shape of `pixels`."""
    mean = torch.tensor(processor.image_processor.image_mean)[:, None, None]
    std = torch.tensor(processor.image_processor.image_std)[:, None, None]
    return (pixels.float() / 255 - mean) / std


def _draw(
    split: str, persons: int, images: int, rates: tuple[float, ...], tokenizer_folder: Path, processes: int
) -> Persons:
    # Spawned, not forked: the libraries of this process may hold locks.
    with get_context("spawn").Pool(processes, _prepare, (str(tokenizer_folder), rates)) as pool:
        rows = pool.starmap(_row, [(split, person, image) for person in range(persons) for image in range(images)], 64)
    pixels = torch.from_numpy(np.stack([picture for picture, _ in rows])).permute(0, 3, 1, 2).contiguous()
    captions = {}
    for place, rate in enumerate(rates):
        ids, *masks = (
            torch.from_numpy(np.stack(part)) for part in zip(*(written[place] for _, written in rows), strict=True)
        )
        lengths = (ids == ids[0, 0, -1]).int().argmax(dim=-1)  # the padding is EOS
        captions[rate] = Captions(ids, lengths + 1, *masks)
    return Persons(pixels, torch.arange(persons).repeat_interleave(images), captions)


def _prepare(tokenizer_folder: str, rates: tuple[float, ...]) -> None:
    global _tokenizer, _rates
    _tokenizer, _rates = CLIPTokenizer.from_pretrained(tokenizer_folder), rates


def _row(split: str, person: int, image: int) -> tuple[np.ndarray, list[tuple[np.ndarray, ...]]]:
    """An image, and by rate the fields of [`Captions`] except the lengths, each (2, LENGTH)."""
    sampler = PersonSampler(0, split)
    picture, _ = sampler.draw(person, image, IMAGE_SIZE)
    written = [_tokens(sampler.captions(person, image, noise=rate)) for rate in _rates]
    return np.asarray(picture), written


def _tokens(captions: tuple[Caption, Caption]) -> tuple[np.ndarray, ...]:
    texts = [caption.text for caption in captions]
    ids = _tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="np")["input_ids"]
    masks = [
        np.array([word_mask_to_token_mask(caption.text, places(caption), _tokenizer, LENGTH) for caption in captions])
        for places in (_attributes, _colours, _noise)
    ]
    return ids.astype(np.int16), *masks


def _attributes(caption: Caption) -> list[int]:
    return caption.attribute_positions


def _colours(caption: Caption) -> list[int]:
    mentions = (mention for mention in caption.mentions if "color" in mention.field)
    return sorted(place for mention in mentions for place in mention.positions)


def _noise(caption: Caption) -> list[int]:
    return caption.noise_positions


def _plain(persons: Persons) -> dict[str, Any]:
    captions = {rate: vars(captions) for rate, captions in persons.captions.items()}
    return {"pixels": persons.pixels, "person_ids": persons.person_ids, "captions": captions}


def _from_plain(values: dict[str, Any]) -> Persons:
    captions = {rate: Captions(**captions) for rate, captions in values["captions"].items()}
    return Persons(values["pixels"], values["person_ids"], captions)
