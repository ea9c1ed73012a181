"""Queries as people type them, with the drawn persons that each describes: "a person wearing a red coat"."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .words import PLURAL


# Fields of `Person` that a query names together with their colour.
_WORN, _CARRIED = ("upper", "lower", "shoes", "hat", "neck"), ("bag",)
Item = tuple[str, str, str]
"""A thing that a person wears or carries: field, kind and colour."""


@dataclass(frozen=True)
class ShortQuery:
    """A query and who fits it.

    Args:
        text (`str`): such as "a person wearing a red coat and carrying a black backpack".
        relevant (`tuple[int, ...]`): numbers of the rows whose persons have everything that the query names.
    """

    text: str
    relevant: tuple[int, ...]


def _items(person: Mapping[str, str]) -> list[Item]:
    kinds = [(field, person[field]) for field in (*_WORN, *_CARRIED)]
    return [(field, kind, person[f"{field}_color"]) for field, kind in kinds if kind != "none"]


def _text(items: Sequence[Item]) -> str:
    things = {}
    for field, kind, color in items:
        article = "" if kind in PLURAL else "an " if color[0] in "aeiou" else "a "
        things[field] = f"{article}{color} {kind}"
    worn = " and ".join(things[field] for field in _WORN if field in things)
    carried = [f"carrying {things[field]}" for field in _CARRIED if field in things]
    return "a person " + " and ".join(([f"wearing {worn}"] if worn else []) + carried)


def short_queries(
    persons: Sequence[Mapping[str, str]], *, items: int, count: int = 300, seed: int = 0
) -> list[ShortQuery]:
    """Draw queries that name some things of a person with their colours.

    Args:
        persons (`Sequence[Mapping[str, str]]`): the `attributes` of each row of `synthetic_persons`.
        items (`int`): things that each query names.
        count (`int`, *optional*, defaults to 300): number of queries. A query can be drawn twice.
        seed (`int`, *optional*, defaults to 0): draws the persons and which of their things are named.

    Returns:
        `list[ShortQuery]`: each fits at least the person that it was drawn from.

    Raises:
        ValueError: if nobody has so many things.
    """
    owned = [_items(person) for person in persons]
    able = [row for row, things in enumerate(owned) if len(things) >= items]
    if not able:
        raise ValueError(f"nobody of {len(persons)} persons has {items} things with a colour")
    sets = [frozenset(things) for things in owned]
    rng = np.random.default_rng((seed, items))
    queries = []
    for row in rng.choice(able, count):
        named = [owned[row][place] for place in sorted(rng.permutation(len(owned[row]))[:items])]
        fitting = tuple(number for number, things in enumerate(sets) if things.issuperset(named))
        queries.append(ShortQuery(_text(named), fitting))
    return queries
