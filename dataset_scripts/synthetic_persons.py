"""Drawn persons with exact captions and optional caption noise: a data set that needs no download.

```python
import dataset_scripts  # registers the name
from datasets import load_dataset

persons = load_dataset("synthetic_persons", num_train_persons=2000, image_size=(96, 32), caption_noise=0.2, num_proc=2)
persons["train"][0]  # image, image_path, caption1, caption2, person_id, caption1_noise, ...
```

Every row depends only on (seed, split, identity, image), not on the number of processes or identities or on other
splits. A caption at noise rate 0.3 is the caption at rate 0 with some words exchanged, and contains every error of the
same caption at rate 0.1.
"""

from dataclasses import dataclass, fields
from typing import Any

import datasets
from PIL import Image

from modeling_gadms.media.images import to_jpeg

from .drawn.persons.attributes import ATTRIBUTE_NAMES, FAMILY_SIZE, Person, View, sample_person, sample_view
from .drawn.persons.captions import Caption, write_caption
from .drawn.persons.scene import draw_image
from .drawn.rows import SPLITS, DrawnConfig, DrawnRows, RowSampler


VERSION = "1.6.0"  # raise it if any row changes: it is part of the cache's name
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

    NOUN, WIDTH, HEIGHT_BY_WIDTH = "person", (12, 512), (1.5, 5)

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
        for name in ("caption_noise", "evaluation_caption_noise"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:  # or NaN
                raise ValueError(f"{name} is a probability: it must be a number from 0 to 1, got {value!r}")
            setattr(self, name, float(value))

    def images(self, split: str) -> int:
        return getattr(self, f"{split}_images_per_person")


class PersonSampler(RowSampler):
    """Sample the identities, images and captions of one seed and split by their numbers. See [`RowSampler`]."""

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


class SyntheticPersons(DrawnRows):
    """Drawn persons with exact captions and optional caption noise."""

    BUILDER_CONFIG_CLASS = SyntheticPersonsConfig
    FEATURES = {
        **dict.fromkeys(
            ("caption1_noise", "caption2_noise", "caption1_attributes", "caption2_attributes"),
            datasets.List(datasets.Value("int32")),
        ),
        "attributes": dict.fromkeys((*ATTRIBUTE_NAMES, "view", "pose"), datasets.Value("string")),
    }
    config: SyntheticPersonsConfig

    def row(self, split: str, index: int, image: int) -> tuple[bytes, dict[str, Any]]:
        config, sampler = self.config, PersonSampler(self.config.seed, split)
        picture, quality = sampler.draw(index, image, config.image_size)
        # Chroma subsampling would blur the colours of small images, which the captions name.
        content = to_jpeg(picture, quality, full_colour=picture.height < 256)
        view = sampler.view(index, image)
        attributes = sampler.person(index).attributes() | {"view": view.side, "pose": view.pose}
        columns: dict[str, Any] = {"attributes": attributes}
        noise = config.caption_noise if split == "train" else config.evaluation_caption_noise
        for number, caption in enumerate(sampler.captions(index, image, noise=noise), start=1):
            columns[f"caption{number}"] = caption.text
            columns[f"caption{number}_noise"] = caption.noise_positions
            columns[f"caption{number}_attributes"] = caption.attribute_positions
        return content, columns


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
