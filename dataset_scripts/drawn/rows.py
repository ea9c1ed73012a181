"""Shared by the builders of drawn data sets: configuration, splits, and random numbers for each row."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import datasets
import numpy as np


SPLITS = ("train", "validation", "test")


class DrawnConfig(datasets.BuilderConfig):
    """Configuration of a drawn data set. Every field is part of the cache's name."""

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Returns: a name made of the values of all fields, including defaults."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values = {name: value for name, value in values.items() if name not in ("name", "version", "description")}
        name: str = super().create_config_id(values, custom_features)
        return name


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


def height_and_width(value: Any) -> tuple[int, int]:
    """Check an `image_size`. Raises ValueError: if it is not a pair of positive integers."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or len(value) != 2:
        raise ValueError(f"image_size must be a pair (height, width), got {value!r}")
    return whole_number("image_size[0]", value[0], least=1), whole_number("image_size[1]", value[1], least=1)


def row_generator(seed: int, *key: int) -> np.random.Generator:
    """A random generator for each key. Numbers drawn from one do not affect another."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def split_generators(counts: Mapping[str, int], per_shard: int) -> list[datasets.SplitGenerator]:
    """The splits of a data set, in shards that can be distributed over processes.

    Args:
        counts (`Mapping[str, int]`): number of identities of each split. They are numbered across all splits.
        per_shard (`int`): identities per shard.

    Returns:
        `list`: generators with the arguments `split`, `first_id` (number of the first identity), and `shards` (pairs
        of the first index in the split and the index after the last).
    """
    generators, first_id = [], 0
    for split, count in counts.items():
        shards = [(start, min(start + per_shard, count)) for start in range(0, count, per_shard)]
        gen_kwargs = {"split": split, "first_id": first_id, "shards": shards}
        generators.append(datasets.SplitGenerator(name=split, gen_kwargs=gen_kwargs))
        first_id += count
    return generators
