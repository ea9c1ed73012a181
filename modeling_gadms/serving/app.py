"""A small HTTP server for a gallery: search, index, health and metrics.

Nothing is authenticated but by a token, and nothing encrypted: beyond this machine, put it behind a server that speaks
TLS.
"""

import asyncio
import base64
import binascii
import hashlib
import logging
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request
from fastapi import Query as QueryParameter
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ..encoders.query_checks import query_remarks
from ..gallery.person_gallery import PersonGallery, Query, SearchResult
from ..indexing.indexer import SourceOptions
from ..indexing.jobs import IndexJob, IndexJobs, JobsFullError, safe_name
from ..media.detection import PersonDetector, SsdMobileNetDetector
from ..media.images import UnreadableImageError, load_image
from ..processing_gadms import GADMSProcessor
from .limits import UPLOAD_PATH, Guard, ServingLimits
from .query_batching import MAX_BATCH, QueryBatcher


SEARCH_THREADS = 4
"""That look into the table, beside the one that encodes."""
_SHUTDOWN_SECONDS = 20.0
_Text = Annotated[str, StringConstraints(max_length=2_000)]
_Id = Annotated[str, StringConstraints(pattern="^[0-9a-f]{24}$")]

logger = logging.getLogger(__name__)


class SearchRequest(BaseModel):
    """What to search for: a text, an image, or the id of a person; see `Query`."""

    model_config = ConfigDict(extra="forbid")

    text: _Text | None = None
    image: str | None = Field(None, description="File of a picture, in base64.")
    like: _Id | None = None
    without: list[_Text] = Field([], max_length=8)
    where: _Text | None = Field(None, description="Condition on columns, as \"camera = 'gate-2'\".")
    top_k: int = Field(10, ge=1)
    group_tracks: bool = True


class SearchResponse(BaseModel):
    """Persons, best first, and what their author should know of the words."""

    results: list[dict[str, Any]]
    remarks: list[str]


class JobResponse(BaseModel):
    """A source that is to be indexed, and what became of it."""

    id: str
    source: str
    state: str
    progress: dict[str, Any] | None
    report: dict[str, Any] | None
    error: str | None
    created: datetime

    @classmethod
    def of(cls, job: IndexJob) -> "JobResponse":
        return cls(**{**asdict(job), "state": job.state.value})


