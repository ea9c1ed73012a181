"""HTTP server for a gallery, built on FastAPI: search, indexing of uploads, health check and Prometheus metrics.

The only authentication is a bearer token (`authentication.py`), and traffic is not encrypted: put a TLS proxy in front
of it when it is reachable from other machines. `docs/threat-model.md` says what is refused where.
"""

import asyncio
import base64
import binascii
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi import Query as QueryParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.requests import ClientDisconnect

from ..encoders.processors import RetrievalProcessor
from ..encoders.query_checks import query_warnings
from ..gallery.filter import in_utc
from ..gallery.person_gallery import GalleryModelError, PersonGallery, Query, SearchResult
from ..indexing.indexer import SourceOptions
from ..indexing.isolation import check_upload
from ..indexing.jobs import (
    IndexJob,
    IndexJobs,
    JobsClosedError,
    JobsFullError,
    public_message,
    safe_name,
    uploads_beside,
)
from ..media.detection import PersonDetector, SsdMobileNetDetector
from ..media.images import UnreadableImageError, load_image
from .api_page import api_page
from .authentication import AuthenticationMiddleware
from .bodies import invalid_request, needs_json, unreadable_body
from .limits import HEALTH_PATH, UPLOAD_PATH, LimitsMiddleware, ServingLimits
from .metrics import HeadMiddleware, MetricsMiddleware, ServerMetrics
from .origins import ANY_HOST, LOOPBACK_HOSTS, SameOriginMiddleware
from .query_batching import MAX_BATCH, QueryBatcher


SEARCH_THREADS = 4
"""Threads that read the gallery; another one encodes the queries."""
CHECK_THREADS = 2
"""Uploads that are looked into at once, each by a process of its own."""
_SHUTDOWN_SECONDS = 20.0
_Text = Annotated[str, StringConstraints(max_length=2_000)]
_Id = Annotated[str, StringConstraints(pattern="^[0-9a-f]{24}$")]

_NO_SCRIPTS = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"

logger = logging.getLogger(__name__)


class SearchRequest(BaseModel):
    """A query by text, by image, or by the id of a person; see `Query`."""

    model_config = ConfigDict(extra="forbid")

    text: _Text | None = None
    image: str | None = Field(None, description="Image file, encoded in base64.")
    like: _Id | None = None
    without: list[_Text] = Field([], max_length=8)
    where: _Text | None = Field(None, description="Condition on columns, such as \"camera = 'gate-2'\".")
    top_k: int = Field(10, ge=1)
    group_tracks: bool = True


class SearchResponse(BaseModel):
    """Persons, best first, and remarks on the words of the query."""

    results: list[dict[str, Any]]
    remarks: list[str]


def create_app(
    gallery: PersonGallery,
    processor: RetrievalProcessor,
    *,
    token: str | None = None,
    limits: ServingLimits | None = None,
    max_batch: int = MAX_BATCH,
    detector: Callable[[], PersonDetector] = SsdMobileNetDetector,
    uploads: Path | None = None,
    allowed_hosts: Sequence[str] | None = None,
) -> FastAPI:
    """Create the application that serves a gallery.

    Args:
        gallery ([`~modeling_gadms.gallery.person_gallery.PersonGallery`]): opened with its model.
        processor ([`GADMSProcessor`]): processor of the model.
        token (`str`, *optional*): bearer token required by every route except `/healthz`. By default none is.
        limits ([`~modeling_gadms.serving.limits.ServingLimits`], *optional*)
        max_batch (`int`): largest number of queries encoded together.
        detector (`Callable[[], PersonDetector]`): creates the person detector for videos.
        uploads (`Path`, *optional*): folder for uploads and the state of jobs, which no other program may use. By
            default `GALLERY-uploads` beside the gallery.
        allowed_hosts (`Sequence[str]`, *optional*): names and addresses that the server answers to, without a port. By
            default those of loopback; with a token any.
    """
    limits = limits or ServingLimits()
    uploads = uploads_beside(gallery.location) if uploads is None else uploads
    server = _Server(gallery, processor, limits, max_batch, detector, uploads)
    app = FastAPI(
        title="GA-DMS",
        description="Find persons from a description.",
        lifespan=server.lifespan,
        version="1",
        docs_url=None,  # FastAPI's pages load their scripts from other servers
        redoc_url=None,
    )
    if allowed_hosts is None:
        allowed_hosts = LOOPBACK_HOSTS if token is None else (ANY_HOST,)
    # The middleware added last runs first.
    app.add_middleware(HeadMiddleware)
    app.add_middleware(LimitsMiddleware, limits=limits)
    if token is not None:
        app.add_middleware(AuthenticationMiddleware, token=token)
    app.add_middleware(SameOriginMiddleware, allowed_hosts=allowed_hosts)
    app.add_middleware(MetricsMiddleware, metrics=server.metrics)
    app.add_exception_handler(Exception, server.internal_error)
    app.add_exception_handler(RequestValidationError, invalid_request)
    app.add_exception_handler(400, unreadable_body)
    add = app.add_api_route
    add("/search", server.search, methods=["POST"], dependencies=[Depends(needs_json)])
    add("/persons/{person_id}/thumbnail", server.thumbnail, methods=["GET"], response_class=Response)
    add(UPLOAD_PATH, server.index, methods=["POST"], status_code=202)
    add(UPLOAD_PATH, server.list_jobs, methods=["GET"])
    add(f"{UPLOAD_PATH}/{{job_id}}", server.get_job, methods=["GET"])
    add(f"{UPLOAD_PATH}/{{job_id}}", server.cancel_job, methods=["DELETE"])
    add(HEALTH_PATH, server.health, methods=["GET"])
    add("/metrics", server.prometheus, methods=["GET"], response_class=PlainTextResponse)
    add(
        "/docs",
        lambda: HTMLResponse(api_page(app.openapi()), headers={"content-security-policy": _NO_SCRIPTS}),
        include_in_schema=False,
    )
    return app


