"""Where WebPerson's rows are: on the Hub, in Parquet files on disk, or in the authors' JSON file."""

import glob
import json
import os
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

import datasets
import pyarrow as pa
from datasets.data_files import DataFilesDict
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from tqdm.auto import tqdm
from tqdm.contrib.concurrent import thread_map

from modeling_gadms.training.retry import call_with_retries

from .missing_images import report_missing_images


ROWS_PER_TABLE = 1000
"""Of the JSON file, which is handed out to processes in such pieces. Not stated: chosen."""
_NAMED = 10  # of many missing images, as many are named
_PATTERNS = ("data/train-*.parquet", "**/*.parquet")


def resolve_commit(repo_id: str, revision: str | None, token: str | bool | None = None) -> str:
    """The commit that a branch or tag of a data set on the Hub stands for at this moment.

    Args:
        repo_id (`str`), revision (`str`, *optional*, defaults to `"main"`)
        token (`str` or `bool`, *optional*): as `load_dataset` takes it.

    Raises:
        FileNotFoundError: if there is no such repository or revision, or not for this user.
        ConnectionError: if the Hub cannot be reached.
    """
    place = f"{repo_id}, revision {revision or 'main'}"
    try:
        api = HfApi(datasets.config.HF_ENDPOINT, token=token)
        info = call_with_retries(partial(api.dataset_info, repo_id, revision=revision, timeout=100.0), _may_pass)
    except (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError) as error:
        raise FileNotFoundError(
            f"{place}, cannot be found on the Hub, or not by you ({type(error).__name__}). Check its name; accept its "
            "terms on its page and run `hf auth login` if it asks for that; or give `data_dir`, a copy on disk"
        ) from error
    except Exception as error:  # of a refused connection, whatever class the Hub's HTTP library has for it
        raise ConnectionError(
            f"{place}, cannot be read from {datasets.config.HF_ENDPOINT} ({type(error).__name__}: {error}). Without a "
            f"network, give `data_dir`, a copy on disk, which `hf download --repo-type dataset {repo_id} --local-dir "
            "FOLDER` makes where there is one (and HF_HUB_OFFLINE=1 keeps everything from the network)"
        ) from error
    return str(info.sha)


def find_published_files(repo_id: str, commit: str, download_config: datasets.DownloadConfig) -> DataFilesDict:
    """The Parquet files of a commit, as `hf://` addresses.

    Raises:
        FileNotFoundError: if it has none.
    """
    for pattern in _PATTERNS:
        base_path = f"hf://datasets/{repo_id}@{commit}"
        files = DataFilesDict.from_patterns({"train": [pattern]}, base_path, download_config=download_config)
        if files["train"]:
            return files
    raise FileNotFoundError(f"{repo_id} holds no Parquet files at commit {commit}; `repo_id` names another repository")


def download_files(
    files: list[str], token: str | bool | None, *, force: bool = False, num_threads: int | None = None
) -> None:
    """Fetch `hf://` addresses into the Hub's cache, where `datasets` finds them.

    `datasets` would fetch them itself, but gives up at the first failure of the server.

    Args:
        files (`list[str]`): as [`find_published_files`] finds them.
        token (`str` or `bool`, *optional*): as `load_dataset` takes it.
        force (`bool`, *optional*): whether to fetch those that are there as well.
        num_threads (`int`, *optional*, defaults to 1): files fetched at once.
    """
    api = HfApi(datasets.config.HF_ENDPOINT, token=token)

    def fetch(file: str) -> None:
        repo_id, _, place = file.removeprefix("hf://datasets/").partition("@")
        revision, _, path = place.partition("/")
        download = partial(api.hf_hub_download, repo_type="dataset", revision=revision, force_download=force)
        call_with_retries(partial(download, repo_id, path), _may_pass)

    thread_map(fetch, files, max_workers=num_threads or 1, desc="Downloading", unit="file", disable=None)


def _may_pass(error: Exception) -> bool:
    """Whether it is a failure of the server's own."""
    return isinstance(error, HfHubHTTPError) and error.response.status_code >= 500


