"""What a finished run says about itself in `work/run.json`, so that it can be merged with others."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from modeling_gadms import __version__

from ..shards import RunFolderError, fingerprint
from ..storage import Location, write_atomically
from .card import CardFacts


@dataclass(frozen=True)
class RunFacts:
    """Facts of a finished run.

    Attributes:
        settings (`dict`): by section, everything that rows depend on, apart from the sources.
        fingerprints (`dict[str, str]`): of each stage, as in its markers.
        card ([`CardFacts`]): what the card states.
        version (`str`): of this package.
    """

    settings: dict[str, Any]
    fingerprints: dict[str, str]
    card: CardFacts
    version: str = __version__

    @property
    def sources(self) -> Mapping[str, str]:
        """Kinds of the sources by name."""
        return self.card.settings["sources"]

    def write(self, root: Location) -> None:
        write_atomically(root / "work" / "run.json", json.dumps(asdict(self), indent=1, default=str))

    @classmethod
    def read(cls, root: Location) -> "RunFacts":
        """Raises RunFolderError: if the run is not finished, or the file is damaged."""
        file = root / "work" / "run.json"
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            return cls(**values | {"card": CardFacts(**values["card"])})
        except FileNotFoundError as error:
            raise RunFolderError(
                f"{root} is not a finished run with captions ({file} is missing): run the pipeline to its end"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{file} is damaged ({error}): run the pipeline again to write it") from error


def without_secrets(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, nested, whose user-defined options, which may be secret, are replaced by their digest."""
    public = {}
    for name, value in settings.items():
        nested = without_secrets(value) if isinstance(value, Mapping) else value
        public[name] = fingerprint(value) if name == "options" and value else nested
    return public