@dataclass
class _Server:
    """The route handlers and their shared state."""

    gallery: PersonGallery
    processor: RetrievalProcessor
    limits: ServingLimits
    max_batch: int
    make_detector: Callable[[], PersonDetector]
    uploads: Path
    metrics: ServerMetrics = field(default_factory=ServerMetrics)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self._batcher = QueryBatcher(
            self.gallery.encode, max_batch=self.max_batch, observe=self.metrics.batches.observe
        )
        self._jobs = IndexJobs(
            self.gallery, self.make_detector, self.uploads, max_frames=self.limits.frames, limits=self.limits.decoding
        )
        with (
            ThreadPoolExecutor(SEARCH_THREADS, thread_name_prefix="search") as self._pool,
            ThreadPoolExecutor(CHECK_THREADS, thread_name_prefix="check") as self._check_pool,
        ):
            yield
            self._batcher.close(_SHUTDOWN_SECONDS)
            self._jobs.close(_SHUTDOWN_SECONDS)

    async def search(self, request: SearchRequest) -> SearchResponse:
        """Find persons from a description, an image, or another person."""
        if request.top_k > self.limits.top_k:
            raise HTTPException(422, f"top_k is {request.top_k}; it must be at most {self.limits.top_k}")
        try:
            return await asyncio.wait_for(self._search(request), self.limits.search_seconds)
        except TimeoutError as error:
            raise HTTPException(504, f"No answer within {self.limits.search_seconds:g} seconds") from error
        except GalleryModelError as error:
            raise _rebuilt(error) from error
        except (ValueError, TypeError) as error:
            raise HTTPException(422, str(error)) from error

    async def _search(self, request: SearchRequest) -> SearchResponse:
        image = None if request.image is None else await self._in_thread(_decode_image, request.image)
        query = Query(request.text, image, request.like, request.without)
        encoded = await asyncio.wrap_future(self._batcher.submit(query))
        found: list[SearchResult] = await self._in_thread(
            self.gallery.nearest, encoded, request.top_k, where=request.where, group_tracks=request.group_tracks
        )
        texts = ([request.text] if request.text else []) + request.without
        remarks = [remark for text in texts for remark in query_warnings(self.processor, text)]
        if request.where:
            remarks += await self._in_thread(self.gallery.filter_remarks, request.where)
        return SearchResponse(results=[result.to_dict() for result in found], remarks=remarks)

    async def thumbnail(self, person_id: _Id) -> Response:
        """Return the crop of a person as JPEG."""
        found = await self._in_thread(self.gallery.get, [person_id])
        if not found:
            raise HTTPException(404, f"The gallery has no person {person_id}")
        return Response(found[0].thumbnail, media_type="image/jpeg")

    async def index(
        self,
        request: Request,
        name: Annotated[
            str, QueryParameter(max_length=255, description="File name; its extension determines the type.")
        ],
        camera: Annotated[str | None, QueryParameter(max_length=255)] = None,
        start: Annotated[datetime | None, QueryParameter(description="Time of a video's first frame.")] = None,
        every: Annotated[int, QueryParameter(ge=1)] = 1,
        per_second: Annotated[float | None, QueryParameter(gt=0)] = None,
        crops_per_track: Annotated[int, QueryParameter(ge=0, le=100)] = 3,
        detect: bool | None = None,
    ) -> IndexJob:
        """Index the body of the request: a video, an image or a `.tar` archive of images."""
        await self._check_model()
        options = SourceOptions(detect, every, per_second, crops_per_track, camera, start)
        try:
            file_name = safe_name(name)
        except ValueError as error:
            raise HTTPException(415, str(error)) from error
        try:
            if start is not None:
                in_utc(start)
            if per_second is not None and every != 1:
                raise ValueError("every and per_second exclude each other: give one of them")
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        try:
            with self._jobs.room() as folder:  # a full queue is told before the body is read
                return await self._receive(request, folder, file_name, options)
        except JobsClosedError as error:
            raise HTTPException(503, str(error)) from error
        except JobsFullError as error:
            raise HTTPException(429, str(error), {"retry-after": "30"}) from error
        except TimeoutError as error:
            detail = f"The body did not arrive within {self.limits.upload_seconds:g} seconds"
            raise HTTPException(408, detail) from error
        except ClientDisconnect as error:  # nobody reads this answer; it is counted
            raise HTTPException(422, "The connection ended before the body did") from error
        except OSError as error:
            logger.error("An upload could not be written", exc_info=error)
            raise HTTPException(507, "The server could not write the file to disk") from error

    async def _receive(self, request: Request, folder: Path, name: str, options: SourceOptions) -> IndexJob:
        path = await asyncio.wait_for(self._save_upload(request, folder, name), self.limits.upload_seconds)
        try:
            check = partial(check_upload, path, options)
            await asyncio.get_running_loop().run_in_executor(self._check_pool, check)
        except (ValueError, OSError) as error:
            raise HTTPException(422, public_message(error, path.parent)) from error
        return self._jobs.submit(path, options, root=folder, remove=folder)

    async def list_jobs(self) -> list[IndexJob]:
        """List the indexing jobs, newest first."""
        return self._jobs.all()

    async def get_job(self, job_id: str) -> IndexJob:
        """Return the state and progress of an indexing job."""
        return self._known_job(self._jobs.get, job_id)

    async def cancel_job(self, job_id: str) -> IndexJob:
        """Cancel an indexing job. Persons found so far stay in the gallery."""
        return self._known_job(self._jobs.cancel, job_id)

    async def health(self) -> dict[str, Any]:
        """Check that the gallery can be read and uploads are indexed."""
        if not self._jobs.is_alive:
            raise HTTPException(503, "Indexing has ended: restart the server, which goes on with the jobs")
        try:
            persons = await self._in_thread(len, self.gallery)
        except Exception as error:
            logger.exception("The gallery cannot be read")
            raise HTTPException(503, "The gallery cannot be read") from error
        await self._check_model()
        return {"status": "ok", "persons": persons}

    async def prometheus(self) -> Response:
        """Return request counts and durations in the Prometheus text format."""
        self.metrics.persons.set(await self._in_thread(len, self.gallery))
        self.metrics.jobs.clear()
        for job in self._jobs.all():
            self.metrics.jobs.labels(job.state.value).inc()
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def _save_upload(self, request: Request, folder: Path, name: str) -> Path:
        """Write the body to disk. A folder named by its digest keeps uploads with the same file name apart."""
        digest, size, part = hashlib.blake2b(digest_size=6), 0, folder / "part"
        with open(part, "wb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size > self.limits.upload_bytes:
                    raise HTTPException(413, f"The body has more than {self.limits.upload_bytes:,} bytes")
                digest.update(chunk)
                await self._in_thread(file.write, chunk)
        if not size:
            raise HTTPException(422, f"The body is empty: send the content of {name}")
        path = folder / digest.hexdigest() / name
        path.parent.mkdir()
        return part.rename(path)

    def _known_job(self, call: Callable[[str], IndexJob], job_id: str) -> IndexJob:
        try:
            return call(job_id)
        except KeyError as error:
            raise HTTPException(404, "There is no such indexing job, or it finished long ago") from error

    async def _check_model(self) -> None:
        try:
            await self._in_thread(self.gallery.check_model)
        except GalleryModelError as error:
            raise _rebuilt(error) from error

    async def _in_thread(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(call, *arguments, **options))

    async def internal_error(self, request: Request, error: Exception) -> Response:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return JSONResponse({"detail": "Internal server error; see the log of the server"}, 500)


def _rebuilt(error: GalleryModelError) -> HTTPException:
    logger.error("%s", error)  # with the paths of gallery and models, which clients must not see
    return HTTPException(503, "The gallery has been rebuilt by another model: restart the server to load it")


def _decode_image(image: str) -> Any:
    try:
        return load_image(base64.b64decode(image, validate=True))
    except binascii.Error as error:
        raise ValueError(f"The image is not valid base64: {error}") from error
    except UnreadableImageError as error:
        raise ValueError(str(error)) from error
