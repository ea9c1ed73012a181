"""Decode files of strangers in a process of their own, with limits on memory, open files, time and output.

Decoders of video and images are large C programs, and a file may be made to crash, fill or stop them. What happens in
this process ends one job. It receives nothing but the name of the file: no token, no environment, no open file of the
server. It sends messages of a JSON header and pixels, which can express nothing but frames, counts and errors.
"""

import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from PIL import Image

from ..media.folders import Tally
from ..media.images import MAX_PIXELS, load_image
from ..media.video import Frame, FrameSource, read_frames
from .sources import open_source


if TYPE_CHECKING:
    from .indexer import SourceOptions

_LENGTHS = struct.Struct(">IQ")
"""Before each message: the length of its header and of its pixels, in bytes."""
_MAX_HEADER = 64_000_000
_READ_BYTES = 1 << 20
_POLL_MILLISECONDS = 100
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ")
_COUNTS = ("seen", "expected", "undecodable")
_TOLD_ERRORS = {kind.__name__: kind for kind in (ValueError, FileNotFoundError, OSError, ImportError)}
"""Errors whose message is meant for the user; others are bugs."""
# The package's own `__init__` imports PyTorch: without it the process starts in a fraction of a second.
_START = """\
import sys, types
package = types.ModuleType("modeling_gadms")
package.__path__ = [sys.argv[1]]
sys.modules["modeling_gadms"] = package
from modeling_gadms.indexing.isolation import main
main(sys.argv[2])
"""


@dataclass(frozen=True)
class DecodingLimits:
    """Limits of a process that decodes a file.

    Attributes:
        memory_bytes (`int`): data of the process. The largest image that is read needs about 1.3 GB.
        open_files (`int`)
        cpu_seconds (`int`): for the whole file. Ten hours of video take about one.
        stall_seconds (`float`): until the file is opened, and from one image or frame to the next.
    """

    memory_bytes: int = 4_000_000_000
    open_files: int = 64
    cpu_seconds: int = 14_400
    stall_seconds: float = 120.0


CHECK_LIMITS = DecodingLimits(cpu_seconds=60, stall_seconds=20.0)
"""For the first image of an upload, while its sender waits."""


class DecodingError(ValueError):
    """The process that decodes a file has died or was stopped at a limit."""


