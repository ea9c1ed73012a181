"""Captions a second from slow servers: connections, both captioners at a time, several servers, one that is dead.

    python -m benchmarks.captioners.run            # a minute and a half
    python -m benchmarks.captioners.run --quick    # a test run: seconds

Servers on this machine (`server.py`, a process each) answer `--capacity` requests at a time after a delay. The blocks
of the pipeline request two captions for each person of several shards, from a captioner each. All configurations run
in turn, after one that is not timed. The first opens new connections for each call, and asks one captioner after the
other. Writes results/captioners.json and a section of RESULTS.md.
"""

import argparse
import io
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from benchmarks.measuring import command_of, machine, parser, provenance, ratio, save, spread, spread_text, table
from dataset_scripts.construction.blocks import ROW_SCHEMA, Block, run_shard
from dataset_scripts.construction.captions import caption
from dataset_scripts.construction.captions.caption import AskCaptioner, Attempt, CaptionSettings, DrawTemplate
from dataset_scripts.construction.captions.chat.openai_server import OpenAIChat
from dataset_scripts.construction.captions.chat.types import ChatSettings


FIRST = "1 server, a call at a time, new connections"
CONFIGURATIONS = {
    # Servers of each captioner, dead ones, whether both captioners are asked together.
    FIRST: (1, 0, False),
    "1 server, a call at a time": (1, 0, False),
    "1 server": (1, 0, True),
    "3 servers": (3, 0, True),
    "3 servers, one dead": (3, 1, True),
}
SERVER = Path(__file__).with_name("server.py")


def main(arguments: argparse.Namespace) -> None:
    if arguments.quick:
        arguments.persons, arguments.shards, arguments.repetitions, arguments.delay = 4, 2, 1, 0.01
    times: dict[str, list[float]] = {name: [] for name in CONFIGURATIONS}
    left_out = 0
    with ExitStack() as stack:
        urls = [stack.enter_context(server(arguments.delay, arguments.capacity)) for _ in range(6)]
        captioned([(urls[0],), (urls[3],)], arguments, together=False, keeps=True)
        for _ in range(arguments.repetitions):
            for name, (servers, dead, together) in CONFIGURATIONS.items():
                of = [(*urls[first : first + servers - dead], *[nobody() for _ in range(dead)]) for first in (0, 3)]
                seconds, failures = captioned(of, arguments, together=together, keeps=name != FIRST)
                times[name].append(seconds)
                left_out += failures
                print(f"{name}: {seconds:.2f} s", flush=True)
    captions = 2 * arguments.persons * arguments.shards
    results = {
        "command": command_of("captioners", *(["--quick"] if arguments.quick else [])),
        "machine": machine("openai"),
        "settings": {
            key: getattr(arguments, key)
            for key in ("persons", "shards", "delay", "capacity", "concurrency", "repetitions")
        },
        "captions_per_second": {name: spread([captions / value for value in of]) for name, of in times.items()},
        "ratios": {
            name: ratio([1 / value for value in of], [1 / value for value in times[FIRST]])
            for name, of in times.items()
        },
        "left_out": left_out,
    }
    save("captioners", results, report, arguments.output)


