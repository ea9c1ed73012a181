"""An OpenAI-compatible server that does what a script says: captions, refusals, errors, broken replies.

In a test:

    with scripted_server(always(server_error())) as server:
        ...  # ask server.base_url
    server.log  # one dictionary for each request

As a process of its own, which prints its port on the first line and ends by itself:

    python scripted_server.py --port 0 --log requests.jsonl --shares '{"refused": 0.1, "server_error": 0.05}'
"""

import argparse
import base64
import binascii
import contextlib
import functools
import hashlib
import json
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from scripted_replies import Behaviour, Question, Script, by_hash, caption, failed


MODEL = "scripted"
_SIGNATURES = {"image/jpeg": b"\xff\xd8\xff", "image/png": b"\x89PNG\r\n\x1a\n"}


class ScriptedServer(ThreadingHTTPServer):
    """Use [`scripted_server`] in tests.

    Args:
        script: what is done to each request.
        port: 0 for a free one.
        log_path: where each request is written as a line of JSON as it arrives.
        max_requests: later ones get status 410 and are not answered.
        api_key: if given, requests without it get status 401.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        script: Script,
        *,
        port: int = 0,
        log_path: Path | None = None,
        max_requests: int = 100_000,
        api_key: str | None = None,
    ):
        super().__init__(("127.0.0.1", port), _Handler)
        self.script = script
        self.max_requests = max_requests
        self.api_key = api_key
        self.log: list[dict] = []
        self.max_in_flight = 0
        self.connections = 0
        self.closing = threading.Event()
        self._in_flight = 0
        self._arrivals: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._log_file = log_path.open("a", encoding="utf-8") if log_path else None

    @property
    def port(self) -> int:
        return self.server_address[1]

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @contextlib.contextmanager
    def in_flight(self) -> Iterator[None]:
        with self._lock:
            self._in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self._in_flight)
        try:
            yield
        finally:
            with self._lock:
                self._in_flight -= 1

    def decide(self, question: Question, content: bytes) -> Behaviour:
        key = hashlib.sha256(content).hexdigest()
        with self._lock:
            number = self._arrivals[key]
            self._arrivals[key] += 1
            behaviour = self.script(question, number)
            if len(self.log) >= self.max_requests:
                behaviour = failed(410, f"this server answers {self.max_requests} requests", name="exhausted")
            entry = {
                "image_sha256": question.image_hash,
                "text_sha256": question.text_hash,
                "seed": question.seed,
                "behaviour": behaviour.name,
                "status": behaviour.status,
                "number": number,
            }
            self.log.append(entry | {"time": time.monotonic(), "body": question.body})
            if self._log_file:
                self._log_file.write(json.dumps(entry) + "\n")
                self._log_file.flush()
        return behaviour

    def process_request(self, request, client_address) -> None:
        self.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request, client_address) -> None:
        # A client that gives up in the middle of a reply is what many tests are about.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def server_close(self) -> None:
        self.closing.set()
        super().server_close()
        if self._log_file:
            self._log_file.close()


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._send(Behaviour("models", body=json.dumps({"object": "list", "data": [{"id": MODEL}]}).encode()))
        else:
            self._send(failed(404, f"nothing at {self.path}"))

    def do_POST(self) -> None:
        with self.server.in_flight():
            content = self.rfile.read(int(self.headers["Content-Length"]))
            behaviour = self._decide(content)
            # Not `sleep`: a server that is closed lets go of its clients at once.
            self.server.closing.wait(behaviour.wait_seconds)
            self._send(behaviour)

    def _decide(self, content: bytes) -> Behaviour:
        if self.path != "/v1/chat/completions":
            return failed(404, f"nothing at {self.path}")
        if self.server.api_key and self.headers["Authorization"] != f"Bearer {self.server.api_key}":
            return failed(401, "invalid API key")
        try:
            question = read_question(json.loads(content))
        except (ValueError, LookupError, TypeError) as error:
            return failed(400, f"not a chat request: {error!r}")
        if question.body["model"] != MODEL:
            return failed(404, f"The model {question.body['model']} does not exist", code="model_not_found")
        return self.server.decide(question, content)

    def _send(self, behaviour: Behaviour) -> None:
        if behaviour.drops:
            # A reset, not an orderly end: with a linger of 0 closing throws the connection away.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        body = _completion(behaviour) if behaviour.body is None else behaviour.body
        self.send_response(behaviour.status)
        self.send_header("Content-Type", behaviour.content_type)
        self.send_header("Content-Length", str(10**9 if behaviour.trickles else len(body)))
        for name, value in behaviour.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if behaviour.trickles:
            while not self.server.closing.wait(0.02):
                self.wfile.write(b" ")
            self.close_connection = True
            return
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def read_question(body: dict) -> Question:
    messages = {message["role"]: message["content"] for message in body["messages"]}
    parts = messages["user"]
    if isinstance(parts, str):
        return Question(parts, messages.get("system", ""), None, body.get("seed"), body)
    text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    (url,) = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    match = re.fullmatch(r"data:([\w/]+);base64,(.*)", url, re.DOTALL)
    if match is None:
        raise ValueError("the image is no data URL")
    try:
        image = base64.b64decode(match[2], validate=True)
    except binascii.Error as error:
        raise ValueError("the image is not base64") from error
    if not image.startswith(_SIGNATURES[match[1]]):
        raise ValueError(f"the image is no {match[1]}")
    return Question(text, messages.get("system", ""), image, body.get("seed"), body)


def _completion(behaviour: Behaviour) -> bytes:
    message = {"role": "assistant", "content": behaviour.text}
    completion = {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": behaviour.finish_reason}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
    return json.dumps(completion).encode()


@contextlib.contextmanager
def scripted_server(script: Script = caption, **options) -> Iterator[ScriptedServer]:
    """A server in a thread of this process, until the block is left; options as of [`ScriptedServer`]."""
    with ScriptedServer(script, **options) as server:
        thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.02), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Serve scripted chat completions on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", type=Path, help="JSON lines, one for each request")
    parser.add_argument("--shares", type=json.loads, default={}, help="JSON: share of questions by behaviour")
    parser.add_argument("--of", choices=("image", "question"), default="image", help="what a share is drawn from")
    parser.add_argument("--max-requests", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=600, help="the server ends by itself after that")
    options = parser.parse_args(arguments)
    script = by_hash(options.shares, of=options.of)
    with scripted_server(script, port=options.port, log_path=options.log, max_requests=options.max_requests) as server:
        sys.stdout.write(f"{server.port}\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(options.seconds)


if __name__ == "__main__":
    main()
