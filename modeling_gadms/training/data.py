"""From a `datasets` table of persons to training batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import datasets
import kornia.augmentation as K
import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ..media.images import UnreadableImageError, load_image
from ..processing_gadms import GADMSProcessor


@dataclass(frozen=True)
class DatasetColumns:
    """Which columns of a data set hold what, so that no data set needs rewriting.

    Args:
        image (`str`, *optional*, defaults to `"image"`): column of images.
        captions (`tuple[str, ...]`, *optional*, defaults to `("caption1", "caption2")`):
            Columns of captions; each holds a string or a list of strings.
        person_id (`str`, *optional*):
            Column of whole numbers that tells persons apart. Without it the row number is the identity: an image
            is its own person, and all its captions share that identity.
    """

    image: str = "image"
    captions: tuple[str, ...] = ("caption1", "caption2")
    person_id: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.captions, str) or not self.captions:
            raise ValueError(f"captions = {self.captions!r} must be a list of one or more column names")
        object.__setattr__(self, "captions", tuple(self.captions))

    def validate(self, column_names: Sequence[str]) -> None:
        """Raises ValueError: naming the first column that is missing and those that exist."""
        wanted = (self.image, *self.captions, *([self.person_id] if self.person_id else []))
        for name in wanted:
            if name not in column_names:
                raise ValueError(
                    f"the data set has no column `{name}`; it has {', '.join(column_names)}. Name your columns with "
                    "DatasetColumns(image=..., captions=(...), person_id=...)"
                )

    def person_ids(self, dataset: datasets.Dataset) -> np.ndarray:
        """Identity of every row, of shape `(len(dataset),)`.

        Raises:
            ValueError: if the identity column does not hold whole numbers, or misses one.
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

    def row_captions(self, row: dict[str, Any], row_number: int) -> list[str]:
        """All captions of a row, in column order.

        Raises:
            ValueError: if one is empty or no text, naming the row and the column.
        """
        captions: list[str] = []
        for column in self.captions:
            value = row[column]
            values = [value] if isinstance(value, str) or value is None else list(value)
            for caption in values:
                if not isinstance(caption, str) or not caption.strip():
                    raise ValueError(
                        f"row {row_number}: `{column}` is an empty caption ({caption!r}); describe the person or "
                        "drop the row"
                    )
                captions.append(caption)
        if not captions:
            raise ValueError(f"row {row_number} has no caption in {', '.join(self.captions)}; drop the row")
        return captions

    def captions_of(self, dataset: datasets.Dataset) -> Iterator[str]:
        """All captions of a data set, in order; images are not decoded.

        Raises:
            ValueError: for a missing column or an empty caption.
        """
        self.validate(dataset.column_names)
        for row_number, row in enumerate(dataset.select_columns(list(self.captions)).with_format(None)):
            yield from self.row_captions(row, row_number)


class ImageCaptionPair(TypedDict):
    """One training sample; persons are numbered from 0, in the order of the identity column."""

    image: Image.Image | torch.Tensor
    caption: str
    person_id: int
    image_index: int


class ImageCaptionPairs(Dataset):
    """Image-caption pairs of a data set.

    What an index gives depends on `(seed, epoch, index)` alone, never on the process, the worker or the order of
    access: resuming in the middle of an epoch sees the same captions.

    Args:
        dataset ([`~datasets.Dataset`]): rows of images, captions and perhaps identities.
        columns ([`DatasetColumns`]): where they are.
        captions_per_image (`str`, *optional*, defaults to `"one"`):
            `"one"`: an epoch has one pair an image, its caption drawn anew each epoch. `"all"`: every caption is a
            pair of its own (the paper's count).
        seed (`int`, *optional*, defaults to 0): of the caption draws.
        pixel_cache (`torch.ByteTensor` of shape `(len(dataset), 3, height, width)`, *optional*):
            Images resized beforehand, see [`cache_pixels`].

    Raises:
        ValueError: for a missing column, an identity that is no whole number or an empty data set.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        columns: DatasetColumns,
        *,
        captions_per_image: Literal["one", "all"] = "one",
        seed: int = 0,
        pixel_cache: torch.Tensor | None = None,
    ):
        if captions_per_image not in ("one", "all"):
            raise ValueError(f"captions_per_image = {captions_per_image!r} must be 'one' or 'all'")
        columns.validate(dataset.column_names)
        if len(dataset) == 0:
            raise ValueError("the data set has no rows")
        self.dataset = dataset.with_format(None)  # whatever its owner wants of it: images, not arrays
        self.columns = columns
        self.captions_per_image = captions_per_image
        self.seed = seed
        # Shared memory: data loader workers that outlive an epoch hold a copy of this object, and must see it change.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()
        self.pixel_cache = pixel_cache
        # An identity classifier has an output for each person: gaps between the numbers would be outputs for nobody.
        persons, self.person_ids = np.unique(columns.person_ids(dataset), return_inverse=True)
        self.num_identities = len(persons)
        """Persons of the data set."""
        self._texts = self.dataset.select_columns(list(columns.captions))
        self._rows: np.ndarray | None = None  # of "all": (row, caption number) of every pair
        if captions_per_image == "all":
            counts = [len(columns.row_captions(row, number)) for number, row in enumerate(self._texts)]
            rows = np.repeat(np.arange(len(dataset)), counts)
            self._rows = np.stack([rows, np.concatenate([np.arange(count) for count in counts])], axis=1)

    def __len__(self) -> int:
        return len(self.dataset) if self._rows is None else len(self._rows)

    @property
    def epoch(self) -> int:
        """Number of the epoch, from 0."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer at the start of each epoch."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> ImageCaptionPair:
        row, number = (index, None) if self._rows is None else map(int, self._rows[index])
        captions = self.columns.row_captions(self._texts[row], row)
        return {
            "image": self._image(row),
            "caption": choose_caption(captions, self.seed, self.epoch, row) if number is None else captions[number],
            "person_id": int(self.person_ids[row]),
            "image_index": row,
        }

    def _image(self, row: int) -> Image.Image | torch.Tensor:
        return (
            read_row_image(self.dataset, self.columns.image, row)
            if self.pixel_cache is None
            else self.pixel_cache[row]
        )


