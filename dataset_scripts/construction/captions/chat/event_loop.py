"""One event loop in a thread of its own, for all clients of this process: their connections outlive a call."""

import asyncio
import atexit
import functools
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar


_SECONDS_TO_END = 5
_Result = TypeVar("_Result")
_lock = threading.Lock()


def start(work: Coroutine[Any, Any, _Result]) -> Future[_Result]:
    """Start a coroutine in the loop, also from a running event loop (a notebook, an actor of Ray)."""
    return asyncio.run_coroutine_threadsafe(work, event_loop())


def event_loop() -> asyncio.AbstractEventLoop:
    """The loop, started at the first call."""
    with _lock:  # two captioners start at a time
        return _started_loop()


@functools.cache
def _started_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="chat", daemon=True)
    thread.start()
    atexit.register(_end, loop, thread)
    return loop


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    """Cancel what is under way, so that the program ends at once and without complaints about pending tasks."""

    async def cancel() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    ended = asyncio.run_coroutine_threadsafe(cancel(), loop)
    ended.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
    thread.join(_SECONDS_TO_END)
