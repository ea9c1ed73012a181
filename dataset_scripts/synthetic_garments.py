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

from dataclasses import dataclass
from typing import Any

import datasets
from PIL import Image

from modeling_gadms.media.images import to_jpeg

from .drawn.garments.attributes import ATTRIBUTE_NAMES, Product, sample_product, sample_shot
from .drawn.garments.captions import write_caption
from .drawn.garments.scene import draw_product
from .drawn.rows import DrawnConfig, DrawnRows, RowSampler


VERSION = "1.0.0"  # raise it if any row changes: it is part of the cache's name
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

    NOUN, WIDTH, HEIGHT_BY_WIDTH = "product", (16, 1024), (1, 2)

    version: str = VERSION
    num_train_products: int = 2000
    num_validation_products: int = 100
    num_test_products: int = 300
    images_per_product: int = 3
    image_size: tuple[int, int] = (192, 144)
    seed: int = 0


class ProductSampler(RowSampler):
    """Sample the products, images and captions of one seed and split by their numbers. See [`RowSampler`]."""

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


class SyntheticGarments(DrawnRows):
    """Drawn products of a clothes shop with exact captions and product fields."""

    BUILDER_CONFIG_CLASS = SyntheticGarmentsConfig
    FEATURES = {
        "title": datasets.Value("string"),
        "brand": datasets.Value("string"),
        "category": datasets.Value("string"),
        "price": datasets.Value("float64"),
        "sizes": datasets.List(datasets.Value("string")),
        "material": datasets.Value("string"),
        "attributes": dict.fromkeys(ATTRIBUTE_NAMES, datasets.Value("string")),
    }

    def row(self, split: str, index: int, image: int) -> tuple[bytes, dict[str, Any]]:
        sampler = ProductSampler(self.config.seed, split)
        product = sampler.product(index)
        caption1, caption2 = sampler.captions(index, image)
        # Chroma subsampling would blur the colours of small patterns, which the captions name.
        content = to_jpeg(sampler.draw(index, image, self.config.image_size), 92, full_colour=True)
        return content, {
            "caption1": caption1,
            "caption2": caption2,
            "title": product.title,
            "brand": product.brand,
            "category": product.kind,
            "price": product.price,
            "sizes": list(product.sizes),
            "material": product.material,
            "attributes": product.attributes(),
        }
