"""Find and read the files of WebPerson: on the Hub, as Parquet files on disk, or as the authors' JSON file."""

import glob
import json
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePath, PurePosixPath

import datasets
import pyarrow as pa
from datasets.data_files import DataFilesDict, DataFilesList
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from tqdm.contrib.concurrent import thread_map

from modeling_gadms.training.retry import call_with_retries

from .missing_images import missing_images


ROWS_PER_TABLE = 1000
"""Rows of the JSON file per table, the unit that processes share. Not stated: chosen."""
_NAMED = 10  # files that a message lists
_PATTERNS = ("data/train-*.parquet", "**/*.parquet")


def resolve_commit(repo_id: str, revision: str | None, token: str | bool | None = None) -> str:
    """Resolve a branch or tag of a data set on the Hub to its current commit.

    Args:
        repo_id (`str`), revision (`str`, *optional*, defaults to `"main"`): the repository and its branch or tag.
        token (`str` or `bool`, *optional*): as in `load_dataset`.

    Raises:
        FileNotFoundError: if the repository or revision does not exist or is not accessible.
        ConnectionError: if the Hub cannot be reached.
    """
    place = f"{repo_id}, revision {revision or 'main'}"
    try:
        api = HfApi(datasets.config.HF_ENDPOINT, token=token)
        info = call_with_retries(partial(api.dataset_info, repo_id, revision=revision, timeout=100.0), _is_temporary)
    except (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError) as error:
        raise FileNotFoundError(
            f"{place}, does not exist on the Hub or is not accessible ({type(error).__name__}). Check its name. If it "
            "is gated, accept its terms on its page and run `hf auth login`. Or give `data_dir`, a copy on disk"
        ) from error
    except Exception as error:  # the class of connection errors depends on the Hub's HTTP library
        raise ConnectionError(
            f"{place}, cannot be read from {datasets.config.HF_ENDPOINT} ({type(error).__name__}: {error}). Without a "
            f"network, give `data_dir`, a copy on disk made by `hf download --repo-type dataset {repo_id} --local-dir "
            "FOLDER` (HF_HUB_OFFLINE=1 blocks all network access)"
        ) from error
    return str(info.sha)


def find_published_files(repo_id: str, commit: str, download_config: datasets.DownloadConfig) -> DataFilesDict:
    """Find the Parquet files of a commit, as `hf://` addresses.

    Raises:
        FileNotFoundError: if there are none.
    """
    for pattern in _PATTERNS:
        base_path = f"hf://datasets/{repo_id}@{commit}"
        files = DataFilesDict.from_patterns({"train": [pattern]}, base_path, download_config=download_config)
        if files["train"]:
            return files
    raise FileNotFoundError(f"{repo_id} has no Parquet files at commit {commit}: set another `repo_id`")


def download_files(
    files: list[str], token: str | bool | None, *, force: bool = False, num_threads: int | None = None
) -> None:
    """Download `hf://` addresses into the Hub's cache, where `datasets` finds them.

    The download of `datasets` itself does not retry after a server error.

    Args:
        files (`list[str]`): from [`find_published_files`].
        token (`str` or `bool`, *optional*): as in `load_dataset`.
        force (`bool`, *optional*): download cached files again.
        num_threads (`int`, *optional*, defaults to 1): number of parallel downloads.
    """
    api = HfApi(datasets.config.HF_ENDPOINT, token=token)

    def fetch(file: str) -> None:
        repo_id, _, place = file.removeprefix("hf://datasets/").partition("@")
        revision, _, path = place.partition("/")
        download = partial(api.hf_hub_download, repo_type="dataset", revision=revision, force_download=force)
        call_with_retries(partial(download, repo_id, path), _is_temporary)

    thread_map(fetch, files, max_workers=num_threads or 1, desc="Downloading", unit="file", disable=None)


def _is_temporary(error: Exception) -> bool:
    """Whether it is a server error, which a retry can solve."""
    return isinstance(error, HfHubHTTPError) and error.response.status_code >= 500


def find_local_files(data_dir: str) -> DataFilesDict:
    """Find the Parquet files of a folder or, if there are none, its JSON file.

    Returns:
        `DataFilesDict`: one split, `train`. Missing shards, according to the names of the others, cause a warning.

    Raises:
        FileNotFoundError: if the folder does not exist or contains neither.
        ValueError: if it contains several JSON files.
    """
    root = Path(data_dir).expanduser().absolute()
    if not root.is_dir():
        raise FileNotFoundError(f"data_dir={data_dir!r} is not a folder ({root})")
    files = sorted(root.glob(_PATTERNS[0])) or [
        file for file in sorted(root.glob(_PATTERNS[1])) if _is_published(file.relative_to(root))
    ]
    if files:
        _warn_of_missing_shards(str(root), {file.name for file in files})
    else:
        files = sorted(root.glob("*.json"))
        if len(files) > 1:
            raise ValueError(
                f"{root} holds {len(files)} JSON files ({', '.join(file.name for file in files[:_NAMED])}): keep "
                "only the one to read"
            )
    if not files or not (files[0].suffix == ".parquet" or (root / "images").is_dir()):
        raise FileNotFoundError(
            f"{root} holds no WebPerson: neither Parquet files (data/train-*.parquet) nor the authors' JSON file with "
            "the images in a folder `images` beside it"
        )
    return DataFilesDict.from_patterns({"train": [glob.escape(str(file)) for file in files]})


