"""Training data: columns of a data set, image-caption pairs, batches and augmentation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

import datasets
import kornia.augmentation as K
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ..media.images import load_image
from ..processing_gadms import GADMSProcessor
from .caption_queries import Query, draw_query, encode_statements, stated


@dataclass(frozen=True)
class DatasetColumns:
    """Names of the columns of a data set.

    Args:
        image (`str`, *optional*, defaults to `"image"`): column of images.
        captions (`tuple[str, ...]`, *optional*, defaults to `("caption1", "caption2")`):
            Columns of captions; a value is a string or a list of strings.
        person_id (`str`, *optional*):
            Column of person ids, which are whole numbers. Without it the row number is the identity: each image is its
            own person, and matches only its own captions.
    """

    image: str = "image"
    captions: tuple[str, ...] = ("caption1", "caption2")
    person_id: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.captions, str) or not self.captions:
            raise ValueError(f"captions = {self.captions!r} must be a list of one or more column names")
        object.__setattr__(self, "captions", tuple(self.captions))

    def validate(self, column_names: Sequence[str]) -> None:
        """Raises ValueError: if a column is missing, naming it and the existing columns."""
        wanted = (self.image, *self.captions, *([self.person_id] if self.person_id else []))
        for name in wanted:
            if name not in column_names:
                raise ValueError(
                    f"the data set has no column `{name}`; it has {', '.join(column_names)}. Name your columns with "
                    "DatasetColumns(image=..., captions=(...), person_id=...)"
                )

    def person_ids(self, dataset: datasets.Dataset) -> np.ndarray:
        """Return the identity of every row, of shape `(len(dataset),)`.

        Raises:
            ValueError: if the identity column does not contain whole numbers, or a value is missing.
        """
        if self.person_id is None:
            return np.arange(len(dataset))
        dtype = getattr(dataset.features[self.person_id], "dtype", None)
        if dtype is None or "int" not in dtype:
            raise ValueError(
                f"column `{self.person_id}` holds {dtype or dataset.features[self.person_id]}, not whole numbers; "
                f"turn names into numbers with `dataset.class_encode_column('{self.person_id}')`"
            )
        values = dataset.with_format(None)[self.person_id][:]
        if None in values:
            raise ValueError(f"row {values.index(None)} has no `{self.person_id}`; fill it in or drop the row")
        return np.asarray(values)

    def captions_in(self, row: dict[str, Any]) -> list[str]:
        """Return all captions of a row, in column order.

        Raises:
            ValueError: if there is none, or one is empty or not text, naming the column.
        """
        captions: list[str] = []
        for column in self.captions:
            value = row[column]
            values = [value] if isinstance(value, str) or value is None else list(value)
            for caption in values:
                if not isinstance(caption, str) or not caption.strip():
                    raise ValueError(f"`{column}` is an empty caption ({caption!r})")
                captions.append(caption)
        if not captions:
            raise ValueError(f"there is no caption in {', '.join(self.captions)}")
        return captions

    def row_captions(self, row: dict[str, Any], row_number: int) -> list[str]:
        """Return all captions of a row, in column order.

        Raises:
            ValueError: as [`captions_in`], also naming the row.
        """
        try:
            return self.captions_in(row)
        except ValueError as error:
            raise ValueError(f"row {row_number}: {error}; describe the person or drop the row") from error

    def captions_of(self, dataset: datasets.Dataset) -> Iterator[str]:
        """Iterate over all captions of a data set, in order; images are not decoded.

        Raises:
            ValueError: for a missing column or an empty caption.
        """
        self.validate(dataset.column_names)
        for row_number, row in enumerate(dataset.select_columns(list(self.captions)).with_format(None)):
            yield from self.row_captions(row, row_number)


class PairTexts(TypedDict):
    """Texts of a training sample. `queries` and `stated` are there if queries are drawn."""

    caption: str
    queries: NotRequired[list[Query]]
    stated: NotRequired[frozenset[frozenset[str]]]


@dataclass(frozen=True)
class CaptionDraw:
    """Which caption a pair has in an epoch, and which queries are drawn from it.

    Args:
        captions_per_image (`str`, *optional*, defaults to `"one"`):
            `"one"`: an epoch has one pair per image, with a randomly drawn caption. `"all"`: every caption is a pair
            (the paper's count).
        short_queries (`int`, *optional*, defaults to 0):
            Number of queries of one to three statements that [`~modeling_gadms.training.caption_queries.draw_query`]
            draws from the caption. A model that is trained on whole captions only hardly answers such queries.
        seed (`int`, *optional*, defaults to 0)

    Raises:
        ValueError: if an argument is out of its range.
    """

    captions_per_image: str = "one"
    short_queries: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.captions_per_image not in ("one", "all"):
            raise ValueError(f"captions_per_image = {self.captions_per_image!r} must be 'one' or 'all'")
        if self.short_queries < 0:
            raise ValueError(f"short_queries = {self.short_queries} is a number of queries: it must not be negative")

    def __call__(self, captions: Sequence[str], number: int, *, epoch: int, row: int) -> PairTexts:
        """Return the texts of an image in an epoch; they depend only on the arguments and on `self`.

        Args:
            captions (`Sequence[str]`): all captions of the image.
            number (`int`): the pair's caption; with `captions_per_image="one"`, it is drawn instead.
            epoch (`int`), row (`int`): number of the epoch, and of the image's row.
        """
        rng = np.random.default_rng((self.seed, epoch, row, number))
        if self.captions_per_image == "one":
            number = int(rng.integers(len(captions)))
        caption = captions[number]
        if not self.short_queries:
            return {"caption": caption}
        queries = [draw_query(caption, rng) for _ in range(self.short_queries)]
        return {"caption": caption, "queries": queries, "stated": stated(captions)}


class ImageCaptionPair(PairTexts):
    """One training sample; `person_id` counts from 0, in the order of the ids in the identity column."""

    image: Image.Image | torch.Tensor
    person_id: int
    image_index: int


class ImageCaptionPairs(Dataset):
    """Image-caption pairs of a data set.

    An item depends only on `(seed, epoch, index)`, not on the process, the worker or the order of access. A run that
    resumes in the middle of an epoch therefore sees the same captions.

    Args:
        dataset ([`~datasets.Dataset`]): rows of images, captions and, optionally, person ids.
        columns ([`DatasetColumns`]): names of these columns.
        captions_per_image, short_queries, seed (*optional*): see [`CaptionDraw`].
        pixel_cache (`torch.ByteTensor` of shape `(len(dataset), 3, height, width)`, *optional*):
            Resized images from [`cache_pixels`].

    Raises:
        ValueError: for a missing column, an empty caption, a person id that is not a whole number, or an empty data
            set.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        columns: DatasetColumns,
        *,
        captions_per_image: Literal["one", "all"] = "one",
        short_queries: int = 0,
        seed: int = 0,
        pixel_cache: torch.Tensor | None = None,
    ):
        self.caption_draw = CaptionDraw(captions_per_image, short_queries, seed)
        columns.validate(dataset.column_names)
        if len(dataset) == 0:
            raise ValueError("the data set has no rows")
        self.dataset = dataset.with_format(None)  # PIL images, whatever format is set
        self.columns = columns
        # In shared memory, as persistent data loader workers have their own copies of this object.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()
        self.pixel_cache = pixel_cache
        # Renumbered without gaps, as the identity classifier has an output for each number.
        persons, self.person_ids = np.unique(columns.person_ids(dataset), return_inverse=True)
        self.num_identities = len(persons)
        """Number of persons."""
        self._texts = self.dataset.select_columns(list(columns.captions))
        # Read now, as an empty caption is found before training.
        counts = [len(columns.row_captions(row, number)) for number, row in enumerate(self._texts)]
        self._rows: np.ndarray | None = None  # for "all": (row, caption number) of every pair
        if captions_per_image == "all":
            rows = np.repeat(np.arange(len(dataset)), counts)
            self._rows = np.stack([rows, np.concatenate([np.arange(count) for count in counts])], axis=1)

    def __len__(self) -> int:
        return len(self.dataset) if self._rows is None else len(self._rows)

    @property
    def epoch(self) -> int:
        """The current epoch, from 0."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; the trainer calls this at the start of each epoch."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> ImageCaptionPair:
        row, number = (index, 0) if self._rows is None else map(int, self._rows[index])
        captions = self.columns.row_captions(self._texts[row], row)
        cache = self.pixel_cache
        image = read_row_image(self.dataset, self.columns.image, row) if cache is None else cache[row]
        return {
            **self.caption_draw(captions, number, epoch=self.epoch, row=row),
            "image": image,
            "person_id": int(self.person_ids[row]),
            "image_index": row,
        }


def decode_row_image(dataset: datasets.Dataset, column: str, row: int) -> Image.Image:
    """Return the image of a row as RGB.

    Raises:
        ValueError: if it cannot be decoded, naming the column.
    """
    try:
        value = dataset[row][column]
        if value is None:
            raise ValueError("it is missing")
        return load_image(value)
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
        # The message of Pillow's error is the address of a buffer.
        reason = "its format is unknown" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"the image in `{column}` cannot be read: {reason}") from error


def read_row_image(dataset: datasets.Dataset, column: str, row: int) -> Image.Image:
    """Return the image of a row as RGB.

    Raises:
        ValueError: as [`decode_row_image`], also naming the row.
    """
    try:
        return decode_row_image(dataset, column, row)
    except ValueError as error:
        raise ValueError(
            f"row {row}: {error}; drop the row with `dataset.select(i for i in range(len(dataset)) if i != {row})`"
        ) from error


def cache_pixels(dataset: datasets.Dataset, columns: DatasetColumns, processor: GADMSProcessor) -> torch.Tensor:
    """Decode and resize all images once, for data sets that fit in memory.

    Args:
        dataset ([`~datasets.Dataset`]): rows with images.
        columns ([`DatasetColumns`]): names the image column.
        processor ([`GADMSProcessor`]): resizes the images.

    Returns:
        `torch.ByteTensor` of shape `(len(dataset), 3, height, width)`. Training on it equals training on the images.
    """
    dataset = dataset.with_format(None)
    height, width = processor.image_size
    pixels = torch.empty(len(dataset), 3, height, width, dtype=torch.uint8)
    for row in tqdm(range(len(dataset)), desc="Caching images", unit="image"):
        image = read_row_image(dataset, columns.image, row)
        resized = processor.image_processor(image, do_rescale=False, do_normalize=False, return_tensors="np")
        pixels[row] = torch.from_numpy(resized["pixel_values"][0])
    return pixels


class PairCollator:
    """Collate items of [`ImageCaptionPairs`]: tokens are padded to the longest caption, pixels are normalised.

    A batch contains `pixel_values` of shape `(batch_size, 3, height, width)`; `input_ids` and `attention_mask` of
    shape `(batch_size, sequence_length)`; and `person_ids`, `image_indices` and `truncated` (whether the caption
    exceeds the tokenizer's limit) of shape `(batch_size,)`. If pairs have queries, it also contains `query_input_ids`
    and `query_attention_mask` of shape `(num_queries, sequence_length)`, those of a pair in consecutive rows; and
    `query_words` and `image_words`, from which [`~modeling_gadms.training.caption_queries.fitting_images`] finds the
    images that each query describes. With `return_loss`, `model(**batch).loss` is the loss of this batch.

    Args:
        processor ([`GADMSProcessor`])
    """

    def __init__(self, processor: GADMSProcessor):
        self.processor = processor
        image_processor = processor.image_processor
        self._mean = torch.tensor(image_processor.image_mean)[:, None, None]
        self._std = torch.tensor(image_processor.image_std)[:, None, None]

    def __call__(self, pairs: list[ImageCaptionPair]) -> dict[str, Any]:
        captions = [pair["caption"] for pair in pairs]
        tokens = self.processor(text=captions)
        limit = self.processor.tokenizer.model_max_length
        lengths = tokens["attention_mask"].sum(dim=1)
        truncated = lengths == limit
        for index in truncated.nonzero().flatten().tolist():
            # A caption of exactly the limit is not truncated: count the tokens of those that reach it.
            truncated[index] = len(self.processor.tokenize(captions[index])["input_ids"]) > limit
        batch = {
            "pixel_values": self._pixel_values([pair["image"] for pair in pairs]),
            "input_ids": tokens["input_ids"],
            "attention_mask": tokens["attention_mask"],
            "person_ids": torch.tensor([pair["person_id"] for pair in pairs]),
            "image_indices": torch.tensor([pair["image_index"] for pair in pairs]),
            "truncated": truncated,
            "return_loss": True,
        }
        queries = [query for pair in pairs for query in pair.get("queries", ())]
        if queries:
            tokens = self.processor(text=[query.text for query in queries])
            batch["query_input_ids"], batch["query_attention_mask"] = tokens["input_ids"], tokens["attention_mask"]
            batch["query_words"] = encode_statements([query.statements for query in queries])
            batch["image_words"] = encode_statements([pair["stated"] for pair in pairs])
        return batch

    def _pixel_values(self, images: list[Image.Image | torch.Tensor]) -> torch.Tensor:
        cached = [image for image in images if isinstance(image, torch.Tensor)]
        if cached:
            return (torch.stack(cached).float() / 255 - self._mean) / self._std
        return self.processor(images=images)["pixel_values"]


class PersonAugmentation(nn.Module):
    """Augment a batch of images as in the paper, on the model's device.

    Horizontal flip (p 0.5), padding and random crop, and random erasing (p 0.5, area 0.02-0.4, aspect 0.3-3.3) filled
    with the mean. Captions are not changed: after a flip "left" and "right" are wrong, as in the published recipe.

    Args:
        processor ([`GADMSProcessor`]): size and normalisation of the images.
        crop_padding (`int`, *optional*, defaults to 10): black pixels added on each side before the crop.

    Raises:
        ValueError: if `crop_padding` is negative.
    """

    def __init__(self, processor: GADMSProcessor, *, crop_padding: int = 10):
        super().__init__()
        if crop_padding < 0:
            raise ValueError(f"crop_padding = {crop_padding} must not be negative")
        mean = torch.tensor(processor.image_processor.image_mean)
        std = torch.tensor(processor.image_processor.image_std)
        # Padding is black (0 in pixels), and erased regions are the mean (0 after normalisation).
        self.steps = nn.Sequential(
            K.Denormalize(mean, std),
            K.RandomHorizontalFlip(p=0.5),
            K.RandomCrop(processor.image_size, padding=crop_padding, p=1.0),
            K.Normalize(mean, std),
            K.RandomErasing(p=0.5, scale=(0.02, 0.4), ratio=(0.3, 3.3), value=0.0),
        )

    @torch.no_grad()
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Input and output are normalised pixels of shape `(batch_size, 3, height, width)`."""
        return self.steps(pixel_values)
