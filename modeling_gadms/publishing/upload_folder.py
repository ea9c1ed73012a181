"""The folder that is pushed to the Hub: made beside its place, to be whole or not there, and looked through."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .hub import PushReport


CARD = "README.md"
_TEXTS = (".md", ".json")
_VOCABULARIES = ("tokenizer.json", "vocab.json")
"""Pieces of words, of which some look like short paths."""
_UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


@dataclass(frozen=True)
class PublishedFile:
    """A file of the repository.

    Attributes:
        path (`str`): in the repository.
        size (`int`): in bytes.
    """

    path: str
    size: int


@dataclass(frozen=True)
class LeftOut:
    """What the source has and the repository has not, or has otherwise, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Publication:
    """What was pushed, or would be.

    Attributes:
        repo_id (`str`): `namespace/name`.
        files (`tuple[PublishedFile, ...]`): all that the commit holds.
        left_out (`tuple[LeftOut, ...]`): what of the source is not published as it is.
        folder (`Path`, *optional*): where a dry run left the files.
        pushed ([`PushReport`], *optional*): where they went, if this was no dry run.
    """

    repo_id: str
    files: tuple[PublishedFile, ...]
    left_out: tuple[LeftOut, ...]
    folder: Path | None
    pushed: "PushReport | None"

    def to_text(self) -> str:
        """Return the publication for people."""
        width = max(len(file.path) for file in self.files)
        lines = [f"{file.path:<{width}}  {readable_size(file.size):>9}" for file in self.files]
        lines.append(f"{len(self.files)} files, {readable_size(sum(file.size for file in self.files))}")
        lines += [f"Left out: {left.name} ({left.reason})" for left in self.left_out]
        if self.pushed is None:
            lines.append(f"Nothing was pushed. What would go to {self.repo_id} is in {self.folder}")
            lines.append(f"Read its card before you push: {self.folder}/{CARD}")
        else:
            tag = f", tag {self.pushed.tag}" if self.pushed.tag else ""
            lines.append(f"Pushed to {self.repo_id}: {self.pushed.url}")
            lines.append(f"Commit {self.pushed.commit}, revision {self.pushed.revision}{tag}")
        return "\n".join(lines)


def readable_size(size: int) -> str:
    """Bytes for people.

    >>> readable_size(999), readable_size(598_641_024)
    ('999 B', '598.6 MB')
    """
    return next((f"{size / unit:.1f} {name}" for unit, name in _UNITS if size >= unit), f"{size} B")


@contextmanager
def staging_folder(dry_run: Path | None, *, beside: Path | None = None) -> Iterator[Path]:
    """An empty folder to put together what is pushed.

    Args:
        dry_run (`Path`, *optional*): where the folder is to stay at the end of the `with`, if nothing goes wrong in
            it; else the folder is removed.
        beside (`Path`, *optional*): what lies on the disk to use where it does not stay; by default the system's
            place for temporary files.

    Raises:
        ValueError: if `dry_run` is there and not an empty folder.
    """
    if dry_run is not None:
        if dry_run.exists() and (not dry_run.is_dir() or any(dry_run.iterdir())):
            raise ValueError(f"{dry_run} is there already and not empty: name a new folder for the dry run")
        dry_run.parent.mkdir(parents=True, exist_ok=True)
    # On the same disk as its place, so that it can be moved there in one piece.
    place = dry_run or beside
    made = Path(tempfile.mkdtemp(prefix="part-publish-", dir=None if place is None else place.absolute().parent))
    try:
        yield made
        if dry_run is not None:
            made.chmod(0o755)  # temporary folders are for their owner alone
            made.replace(dry_run)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def list_files(folder: Path) -> tuple[PublishedFile, ...]:
    """All files below a folder, in order."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(PublishedFile(path.relative_to(folder).as_posix(), path.stat().st_size) for path in paths)


def refuse_own_places(folder: Path, *sources: Path) -> None:
    """Refuse to publish texts that tell where on this machine things are.

    Args:
        folder (`Path`): what is to be published.
        sources (`Path`): what it was made from. They, the folder itself, the home folder and the working directory
            are looked for.

    Raises:
        ValueError: naming the first file and the place that it tells.
    """
    places = {str(path.absolute()) for path in (folder, *sources, Path.home(), Path.cwd())} - {"/"}
    pattern = re.compile("|".join(rf"{re.escape(place)}(?![\w.-])" for place in sorted(places)))
    for file in list_files(folder):
        if not file.path.endswith(_TEXTS) or file.path in _VOCABULARIES:
            continue
        if match := pattern.search((folder / file.path).read_text(encoding="utf-8")):
            raise ValueError(
                f"{file.path} would tell the world of {match[0]}, a place on this machine: take it out of the source"
            )
