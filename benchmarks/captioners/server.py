"""A server with OpenAI's API that answers a number of requests at a time, after a delay; prints its port.

    python server.py <mean seconds> <requests at a time>

The delay is drawn from the request: a sixth of the mean, and the rest exponential. Without other packages, so that
several of them start at once.
"""

import hashlib
import http.server
import json
import math
import sys
import threading
import time
from collections.abc import Callable
from typing import Any


TEXT = "A woman with short brown hair wears a red jacket over a white shirt, blue jeans and black shoes."


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


def completion_handler(text: str, wait: Callable[[bytes], None]) -> type[http.server.BaseHTTPRequestHandler]:
    """A handler that answers every question with `text`, after `wait` of the question's body has returned."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    completion = {"id": "0", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    reply = json.dumps(completion).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections stay open
        # Head and body of a reply would wait for each other's acknowledgement.
        disable_nagle_algorithm = True

        def do_POST(self) -> None:  # noqa: N802, the name is the library's
            wait(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *values: Any) -> None:
            pass

    return Handler


def main(mean: float, capacity: int) -> None:
    places = threading.Semaphore(capacity)

    def wait(content: bytes) -> None:
        drawn = (int.from_bytes(hashlib.sha256(content).digest()[:4]) + 1) / 2**32  # uniform, above 0
        with places:
            time.sleep(mean * (1 - 5 * math.log(drawn)) / 6)

    with Server(("127.0.0.1", 0), completion_handler(TEXT, wait)) as server:
        sys.stdout.write(f"{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
