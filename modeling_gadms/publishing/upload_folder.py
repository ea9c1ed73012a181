"""The upload folder: the exact files of a push to the Hub, complete or absent, and checked for local paths."""

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..encoders.atomic_files import atomic_folder
from .hub import PushReport, push_folder


CARD = "README.md"
_TEXT_SUFFIXES = (".md", ".json", ".yaml")
_VOCABULARIES = ("tokenizer.json", "vocab.json")
"""Not checked for local paths: some tokens look like short paths."""
_UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


@dataclass(frozen=True)
class Excluded:
    """Something of the source that is not published, or not as it is, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class PublishReport:
    """Result of publishing a model or a data set.

    Attributes:
        repo_id (`str`): `namespace/name`.
        files (`dict[str, int]`): size in bytes of all files of the commit, by path.
        excluded (`tuple[Excluded, ...]`): what is not published as it is.
        folder (`Path`, *optional*): folder that a dry run wrote.
        pushed ([`PushReport`], *optional*): the push; `None` for a dry run.
    """

    repo_id: str
    files: dict[str, int]
    excluded: tuple[Excluded, ...]
    folder: Path | None
    pushed: PushReport | None

    def to_text(self) -> str:
        """Format the report as text."""
        width = max(map(len, self.files))
        lines = [f"{path:<{width}}  {readable_size(size):>9}" for path, size in self.files.items()]
        lines.append(f"{len(self.files)} files, {readable_size(sum(self.files.values()))}")
        lines += [f"Excluded: {entry.name} ({entry.reason})" for entry in self.excluded]
        if self.pushed is None:
            lines.append(f"Nothing was pushed. What would go to {self.repo_id} is in {self.folder}")
            lines.append(f"Read its card before you push: {self.folder}/{CARD}")
        else:
            tag = f", tag {self.pushed.tag}" if self.pushed.tag else ""
            lines.append(f"Pushed to {self.repo_id}: {self.pushed.url}")
            lines.append(f"Commit {self.pushed.commit}, revision {self.pushed.revision}{tag}")
        return "\n".join(lines)


def readable_size(size: int) -> str:
    """Format a size in bytes.

    >>> readable_size(999), readable_size(598_641_024)
    ('999 B', '598.6 MB')
    """
    return next((f"{size / unit:.1f} {name}" for unit, name in _UNITS if size >= unit), f"{size} B")


@contextmanager
def new_upload_folder(dry_run: Path | None, *, beside: Path | None = None) -> Iterator[Path]:
    """Create an empty, temporary folder for the files of a push.

    Args:
        dry_run (`Path`, *optional*): where to move the folder if the `with` block succeeds. By default the folder is
            removed.
        beside (`Path`, *optional*): create a folder that is removed on the disk of this path, so that files can be
            hard-linked. By default in the system's temporary folder.

    Raises:
        FileExistsError: if `dry_run` is a file, or a folder that is not empty.
    """
    if dry_run is not None:
        with atomic_folder(dry_run) as folder:
            yield folder
    else:
        place = None if beside is None else beside.absolute().parent
        with tempfile.TemporaryDirectory(prefix="part-publish-", dir=place, ignore_cleanup_errors=True) as temporary:
            yield Path(temporary)


def publish_upload_folder(
    folder: Path,
    repo_id: str,
    *,
    sources: Sequence[Path],
    excluded: Sequence[Excluded],
    dry_run: Path | None,
    **target: Any,
) -> PublishReport:
    """Check an upload folder for local paths and, unless this is a dry run, push it.

    Args:
        folder (`Path`), repo_id (`str`): as in [`~modeling_gadms.publishing.hub.push_folder`].
        sources (`Sequence[Path]`): folders it was made from.
        excluded (`Sequence[Excluded]`): for the report.
        dry_run (`Path`, *optional*): as in [`new_upload_folder`].
        target: other arguments of `push_folder`.

    Raises:
        ValueError: if a text file contains the path of the upload folder, a source, the home folder or the working
            directory, naming both; or as `push_folder`.
        OSError: as `push_folder`.
    """
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    places = {str(path.absolute()) for path in (folder, *sources, Path.home(), Path.cwd())} - {"/"}
    pattern = re.compile("|".join(rf"{re.escape(place)}(?![\w.-])" for place in sorted(places)))
    for name, path in files.items():
        if not name.endswith(_TEXT_SUFFIXES) or name in _VOCABULARIES:
            continue
        if match := pattern.search(path.read_text(encoding="utf-8")):
            raise ValueError(f"{name} contains the path {match[0]} of this machine: remove it from the source")
    sizes = {name: path.stat().st_size for name, path in files.items()}
    pushed = None
    if dry_run is None:
        pushed = push_folder(folder, repo_id, message=f"Publish {repo_id.partition('/')[2]}", **target)
    return PublishReport(repo_id, sizes, tuple(excluded), dry_run, pushed)