class IsolatedSource(FrameSource):
    """Reads a source as [`~modeling_gadms.indexing.sources.open_source`] does, in another process. Iterates once.

    Args:
        path (`Path`): the file. The process cannot write to files.
        every, per_second, root: as in `open_source`.
        limits (`DecodingLimits`, *optional*)
        cancelled (`Callable[[], bool]`, *optional*): asked while the process works; if true, the process is killed and
            the iteration ends with `stopped` set.

    Raises:
        DecodingError: here or during the iteration, if the process dies or reaches a limit.
        FileNotFoundError, ValueError: as `open_source`.
    """

    def __init__(
        self,
        path: Path,
        every: int = 1,
        *,
        per_second: float | None = None,
        root: Path | None = None,
        limits: DecodingLimits | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ):
        super().__init__(path, None)
        self.stopped = False
        order = {"path": str(path), "every": every, "per_second": per_second, "root": root and str(root)}
        self._process = _Process(path, order, limits or DecodingLimits(), cancelled)
        try:
            opened = self._process.receive()
            if opened is None:
                self.stopped = True
            else:
                self.is_video = bool(opened[0]["is_video"])
                self._take_counts(opened[0])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill the process, if it is still there."""
        self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _items(self) -> Any:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Frame]:
        while not self.stopped:
            message = self._process.receive()
            if message is None:
                self.stopped = True
                return
            header, pixels = message
            self._take_counts(header)
            if header.get("end"):
                return
            yield Frame(_image(header["size"], pixels), **header["frame"])

    def _take_counts(self, header: Mapping[str, Any]) -> None:
        self._skipped, self.passed_over = (
            Tally(Counter(header[name]["counts"]), header[name]["examples"]) for name in ("skipped", "passed_over")
        )
        self.seen, self._expected, self.undecodable = (header[name] for name in _COUNTS)


def check_upload(path: Path, options: "SourceOptions", *, limits: DecodingLimits = CHECK_LIMITS) -> None:
    """Check that a file has an image or a frame that can be read with these options.

    Raises:
        ValueError, OSError: if it has none, with the reasons, or if the options do not go with its kind.
    """
    with IsolatedSource(path, options.every, per_second=options.per_second, limits=limits) as source:
        if options.start is not None and not source.is_video:
            raise ValueError(f"start is the time of a video's first frame, but {path.name} is not a video")
        if next(iter(source), None) is not None:
            return
        reasons = ", ".join(f"{count} {reason}" for reason, count in source.skipped.most_common(3))
    raise ValueError(f"{path.name} has no image that can be read{': ' + reasons if reasons else ''}")


def load_frame(path: Path, index: int | None, *, limits: DecodingLimits | None = None) -> Image.Image | None:
    """One frame of a video, or with the index `None` an image file; `None` if the frame does not decode.

    Raises:
        ValueError, OSError: if the file cannot be read.
    """
    process = _Process(path, {"path": str(path), "frame": index}, limits or DecodingLimits(), lambda: False)
    try:
        message = process.receive()
        return None if message is None or message[0].get("end") else _image(message[0]["size"], message[1])
    finally:
        process.close()


class _Process:
    """The process that decodes one file, seen from the server."""

    def __init__(self, path: Path, order: dict[str, Any], limits: DecodingLimits, cancelled: Callable[[], bool]):
        self._name, self._limits, self._cancelled = path.name, limits, cancelled
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(part for part in sys.path if part)
        package = str(Path(__file__).parents[1])
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, package, json.dumps(order | {"limits": asdict(limits)})],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            bufsize=0,
        )
        if self._process.stdout is None:
            raise RuntimeError("the process has no output")
        self._output = self._process.stdout
        self._poll = select.poll()
        self._poll.register(self._output, select.POLLIN)

    def receive(self) -> tuple[dict[str, Any], bytearray] | None:
        """The next message; `None` if the work was cancelled."""
        deadline = time.monotonic() + self._limits.stall_seconds
        lengths = self._read(_LENGTHS.size, deadline)
        if lengths is None:
            return None
        header_bytes, pixel_bytes = _LENGTHS.unpack(lengths)
        if header_bytes > _MAX_HEADER or pixel_bytes > 3 * MAX_PIXELS:
            raise DecodingError(f"{self._name} gives an image of {pixel_bytes:,} bytes, more than is read")
        header, pixels = self._read(header_bytes, deadline), self._read(pixel_bytes, deadline)
        if header is None or pixels is None:
            return None
        message = json.loads(header)
        if "error" in message:
            kind = _TOLD_ERRORS.get(message["error"])
            raise kind(message["text"]) if kind else RuntimeError(message["text"])
        return message, pixels

    def _read(self, size: int, deadline: float) -> bytearray | None:
        content = bytearray()
        while len(content) < size:
            if self._cancelled():
                self.close()
                return None
            if time.monotonic() > deadline:
                self.close()
                raise DecodingError(
                    f"{self._name} was given up: no image came within {self._limits.stall_seconds:g} seconds"
                )
            if not self._poll.poll(_POLL_MILLISECONDS):
                continue
            part = self._output.read(min(_READ_BYTES, size - len(content)))
            if not part:
                raise DecodingError(self._cause_of_death())
            content += part
        return content

    def _cause_of_death(self) -> str:
        code = self._process.wait()
        reason = f"the process that decoded it ended with code {code}"
        if code < 0:
            reason = f"the process that decoded it was ended by {signal.Signals(-code).name}"
        if code == -signal.SIGXCPU:
            reason = f"decoding it took more than {self._limits.cpu_seconds:,} seconds of computing"
        return f"{self._name} cannot be decoded: {reason}"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._output.close()


def _image(size: tuple[int, int], pixels: bytearray) -> Image.Image:
    width, height = size
    if width < 1 or height < 1 or 3 * width * height != len(pixels):
        raise DecodingError(f"an image of {width}x{height} pixels came with {len(pixels):,} bytes")
    return Image.frombytes("RGB", (width, height), pixels)


# ---------------------------------------------------------------------------------------------------------------------
# The other side.
# ---------------------------------------------------------------------------------------------------------------------
def main(argument: str) -> None:
    """Decode a file and send its frames, in the process that [`IsolatedSource`] starts."""
    order = json.loads(argument)
    output = os.fdopen(os.dup(1), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # what a library prints must not come between messages
    try:
        _limit(DecodingLimits(**order.pop("limits")))
        if "frame" in order:
            _send_frame(output, Path(order["path"]), order["frame"])
        else:
            _send_source(output, order)
    except BrokenPipeError:  # the server has no more use for it
        os._exit(1)
    except Exception as error:
        # The second: the code of a library no longer fits in.
        if isinstance(error, MemoryError) or "failed to map segment" in str(error):
            error = ValueError(f"{Path(order['path']).name} needs too much memory")
        told = next((name for name, kind in _TOLD_ERRORS.items() if isinstance(error, kind)), None)
        text = str(error) if told else "".join(traceback.format_exception(error))
        _send(output, {"error": told or "bug", "text": text})


def _limit(limits: DecodingLimits) -> None:
    """Set the limits of this process, which it cannot raise again."""
    import resource

    for kind, value in (
        (resource.RLIMIT_DATA, limits.memory_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))
    # At the first number it gets SIGXCPU, which says why; at the second SIGKILL.
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds + 1))


def _send_source(output: IO[bytes], order: dict[str, Any]) -> None:
    root = order["root"] and Path(order["root"])
    source = open_source(order["path"], order["every"], per_second=order["per_second"], root=root)

    def counts() -> dict[str, Any]:
        tallies = {"skipped": vars(source._skipped), "passed_over": vars(source.passed_over)}
        return tallies | {name: getattr(source, name) for name in _COUNTS}

    _send(output, {"is_video": source.is_video, **counts()})
    for frame in source:
        further = {each.name: getattr(frame, each.name) for each in fields(frame) if each.name != "image"}
        _send(output, {"frame": further, "size": frame.image.size, **counts()}, frame.image.tobytes())
    _send(output, {"end": True, **counts()})


def _send_frame(output: IO[bytes], path: Path, index: int | None) -> None:
    image = load_image(path) if index is None else next(read_frames(path, 1, index, index + 1)).image
    if image is None:
        _send(output, {"end": True})
    else:
        _send(output, {"size": image.size}, image.tobytes())


def _send(output: IO[bytes], header: dict[str, Any], pixels: bytes = b"") -> None:
    content = json.dumps(header, default=_plain).encode()
    for part in (_LENGTHS.pack(len(content), len(pixels)) + content, pixels):
        view = memoryview(part)
        while view:
            view = view[output.write(view) :]


def _plain(value: Any) -> Any:
    """Fields are of JSON, except for read-only mappings."""
    return dict(value) if isinstance(value, Mapping) else str(value)
