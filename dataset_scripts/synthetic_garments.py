"""A drawn catalogue of a clothes shop: garments, bags and shoes with images, captions and product fields.

```python
import dataset_scripts  # registers the name
from datasets import load_dataset

catalogue = load_dataset("synthetic_garments", num_train_products=500, image_size=(96, 72), num_proc=2)
catalogue["train"][0]  # image, caption1, caption2, product_id, title, brand, category, price, sizes, material, ...
```

Every row depends only on (seed, split, product, image), not on the number of processes or products or on other splits.
Images contain no text, so they do not depend on installed fonts.

As in a real shop, some products look alike: the 300 products of the test split have 253 distinct appearances. The
highest possible R@1 is therefore 84 %.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from PIL import Image

from modeling_gadms.media.images import to_jpeg

from .drawn.garments.attributes import ATTRIBUTE_NAMES, Product, sample_product, sample_shot
from .drawn.garments.captions import write_caption
from .drawn.garments.scene import draw_product
from .drawn.rows import SPLITS, DrawnConfig, height_and_width, row_generator, split_generators, whole_number


VERSION = "1.0.0"  # raise it if any row changes: it is part of the cache's name
PRODUCTS_PER_SHARD = 64
MIN_HEIGHT, MAX_HEIGHT = 32, 1024
# Keys of the random generators of a row. Numbers drawn for one purpose do not affect another.
_PRODUCT, _SHOT, _PICTURE, _CAPTION = range(4)


@dataclass
class SyntheticGarmentsConfig(DrawnConfig):
    """Configuration of `synthetic_garments`.

    Args:
        num_train_products (`int`), num_validation_products (`int`), num_test_products (`int`): products per split, at
            least 1. No product is in two splits.
        images_per_product (`int`): at least 1.
        image_size (`tuple[int, int]`): (height, width) in pixels. The height is 1 to 2 times the width.
        seed (`int`): at least 0.

    Raises:
        ValueError: if a value has the wrong type or is out of range.
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
            setattr(self, name, whole_number(name, getattr(self, name), least=1))
        self.seed = whole_number("seed", self.seed, least=0)
        self.image_size = _image_size(self.image_size)

    def products(self, split: str) -> int:
        return getattr(self, f"num_{split}_products")


def _image_size(value: Any) -> tuple[int, int]:
    height, width = height_and_width(value)
    if not (MIN_HEIGHT <= height <= MAX_HEIGHT and 1.0 <= height / width <= 2.0):
        raise ValueError(
            f"image_size is (height, width): the height must be {MIN_HEIGHT} to {MAX_HEIGHT} pixels and 1 to 2 times "
            f"the width, got {value!r}"
        )
    return height, width


class ProductSampler:
    """Sample the products, images and captions of one seed and split by their numbers.

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
        """Returns: two independent captions of image number `image`."""
        product = self.product(index)
        first, second = (write_caption(product, self._rng(_CAPTION, index, image, which)) for which in range(2))
        return first, second

    def draw(self, index: int, image: int, size: tuple[int, int]) -> Image.Image:
        """Returns: image number `image` of product number `index`, RGB, of `size` (height, width)."""
        shot = sample_shot(self._rng(_SHOT, index, image))
        return draw_product(self.product(index), shot, size, self._rng(_PICTURE, index, image))


class SyntheticGarments(datasets.GeneratorBasedBuilder):
    """Builder of the `synthetic_garments` data set."""

    BUILDER_CONFIG_CLASS = SyntheticGarmentsConfig
    config: SyntheticGarmentsConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Drawn products of a clothes shop with exact captions and product fields.",
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
                    # Chroma subsampling would blur the colours of small patterns, which the captions name.
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