def choose_caption(captions: Sequence[str], seed: int, epoch: int, row: int) -> str:
    """The caption that stands for an image in an epoch: a function of the arguments alone."""
    return captions[int(np.random.default_rng((seed, epoch, row)).integers(len(captions)))]


def read_row_image(dataset: datasets.Dataset, column: str, row: int) -> Image.Image:
    """The image of one row, as RGB.

    Raises:
        ValueError: if it cannot be decoded, naming the row and the reason.
    """
    try:
        return load_image(dataset[row][column])
    except (UnreadableImageError, OSError, TypeError) as error:
        raise ValueError(
            f"row {row}: the image in `{column}` cannot be read: {error}; drop the row with "
            f"`dataset.select(i for i in range(len(dataset)) if i != {row})`"
        ) from error


def cache_pixels(dataset: datasets.Dataset, columns: DatasetColumns, processor: GADMSProcessor) -> torch.Tensor:
    """Decode and resize every image once, for data sets that fit in memory.

    Args:
        dataset ([`~datasets.Dataset`]): rows with images.
        columns ([`DatasetColumns`]): the image column.
        processor ([`GADMSProcessor`]): gives the size.

    Returns:
        `torch.ByteTensor` of shape `(len(dataset), 3, height, width)`: what the processor would resize to, so that
        training on it equals training on the images.
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
    """Make a batch of [`ImageCaptionPairs`]: tokens padded to the longest caption, normalised pixels.

    Args:
        processor ([`GADMSProcessor`])

    Returns of a call: `pixel_values` of shape `(batch_size, 3, height, width)`; `input_ids` and `attention_mask` of
    shape `(batch_size, sequence_length)`; `person_ids`, `image_indices` and `truncated` (whether the caption was
    longer than the tokenizer's limit) of shape `(batch_size,)`.
    """

    def __init__(self, processor: GADMSProcessor):
        self.processor = processor
        image_processor = processor.image_processor
        self._mean = torch.tensor(image_processor.image_mean)[:, None, None]
        self._std = torch.tensor(image_processor.image_std)[:, None, None]

    def __call__(self, pairs: list[ImageCaptionPair]) -> dict[str, torch.Tensor]:
        captions = [pair["caption"] for pair in pairs]
        tokens = self.processor(text=captions)
        limit = self.processor.tokenizer.model_max_length
        lengths = tokens["attention_mask"].sum(dim=1)
        truncated = lengths == limit
        for index in truncated.nonzero().flatten().tolist():
            # A caption of exactly the limit is whole: only those that reach it are tokenised again.
            truncated[index] = len(self.processor.tokenize(captions[index])["input_ids"]) > limit
        return {
            "pixel_values": self._pixel_values([pair["image"] for pair in pairs]),
            "input_ids": tokens["input_ids"],
            "attention_mask": tokens["attention_mask"],
            "person_ids": torch.tensor([pair["person_id"] for pair in pairs]),
            "image_indices": torch.tensor([pair["image_index"] for pair in pairs]),
            "truncated": truncated,
        }

    def _pixel_values(self, images: list[Image.Image | torch.Tensor]) -> torch.Tensor:
        cached = [image for image in images if isinstance(image, torch.Tensor)]
        if cached:
            return (torch.stack(cached).float() / 255 - self._mean) / self._std
        return self.processor(images=images)["pixel_values"]


class PersonAugmentation(nn.Module):
    """The paper's augmentation, on a batch, on the model's device.

    Horizontal flip (p 0.5), pad and random crop, random erasing (p 0.5, area 0.02-0.4, aspect 0.3-3.3) filled with
    the mean. A flip mirrors "left" and "right" in captions; the published recipe accepts that, and so does this one.

    Args:
        processor ([`GADMSProcessor`]): size and normalisation of the images.
        crop_padding (`int`, *optional*, defaults to 10): pixels added on each side, in black, before the crop.

    Raises:
        ValueError: if `crop_padding` is negative.
    """

    def __init__(self, processor: GADMSProcessor, *, crop_padding: int = 10):
        super().__init__()
        if crop_padding < 0:
            raise ValueError(f"crop_padding = {crop_padding} must not be negative")
        mean = torch.tensor(processor.image_processor.image_mean)
        std = torch.tensor(processor.image_processor.image_std)
        # Padding is black in pixels, erasing is the mean (zero once normalised): hence the two changes of scale.
        self.steps = nn.Sequential(
            K.Denormalize(mean, std),
            K.RandomHorizontalFlip(p=0.5),
            K.RandomCrop(processor.image_size, padding=crop_padding, p=1.0),
            K.Normalize(mean, std),
            K.RandomErasing(p=0.5, scale=(0.02, 0.4), ratio=(0.3, 3.3), value=0.0),
        )

    @torch.no_grad()
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """`torch.FloatTensor` of shape `(batch_size, 3, height, width)`, normalised, in and out."""
        return self.steps(pixel_values)
