"""WebPerson: images of persons from the web with two captions each, from the Hub or a copy on disk or in a bucket.

```python
import dataset_scripts  # registers the name
from datasets import load_dataset

load_dataset("webperson", "1m")  # one million rows from the Hub, as without "1m"
load_dataset("webperson", "5m", split="train", streaming=True)  # five million rows, some 200 GB, without storing files
load_dataset("webperson", "1m", revision="main")  # or a tag or commit
load_dataset("webperson", data_dir="datasets/WebPerson")  # a copy, the authors' JSON, or output of the pipeline
load_dataset("webperson", data_dir="s3://bucket/webperson")  # a copy or output of the pipeline in a bucket
```

The only split is `train`. Columns are `image`, `image_path`, `caption1`, `caption2`; output of the construction
pipeline keeps its additional columns. Source: the card of `Kaichengalex/WebPerson-5M`.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.builder import Key
from datasets.fingerprint import Hasher
from datasets.packaged_modules.parquet.parquet import Parquet, ParquetConfig

from .loading import WEBPERSON_COLUMNS
from .releases.missing_images import check_on_missing_images
from .releases.webperson_files import (
    download_files,
    find_local_files,
    find_published_files,
    find_remote_files,
    read_annotations,
    resolve_commit,
)


VERSION = "1.0.0"  # raise it if any row changes: it is part of the cache's name
_PIPELINE_COLUMN = "row_id"  # only in output of the construction pipeline
_is_announced = False  # whether this process has said what the bare name means


@dataclass
class WebPersonConfig(ParquetConfig):
    """Configuration of `webperson`, which also has the options of the Parquet builder (`columns`, `filters`, ...).

    Args:
        repo_id (`str`): the Hub repository, for example a mirror.
        revision (`str`, *optional*, defaults to `"main"`): branch, tag or commit. It is resolved to a commit at the
            time of loading, which is part of the cache's name.
        data_dir (`str`, *optional*): a folder to read instead of the Hub. It contains either Parquet files, as
            published or as written by the construction pipeline (`data/train-*.parquet`, or else all files below the
            folder except in the pipeline's `work`), or one JSON file, the authors' list of
            `{"<path>": {"caption1": ..., "caption2": ...}}`, with the images in `images`. The JSON file is read into
            memory. At a URL, such as `s3://bucket/folder`, only Parquet files are read. The name of the configuration,
            `1m` or `5m`, then has no effect.
        on_missing_images (`str`, *optional*, defaults to `"error"`): what to do if images of the JSON file are missing
            on disk. `"skip"` skips their rows with a warning. After adding the images, load with
            `download_mode="force_redownload"`.

    Raises:
        ValueError: if `on_missing_images` is unknown.
    """

    version: str = VERSION
    repo_id: str = ""
    revision: str | None = None
    on_missing_images: str = "error"
    commit: str | None = None
    """Set by the builder: the commit of `revision`."""

    def _resolve_data_files(self, base_path: str, download_config: datasets.DownloadConfig) -> None:
        if self.data_files is not None:  # type: ignore[has-type]
            raise ValueError("webperson finds its files itself: use `data_dir` instead of `data_files`")
        check_on_missing_images(self.on_missing_images)
        if self.data_dir is not None:
            if self.revision is not None:
                raise ValueError(f"a folder has no revisions: remove revision={self.revision!r} or `data_dir`")
            is_url = "://" in self.data_dir
            self.data_files = (
                find_remote_files(self.data_dir, download_config) if is_url else find_local_files(self.data_dir)
            )
        else:
            self.commit = resolve_commit(self.repo_id, self.revision, download_config.token)
            self.data_files = find_published_files(self.repo_id, self.commit, download_config)

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Returns: a name made of the options and the commit, or the files with their modification times."""
        origin = ("repo_id", "revision", "data_dir")
        options = {key: value for key, value in config_kwargs.items() if key not in origin and value is not None}
        name: str = super().create_config_id(options, custom_features)
        return f"{name}-{self.commit or Hasher.hash(self.data_files)}"


class WebPerson(Parquet):
    """Builder of WebPerson. See [`WebPersonConfig`] for its options.

    `config.data_files["train"]` lists the Parquet files, as paths or as `hf://` addresses of one commit. Streaming in
    training reads their row groups directly.

    Raises:
        FileNotFoundError: if the repository, the revision or the folder does not exist, or contains no such data.
        ConnectionError: if the Hub cannot be reached.
        ValueError: if options exclude each other.
    """

    BUILDER_CONFIG_CLASS = WebPersonConfig
    BUILDER_CONFIGS = [
        WebPersonConfig(name="1m", repo_id="Kaichengalex/WebPerson-1M"),
        WebPersonConfig(name="5m", repo_id="Kaichengalex/WebPerson-5M"),
    ]
    DEFAULT_CONFIG_NAME = "1m"
    config: WebPersonConfig

    def _create_builder_config(
        self, config_name: str | None = None, custom_features: datasets.Features | None = None, **options: Any
    ) -> tuple[WebPersonConfig, str]:
        # `datasets` passes `repo_id` to the builder only, not to the configuration. An explicit option, even None,
        # also makes it copy the configuration, whose files would otherwise be found only once per process.
        if self.repo_id and options.get("data_dir") is not None:
            raise ValueError(f"give repo_id={self.repo_id!r} or data_dir={options['data_dir']!r}, not both")
        if config_name is None and not self.repo_id and options.get("data_dir") is None:
            _announce_default()
        return super()._create_builder_config(config_name, custom_features, repo_id=self.repo_id, **options)

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        file = self.config.data_files["train"][0]
        if file.endswith(".json"):
            texts = dict.fromkeys(WEBPERSON_COLUMNS[1:], datasets.Value("string"))
            self._choose_features(datasets.Features({"image": datasets.Image(), **texts}), file)
            tables = list(read_annotations(file, self.config.on_missing_images))
            return [datasets.SplitGenerator(name="train", gen_kwargs={"tables": tables})]
        with open(file, "rb") as content:  # `datasets` patches `open` to read from addresses
            features = datasets.Features.from_arrow_schema(pq.read_schema(content))
        self._choose_features(features, file)
        if self.config.commit and not dl_manager.is_streaming:
            asked = dl_manager.download_config
            shards = self.config.data_files["train"]
            download_files(shards, self.token, force=asked.force_download, num_threads=asked.num_proc)
            asked.force_download = False  # already done
        return super()._split_generators(dl_manager)

    def _choose_features(self, features: datasets.Features, file: str) -> None:
        published = WEBPERSON_COLUMNS if _PIPELINE_COLUMN not in features else WEBPERSON_COLUMNS[:2]
        for name in [*published, *(self.config.columns or ())]:
            if name not in features:
                raise ValueError(f"{file} has no column `{name}`; it has {', '.join(features)}")
        # Files rewritten without `datasets` have lost the metadata that marks these bytes as an image.
        features["image"] = datasets.Image()
        if self.info.features is None:
            chosen = self.config.columns or features
            self.info.features = datasets.Features({name: features[name] for name in features if name in chosen})

    def _generate_tables(self, **source: Any) -> Iterator[tuple[Key, pa.Table]]:
        if "tables" not in source:
            yield from super()._generate_tables(**source)
            return
        filters = self.config.filters
        for number, table in enumerate(source["tables"]):
            if filters is not None:
                table = table.filter(pq.filters_to_expression(filters) if isinstance(filters, list) else filters)
            yield Key(0, number), self._cast_table(table.select(list(self.info.features)))

    def _generate_more_gen_kwargs(self, **source: Any) -> Iterator[dict[str, Any]]:
        if "tables" in source:
            yield source
        else:
            yield from super()._generate_more_gen_kwargs(**source)


def _announce_default() -> None:
    global _is_announced
    if not _is_announced:
        _is_announced = True
        warnings.warn(
            "webperson without a configuration means its configuration `1m`, of one million rows; name the "
            "configuration `5m` for all five million, some 200 GB",
            UserWarning,
            stacklevel=3,
        )
