"""A subprocess that calls functions against a test Hub.

```python
with HubClient(hub.environment(home)) as client:
    client.ask("huggingface_hub.create_repo", token="hf_of_mine", repo_id="me/model")
```

Libraries read the Hub's endpoint when they are imported, hence a subprocess, which serves all tests of a module. Waits
between retries are skipped.
"""

import json
import os
import pydoc
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any


ROOT = Path(__file__).parents[1]
MINE, READING = "hf_mine", "hf_reading"
"""Tokens of the fixture `hub`."""


@dataclass(frozen=True)
class Reply:
    """Outcome of a call: its result, converted to JSON and back, or an error with the names of its classes."""

    result: Any
    error: tuple[str, ...]
    message: str
    warnings: tuple[str, ...]


class HubClient:
    """The subprocess. It ends with the `with` block."""

    def __init__(self, environment: dict[str, str]):
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            env=os.environ | environment | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "HubClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate(timeout=300)

    def call(self, function: str, *arguments: Any, token: str = "", **named: Any) -> Reply:
        """Call `module.function`, with the token in the environment."""
        assert self.process.stdin is not None and self.process.stdout is not None
        request = {"function": function, "arguments": arguments, "named": named, "token": token}
        print(json.dumps(request, default=str), file=self.process.stdin, flush=True)  # noqa: T201
        answer = json.loads(self.process.stdout.readline())
        return Reply(answer["result"], tuple(answer["error"]), answer["message"], tuple(answer["warnings"]))

    def ask(self, function: str, *arguments: Any, token: str = "", **named: Any) -> Any:
        """Call a function that must succeed. Returns its result."""
        reply = self.call(function, *arguments, token=token, **named)
        assert not reply.error, reply
        return reply.result

    def refusal(self, function: str, *arguments: Any, token: str = "", **named: Any) -> Reply:
        """Call a function that must fail. Returns the error."""
        reply = self.call(function, *arguments, token=token, **named)
        assert reply.error, reply
        return reply


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files below a folder. Returns the folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def _perform(request: dict[str, Any]) -> dict[str, Any]:
    os.environ["HF_TOKEN"] = request["token"]
    answer: dict[str, Any] = {"result": None, "error": [], "message": ""}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            result = _call(request["function"], request["arguments"], request["named"])
            answer["result"] = asdict(result) if is_dataclass(result) else result
        except Exception as error:
            answer["error"] = [kind.__name__ for kind in type(error).__mro__]
            answer["message"] = str(error)
    shown = [warning for warning in told if issubclass(warning.category, UserWarning)]
    return answer | {"warnings": [str(warning.message) for warning in shown]}


def _call(name: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
    function: Any = pydoc.locate(name)
    # Paths became strings in JSON.
    paths = [Path(value) if isinstance(value, str) and value.startswith("/") else value for value in arguments]
    return function(*paths, **named)


def main() -> None:
    from huggingface_hub.utils import _http, disable_progress_bars

    _http.time = types.SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None})  # type: ignore[assignment]
    disable_progress_bars()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # standard output is for answers only
    for line in sys.stdin:
        print(json.dumps(_perform(json.loads(line)), default=str), file=answers, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
