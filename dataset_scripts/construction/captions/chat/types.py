"""Types of chat clients: settings, request, reply, the protocol of a client, and its errors."""

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol
from urllib.parse import urlsplit

from ...blocks import OutageError, SettingsError


_SIGNATURES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}
_KINDS = ("openai", "vllm", "transformers")
_DTYPES = ("auto", "bfloat16", "float16", "float32")


class ChatProblem(StrEnum):
    """Why a request has no usable reply."""

    TIMED_OUT = "timed out"
    NO_CONNECTION = "no connection"
    RATE_LIMITED = "rate limited"
    """Status 429 on the last attempt."""
    SERVER_ERROR = "server error"
    """Status 5xx on the last attempt."""
    REFUSED = "request refused"
    """Any other status: the server, or the processor of a local model, rejects this request."""
    INVALID_REPLY = "invalid reply"
    """The reply is not a chat completion in JSON, has no text, or is too long."""
    EMPTY_REPLY = "empty reply"
    CUT_OFF = "cut off"
    """The reply reached `max_tokens`."""
    CONTENT_FILTER = "content filter"


OUTAGE_PROBLEMS = frozenset(
    {ChatProblem.TIMED_OUT, ChatProblem.NO_CONNECTION, ChatProblem.RATE_LIMITED, ChatProblem.SERVER_ERROR}
)
"""Problems that an outage of the server can cause, whatever the request."""
MAX_REFUSALS_IN_A_ROW = 20
"""After this many consecutive refusals the settings are at fault, not the images. Chosen."""


class ChatConfigurationError(SettingsError):
    """No request can succeed with these settings, or the server does not match them."""


class ChatOutageError(OutageError):
    """The server has stopped answering."""


class ChatStoppedError(RuntimeError):
    """Another thread has ended the call."""


@dataclass(frozen=True)
class ChatRequest:
    """One request to a language model.

    Attributes:
        system (`str`): system message; empty for none.
        text (`str`): user message.
        image (`bytes`, *optional*): content of a JPEG or PNG file.
        seed (`int`, *optional*): sampling seed; a server may ignore it.
    """

    system: str
    text: str
    image: bytes | None = None
    seed: int | None = None


@dataclass(frozen=True)
class ChatReply:
    """Either a stripped, non-empty `text`, or a `problem` with a human-readable `detail`."""

    text: str | None
    problem: ChatProblem | None = None
    detail: str = ""


OnReply = Callable[[int, ChatReply], None]


class ChatModel(Protocol):
    """A chat client: `complete` returns one reply per request, in the order of the requests.

    `on_reply` is called in the caller's thread with the index and the reply of each request as it arrives. A client
    whose `complete` may be called from several threads at a time has an attribute `is_concurrent` that is true.
    """

    name: str
    revision: str | None

    def complete(self, requests: Sequence[ChatRequest], on_reply: OnReply | None = None) -> list[ChatReply]: ...