def find_remote_files(url: str, download_config: datasets.DownloadConfig) -> DataFilesDict:
    """Find the Parquet files of a folder in an object store.

    Args:
        url (`str`): such as `s3://bucket/folder`. Credentials come from the environment.
        download_config (`DownloadConfig`): with the `storage_options` of `load_dataset`, if any.

    Returns:
        `DataFilesDict`: one split, `train`. Missing shards cause a warning, as in [`find_local_files`].

    Raises:
        FileNotFoundError: if there are none.
        ImportError: if the package of the protocol is missing.
        OSError: if the store does not answer, or refuses access.
    """
    url = url.rstrip("/")
    for pattern in _PATTERNS:
        try:
            found = DataFilesDict.from_patterns({"train": [f"{url}/{pattern}"]}, download_config=download_config)
        except ImportError as error:
            raise ImportError(f"{url}: {error}") from error
        except Exception as error:  # of any library behind fsspec
            raise OSError(f"{url} cannot be listed ({type(error).__name__}: {error})") from error
        origins = dict(zip(found["train"], found["train"].origin_metadata, strict=True))
        files = [file for file in origins if _is_published(PurePosixPath(file.removeprefix(f"{url}/")))]
        if files:
            _warn_of_missing_shards(url, {PurePosixPath(file).name for file in files})
            return DataFilesDict({"train": DataFilesList(files, [origins[file] for file in files])})
    raise FileNotFoundError(
        f"{url} holds no WebPerson: there are no Parquet files (data/train-*.parquet), or there is no such bucket"
    )


def _is_published(place: PurePath) -> bool:
    """Whether a file is in neither the pipeline's `work` folder, with rejected rows, nor a hidden cache of a tool."""
    return place.parts[0] != "work" and not any(part.startswith(".") for part in place.parts)


def _warn_of_missing_shards(root: str, names: set[str]) -> None:
    """Warn of gaps in names such as `train-00003-of-00010.parquet`."""
    missing: list[str] = []
    for total in {PurePath(name).stem.rpartition("-of-")[2] for name in names if "-of-" in name}:
        if total.isdecimal():
            shards = [f"train-{number:0{len(total)}d}-of-{total}.parquet" for number in range(int(total))]
            missing += [shard for shard in shards if shard not in names]
    if missing:
        warnings.warn(
            f"{root} is incomplete: {len(missing)} shards are missing ({', '.join(missing[:_NAMED])}"
            f"{', ...' if len(missing) > _NAMED else ''}); the others are read",
            UserWarning,
            stacklevel=3,
        )


def read_annotations(file: str, on_missing_images: str) -> Iterator[pa.Table]:
    """Read the authors' JSON file.

    Args:
        file (`str`): the file. Images are in the folder `images` beside it.
        on_missing_images (`str`): `"error"` or `"skip"`.

    Yields:
        `pa.Table`: of `image` (as `datasets` stores images), `image_path`, `caption1` and `caption2`.

    Raises:
        FileNotFoundError: if images are missing, with their number and the first ten paths.
        ValueError: if the file has another format, or contains an image twice with different captions.
    """
    folder = Path(file).with_name("images")
    rows = _read_rows(file)
    missing = missing_images(rows, folder, file, on_missing_images)
    paths = [path for path in rows if path not in missing]
    for start in range(0, len(paths), ROWS_PER_TABLE):
        piece = paths[start : start + ROWS_PER_TABLE]
        images = [{"bytes": None, "path": str(folder / path)} for path in piece]
        captions = [pa.array([rows[path][number] for path in piece], pa.string()) for number in range(2)]
        columns = [pa.array(images, datasets.Image().pa_type), pa.array(piece, pa.string()), *captions]
        yield pa.table(columns, names=["image", "image_path", "caption1", "caption2"])


def _read_rows(file: str) -> dict[str, tuple[str, str]]:
    """Both captions of each image path, in the file's order."""
    form = 'a list of {"<path>": {"caption1": "...", "caption2": "..."}}'
    try:
        entries = json.loads(Path(file).read_text(encoding="utf-8-sig"))  # with or without a byte order mark
    except ValueError as error:
        raise ValueError(f"{file} is not JSON in UTF-8: {error}; it must contain {form}") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{file} must contain {form}, not {str(entries)[:80]}")
    rows: dict[str, tuple[str, str]] = {}
    named = 0
    for number, entry in enumerate(entries):
        place = f"{file}, entry {number}"
        for name, captions in entry.items() if isinstance(entry, dict) and entry else [("", None)]:
            both = [captions.get(key) for key in ("caption1", "caption2")] if isinstance(captions, dict) else [None]
            if not all(isinstance(caption, str) for caption in both):
                raise ValueError(f"{place}: {str(entry)[:200]} does not fit; the file must contain {form}")
            path = PurePosixPath(name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{place}: the path {name!r} leaves the folder `images`")
            pair = (str(both[0]), str(both[1]))
            if rows.setdefault(str(path), pair) != pair:
                raise ValueError(f"{place}: {path} has different captions in an earlier entry")
            named += 1
    if repeated := named - len(rows):
        warnings.warn(f"{file}: {repeated} entries repeat an earlier one and are skipped", UserWarning, stacklevel=2)
    return rows
