"""Run `gadms serve` in a subprocess."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def running_server(gallery: Path, *options: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """Serve a gallery on a free port. Yields the process and its address; the process is killed at the end."""
    command = [sys.executable, "-m", "gadms_cli", "serve", "--gallery", str(gallery), "--port", "0", *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        try:
            address = None
            while address is None:
                line = process.stderr.readline()
                assert line, "it ended before it listened"
                address = re.search(r"running on (http://127\.0\.0\.1:\d+)", line)
            # Drained, so that the server never blocks on a full pipe.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield process, address[1]
        finally:
            process.kill()
