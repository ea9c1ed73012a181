"""Vectors for `gallery.py`: embeddings as retrieval has them, and directions that fill the space, the hardest case.

Persons lie in a space of `LATENT` directions, of which the k-th varies as 1/k does. A person is a point there, an
image the person and something of its own, a caption likewise; both get noise in all dimensions and the constant offset
that keeps the images and captions of contrastive models apart. There are `IMAGES_OF_A_PERSON` images of each, in
consecutive rows, and a query describes a person who is in the gallery. Gaussian vectors have no structure at all: the
ten nearest are hardly nearer than the next hundred, and a query belongs to nobody.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np


DIMENSION = 512
LATENT = 128
IMAGES_OF_A_PERSON = 4
OWN = 0.6
"""Standard deviation of what an image or a caption has of its own, of that between persons."""
NOISE = 0.3
OFFSET = 0.5
"""Length of noise and of the offset between images and captions; that of a person is 1 on average."""
BLOCK = 20_000
"""Rows made at once; a block depends on the seed and its number alone."""
KINDS = ("persons", "gaussian")


def gallery_vectors(kind: str, rows: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of float32 of shape `(at most BLOCK, DIMENSION)`, of unit length, `rows` in all."""
    for block, start in enumerate(range(0, rows, BLOCK)):
        count = min(BLOCK, rows - start)
        if kind == "gaussian":
            yield _unit(np.random.default_rng([seed, 0, block]).standard_normal((count, DIMENSION), dtype=np.float32))
        else:
            persons = np.repeat(_persons(block, seed), IMAGES_OF_A_PERSON, axis=0)[:count]
            yield _embeddings(persons, seed, block, modality=0)


def query_vectors(kind: str, rows: int, count: int, seed: int) -> np.ndarray:
    """Float32 of shape `(count, DIMENSION)`, of unit length: captions of persons drawn from all who are in `rows`."""
    generator = np.random.default_rng([seed, 1])
    if kind == "gaussian":
        return _unit(generator.standard_normal((count, DIMENSION), dtype=np.float32))
    described = np.stack(
        [
            _persons(row // BLOCK, seed)[row % BLOCK // IMAGES_OF_A_PERSON]
            for row in generator.integers(0, rows, count).tolist()
        ]
    )
    return _embeddings(described, seed, 0, modality=1)


def write_vectors(path: Path, kind: str, rows: int, seed: int) -> None:
    """Store them as one array of float32 without a header."""
    with path.open("wb") as file:
        for block in gallery_vectors(kind, rows, seed):
            block.tofile(file)


def read_vectors(path: Path) -> Iterator[np.ndarray]:
    """Blocks of what [`write_vectors`] wrote. Not mapped into memory: the pages would count as the reader's."""
    with path.open("rb") as file:
        while len(block := np.fromfile(file, np.float32, BLOCK * DIMENSION)):
            yield block.reshape(-1, DIMENSION)


def _persons(block: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng([seed, 2, block])
    return generator.standard_normal((BLOCK // IMAGES_OF_A_PERSON, LATENT), dtype=np.float32)


def _embeddings(persons: np.ndarray, seed: int, block: int, *, modality: int) -> np.ndarray:
    space = np.random.default_rng([seed, 3])
    basis = np.linalg.qr(space.standard_normal((DIMENSION, LATENT)))[0].T
    variances = 1 / np.arange(1, LATENT + 1)
    basis *= np.sqrt(variances / variances.sum())[:, None]
    offset = OFFSET * _unit(space.standard_normal((2, DIMENSION)))[modality]
    # A generator each, so that a row does not depend on how many follow it.
    own, noise = (
        np.random.default_rng([seed, purpose, modality, block]).standard_normal((len(persons), size), dtype=np.float32)
        for purpose, size in ((4, LATENT), (5, DIMENSION))
    )
    own *= OWN
    noise *= NOISE / DIMENSION**0.5
    return _unit((persons + own) @ basis.astype(np.float32) + noise + offset.astype(np.float32))


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors
