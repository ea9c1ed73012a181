"""Chat client for servers with an OpenAI-compatible API: vLLM, `transformers serve`, hosted ones."""

import asyncio
import json
import math
import os
import queue
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from . import event_loop
from .servers import Servers
from .types import (
    MAX_REFUSALS_IN_A_ROW,
    OUTAGE_PROBLEMS,
    ChatConfigurationError,
    ChatOutageError,
    ChatProblem,
    ChatReply,
    ChatRequest,
    ChatSettings,
    OnReply,
    chat_messages,
    finished_reply,
    image_type,
    shortened,
)


try:
    import httpx2  # the HTTP library of openai
    import openai
except ImportError as error:
    raise ImportError('Chat servers need the openai package: pip install "gadms[construction]"') from error


MAX_REPLY_BYTES = 1_000_000
"""A longer reply is rejected while it arrives. Chosen: a caption reply has one or two thousand bytes."""
MAX_OUTAGES_IN_A_ROW = 50
"""After this many consecutive requests without an answer the server counts as down. Chosen."""
# The headers that the retries of `openai` read. The others describe a body that is already read and decoded.
_KEPT_HEADERS = ("retry-after", "retry-after-ms", "x-should-retry")
_AWAY = (502, 503, 504)
"""Status of a server, or of a proxy before it, that cannot answer any request for now."""

_Arrivals = queue.SimpleQueue[tuple[int, ChatReply, asyncio.Event] | None]


class OpenAIChat:
    """A model behind one or more servers with OpenAI's `/chat/completions`.

    An attempt goes to the server with the fewest requests in flight. One that cannot be reached, does not answer in
    time or is away (502, 503, 504) is left out for a while, which is logged and counted. A request that could not
    reach it goes to another at once. Connections and event loop outlive a call. Several threads may call at a time:
    together they have `concurrency` requests in flight.

    Any answer to a request becomes a [`ChatReply`], within `max_retries + 1` time-outs and the waits between them.
    Only conditions that would reject every row raise. A [`ChatConfigurationError`] is raised for status 401, 404 or an
    exhausted quota, for 403 before the first successful reply (later it may concern a single image), and for
    `MAX_REFUSALS_IN_A_ROW` consecutive refusals. A [`ChatOutageError`] is raised for `MAX_OUTAGES_IN_A_ROW`
    consecutive requests without an answer.

    Args:
        settings (`ChatSettings`): of kind `"openai"`.

    Attributes:
        servers (`Servers`): with the counts of failures.

    Raises:
        ChatConfigurationError: if the environment variable named by `api_key_env` is not set.
    """

    is_concurrent = True

    def __init__(self, settings: ChatSettings) -> None:
        self.name = settings.model
        self.revision = settings.revision
        self._settings = settings
        # Always set: otherwise the library would send OPENAI_API_KEY to this server.
        self._key = "none" if settings.api_key_env is None else os.environ.get(settings.api_key_env, "").strip()
        if not self._key:
            raise ChatConfigurationError(
                f"The environment variable {settings.api_key_env}, named by api_key_env, is not set or empty"
            )
        self.servers = Servers(settings.base_urls)
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._client = openai.AsyncOpenAI(
            base_url=settings.base_urls[0],
            api_key=self._key,
            timeout=settings.timeout_seconds,
            max_retries=settings.max_retries,
            http_client=_BoundedHttpClient(settings.timeout_seconds, self._wait_for_turn, self.servers),
        )
        self._next_start = -math.inf
        self._refusals_in_a_row = 0
        self._outages_in_a_row = 0
        self._has_answered = False

    def complete(self, requests: Sequence[ChatRequest], on_reply: OnReply | None = None) -> list[ChatReply]:
        """See `ChatModel`. Up to `concurrency` requests of all calls run at a time.

        An exception in `on_reply`, and Ctrl-C, cancel the running requests. The next request starts only after
        `on_reply` has returned, so a killed process loses at most `concurrency` replies.

        Raises:
            ValueError: before anything is sent, if an image is neither JPEG nor PNG.
            ChatConfigurationError: if no request can succeed.
            ChatOutageError: after `MAX_OUTAGES_IN_A_ROW` consecutive requests without an answer.
        """
        for request in requests:
            if request.image is not None:
                image_type(request.image)
        replies: dict[int, ChatReply] = {}
        arrivals: _Arrivals = queue.SimpleQueue()
        sending = event_loop.start(self._send_all(requests, arrivals))
        sending.add_done_callback(lambda _: arrivals.put(None))
        try:
            # `on_reply` may be slow: the event loop has its own thread.
            while (arrival := arrivals.get()) is not None:
                index, reply, is_handled = arrival
                replies[index] = reply
                if on_reply is not None:
                    on_reply(index, reply)
                event_loop.event_loop().call_soon_threadsafe(is_handled.set)
        except BaseException:
            sending.cancel()
            raise
        sending.result()  # raises the error that ended it early
        return [replies[index] for index in range(len(requests))]

    async def _send_all(self, requests: Sequence[ChatRequest], arrivals: _Arrivals) -> None:
        waiting = iter(enumerate(requests))
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(self._settings.concurrency, len(requests))):
                    workers.create_task(self._work(waiting, arrivals))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _work(self, waiting: Iterator[tuple[int, ChatRequest]], arrivals: _Arrivals) -> None:
        while True:
            async with self._slots:
                # All workers of a call share one iterator: each takes the next request.
                if (taken := next(waiting, None)) is None:
                    return
                index, request = taken
                is_handled = asyncio.Event()
                arrivals.put((index, await self._checked_reply(request), is_handled))
                await is_handled.wait()

    async def _checked_reply(self, request: ChatRequest) -> ChatReply:
        """Send one request, and raise once too many in a row have failed."""
        reply = await self._send(request)
        self._has_answered |= reply.text is not None
        self._refusals_in_a_row = self._refusals_in_a_row + 1 if reply.problem is ChatProblem.REFUSED else 0
        if self._refusals_in_a_row >= MAX_REFUSALS_IN_A_ROW:
            raise self._configuration_error(f"refused {self._refusals_in_a_row} requests in a row", reply.detail)
        self._outages_in_a_row = self._outages_in_a_row + 1 if reply.problem in OUTAGE_PROBLEMS else 0
        if self._outages_in_a_row >= MAX_OUTAGES_IN_A_ROW:
            raise ChatOutageError(
                f"The server {self.servers} did not answer {self._outages_in_a_row} requests in a row; "
                f"last problem: {reply.problem}, {reply.detail}. Run again when it is up: replies so far are kept"
            )
        return reply

    async def _send(self, request: ChatRequest) -> ChatReply:
        settings = self._settings
        messages: Any = chat_messages(request)
        try:
            response = await self._client.chat.completions.with_raw_response.create(
                model=settings.model,
                messages=messages,
                # Not `max_completion_tokens`, which some servers silently ignore.
                max_tokens=settings.max_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
                seed=openai.omit if request.seed is None else request.seed,
            )
        except openai.APITimeoutError:
            detail = f"no complete reply within {settings.timeout_seconds} s, {settings.max_retries + 1} times"
            return ChatReply(None, ChatProblem.TIMED_OUT, detail)
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            return ChatReply(None, ChatProblem.NO_CONNECTION, f"{type(cause).__name__}: {cause}")
        except openai.APIStatusError as error:
            return self._read_status(error)
        except _ReplyTooLongError as error:
            return ChatReply(None, ChatProblem.INVALID_REPLY, str(error))
        return _read_completion(response.http_response.content)

    def _read_status(self, error: openai.APIStatusError) -> ChatReply:
        status = error.status_code
        detail = f"status {status}: {shortened(error.response.text)}"
        if status in (401, 404) or (status == 403 and not self._has_answered) or error.code == "insufficient_quota":
            raise self._configuration_error("rejects all requests", detail, error.request.url)
        if status == 429:
            return ChatReply(None, ChatProblem.RATE_LIMITED, detail)
        return ChatReply(None, ChatProblem.SERVER_ERROR if status >= 500 else ChatProblem.REFUSED, detail)

    def _configuration_error(self, what: str, detail: str, server: object = "") -> ChatConfigurationError:
        settings = self._settings
        return ChatConfigurationError(
            f"The server {server or self.servers} {what} (model {settings.model!r}): {detail}. "
            f"Check base_url, model, and the key in the environment variable of api_key_env ({settings.api_key_env})."
        )

    async def _wait_for_turn(self) -> None:
        if self._settings.requests_per_minute is not None:
            start = max(time.monotonic(), self._next_start)
            self._next_start = start + 60 / self._settings.requests_per_minute
            await asyncio.sleep(start - time.monotonic())


class _ReplyTooLongError(Exception):
    pass


class _BoundedHttpClient(openai.DefaultAsyncHttpxClient):
    """Chooses the server of each attempt, including the library's retries, and bounds it in rate, time and size.

    The library's own time-out applies to single reads: a server that sends a byte now and then would never reach it.
    """

    def __init__(self, seconds: float, wait_for_turn: Callable[[], Awaitable[None]], servers: Servers) -> None:
        super().__init__()
        self._seconds = seconds
        self._wait_for_turn = wait_for_turn
        self._servers = servers

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        servers, tried = self._servers, list[str]()
        lost: httpx2.TransportError
        while (address := servers.choose(tried)) is not None:
            tried.append(address)
            servers.start(address)
            try:
                response = await self._send_to(address, request, options)
            except httpx2.ReadTimeout as error:
                servers.failed(address, str(error))
                raise  # an attempt may take `timeout_seconds`, not that for each server
            except httpx2.TransportError as error:
                servers.failed(address, f"{type(error).__name__}: {error}")
                lost = error
                continue
            finally:
                servers.end(address)
            if response.status_code in _AWAY:
                servers.failed(address, f"status {response.status_code}")
            else:
                servers.answered(address)
            return response
        raise lost

    async def _send_to(self, address: str, request: httpx2.Request, options: dict[str, Any]) -> httpx2.Response:
        await self._wait_for_turn()
        request.url = httpx2.URL(address.rstrip("/") + "/chat/completions")
        request.headers["host"] = request.url.netloc.decode()
        try:
            async with asyncio.timeout(self._seconds):
                response = await super().send(request, **(options | {"stream": True}))
                try:
                    content = await _read(response)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise httpx2.ReadTimeout("no complete reply in time", request=request) from error
        headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
        return httpx2.Response(response.status_code, headers=headers, content=content, request=request)


async def _read(response: httpx2.Response) -> bytes:
    content = bytearray()
    async for chunk in response.aiter_bytes():  # decompressed
        content += chunk
        if len(content) > MAX_REPLY_BYTES:
            raise _ReplyTooLongError(f"longer than {MAX_REPLY_BYTES:,} bytes")
    return bytes(content)


def _read_completion(content: bytes) -> ChatReply:
    # Not parsed with the library's types: unvalidated they accept any JSON, validated they reject some servers.
    try:
        choice = json.loads(content)["choices"][0]
        message, finish_reason = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content"), message.get("refusal")
        text = "" if text is None else text.strip()
        text.encode()  # an unpaired surrogate is valid JSON, but cannot be written to a file
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        start = shortened(content.decode(errors="replace"))
        return ChatReply(None, ChatProblem.INVALID_REPLY, f"no chat completion: {start}")
    if refusal or finish_reason == "content_filter":
        return ChatReply(None, ChatProblem.CONTENT_FILTER, shortened(str(refusal or text)))
    return finished_reply(text, is_cut_off=finish_reason == "length")
