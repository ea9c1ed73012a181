"""A process that reads data sets from the Hub that its environment names, as it is asked to on its input.

One line of JSON is a request, `{"function": ..., "arguments": {...}}`; one line is the answer. With the argument
`--plain` it does not import our builders.
"""

import json
import os
import sys
from typing import Any

import datasets
from datasets.distributed import split_dataset_by_node


def rows(**arguments: Any) -> Any:
    """The paths, in order, of all rows."""
    dataset = datasets.load_dataset(**arguments)
    return dataset["image_path"][:]


def rows_and_columns(**arguments: Any) -> Any:
    dataset = datasets.load_dataset(**arguments)
    first = next(iter(dataset))
    image = first.pop("image", None)
    return {
        "columns": dataset.column_names,
        "features": {name: type(feature).__name__ for name, feature in dataset.features.items()},
        "first": first,
        "image": image and [image.mode, list(image.size)],
    }


def random_rows(indices: list[int], **arguments: Any) -> Any:
    dataset = datasets.load_dataset(**arguments)
    return [[dataset[index]["image_path"], list(dataset[index]["image"].getpixel((0, 0)))] for index in indices]


def stream(rank: int = 0, world_size: int = 1, **arguments: Any) -> Any:
    dataset = datasets.load_dataset(streaming=True, **arguments)
    return [row["image_path"] for row in split_dataset_by_node(dataset, rank, world_size)]


def stream_until(count: int, **arguments: Any) -> Any:
    """The first rows of a stream, and its state after them."""
    dataset = datasets.load_dataset(streaming=True, **arguments)
    iterator = iter(dataset)
    paths = [next(iterator)["image_path"] for _ in range(count)]
    return {"paths": paths, "state": dataset.state_dict()}


def stream_from(state: dict[str, Any], **arguments: Any) -> Any:
    dataset = datasets.load_dataset(streaming=True, **arguments)
    dataset.load_state_dict(state)
    return [row["image_path"] for row in dataset]


def training_stream(
    rank: int = 0, world_size: int = 1, workers: int = 0, skip: int = 0, **arguments: Any
) -> list[list[int]]:
    """The rows of each batch that a process trains on, an empty list for those that were passed over."""
    from torch.utils.data import DataLoader

    from dataset_scripts.loading import parquet_files
    from modeling_gadms.training.data import DatasetColumns
    from modeling_gadms.training.streaming import ParquetRows, StreamedPairs

    files = parquet_files(arguments.pop("path"), "train", **arguments)
    pairs = StreamedPairs(ParquetRows(files, DatasetColumns(), progress=False), shuffle_buffer=4)
    batches = pairs.batches(2, _rows_of, process_index=rank, num_processes=world_size)
    batches.start_at(0, skip)
    return [batch or [] for batch in DataLoader(batches, batch_size=None, num_workers=workers)]


def _rows_of(pairs: list[Any]) -> Any:
    """The row of each pair, by its image: they are as red as their rows' numbers."""
    for pair in pairs:
        if pair["image"].getpixel((0, 0))[0] != pair["image_index"]:
            raise AssertionError(pair)
    return [pair["image_index"] for pair in pairs]


def builder(**arguments: Any) -> Any:
    made = datasets.load_dataset_builder(**arguments)
    files = {split: [str(file) for file in files] for split, files in (made.config.data_files or {}).items()}
    return {"files": files, "cache": made.cache_dir, "class": type(made).__name__}


def config_names(path: str) -> Any:
    return datasets.get_dataset_config_names(path)


def imported(module: str) -> Any:
    return module in sys.modules


def main() -> None:
    if "--plain" not in sys.argv:
        import dataset_scripts  # noqa: F401, makes the names known
    datasets.disable_progress_bars()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print is no answer
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": globals()[request["function"]](**request["arguments"])}
        except Exception as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(answer), file=answers, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
