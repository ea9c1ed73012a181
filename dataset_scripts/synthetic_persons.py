"""Drawn persons with exact captions and optional caption noise: a data set that needs no download.

```python
from dataset_scripts.synthetic_persons import load_synthetic_persons

persons = load_synthetic_persons(num_train_persons=2000, image_size=(96, 32), caption_noise=0.2, num_proc=2)
persons["train"][0]  # image, image_path, caption1, caption2, person_id, caption1_noise, ...
```

Every row depends only on (seed, split, identity, image), not on the number of processes or identities or on other
splits. A caption at noise rate 0.3 is the caption at rate 0 with some words exchanged, and contains every error of the
same caption at rate 0.1.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import datasets
import numpy as np
from PIL import Image

from modeling_gadms.media.images import to_jpeg

from .drawn.persons.attributes import ATTRIBUTE_NAMES, FAMILY_SIZE, Person, View, sample_person, sample_view
from .drawn.persons.captions import Caption, write_caption
from .drawn.persons.scene import draw_image
from .drawn.rows import SPLITS, DrawnConfig, height_and_width, row_generator, split_generators, whole_number


VERSION = "1.6.0"  # raise it if any row changes: it is part of the cache's name
PERSONS_PER_SHARD = 64
MIN_SIZE, MAX_SIZE = (32, 12), (1024, 512)
# Keys of the random generators of a row. Numbers drawn for one purpose do not affect another.
_FAMILY, _PERSON, _VIEW, _PICTURE, _CAPTION, _NOISE = range(6)


@dataclass
class SyntheticPersonsConfig(DrawnConfig):
    """Configuration of `synthetic_persons`.

    Args:
        num_train_persons (`int`), num_validation_persons (`int`), num_test_persons (`int`): identities per split, at
            least 1. No identity is in two splits.
        train_images_per_person (`int`), validation_images_per_person (`int`), test_images_per_person (`int`): images
            per identity, at least 1.
        image_size (`tuple[int, int]`): (height, width) in pixels. The height is 1.5 to 5 times the width.
        caption_noise (`float`): probability, in [0, 1], that an attribute in a training caption is wrong.
        evaluation_caption_noise (`float`): the same for validation and test captions.
        seed (`int`): at least 0.

    Raises:
        ValueError: if a value has the wrong type or is out of range.
    """

    version: str = VERSION
    num_train_persons: int = 4000
    num_validation_persons: int = 200
    num_test_persons: int = 1000
    train_images_per_person: int = 4
    validation_images_per_person: int = 2
    test_images_per_person: int = 1
    image_size: tuple[int, int] = (192, 64)
    caption_noise: float = 0.0
    evaluation_caption_noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for split in SPLITS:
            for name in (f"num_{split}_persons", f"{split}_images_per_person"):
                setattr(self, name, whole_number(name, getattr(self, name), least=1))
        self.seed = whole_number("seed", self.seed, least=0)
        for name in ("caption_noise", "evaluation_caption_noise"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:  # or NaN
                raise ValueError(f"{name} is a probability: it must be a number from 0 to 1, got {value!r}")
            setattr(self, name, float(value))
        self.image_size = _image_size(self.image_size)

    def persons(self, split: str) -> int:
        return getattr(self, f"num_{split}_persons")

    def images(self, split: str) -> int:
        return getattr(self, f"{split}_images_per_person")


def _image_size(value: Any) -> tuple[int, int]:
    height, width = height_and_width(value)
    for name, pixels, low, high in zip(("height", "width"), (height, width), MIN_SIZE, MAX_SIZE, strict=True):
        if not low <= pixels <= high:
            raise ValueError(f"image_size is (height, width): {name} must be {low} to {high} pixels, got {value!r}")
    if not 1.5 <= height / width <= 5.0:
        raise ValueError(f"image_size is (height, width): the height must be 1.5 to 5 times the width, got {value!r}")
    return height, width


class PersonSampler:
    """Sample the identities, images and captions of one seed and split by their numbers.

    Args:
        seed (`int`): the data set's seed.
        split (`str`): `"train"`, `"validation"` or `"test"`.
    """

    def __init__(self, seed: int, split: str) -> None:
        self.seed, self.split_index = seed, SPLITS.index(split)

    def _rng(self, *key: int) -> np.random.Generator:
        return row_generator(self.seed, self.split_index, *key)

    def person(self, index: int) -> Person:
        """Returns: identity number `index`. The first one of each family wears the family's outfit unchanged."""
        rng = self._rng(_PERSON, index)
        changes = int(rng.integers(2, 5)) if index % FAMILY_SIZE else 0
        return sample_person(self._rng(_FAMILY, index // FAMILY_SIZE), rng, changes=changes)

    def view(self, index: int, image: int) -> View:
        """Returns: the view of identity number `index` in image number `image`."""
        return sample_view(self._rng(_VIEW, index, image))

    def captions(self, index: int, image: int, *, noise: float) -> tuple[Caption, Caption]:
        """Returns: the two captions of an image, at this noise rate."""
        person, view = self.person(index), self.view(index, image)
        first, second = (
            write_caption(
                person,
                view,
                self._rng(_CAPTION, index, image, which),
                self._rng(_NOISE, index, image, which),
                noise=noise,
            )
            for which in range(2)
        )
        return first, second

    def draw(self, index: int, image: int, size: tuple[int, int]) -> tuple[Image.Image, int]:
        """Returns: the image and its JPEG quality."""
        rng = self._rng(_PICTURE, index, image)
        quality = int(rng.integers(62, 96))
        return draw_image(self.person(index), self.view(index, image), size, rng), quality


class SyntheticPersons(datasets.GeneratorBasedBuilder):
    """Builder of the `synthetic_persons` data set. `load_synthetic_persons` builds and loads it."""

    BUILDER_CONFIG_CLASS = SyntheticPersonsConfig
    config: SyntheticPersonsConfig

    def _info(self) -> datasets.DatasetInfo:
        positions = datasets.List(datasets.Value("int32"))
        return datasets.DatasetInfo(
            description="Drawn persons with exact captions and optional caption noise.",
            features=datasets.Features(
                {
                    "image": datasets.Image(),
                    "image_path": datasets.Value("string"),
                    "caption1": datasets.Value("string"),
                    "caption2": datasets.Value("string"),
                    "person_id": datasets.Value("int64"),
                    "caption1_noise": positions,
                    "caption2_noise": positions,
                    "caption1_attributes": positions,
                    "caption2_attributes": positions,
                    "attributes": {name: datasets.Value("string") for name in (*ATTRIBUTE_NAMES, "view", "pose")},
                }
            ),
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        return split_generators({split: self.config.persons(split) for split in SPLITS}, PERSONS_PER_SHARD)

    def _generate_examples(
        self, split: str, first_id: int, shards: list[tuple[int, int]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.config
        noise = config.caption_noise if split == "train" else config.evaluation_caption_noise
        sampler = PersonSampler(config.seed, split)
        images = config.images(split)
        for start, stop in shards:
            for index in range(start, stop):
                attributes = sampler.person(index).attributes()
                for image in range(images):
                    picture, quality = sampler.draw(index, image, config.image_size)
                    # Chroma subsampling would blur the colours of small images, which the captions name.
                    content = to_jpeg(picture, quality, full_colour=picture.height < 256)
                    path = f"{split}/{first_id + index:06d}_{image:02d}.jpg"
                    view = sampler.view(index, image)
                    row: dict[str, Any] = {
                        "image": {"bytes": content, "path": path},
                        "image_path": path,
                        "person_id": first_id + index,
                        "attributes": {**attributes, "view": view.side, "pose": view.pose},
                    }
                    for number, caption in enumerate(sampler.captions(index, image, noise=noise), start=1):
                        row[f"caption{number}"] = caption.text
                        row[f"caption{number}_noise"] = caption.noise_positions
                        row[f"caption{number}_attributes"] = caption.attribute_positions
                    yield index * images + image, row


def load_synthetic_persons(
    *, num_proc: int | None = None, cache_dir: str | None = None, **config_fields: Any
) -> datasets.DatasetDict:
    """Draw the data set, or load it from the cache.

    Args:
        num_proc (`int`, *optional*): number of processes. The rows do not depend on it.
        cache_dir (`str`, *optional*): cache folder; by default that of `datasets`.
        config_fields: fields of [`SyntheticPersonsConfig`].

    Returns:
        `datasets.DatasetDict`: splits `train`, `validation` and `test`.

    Raises:
        ValueError: if a field does not exist, or its value has the wrong type or is out of range.
    """
    inherited = {field.name for field in fields(datasets.BuilderConfig)}
    known = [field.name for field in fields(SyntheticPersonsConfig) if field.name not in inherited]
    for name in config_fields:
        if name not in known:
            raise ValueError(f"synthetic_persons has no field {name!r}; its fields are {', '.join(known)}")
    builder = SyntheticPersons(cache_dir=cache_dir, **config_fields)
    builder.download_and_prepare(num_proc=num_proc)
    loaded = builder.as_dataset()
    return datasets.DatasetDict({split: loaded[split] for split in SPLITS})
