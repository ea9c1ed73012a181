"""Block `opt-out`: images that came with a URL whose owner wants to be left out, however they got here."""

from pathlib import Path

from ..blocks import Batch, Block, Outcome, Verdict
from .opt_out_list import OptOutList, WebAddress


OPTED_OUT = "opted out"
NO_ADDRESS = "URL cannot be compared"


class DropOptedOut(Block):
    """Rejects what the list names. A table of URLs is also checked before anything is fetched.

    An image without a URL passes; so does one with a text that is no web address, which is counted.

    Args:
        path (`Path`): the list, see `OptOutList.load`.
    """

    name = "opt-out"
    reads = ("url",)

    def __init__(self, path: Path):
        self.path = path

    def prepare(self) -> None:
        self._list = OptOutList.load(self.path)

    def __call__(self, batch: Batch) -> Outcome:
        verdicts: list[Verdict] = []
        notes: list[str | None] = []
        for url in batch["url"]:
            address = _address(url)
            entry = self._list.matches(address) if address else None
            verdicts.append(True if entry is None else (False, OPTED_OUT, entry))
            notes.append(NO_ADDRESS if url and not address else None)
        return Outcome(verdicts=verdicts, notes=notes)


def _address(url: str | None) -> WebAddress | None:
    try:
        return WebAddress.parse(url) if url else None
    except ValueError:
        return None
