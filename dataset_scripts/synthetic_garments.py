"""Drawn garments, bags and shoes as a shop's catalogue has them: photographs, captions and product fields.

```python
import dataset_scripts  # makes the bare name known
from datasets import load_dataset

catalogue = load_dataset("synthetic_garments", num_train_products=500, image_size=(96, 72), num_proc=2)
catalogue["train"][0]  # image, caption1, caption2, product_id, title, brand, category, price, sizes, material, ...
```

Every row is a function of (seed, split, product, image) alone: neither the number of processes, nor the number of
products, nor another split changes it. No picture holds text, so that none depends on a platform's fonts.

As in a shop, some products look alike: the 300 of the test split have 253 looks, so that a reader who makes no mistake
finds the right one first at most 84 times in 100.
"""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from PIL import Image

from modeling_gadms.media.images import to_jpeg

from .drawn.garments.attributes import ATTRIBUTE_NAMES, Product, sample_product, sample_shot
from .drawn.garments.captions import write_caption
from .drawn.garments.scene import draw_product
from .drawn.rows import SPLITS, DrawnConfig, row_generator, split_generators


VERSION = "1.0.0"  # raise it whenever a row changes: it is part of the cache's name
PRODUCTS_PER_SHARD = 64
MIN_HEIGHT, MAX_HEIGHT = 32, 1024
# What the random numbers of a row are for: each use has its own stream, so that none shifts another.
_PRODUCT, _SHOT, _PICTURE, _CAPTION = range(4)


@dataclass
class SyntheticGarmentsConfig(DrawnConfig):
    """What to draw. Every field is part of the cache's name.

    Args:
        num_train_products (`int`), num_validation_products (`int`), num_test_products (`int`): products of each split,
            at least 1; no product is in two splits.
        images_per_product (`int`): at least 1.
        image_size (`tuple[int, int]`): (height, width) in pixels, the height 1 to 2 times the width.
        seed (`int`): at least 0.

    Raises:
        ValueError: if a field is of the wrong type or out of its range.
    """

    version: str = VERSION
    num_train_products: int = 2000
    num_validation_products: int = 100
    num_test_products: int = 300
    images_per_product: int = 3
    image_size: tuple[int, int] = (192, 144)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (*(f"num_{split}_products" for split in SPLITS), "images_per_product"):
            setattr(self, name, _whole(name, getattr(self, name), least=1))
        self.seed = _whole("seed", self.seed, least=0)
        self.image_size = _size(self.image_size)

    def products(self, split: str) -> int:
        return getattr(self, f"num_{split}_products")


def _whole(name: str, value: Any, *, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be {least} or more, got {number}")
    return number


def _size(value: Any) -> tuple[int, int]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or len(value) != 2:
        raise ValueError(f"image_size must be a pair (height, width), got {value!r}")
    height, width = _whole("image_size[0]", value[0], least=1), _whole("image_size[1]", value[1], least=1)
    if not (MIN_HEIGHT <= height <= MAX_HEIGHT and 1.0 <= height / width <= 2.0):
        raise ValueError(
            f"image_size is (height, width): {MIN_HEIGHT} to {MAX_HEIGHT} pixels high and the height 1 to 2 times the "
            f"width, got {value!r}"
        )
    return (height, width)


class ProductSampler:
    """All products and pictures of one seed and split, by number.

    Args:
        seed (`int`): the data set's seed.
        split (`str`): `"train"`, `"validation"` or `"test"`.
    """

    def __init__(self, seed: int, split: str) -> None:
        self.seed, self.split_index = seed, SPLITS.index(split)

    def _rng(self, *key: int) -> np.random.Generator:
        return row_generator(self.seed, self.split_index, *key)

    def product(self, index: int) -> Product:
        """Returns: product number `index`."""
        return sample_product(self._rng(_PRODUCT, index))

    def captions(self, index: int, image: int) -> tuple[str, str]:
        """Returns: the two captions of picture number `image`, drawn independently of one another."""
        product = self.product(index)
        first, second = (write_caption(product, self._rng(_CAPTION, index, image, which)) for which in range(2))
        return first, second

    def draw(self, index: int, image: int, size: tuple[int, int]) -> Image.Image:
        """Returns: picture number `image` of product number `index`, RGB, of `size` (height, width)."""
        shot = sample_shot(self._rng(_SHOT, index, image))
        return draw_product(self.product(index), shot, size, self._rng(_PICTURE, index, image))


class SyntheticGarments(datasets.GeneratorBasedBuilder):
    """Builder of the `synthetic_garments` data set, which `load_dataset` knows by that name."""

    BUILDER_CONFIG_CLASS = SyntheticGarmentsConfig
    config: SyntheticGarmentsConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Drawn products of a shop with exact captions and product fields.",
            features=datasets.Features(
                {
                    "image": datasets.Image(),
                    "image_path": datasets.Value("string"),
                    "caption1": datasets.Value("string"),
                    "caption2": datasets.Value("string"),
                    "product_id": datasets.Value("int64"),
                    "title": datasets.Value("string"),
                    "brand": datasets.Value("string"),
                    "category": datasets.Value("string"),
                    "price": datasets.Value("float64"),
                    "sizes": datasets.List(datasets.Value("string")),
                    "material": datasets.Value("string"),
                    "attributes": {name: datasets.Value("string") for name in ATTRIBUTE_NAMES},
                }
            ),
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        return split_generators({split: self.config.products(split) for split in SPLITS}, PRODUCTS_PER_SHARD)

    def _generate_examples(
        self, split: str, first_id: int, shards: list[tuple[int, int]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        sampler = ProductSampler(self.config.seed, split)
        images = self.config.images_per_product
        for start, stop in shards:
            for index in range(start, stop):
                product = sampler.product(index)
                for image in range(images):
                    path = f"{split}/{first_id + index:06d}_{image:02d}.jpg"
                    caption1, caption2 = sampler.captions(index, image)
                    picture = sampler.draw(index, image, self.config.image_size)
                    # With half the colour resolution, a small pattern would lose the colours that captions name.
                    content = to_jpeg(picture, 92, full_colour=True)
                    row: dict[str, Any] = {
                        "image": {"bytes": content, "path": path},
                        "image_path": path,
                        "caption1": caption1,
                        "caption2": caption2,
                        "product_id": first_id + index,
                        "title": product.title,
                        "brand": product.brand,
                        "category": product.kind,
                        "price": product.price,
                        "sizes": list(product.sizes),
                        "material": product.material,
                        "attributes": product.attributes(),
                    }
                    yield index * images + image, row