@dataclass(frozen=True)
class ChatSettings:
    """Settings of a chat client: the model and how to reach it.

    The paper names the models (Qwen2.5-VL-7B and -32B) and the server (vLLM). It states none of the numbers: chosen.

    Attributes:
        kind (`str`): `"openai"` for servers, `"vllm"` for an engine of vLLM without a server, `"transformers"` for an
            in-process model.
        model (`str`): model name on the server, or a Hub id or folder.
        revision (`str`, *optional*): commit of the model. For a server it is recorded as given, unchecked.
        base_url (`str` or `tuple[str, ...]`, *optional*): address of the server, such as `http://localhost:8000/v1`,
            or those of several servers of the same model. Requests are spread over them.
        api_key_env (`str`, *optional*): name of the environment variable that holds the server's key.
        concurrency (`int`): number of requests in flight per process.
        requests_per_minute (`float`, *optional*): rate limit per process, evenly spaced, retries included.
        timeout_seconds (`float`): limit for one attempt, from connecting to the last byte.
        max_retries (`int`): further attempts after a time-out, a lost connection, 429 or 5xx. Waits between attempts
            double from half a second to 8 s, or follow the server's `Retry-After` up to two minutes. A server that
            asks for more is not asked again.
        max_tokens (`int`): limit of a reply. A caption of 80 words has about 110 tokens.
        temperature (`float`): 0 for greedy decoding. Not stated by the paper: chosen, because templates already vary
            the captions, greedy decoding invents less, and the data set can be reproduced.
        top_p (`float`): probability mass of nucleus sampling.
        device (`str`): device of kind `"transformers"`.
        dtype (`str`): data type of a model of kind `"transformers"` or `"vllm"`.
        python (`str`, *optional*): of kind `"vllm"`: Python of the environment that has vLLM; by default this one.
        tensor_parallel_size (`int`): of kind `"vllm"`: number of GPUs of the engine.
        gpu_memory_utilization (`float`): of kind `"vllm"`: share of the GPUs' memory that the engine takes.
        max_model_len (`int`, *optional*): of kind `"vllm"`: most tokens of a prompt and its reply; by default what the
            model allows.

    Raises:
        ValueError: names the field and its value.
    """

    kind: str
    model: str
    revision: str | None = None
    base_url: str | tuple[str, ...] | None = None
    api_key_env: str | None = None
    concurrency: int = 8
    requests_per_minute: float | None = None
    timeout_seconds: float = 60
    max_retries: int = 4
    max_tokens: int = 160
    temperature: float = 0.0
    top_p: float = 1.0
    device: str = "cpu"
    dtype: str = "auto"
    python: str | None = None
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    max_model_len: int | None = None

    def __post_init__(self) -> None:
        self._require("kind", self.kind in _KINDS, f"must be one of {', '.join(_KINDS)}")
        self._require("model", _is_text(self.model), "must be the name of a model")
        self._require("revision", self.revision is None or _is_text(self.revision), "must be a commit or omitted")
        is_variable = self.api_key_env is None or _is_text(self.api_key_env)
        self._require("api_key_env", is_variable, "must be the name of an environment variable")
        if self.kind == "openai":
            wanted = (
                "must be the http(s) address of the server, such as http://localhost:8000/v1, without a password, "
            )
            wanted += "or a list of different ones"
            addresses = self.base_urls
            are_right = all(map(_is_server_address, addresses)) and len(set(addresses)) == len(addresses) > 0
            self._require("base_url", are_right, wanted)
        else:
            self._require("base_url", self.base_url is None, "must be omitted for a model without a server")
        self._require_number("concurrency", 1, whole=True)
        if self.requests_per_minute is not None:
            self._require_number("requests_per_minute", above=0)
        self._require_number("timeout_seconds", above=0)
        self._require_number("max_retries", 0, whole=True)
        self._require_number("max_tokens", 1, whole=True)
        self._require_number("temperature", 0)
        self._require_number("top_p", above=0, most=1)
        self._require("device", _is_text(self.device), "must be a torch device, such as cpu or cuda:0")
        self._require("dtype", self.dtype in _DTYPES, f"must be one of {', '.join(_DTYPES)}")
        self._require("python", self.python is None or _is_text(self.python), "must be the path of a Python")
        self._require_number("tensor_parallel_size", 1, whole=True)
        self._require_number("gpu_memory_utilization", above=0, most=1)
        if self.max_model_len is not None:
            self._require_number("max_model_len", 1, whole=True)

    @property
    def base_urls(self) -> tuple[str, ...]:
        """The addresses of the servers."""
        url = self.base_url
        return tuple(url) if isinstance(url, tuple | list) else (url,) if isinstance(url, str) else ()

    def _require(self, field: str, is_right: bool, wanted: str) -> None:
        if not is_right:
            raise ValueError(f"The chat setting {field} {wanted}, not {getattr(self, field)!r}")

    def _require_number(
        self, field: str, least: float = 0, *, above: float = -math.inf, most: float = math.inf, whole: bool = False
    ) -> None:
        value = getattr(self, field)
        is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        wanted = f"must be a {'whole' if whole else 'finite'} number"
        wanted += f" above {above}" if above >= least else f" of at least {least}"
        wanted += f" and at most {most}" if most < math.inf else ""
        self._require(field, is_number and math.isfinite(value) and least <= value <= most and value > above, wanted)


def chat_messages(request: ChatRequest) -> list[dict[str, Any]]:
    """The messages of a request in OpenAI's format, the image as a data URL before the text."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": request.system}] if request.system else []
    if request.image is None:
        return [*messages, {"role": "user", "content": request.text}]
    url = f"data:{image_type(request.image)};base64,{base64.b64encode(request.image).decode()}"
    image = {"type": "image_url", "image_url": {"url": url}}
    return [*messages, {"role": "user", "content": [image, {"type": "text", "text": request.text}]}]


def image_type(content: bytes) -> str:
    """Return the MIME type of a JPEG or PNG file, by its first bytes.

    >>> image_type(b"\\xff\\xd8\\xff\\xe0")
    'image/jpeg'

    Raises:
        ValueError: for any other content.
    """
    for signature, mime_type in _SIGNATURES.items():
        if content.startswith(signature):
            return mime_type
    raise ValueError(f"An image for a language model must be a JPEG or PNG file, not {content[:8]!r}...")


def finished_reply(text: str, *, is_cut_off: bool) -> ChatReply:
    """Turn generated text into a reply; text that was cut off is a problem."""
    text = text.strip()
    if is_cut_off:
        return ChatReply(None, ChatProblem.CUT_OFF, f"reached max_tokens: {shortened(text)}")
    return ChatReply(text) if text else ChatReply(None, ChatProblem.EMPTY_REPLY)


def shortened(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_server_address(url: object) -> bool:
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        is_complete = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        return is_complete and "@" not in parts.netloc
    except ValueError:  # a port that is no number, a broken IPv6 address
        return False
