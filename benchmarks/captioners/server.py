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
from typing import Any


TEXT = "A woman with short brown hair wears a red jacket over a white shirt, blue jeans and black shoes."


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


def main(mean: float, capacity: int) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}
    reply = json.dumps({"id": "0", "object": "chat.completion", "choices": [choice]}).encode()
    places = threading.Semaphore(capacity)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections stay open
        # Head and body of a reply would wait for each other's acknowledgement.
        disable_nagle_algorithm = True

        def do_POST(self) -> None:  # noqa: N802, the name is the library's
            content = self.rfile.read(int(self.headers["Content-Length"]))
            drawn = (int.from_bytes(hashlib.sha256(content).digest()[:4]) + 1) / 2**32  # uniform, above 0
            with places:
                time.sleep(mean * (1 - 5 * math.log(drawn)) / 6)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *values: Any) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        sys.stdout.write(f"{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