def captioned(
    addresses: list[tuple[str, ...]], arguments: argparse.Namespace, *, together: bool, keeps: bool
) -> tuple[float, int]:
    """Seconds of all shards, and how often a server was left out.

    Args:
        addresses (`list`): of the servers of each captioner.
        together (`bool`): whether both captioners are asked at a time.
        keeps (`bool`): whether the client keeps its connections from call to call.
    """
    clients: list[OpenAIChat] = []
    kept: dict[ChatSettings, OpenAIChat] = {}

    def chat_of(settings: ChatSettings) -> OpenAIChat:
        if not keeps or settings not in kept:
            kept[settings] = OpenAIChat(settings)
            clients.append(kept[settings])
        return kept[settings]

    caption._shared_chat = chat_of  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        blocks: list[Block] = []
        for slot, urls in enumerate(addresses, start=1):
            settings = ChatSettings("openai", "benchmark", base_url=urls, concurrency=arguments.concurrency)
            attempt = Attempt(f"caption{slot}", 1, 1)
            blocks += [
                DrawTemplate(attempt, CaptionSettings()),
                AskCaptioner(attempt, CaptionSettings(), settings, Path(folder)),
            ]
        asking = [block for block in blocks if isinstance(block, AskCaptioner)]
        if together:
            asking[0].companions = asking[1:]
        for block in blocks:
            block.prepare()
        start = time.perf_counter()
        for shard in range(arguments.shards):
            rows = persons(arguments.persons, shard)
            for block in blocks:
                if not keeps and isinstance(block, AskCaptioner):
                    block.prepare()
                rows = run_shard(block, rows)
            if rows["reply2"].null_count:
                raise RuntimeError(f"{rows['reply2'].null_count} captions are missing")
        seconds = time.perf_counter() - start
    return seconds, sum(client.servers.failures.total() for client in clients)


def persons(count: int, shard: int) -> pa.Table:
    """Rows of a shard, each with a picture of its own."""
    rows = [{"row_id": f"{shard}-{n}", "shard": shard, "position": n, "trail": []} for n in range(count)]
    crops = [picture(shard * count + n) for n in range(count)]
    return pa.Table.from_pylist(rows, ROW_SCHEMA).append_column("crop", pa.array(crops, pa.large_binary()))


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (160, 480), (number % 256, number // 256 % 256, 90)).save(buffer, "JPEG")
    return buffer.getvalue()


@contextmanager
def server(delay: float, capacity: int) -> Iterator[str]:
    """A server in a process of its own; its base URL."""
    command = [sys.executable, str(SERVER), str(delay), str(capacity)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1" if process.stdout else ""
        finally:
            process.kill()


def nobody() -> str:
    """The base URL of a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


def report(results: dict[str, Any]) -> str:
    """The section of RESULTS.md."""
    of = results["settings"]
    speeds, ratios = results["captions_per_second"], results["ratios"]
    rows = [[name, spread_text(speeds[name]), spread_text(ratios[name], 2)] for name in speeds]
    return "\n\n".join(
        [
            "## Captions from slow servers",
            "Claim: a worker keeps its captioners busy. Two captions of each person, from a captioner each, over "
            f"{of['shards']} shards of {of['persons']} persons; servers on this machine answer {of['capacity']} "
            f"requests at a time, after {of['delay']:g} s on average; {of['concurrency']} requests in flight for each "
            f"captioner. Medians of {of['repetitions']} runs (minimum to maximum), all configurations in turn. Ratios "
            "within a run, to a client that opens new connections for each call, and asks one captioner at a time.",
            table(["servers of each captioner", "captions/s", "ratio"], rows),
            f"The dead server was left out {results['left_out']} times in all, and no caption was lost. What falls "
            "short: the last replies of a shard are awaited before the next shard begins. So a worker does not reach "
            f"{of['capacity'] / of['delay']:,.0f} captions a second for each server. Several workers fill the gap.",
            provenance(results),
        ]
    )


if __name__ == "__main__":
    options = parser(__doc__, quick="a few persons and no delay to speak of")
    options.add_argument("--persons", type=int, default=60, help="of a shard (default: 60)")
    options.add_argument("--shards", type=int, default=4, help="default: 4")
    options.add_argument("--delay", type=float, default=0.2, help="mean seconds of a reply (default: 0.2)")
    options.add_argument("--capacity", type=int, default=8, help="requests a server answers at a time (default: 8)")
    options.add_argument("--concurrency", type=int, default=48, help="requests in flight of a client (default: 48)")
    options.add_argument("--repetitions", type=int, default=3, help="default: 3")
    main(options.parse_args())
