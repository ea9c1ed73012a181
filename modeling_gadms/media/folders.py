"""Find the images below a folder, and account for everything else that is there."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from .images import IMAGE_SUFFIXES
from .names import escape_name


HIDDEN = "hidden"
SERVER_FOLDER = "thumbnails, snapshots and bins that file servers and systems make"
_SERVER_FOLDERS = {
    "@eadir",
    "#recycle",
    "#snapshot",
    "@recycle",
    "$recycle.bin",
    "__macosx",
    "system volume information",
}
NO_SUFFIX = "without a suffix"
ALREADY_READ = "folder that is there a second time, by a link"
UNREADABLE_FOLDER = "folder that cannot be opened"
SPECIAL_FILE = "pipe, socket or device"
"""Reading one may never end."""
EXAMPLES = 3
"""Number of names that a report gives for each kind."""


@dataclass
class Tally:
    """Counts by reason, with the first names of each.

    Attributes:
        counts (`Counter[str]`)
        examples (`dict[str, list[str]]`): the first `EXAMPLES` names of each reason, escaped.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        self.counts[reason] += 1
        names = self.examples.setdefault(reason, [])
        if len(names) < EXAMPLES:
            names.append(escape_name(name))

    def __str__(self) -> str:
        return "; ".join(self.lines())

    def lines(self) -> list[str]:
        """A text for each reason: its count and the first names."""
        counts = sorted(self.counts.items())
        return [f"{count:,} {with_names(reason, count, self.examples)}" for reason, count in counts]


def with_names(reason: str, count: int, examples: Mapping[str, Sequence[str]]) -> str:
    """A reason with the first names of those that it is counted for.

    >>> with_names(".mp4", 4, {".mp4": ["a.mp4", "b.mp4", "c.mp4"]})
    '.mp4 (a.mp4, b.mp4, c.mp4, ...)'
    """
    names = list(examples.get(reason, ()))
    if not names:
        return reason
    return f"{reason} ({', '.join(names + ['...'] * (count > len(names)))})"


def list_images(folder: str | Path, *, with_special_files: bool = False) -> tuple[list[Path], Tally]:
    """List the images below a folder in sorted order, and what is passed over by kind.

    Links to folders are followed, and each folder is read once. Hidden files and folders are passed over, as are the
    folders of thumbnails that file servers make, each counted as one.

    Args:
        folder (`str` or `Path`)
        with_special_files (`bool`, *optional*, defaults to `False`):
            Whether to list pipes, sockets and devices that are named like images, instead of passing them over.

    Raises:
        NotADirectoryError: if `folder` is not a folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder of images: give an existing folder")
    files: list[Path] = []
    passed_over = Tally()
    read: set[tuple[int, int]] = set()
    waiting = [folder]  # a list instead of recursion, because folders may be nested deeper than Python recurses
    while waiting:
        parent = waiting.pop()
        name = parent.relative_to(folder).as_posix()
        try:
            status, entries = parent.stat(), sorted(os.scandir(parent), key=lambda entry: entry.name)
        except OSError:
            passed_over.add(UNREADABLE_FOLDER, name)
            continue
        if (status.st_dev, status.st_ino) in read:
            passed_over.add(ALREADY_READ, name)
            continue
        read.add((status.st_dev, status.st_ino))
        folders = []
        for entry in entries:
            path = parent / entry.name
            kind = passed_over_kind(entry.name)
            if kind not in (HIDDEN, SERVER_FOLDER) and (path if entry.is_symlink() else entry).is_dir():
                folders.append(path)
            elif kind is None and (with_special_files or not _is_special(entry)):
                files.append(path)
            else:
                passed_over.add(kind or SPECIAL_FILE, path.relative_to(folder).as_posix())
        waiting += reversed(folders)
    return files, passed_over


def passed_over_kind(name: str) -> str | None:
    """The kind under which a file is counted instead of being read, by its relative path; `None` for an image."""
    path = PurePath(name)
    if any(part.lower() in _SERVER_FOLDERS for part in path.parts):
        return SERVER_FOLDER
    if any(part.startswith(".") and part not in (".", "..") for part in path.parts):
        return HIDDEN
    suffix = path.suffix.lower()
    return None if suffix in IMAGE_SUFFIXES else suffix or NO_SUFFIX


def _is_special(entry: "os.DirEntry[str]") -> bool:
    if entry.is_symlink():
        path = Path(entry.path)
        return path.exists() and not path.is_file()  # a broken link is a missing file
    return not entry.is_file()