class ServerMetrics:
    """What `/metrics` tells."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("gadms_requests", "Requests answered.", ["route", "status"], registry=self.registry)
        self.seconds = Histogram("gadms_request_seconds", "Seconds of an answer.", ["route"], registry=self.registry)
        self.batches = Histogram(
            "gadms_query_batch", "Queries encoded at once.", buckets=(1, 2, 4, 8, 16, 32), registry=self.registry
        )
        self.persons = Gauge("gadms_gallery_persons", "Persons in the gallery.", registry=self.registry)
        self.jobs = Gauge("gadms_index_jobs", "Sources by state.", ["state"], registry=self.registry)


def create_app(
    gallery: PersonGallery,
    processor: GADMSProcessor,
    *,
    token: str | None = None,
    limits: ServingLimits | None = None,
    max_batch: int = MAX_BATCH,
    detector: Callable[[], PersonDetector] = SsdMobileNetDetector,
) -> FastAPI:
    """The application that serves a gallery.

    Args:
        gallery ([`~modeling_gadms.gallery.person_gallery.PersonGallery`]): opened with its model.
        processor ([`GADMSProcessor`]): of the model.
        token (`str`, *optional*): that requests must bear, but those to `/healthz`; without it anybody is served.
        limits ([`~modeling_gadms.serving.limits.ServingLimits`], *optional*)
        max_batch (`int`): queries encoded at once.
        detector (`Callable[[], PersonDetector]`): makes what finds persons in videos.
    """
    return _Server(gallery, processor, token, limits or ServingLimits(), max_batch, detector).app


class _Server:
    def __init__(
        self,
        gallery: PersonGallery,
        processor: GADMSProcessor,
        token: str | None,
        limits: ServingLimits,
        max_batch: int,
        detector: Callable[[], PersonDetector],
    ):
        self.gallery, self.processor, self.limits = gallery, processor, limits
        self.metrics = ServerMetrics()
        self._max_batch, self._make_detector = max_batch, detector
        self.app = FastAPI(
            title="GA-DMS", description="Find persons from a description.", lifespan=self._lifespan, version="1"
        )
        self.app.add_middleware(Guard, limits=limits, token=token)
        self.app.middleware("http")(self._measured)
        self.app.add_exception_handler(Exception, self._failed)
        self._add_routes()

    def _add_routes(self) -> None:
        add = self.app.add_api_route
        add("/search", self.search, methods=["POST"], response_model=SearchResponse)
        add("/persons/{person_id}/thumbnail", self.thumbnail, methods=["GET"], response_class=Response)
        add(UPLOAD_PATH, self.index, methods=["POST"], status_code=202, response_model=JobResponse)
        add(UPLOAD_PATH, self.jobs_listed, methods=["GET"], response_model=list[JobResponse])
        add(f"{UPLOAD_PATH}/{{job_id}}", self.job, methods=["GET"], response_model=JobResponse)
        add(f"{UPLOAD_PATH}/{{job_id}}", self.cancel, methods=["DELETE"], response_model=JobResponse)
        add("/healthz", self.health, methods=["GET"])
        add("/metrics", self.measured, methods=["GET"], response_class=PlainTextResponse)

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self._batcher = QueryBatcher(
            self.gallery.encode, max_batch=self._max_batch, observe=self.metrics.batches.observe
        )
        self._jobs = IndexJobs(self.gallery, self._make_detector, max_frames=self.limits.frames)
        with (
            tempfile.TemporaryDirectory(prefix="gadms-uploads-", ignore_cleanup_errors=True) as uploads,
            ThreadPoolExecutor(SEARCH_THREADS, thread_name_prefix="search") as self._pool,
        ):
            self._uploads = Path(uploads)
            yield
            self._batcher.close(_SHUTDOWN_SECONDS)
            self._jobs.close(_SHUTDOWN_SECONDS)

    async def search(self, request: SearchRequest) -> SearchResponse:
        """Find persons from a description, a picture, or others like one."""
        if request.top_k > self.limits.top_k:
            raise HTTPException(422, f"top_k is {request.top_k}, at most {self.limits.top_k} are given")
        try:
            return await asyncio.wait_for(self._search(request), self.limits.search_seconds)
        except TimeoutError as error:
            raise HTTPException(504, f"No answer in {self.limits.search_seconds:g} seconds") from error
        except (ValueError, TypeError) as error:
            raise HTTPException(422, str(error)) from error

    async def _search(self, request: SearchRequest) -> SearchResponse:
        image = None if request.image is None else await self._in_pool(_decoded, request.image)
        query = Query(request.text, image, request.like, request.without)
        encoded = await asyncio.wrap_future(self._batcher.submit(query))
        found: list[SearchResult] = await self._in_pool(
            self.gallery.nearest, encoded, request.top_k, where=request.where, group_tracks=request.group_tracks
        )
        texts = ([request.text] if request.text else []) + request.without
        remarks = [remark for text in texts for remark in query_remarks(self.processor, text)]
        return SearchResponse(results=[result.to_dict() for result in found], remarks=remarks)

    async def thumbnail(self, person_id: _Id) -> Response:
        """The picture of a person, a JPEG."""
        found = await self._in_pool(self.gallery.get, [person_id])
        if not found:
            raise HTTPException(404, f"The gallery has no person {person_id}")
        return Response(found[0].thumbnail, media_type="image/jpeg")

    async def index(
        self,
        request: Request,
        name: Annotated[str, QueryParameter(max_length=255, description="Of the file, whose ending says what it is.")],
        camera: Annotated[str | None, QueryParameter(max_length=255)] = None,
        start: Annotated[datetime | None, QueryParameter(description="When a video's first frame was taken.")] = None,
        every: Annotated[int, QueryParameter(ge=1)] = 1,
        per_second: Annotated[float | None, QueryParameter(gt=0)] = None,
        crops_per_track: Annotated[int, QueryParameter(ge=0, le=100)] = 3,
        detect: bool | None = None,
    ) -> JobResponse:
        """Index the body of the request, the content of a video, a picture or a `.tar` of pictures."""
        options = SourceOptions(detect, every, per_second, crops_per_track, camera, start)
        try:
            file_name = safe_name(name)
        except ValueError as error:
            raise HTTPException(415, str(error)) from error
        folder = Path(tempfile.mkdtemp(dir=self._uploads))
        try:
            path = await asyncio.wait_for(self._received(request, folder, file_name), self.limits.upload_seconds)
            job = self._jobs.submit(path, options, root=folder, finished=lambda _: shutil.rmtree(folder))
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise _refusal(error, self.limits) or error from error
        return JobResponse.of(job)

    async def jobs_listed(self) -> list[JobResponse]:
        """The sources that were sent, the newest first."""
        return [JobResponse.of(job) for job in self._jobs.all()]

    async def job(self, job_id: str) -> JobResponse:
        """How far a source is."""
        return self._known_job(self._jobs.get, job_id)

    async def cancel(self, job_id: str) -> JobResponse:
        """Stop indexing a source; what was found until then is kept."""
        return self._known_job(self._jobs.cancel, job_id)

    async def health(self) -> dict[str, Any]:
        """Whether the gallery can be read."""
        try:
            persons = await self._in_pool(len, self.gallery)
        except Exception as error:
            logger.exception("The gallery cannot be read")
            raise HTTPException(503, "The gallery cannot be read") from error
        return {"status": "ok", "persons": persons}

    async def measured(self) -> Response:
        """Counts and times, in Prometheus's format."""
        self.metrics.persons.set(await self._in_pool(len, self.gallery))
        self.metrics.jobs.clear()
        for job in self._jobs.all():
            self.metrics.jobs.labels(job.state.value).inc()
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def _received(self, request: Request, folder: Path, name: str) -> Path:
        """Write the body to the disk. The name has the content's digest, so that two files of one name stay two."""
        digest, size, part = hashlib.blake2b(digest_size=6), 0, folder / "part"
        with open(part, "wb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size > self.limits.upload_bytes:
                    raise _TooLargeError
                digest.update(chunk)
                await self._in_pool(file.write, chunk)
        if not size:
            raise HTTPException(422, f"The body is empty: send the content of {name}")
        path = folder / digest.hexdigest() / name
        path.parent.mkdir()
        return part.rename(path)

    def _known_job(self, call: Callable[[str], IndexJob], job_id: str) -> JobResponse:
        try:
            return JobResponse.of(call(job_id))
        except KeyError as error:
            raise HTTPException(404, "There is no such source, or it was done with long ago") from error

    async def _in_pool(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(call, *arguments, **options))

    async def _measured(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        start = time.perf_counter()
        response = await call_next(request)
        # The route and not the path: an attacker must not fill the memory with labels.
        route = getattr(request.scope.get("route"), "path", "unknown")
        self.metrics.requests.labels(route, str(response.status_code)).inc()
        self.metrics.seconds.labels(route).observe(time.perf_counter() - start)
        return response

    async def _failed(self, request: Request, error: Exception) -> Response:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return JSONResponse({"detail": "An error of the server; see its log"}, 500)


class _TooLargeError(Exception):
    pass


def _refusal(error: BaseException, limits: ServingLimits) -> HTTPException | None:
    """What a client is told of an upload that failed; none if it is no fault of an upload."""
    if isinstance(error, _TooLargeError):
        return HTTPException(413, f"The body has more than {limits.upload_bytes:,} bytes")
    if isinstance(error, TimeoutError):
        return HTTPException(408, f"The body did not come in {limits.upload_seconds:g} seconds")
    if isinstance(error, JobsFullError):
        return HTTPException(429, str(error))
    if isinstance(error, OSError):
        logger.error("An upload could not be written", exc_info=error)
        return HTTPException(507, "The server's disk does not take the file")
    return None


def _decoded(image: str) -> Any:
    try:
        return load_image(base64.b64decode(image, validate=True))
    except binascii.Error as error:
        raise ValueError(f"The image is not in base64: {error}") from error
    except UnreadableImageError as error:
        raise ValueError(str(error)) from error
