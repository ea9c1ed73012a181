"""What builders of drawn data sets share: splits, random numbers of a row, and the name in the cache."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import datasets
import numpy as np


SPLITS = ("train", "validation", "test")


class DrawnConfig(datasets.BuilderConfig):
    """What to draw; every field is part of the cache's name."""

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Returns: a name made of every field's value, whether it was given or is the default."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values = {name: value for name, value in values.items() if name not in ("name", "version", "description")}
        name: str = super().create_config_id(values, custom_features)
        return name


def row_generator(seed: int, *key: int) -> np.random.Generator:
    """Random numbers of their own for each key: what is drawn from one shifts no other."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def split_generators(counts: Mapping[str, int], per_shard: int) -> list[datasets.SplitGenerator]:
    """The splits of a data set, in shards that processes share out.

    Args:
        counts (`Mapping[str, int]`): by split, how many identities it has; they are numbered through all splits.
        per_shard (`int`): identities of a shard.

    Returns:
        `list`: each with `split`; `first_id`, its first identity's number; and `shards`, pairs
        of the first index in the split and the one after the last.
    """
    generators, first_id = [], 0
    for split, count in counts.items():
        shards = [(start, min(start + per_shard, count)) for start in range(0, count, per_shard)]
        gen_kwargs = {"split": split, "first_id": first_id, "shards": shards}
        generators.append(datasets.SplitGenerator(name=split, gen_kwargs=gen_kwargs))
        first_id += count
    return generators
