"""The data of a run: training and validation rows, and the image-caption pairs made from them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np

from ..processing_gadms import GADMSProcessor
from .bad_rows import BadRow, drop_bad_rows, find_bad_rows
from .data import ImageCaptionPairs, cache_pixels
from .run_config import DataArguments, RunConfig
from .streaming import ParquetRows, StreamedPairs


@dataclass(frozen=True)
class RunData:
    """Rows of a run, loaded by [`load_run_data`].

    Attributes:
        arguments ([`DataArguments`]): section `data` of the run file.
        train (`datasets.Dataset` or [`ParquetRows`]): training split; [`ParquetRows`] with `data.streaming`.
        validation (`datasets.Dataset`, *optional*): validation split; `None` if the run does not evaluate.
        skipped (`dict[str, list[BadRow]]`): rows that were dropped before training, by split.
    """

    arguments: DataArguments
    train: datasets.Dataset | ParquetRows
    validation: datasets.Dataset | None
    skipped: Mapping[str, list[BadRow]] = field(default_factory=dict)

    def captions(self) -> Iterator[str]:
        """All training captions; images are not decoded."""
        if isinstance(self.train, ParquetRows):
            return self.train.captions(bad_rows=self.arguments.bad_rows)
        return self.arguments.columns.captions_of(self.train)

    def count_identities(self) -> int:
        """Number of persons in the training split.

        Raises:
            ValueError: if the column of person ids does not contain whole numbers.
            TypeError: if the training split is streamed.
        """
        if isinstance(self.train, ParquetRows):
            raise TypeError("the persons of a stream cannot be counted before it is read")
        return len(np.unique(self.arguments.columns.person_ids(self.train)))

    def training_pairs(self, processor: GADMSProcessor, *, seed: int) -> ImageCaptionPairs | StreamedPairs:
        """Pairs to train on.

        Args:
            processor ([`GADMSProcessor`]): resizes the images if `data.cache_images` is set.
            seed (`int`): seed of the caption draws and, for a stream, of the order.
        """
        data = self.arguments
        options: Any = {
            "captions_per_image": data.captions_per_image,
            "short_queries": data.short_queries,
            "seed": seed,
        }
        if isinstance(self.train, ParquetRows):
            return StreamedPairs(self.train, shuffle_buffer=data.shuffle_buffer, bad_rows=data.bad_rows, **options)
        pixel_cache = cache_pixels(self.train, data.columns, processor) if data.cache_images else None
        return ImageCaptionPairs(self.train, data.columns, pixel_cache=pixel_cache, **options)

    def validation_pairs(self) -> ImageCaptionPairs | None:
        """Pairs to evaluate on: every caption of a validation image is a query."""
        if self.validation is None:
            return None
        return ImageCaptionPairs(self.validation, self.arguments.columns, captions_per_image="all")


def load_run_data(
    run: RunConfig,
    *,
    load_splits: Callable[..., Mapping[str, datasets.Dataset]],
    parquet_files: Callable[..., list[str]],
) -> RunData:
    """Load the training split and, if the run evaluates, the validation split, and look for rows that cannot be used.

    Args:
        run ([`RunConfig`])
        load_splits (`Callable`):
            Loads splits by name, given the data set, the names of the splits and the `dataset_args` as keyword
            arguments. The main process calls it first; the other processes then find its cache.
        parquet_files (`Callable`):
            Lists the Parquet files of a split, given the data set, the split and the `dataset_args`. Used only with
            `data.streaming`.

    Returns:
        [`RunData`]

    Raises:
        ValueError: if a split or a column is missing, a data set to stream is not made of Parquet files, or rows
            cannot be used and `data.bad_rows` is `"error"`.
        OSError: if a file is missing or cannot be read.
    """
    data, options, training = run.data, run.data.dataset_args, run.training
    validation_split = data.validation_split if training.eval_strategy != "no" else None
    names = [*([] if data.streaming else [data.train_split]), *([validation_split] if validation_split else [])]
    is_main = training.process_index == 0
    stream = None
    if data.streaming:
        files = parquet_files(data.dataset, data.train_split, **options)
        stream = ParquetRows(files, data.columns, progress=is_main)
    with training.main_process_first(desc="data set"):
        loaded = load_splits(data.dataset, names, **options) if names else {}
    splits: dict[str, datasets.Dataset] = {}
    skipped: dict[str, list[BadRow]] = {}
    for name in names:
        data.columns.validate(loaded[name].column_names)
        share = {"process_index": training.process_index, "num_processes": training.world_size}
        skipped[name] = find_bad_rows(loaded[name], data.columns, **share)
        splits[name] = drop_bad_rows(loaded[name], skipped[name], name, skip=data.bad_rows == "skip", log=is_main)
    train = splits[data.train_split] if stream is None else stream
    return RunData(data, train, splits[validation_split] if validation_split else None, skipped)
