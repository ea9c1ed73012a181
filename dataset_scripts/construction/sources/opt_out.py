"""Block `opt-out`: reject images whose URL is on the opt-out list, whatever source they come from."""

from ..blocks import Batch, Block, Outcome, Verdict
from ..storage import Location
from .opt_out_list import OptOutList, WebAddress


OPTED_OUT = "opted out"
NO_ADDRESS = "URL cannot be compared"


class DropOptedOut(Block):
    """Rejects images whose URL is on the list. (Tables of URLs are also checked before fetching.)

    Images without a URL pass. Images whose URL is not a web address pass with a note.
    """

    name = "opt-out"
    reads = ("url",)

    def __init__(self, path: Location):
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
