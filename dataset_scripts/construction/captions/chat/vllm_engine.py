"""Chat client for vLLM without a server: its engine runs in a process, which may be of another environment."""

import atexit
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from modeling_gadms.media.images import UnreadableImageError, load_image

from .types import (
    MAX_REFUSALS_IN_A_ROW,
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


_SCRIPT = Path(__file__).with_name("vllm_process.py")
_LOG_CHARACTERS = 2000
_SECONDS_TO_END = 10


class VllmChat:
    """A model in vLLM's offline engine. It is loaded once, and each call is one batch, which vLLM schedules itself.

    The engine has a process of its own (`vllm_process.py`), because vLLM asks for other versions of transformers than
    this package. Under Ray the process inherits the GPUs of its actor. It ends when this process ends.

    Sampling is that of the settings, with the repetition penalty of the model's `generation_config.json`, as a server
    of vLLM and transformers apply it. Each request has its own seed.

    Args:
        settings (`ChatSettings`): of kind `"vllm"`.

    Raises:
        ChatConfigurationError: if vLLM is not installed in the environment of `python`, or cannot load the model; with
            the end of its log.
    """

    is_concurrent = True

    def __init__(self, settings: ChatSettings) -> None:
        self.name = settings.model
        self.revision = settings.revision
        self._settings = settings
        self._lock = threading.Lock()  # calls follow each other
        self._refusals_in_a_row = 0
        self._log: IO[str] = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115, of the process
        python = settings.python or sys.executable
        engine: dict[str, Any] = {
            "model": settings.model,
            "revision": settings.revision,
            "tokenizer_revision": settings.revision,
            "dtype": settings.dtype,
            "tensor_parallel_size": settings.tensor_parallel_size,
            "gpu_memory_utilization": settings.gpu_memory_utilization,
            "limit_mm_per_prompt": {"image": 1},
        }
        if settings.max_model_len is not None:
            engine["max_model_len"] = settings.max_model_len
        sampling = {"max_tokens": settings.max_tokens, "temperature": settings.temperature, "top_p": settings.top_p}
        command = [python, str(_SCRIPT), json.dumps({"engine": engine, "sampling": sampling})]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, encoding="utf-8"
            )
        except OSError as error:
            raise ChatConfigurationError(f"The Python of the setting python cannot be started: {error}") from error
        atexit.register(self.close)
        started = self._read()
        if "missing" in started:
            raise ChatConfigurationError(
                f"Captioners of kind vllm need vLLM, which {python} does not have ({started['missing']}): install it "
                "in an environment of its own (python -m venv .venv-vllm; .venv-vllm/bin/pip install vllm) and name "
                "its Python in the setting python"
            )
        if "ready" not in started:
            what = started.get("error", "its process ended")
            raise ChatConfigurationError(f"vLLM cannot load the model {self.name}: {what}\n{self._end_of_log()}")

    def complete(self, requests: Sequence[ChatRequest], on_reply: OnReply | None = None) -> list[ChatReply]:
        """See `ChatModel`. All requests are one batch; `on_reply` is called when it is done.

        Raises:
            ValueError: before anything is computed, if an image is neither JPEG nor PNG.
            ChatConfigurationError: for `MAX_REFUSALS_IN_A_ROW` consecutive refusals.
            ChatOutageError: if the process of vLLM has ended.
        """
        replies: dict[int, ChatReply] = {}
        for index, request in enumerate(requests):
            if request.image is not None:
                image_type(request.image)
                try:
                    load_image(request.image)
                except UnreadableImageError as error:
                    replies[index] = ChatReply(None, ChatProblem.REFUSED, str(error))
        asked = [index for index in range(len(requests)) if index not in replies]
        if asked:
            call = [{"messages": chat_messages(requests[index]), "seed": requests[index].seed} for index in asked]
            replies |= zip(asked, map(_read_reply, self._call(call)), strict=True)
        for index in range(len(requests)):
            reply = replies[index]
            self._refusals_in_a_row = self._refusals_in_a_row + 1 if reply.problem is ChatProblem.REFUSED else 0
            if self._refusals_in_a_row >= MAX_REFUSALS_IN_A_ROW:
                raise ChatConfigurationError(
                    f"vLLM refused {self._refusals_in_a_row} requests in a row (model {self.name}): {reply.detail}"
                )
            if on_reply is not None:
                on_reply(index, reply)
        return [replies[index] for index in range(len(requests))]

    def close(self) -> None:
        """End the process of the engine, also in the middle of a batch."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):  # it has ended already
                self._process.stdin.close()
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _call(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        with self._lock:
            try:
                if self._process.stdin is not None:
                    self._process.stdin.write(json.dumps(requests) + "\n")
                    self._process.stdin.flush()
                answer = self._read()
            except (BrokenPipeError, ValueError):
                answer = {}
        if "replies" not in answer:
            what = answer.get("error", "its process has ended")
            raise ChatOutageError(
                f"vLLM does not answer (model {self.name}): {what}. Run again: replies so far are kept\n"
                f"{self._end_of_log()}"
            )
        return answer["replies"]

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        return json.loads(line) if line else {}

    def _end_of_log(self) -> str:
        self.close()  # its traceback comes last
        self._log.seek(0)
        return self._log.read()[-_LOG_CHARACTERS:].strip()


def _read_reply(values: dict[str, Any]) -> ChatReply:
    if "refused" in values:
        return ChatReply(None, ChatProblem.REFUSED, shortened(values["refused"]))
    return finished_reply(values["text"], is_cut_off=values["finish_reason"] == "length")
