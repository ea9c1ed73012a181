"""Metrics of a server for Prometheus, and ASGI middleware that counts answers and answers HEAD."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class ServerMetrics:
    """The values that `/metrics` exposes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("gadms_requests", "Requests answered.", ["route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "gadms_request_seconds", "Seconds to answer a request.", ["route"], registry=self.registry
        )
        self.batches = Histogram(
            "gadms_query_batch", "Queries encoded in one batch.", buckets=(1, 2, 4, 8, 16, 32), registry=self.registry
        )
        self.persons = Gauge("gadms_gallery_persons", "Persons in the gallery.", registry=self.registry)
        self.jobs = Gauge("gadms_index_jobs", "Indexing jobs by state.", ["state"], registry=self.registry)


class MetricsMiddleware:
    """Counts every answer, also those of other middleware and of errors in the program."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            status = 500  # answered by `internal_error`, outside of this
            raise
        finally:
            if status:
                # Labelled by route, not by path: a client must not be able to create any number of labels.
                route = getattr(scope.get("route"), "path", "unknown")
                self.metrics.requests.labels(route, str(status)).inc()
                self.metrics.seconds.labels(route).observe(time.perf_counter() - start)


class HeadMiddleware:
    """Answers HEAD as GET, without the body."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        as_get = {**scope, "method": "GET"}
        await self.app(as_get, receive, without_body)
        scope["route"] = as_get.get("route")  # for the metrics
