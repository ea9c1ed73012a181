"""Shared by the builders of drawn data sets: configuration, splits, rows, and random numbers for each row."""

import operator
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar

import datasets
import numpy as np


SPLITS = ("train", "validation", "test")
IDENTITIES_PER_SHARD = 64


class DrawnConfig(datasets.BuilderConfig):
    """Configuration of a drawn data set. Every field is part of the cache's name.

    Whole numbers must be at least 1, the seed at least 0.
    """

    NOUN: ClassVar[str]
    """What an identity is: `num_{split}_{noun}s`, `images_per_{noun}` and `{noun}_id` are named after it."""
    WIDTH: ClassVar[tuple[int, int]]
    HEIGHT_BY_WIDTH: ClassVar[tuple[float, float]]
    image_size: tuple[int, int]
    seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in fields(self):
            if field.type is int:
                number = whole_number(field.name, getattr(self, field.name), least=0 if field.name == "seed" else 1)
                setattr(self, field.name, number)
        size: Any = self.image_size
        if isinstance(size, (str, bytes)) or not isinstance(size, Sequence) or len(size) != 2:
            raise ValueError(f"image_size must be a pair (height, width), got {size!r}")
        height, width = (whole_number(f"image_size[{place}]", size[place], least=1) for place in range(2))
        for name, value, (low, high), unit in (
            ("height", height, (32, 1024), "pixels"),
            ("width", width, self.WIDTH, "pixels"),
            ("height", height / width, self.HEIGHT_BY_WIDTH, "times the width"),
        ):
            if not low <= value <= high:
                raise ValueError(
                    f"image_size is (height, width): the {name} must be {low} to {high} {unit}, got {size!r}"
                )
        self.image_size = height, width

    def identities(self, split: str) -> int:
        """Returns: number of persons or products of a split."""
        return getattr(self, f"num_{split}_{self.NOUN}s")

    def images(self, split: str) -> int:
        """Returns: number of images of each."""
        return getattr(self, f"images_per_{self.NOUN}")

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Returns: a name made of the values of all fields, including defaults."""
        values = {name: value for name, value in vars(self).items() if name not in ("name", "version", "description")}
        return str(super().create_config_id(values, custom_features))


class DrawnRows(datasets.GeneratorBasedBuilder):
    """Base class of the builders. Identities are numbered across all splits."""

    FEATURES: ClassVar[Mapping[str, Any]]
    """Columns besides image, captions and number of the identity."""
    config: DrawnConfig

    @abstractmethod
    def row(self, split: str, index: int, image: int) -> tuple[bytes, dict[str, Any]]:
        """Returns: one image as the content of a file, and the other columns of its row."""

    def _info(self) -> datasets.DatasetInfo:
        text = datasets.Value("string")
        columns = {"image": datasets.Image(), **dict.fromkeys(("image_path", "caption1", "caption2"), text)}
        features = datasets.Features({**columns, f"{self.config.NOUN}_id": datasets.Value("int64"), **self.FEATURES})
        return datasets.DatasetInfo(description=self.__doc__, features=features)

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        generators, first_id = [], 0
        for split in SPLITS:
            indices = range(self.config.identities(split))
            # `datasets` distributes lists over processes.
            shards = [indices[start : start + IDENTITIES_PER_SHARD] for start in indices[::IDENTITIES_PER_SHARD]]
            arguments = {"split": split, "first_id": first_id, "shards": shards}
            generators.append(datasets.SplitGenerator(name=split, gen_kwargs=arguments))
            first_id += len(indices)
        return generators

    def _generate_examples(
        self, split: str, first_id: int, shards: list[range]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        images = self.config.images(split)
        for index in (index for shard in shards for index in shard):
            for image in range(images):
                content, columns = self.row(split, index, image)
                path = f"{split}/{first_id + index:06d}_{image:02d}.jpg"
                columns |= {"image": {"bytes": content, "path": path}, "image_path": path}
                yield index * images + image, columns | {f"{self.config.NOUN}_id": first_id + index}


class RowSampler:
    """Base class of the samplers of one seed and split.

    Args:
        seed (`int`): the data set's seed.
        split (`str`): `"train"`, `"validation"` or `"test"`.
    """

    def __init__(self, seed: int, split: str) -> None:
        self.seed, self.split_index = seed, SPLITS.index(split)

    def _rng(self, *key: int) -> np.random.Generator:
        return row_generator(self.seed, self.split_index, *key)


def whole_number(name: str, value: Any, *, least: int) -> int:
    """Check a field of a configuration. Raises ValueError: if it is not an integer of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if number < least:
        raise ValueError(f"{name} must be {least} or more, got {number}")
    return number


def row_generator(seed: int, *key: int) -> np.random.Generator:
    """A random generator for each key. Numbers drawn from one do not affect another."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