def find_local_files(data_dir: str) -> DataFilesDict:
    """The Parquet files of a folder or, if it has none, its JSON file.

    Returns:
        `DataFilesDict`: of one split, `train`. A warning names shards that are not there although the names of the
        others count them.

    Raises:
        FileNotFoundError: if the folder does not exist or holds neither.
        ValueError: if it holds several JSON files.
    """
    root = Path(data_dir).expanduser().absolute()
    if not root.is_dir():
        raise FileNotFoundError(f"data_dir={data_dir!r} is no folder ({root})")
    files = sorted(root.glob(_PATTERNS[0])) or [
        file
        for file in sorted(root.glob(_PATTERNS[1]))
        # `work` holds what the construction pipeline has not finished or has rejected; tools hide their caches.
        if (place := file.relative_to(root).parts)[0] != "work" and not any(part.startswith(".") for part in place)
    ]
    if files:
        _warn_of_missing_shards(root, files)
    else:
        files = sorted(root.glob("*.json"))
        if len(files) > 1:
            raise ValueError(
                f"{root} holds {len(files)} JSON files ({', '.join(file.name for file in files[:_NAMED])}); leave the "
                "one to be read there"
            )
    if not files or not (files[0].suffix == ".parquet" or (root / "images").is_dir()):
        raise FileNotFoundError(
            f"{root} holds no WebPerson: neither Parquet files (data/train-*.parquet) nor the authors' JSON file with "
            "the images in a folder `images` beside it"
        )
    return DataFilesDict.from_patterns({"train": [glob.escape(str(file)) for file in files]})


def _warn_of_missing_shards(root: Path, files: list[Path]) -> None:
    """By names such as `train-00003-of-00010.parquet`."""
    missing: list[str] = []
    names = {file.name for file in files}
    for total in {file.stem.rpartition("-of-")[2] for file in files if "-of-" in file.stem}:
        if total.isdecimal():
            shards = [f"train-{number:0{len(total)}d}-of-{total}.parquet" for number in range(int(total))]
            missing += [shard for shard in shards if shard not in names]
    if missing:
        warnings.warn(
            f"{root} is not whole: {len(missing)} shards are missing ({', '.join(missing[:_NAMED])}"
            f"{', ...' if len(missing) > _NAMED else ''}); the others are read",
            UserWarning,
            stacklevel=3,
        )


def read_annotations(file: str, on_missing_images: str) -> Iterator[pa.Table]:
    """The authors' JSON file.

    Args:
        file (`str`): the file; the images are in `images` beside it.
        on_missing_images (`str`): `"error"` or `"skip"`.

    Yields:
        `pa.Table`: of `image` (as `datasets` stores images), `image_path`, `caption1` and `caption2`.

    Raises:
        FileNotFoundError: if images are missing: how many, and the first ten.
        ValueError: if the file is not of that form, naming the place, or has an image twice with other captions.
    """
    folder = Path(file).with_name("images")
    rows = _read_rows(file)
    missing = [
        path
        for path in tqdm(rows, desc="Looking for images", unit="image", disable=None)
        if not os.path.isfile(folder / path)
    ]
    if missing:
        report_missing_images(missing, len(rows), file, folder, on_missing_images)
        for path in missing:
            del rows[path]
    paths = list(rows)
    for start in range(0, len(paths), ROWS_PER_TABLE):
        piece = paths[start : start + ROWS_PER_TABLE]
        images = [{"bytes": None, "path": str(folder / path)} for path in piece]
        captions = [pa.array([rows[path][number] for path in piece], pa.string()) for number in range(2)]
        columns = [pa.array(images, datasets.Image().pa_type), pa.array(piece, pa.string()), *captions]
        yield pa.table(columns, names=["image", "image_path", "caption1", "caption2"])


def _read_rows(file: str) -> dict[str, tuple[str, str]]:
    """Both captions of every path, in the file's order."""
    form = 'a list of {"<path>": {"caption1": "...", "caption2": "..."}}'
    try:
        entries = json.loads(Path(file).read_text(encoding="utf-8-sig"))  # with or without a byte order mark
    except ValueError as error:
        raise ValueError(f"{file} is no JSON in UTF-8: {error}; it should hold {form}") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{file} should hold {form}; it holds {str(entries)[:80]}")
    rows: dict[str, tuple[str, str]] = {}
    named = 0
    for number, entry in enumerate(entries):
        place = f"{file}, entry {number}"
        for name, captions in entry.items() if isinstance(entry, dict) and entry else [("", None)]:
            both = [captions.get(key) for key in ("caption1", "caption2")] if isinstance(captions, dict) else [None]
            if not all(isinstance(caption, str) for caption in both):
                raise ValueError(f"{place}: {str(entry)[:200]} does not fit; the file should hold {form}")
            path = PurePosixPath(name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{place}: the path {name!r} leads out of the folder `images`")
            pair = (str(both[0]), str(both[1]))
            if rows.setdefault(str(path), pair) != pair:
                raise ValueError(f"{place}: {path} has other captions than in an earlier entry")
            named += 1
    if repeated := named - len(rows):
        warnings.warn(f"{file}: {repeated} entries repeat an earlier one and are left out", UserWarning, stacklevel=2)
    return rows
