"""Shards that could not be processed: how often each was tried and why it failed, kept in the folder of the run."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from .shards import RunFolderError
from .storage import Location, matching, write_atomically


FAILURES = "work/failures"
"""Where a run's folder has a folder of failures for each stage."""
ATTEMPTS = 3
"""Attempts at a shard before it is set aside."""


@dataclass(frozen=True)
class Failure:
    """A shard that has failed and is not finished.

    Attributes:
        stage (`str`): name of the stage.
        number (`int`): number of the shard.
        attempts (`int`): how often it has failed.
        reason (`str`): why, the last time.
    """

    stage: str
    number: int
    attempts: int
    reason: str

    @property
    def is_set_aside(self) -> bool:
        """Whether the run goes on without the shard."""
        return self.attempts >= ATTEMPTS


@dataclass(frozen=True)
class FailureLog:
    """The failures of one stage of a run, one file a shard. Only the process that leads the run writes them."""

    root: Location  # the run's folder
    stage: str

    @property
    def folder(self) -> Location:
        return self.root / FAILURES / self.stage

    def path(self, number: int) -> Location:
        return self.folder / f"{number:05d}.json"

    def read(self, number: int) -> Failure | None:
        """Read the failure of a shard; `None` if it has not failed.

        Raises:
            RunFolderError: if the file is damaged.
        """
        path = self.path(number)
        if not path.is_file():
            return None
        try:
            return Failure(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise RunFolderError(f"{path} is damaged ({error}): remove it to try the shard again") from error

    def record(self, number: int, reason: str) -> Failure:
        """Count a failed attempt at a shard."""
        earlier = self.read(number)
        failure = Failure(self.stage, number, (earlier.attempts if earlier else 0) + 1, reason)
        write_atomically(self.path(number), json.dumps(asdict(failure), indent=1))
        return failure

    def forget(self, number: int) -> None:
        """Forget the failures of a shard, which is finished now or is to be tried again."""
        path = self.path(number)
        if not path.is_file():
            return
        path.unlink()
        if isinstance(path, Path):  # an object store has no empty folders
            for folder in path.parents[:2]:  # a run without failures leaves no trace of them
                if not any(folder.iterdir()):
                    folder.rmdir()

    def all(self) -> Iterator[Failure]:
        """Iterate over the failures of the stage, by number of the shard."""
        for path in matching(self.folder, "*.json"):
            if failure := self.read(int(path.stem)):
                yield failure
