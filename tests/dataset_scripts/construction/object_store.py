"""An object store in this process: moto's server, with a middleware that lets requests fail, hang or be slow."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import fsspec
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


KEYS = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
Fault = Callable[[int, str, str], str | float | None]
"""From the number, method and path of a request to `"403"`, `"503"`, `"reset"`, `"lost"` (done, but the reply is
lost), seconds to wait, or nothing."""


class _Reset(Exception):
    """Ends a connection without a reply."""


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def run_wsgi(self) -> None:
        try:
            super().run_wsgi()
        except _Reset:
            self.close_connection = True
            self.connection.close()

    def log(self, *args: Any) -> None:
        pass


class ObjectStore:
    """A store at `url`. `fault` is asked before each request; `asked` lists the requests as (method, path)."""

    def __init__(self) -> None:
        self.app = DomainDispatcherApplication(create_backend_app)
        self.fault: Fault = lambda number, method, path: None
        self.asked: list[tuple[str, str]] = []
        self.server = make_server(
            "127.0.0.1", 0, self, threaded=True, request_handler=_Handler, passthrough_errors=True
        )
        self.url = f"http://127.0.0.1:{self.server.port}"

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.asked.append((method, path))
        fault = self.fault(len(self.asked), method, path)
        if isinstance(fault, float):
            time.sleep(fault)
        elif fault is not None and fault != "lost":
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if fault == "reset":
            raise _Reset
        if fault in ("403", "503"):
            start_response(f"{fault} Refused", [("Content-Length", "0")])
            return [b""]
        reply = self.app(environ, start_response)
        if fault == "lost":
            raise _Reset
        return reply

    @property
    def client(self) -> Any:
        keys = {"aws_access_key_id": "me", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        return boto3.client("s3", endpoint_url=self.url, **keys)

    def objects(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """The objects below a prefix, by the rest of their names."""
        listed = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        names = [found["Key"] for page in listed for found in page.get("Contents", ())]
        read = self.client.get_object
        return {name.removeprefix(prefix): read(Bucket=bucket, Key=name)["Body"].read() for name in names}

    def download(self, bucket: str, prefix: str, folder: Path) -> Path:
        """Write the objects below a prefix into a folder."""
        for name, content in self.objects(bucket, f"{prefix}/").items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return folder


@contextmanager
def serving() -> Iterator[ObjectStore]:
    """A running store with a bucket named `bucket`."""
    if "s3" in fsspec.registry:  # clients of an earlier store in this process
        fsspec.get_filesystem_class("s3").clear_instance_cache()
    store = ObjectStore()
    thread = threading.Thread(target=store.server.serve_forever, daemon=True)
    thread.start()
    try:
        store.client.create_bucket(Bucket="bucket")
        yield store
    finally:
        store.server.shutdown()
        thread.join()
