"""Script for the environment of img2dataset: runs its downloader with a guard on every connection.

It imports only the standard library, img2dataset and the guard, `modeling_gadms/media/guarded_fetch.py`.
`fetch_process.py` starts it with its settings as JSON argument. Standard input has one line per tar to fetch,
`{"tar": 7, "table": "7.arrow"}`; standard output gets one line per finished tar, `{"tar": 7, "done": true}`. If
standard input ends while tars are unfinished, the parent has died, and the script exits.
"""

import io
import json
import os
import sys
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from email.message import Message
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from multiprocessing import active_children, connection, get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from modeling_gadms.media import guarded_fetch as guard
else:
    # Loaded as a file: the package around it imports what this environment does not have. Worker processes find it
    # under the same name when they read the settings that are sent to them.
    _FILE = Path(__file__).parents[3] / "modeling_gadms" / "media" / "guarded_fetch.py"
    _SPEC = spec_from_file_location("guarded_fetch", _FILE)
    guard = module_from_spec(_SPEC)
    sys.modules[_SPEC.name] = guard
    _SPEC.loader.exec_module(guard)


_TARS_PER_PROCESS = 50
"""A worker process is replaced after this many tars, which bounds memory leaks of libraries. Chosen."""


def is_worth_retrying(error: guard.FetchError) -> bool:
    """Whether a retry may help: not for 404, nor for refusals by the guard or the owner."""
    if error.reason == "HTTP error":
        return error.detail == "HTTP 429" or error.detail.startswith("HTTP 5")
    return error.reason in ("timed out", "connection failed", "no such host")


def original_bytes(stream: io.BytesIO, boxes: None = None) -> tuple[bytes, None, None, None, None, None]:
    """Replaces img2dataset's resizer and keeps the file as sent; `fetch.py` checks the format."""
    return stream.read(), None, None, None, None, None


_redirects: dict[str, list[str]] = {}
"""For the tar in progress: requested URL -> the redirect URLs that were followed."""


def guard_img2dataset(policy: guard.Policy) -> None:
    """Replace img2dataset's function for fetching one row, in this process, by the guarded one."""
    from img2dataset import downloader

    tls = guard.tls_context()

    def download(
        row: tuple[int, str],
        timeout: float,
        retries: int,
        user_agent_token: str,
        disallowed_header_directives: set[str],
    ) -> tuple[int, io.BytesIO | None, str | None]:
        key, url = row
        agent = f"Mozilla/5.0 (compatible; {user_agent_token}; +https://github.com/rom1504/img2dataset)"

        def check_headers(headers: Message) -> None:
            if disallowed_header_directives and downloader.is_disallowed(
                headers, user_agent_token, disallowed_header_directives
            ):
                raise guard.FetchError("opted out by header", ", ".join(headers.get_all("X-Robots-Tag", [])))

        for attempt in range(retries + 1):
            try:
                content, hops = guard.fetch(url, timeout, agent, policy, tls, check_headers)
            except guard.FetchError as error:
                if attempt == retries or not is_worth_retrying(error):
                    return key, None, f"{error.reason}: {error.detail}"
            except Exception as error:  # a bug here must cost one row, not the whole tar
                return key, None, f"connection failed: {type(error).__name__}: {error}"
            else:
                if len(hops) > 1:
                    _redirects[url] = hops[1:]
                return key, io.BytesIO(content), None
        raise ValueError(f"retries must be at least 0, not {retries}")

    downloader.download_image_with_retry = download


def start_worker(policy: guard.Policy) -> None:
    """Prepare a worker process: install the guard, and exit when the parent process ends."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (connection.wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    guard_img2dataset(policy)


def fetch_tar(downloader: Any, folder: str, tar: int, table: str) -> bool:
    """Fetch the rows of one tar, and write the redirects to a file beside img2dataset's output."""
    _redirects.clear()
    done, _ = downloader((tar, table))
    Path(folder, f"{tar}.redirects.json").write_text(json.dumps(_redirects))
    return done


def main() -> None:
    settings = json.loads(sys.argv[1])
    # img2dataset prints to standard output, which is reserved for the protocol: redirect its prints to the log.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    downloader = _downloader(settings)
    policy = guard.Policy(settings["max_bytes"], settings["max_redirects"], tuple(settings["allowed_addresses"]))
    unfinished: set[int] = set()

    def reply(tar: int, finished: Future[bool]) -> None:
        # Removed before the reply: after it, the parent may close our input at once.
        unfinished.remove(tar)
        error = finished.exception()
        done = error is None and finished.result()
        replies.write(json.dumps({"tar": tar, "done": done, "error": str(error or "")}) + "\n")

    # Not img2dataset's own distributor: its pool waits forever for a killed worker; this one raises.
    executor = ProcessPoolExecutor(
        settings["processes"],
        mp_context=get_context("spawn"),
        initializer=start_worker,
        initargs=(policy,),
        max_tasks_per_child=_TARS_PER_PROCESS,
    )
    for line in sys.stdin:
        order = json.loads(line)
        unfinished.add(order["tar"])
        future = executor.submit(fetch_tar, downloader, settings["folder"], order["tar"], order["table"])
        future.add_done_callback(partial(reply, order["tar"]))
    if unfinished:
        for child in active_children():
            child.kill()
        os._exit(1)
    executor.shutdown()


def _downloader(settings: dict[str, Any]) -> Any:
    from img2dataset.downloader import Downloader
    from img2dataset.writer import WebDatasetSampleWriter

    return Downloader(
        sample_writer_class=WebDatasetSampleWriter,
        resizer=original_bytes,
        thread_count=settings["threads"],
        save_caption=False,
        extract_exif=False,
        output_folder=settings["folder"],
        column_list=["row", "url"],
        timeout=settings["timeout_seconds"],
        number_sample_per_shard=settings["rows_per_tar"],
        oom_shard_count=1,
        compute_hash="sha256",
        verify_hash_type=None,
        encode_format="jpg",
        retries=settings["retries"],
        user_agent_token=settings["user_agent_token"],
        disallowed_header_directives=settings["disallowed_header_directives"] or None,
    )


if __name__ == "__main__":
    main()
