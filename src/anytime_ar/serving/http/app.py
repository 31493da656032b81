"""The HTTP API, version 1, and the web page, as a FastAPI application."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from importlib import resources
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import APIRouter, Body, FastAPI, Path, Request
from fastapi.sse import format_sse_event
from starlette.responses import Response, StreamingResponse

from anytime_ar.serving.engine.jobs import RequestContext, ServingError
from anytime_ar.serving.engine.sample_service import unknown_sample_error
from anytime_ar.serving.http.errors import error_body, install_error_handlers
from anytime_ar.serving.http.middleware import MAX_BODY_BYTES
from anytime_ar.serving.http.monitoring import Monitor, monitoring_routes
from anytime_ar.serving.http.negotiation import (
    EVENT_STREAM,
    negotiate_response,
    require_json,
    require_one_sample,
)
from anytime_ar.serving.http.openapi import SAMPLES_RESPONSES, error_responses, install_openapi
from anytime_ar.serving.schema import (
    ID_PATTERN,
    MEDIA_TYPES,
    DecodeRequest,
    DecodeResponse,
    EncodeRequest,
    EncodeResponse,
    ModelList,
    PreviewResponse,
    RefineRequest,
    SampleRequest,
    SampleResponse,
)

_KEEP_ALIVE_S = 15.0
_T = TypeVar("_T")
SampleIdPath = Annotated[
    str, Path(description="Id of the samples, from their response or a preview.")
]


class ModelsBackend(Protocol):
    """Interface to the served models; see `anytime_ar.serving.engine.models.ModelRegistry`."""

    def describe(self) -> ModelList:
        """Describe all models for clients."""

    def formats(self, name: str | None) -> Sequence[str]:
        """Return the formats that samples of a model can be written in, the default first."""


class SamplesBackend(Protocol):
    """Interface to sampling; see `serving.engine.sample_service.SampleService`."""

    def sample(
        self, request: SampleRequest, context: RequestContext
    ) -> AsyncGenerator[PreviewResponse]:
        """Generate samples: previews, if requested, then a `SampleResponse`."""

    def refine(
        self, name: str, request: RefineRequest, context: RequestContext
    ) -> AsyncGenerator[PreviewResponse]:
        """Refine ended samples: previews, if requested, then a `SampleResponse`."""

    async def stop(self, name: str, context: RequestContext) -> SampleResponse | None:
        """Stop a job and return its samples, or release ended samples and return None."""


class CodecBackend(Protocol):
    """Interface to encoding and decoding; see `serving.engine.codec_service.CodecService`."""

    async def encode(self, request: EncodeRequest, context: RequestContext) -> EncodeResponse:
        """Encode samples to codes."""

    async def decode(self, request: DecodeRequest, context: RequestContext) -> DecodeResponse:
        """Decode codes to samples."""


def build_app(
    models: ModelsBackend, samples: SamplesBackend, codec: CodecBackend, monitor: Monitor
) -> FastAPI:
    """Build the application.

    Args:
        models: Interface to the served models.
        samples: Interface to sampling.
        codec: Interface to encoding and decoding.
        monitor: Health, load and metrics of the server.
    """
    app = FastAPI(
        title="anytime-ar",
        version="1",
        description="Samples of ordered codes, which can stop after any number of codes.",
        generate_unique_id_function=lambda route: route.name,
        docs_url=None,  # the page would load scripts from a CDN
        redoc_url=None,
        max_body_size=MAX_BODY_BYTES,  # for bodies without Content-Length
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    install_error_handlers(app)
    install_openapi(app)
    app.include_router(_routes(models, samples, codec))
    app.include_router(monitoring_routes(monitor))
    app.include_router(page_routes())
    return app


def _routes(models: ModelsBackend, samples: SamplesBackend, codec: CodecBackend) -> APIRouter:
    routes = APIRouter(prefix="/v1")
    drawing_errors = error_responses(404, 406, 409, 413, 415, 422, 503, 504)
    coding_errors = error_responses(404, 406, 413, 415, 422, 503, 504)

    @routes.post(
        "/samples",
        response_model=SampleResponse,
        responses={**drawing_errors, **SAMPLES_RESPONSES},
        tags=["samples"],
    )
    async def draw_samples(request: Request, body: SampleRequest) -> Response:
        """Generate samples, with as many codes as deadline and load allow."""
        formats = models.formats(body.model)
        body, as_bytes = negotiate_response(_accept(request), body, formats, body.n)
        updates = samples.sample(body, _context(request))
        return await _respond(request, updates, stream=body.stream, as_bytes=as_bytes)

    @routes.post(
        "/samples/{id}/refine",
        response_model=SampleResponse,
        responses={**drawing_errors, **SAMPLES_RESPONSES},
        tags=["samples"],
    )
    async def refine_samples(
        request: Request,
        id: SampleIdPath,
        body: Annotated[RefineRequest, Body()] = RefineRequest(),  # noqa: B008 - it is frozen
    ) -> Response:
        """Refine ended samples with more codes."""
        body, as_bytes = negotiate_response(_accept(request), body, [*MEDIA_TYPES], None)
        updates = samples.refine(_check_id(id), body, _context(request))
        if as_bytes:
            require_one_sample(_context(request).n)
        return await _respond(request, updates, stream=body.stream, as_bytes=as_bytes)

    @routes.delete(
        "/samples/{id}",
        response_model=SampleResponse,
        responses={
            **error_responses(404, 406, 409, 422, 503, 504),
            204: {
                "description": "The samples had ended. Their session is released, and expires in "
                "a few seconds unless they are refined."
            },
        },
        tags=["samples"],
    )
    async def stop_samples(request: Request, id: SampleIdPath) -> Response:
        """Stop sampling and return the samples so far, or release ended samples."""
        require_json(_accept(request))
        answer = await samples.stop(_check_id(id), _context(request))
        return Response(status_code=204) if answer is None else _json_response(answer)

    @routes.post("/encode", response_model=EncodeResponse, responses=coding_errors, tags=["codes"])
    async def encode(request: Request, body: EncodeRequest) -> Response:
        """Encode samples to codes, coarse to fine."""
        require_json(_accept(request))
        return _json_response(
            await _cancel_on_disconnect(request, codec.encode(body, _context(request)))
        )

    @routes.post("/decode", response_model=DecodeResponse, responses=coding_errors, tags=["codes"])
    async def decode(request: Request, body: DecodeRequest) -> Response:
        """Decode codes, or any prefix of them, to samples."""
        require_json(_accept(request))
        return _json_response(
            await _cancel_on_disconnect(request, codec.decode(body, _context(request)))
        )

    @routes.get("/models", responses=error_responses(406), tags=["server"])
    async def list_models(request: Request) -> ModelList:
        """List the models with their shapes, labels and measured quality by number of codes."""
        require_json(_accept(request))
        return models.describe()

    return routes


def _accept(request: Request) -> str:
    return ",".join(request.headers.getlist("accept"))


def _check_id(id: str) -> str:
    """Return an id, after a check of its form.

    Raises:
        NotFoundError: No samples can have this id.
    """
    if not re.fullmatch(ID_PATTERN, id):
        raise unknown_sample_error(id)
    return id


def _context(request: Request) -> RequestContext:
    context: RequestContext = request.state.context
    return context


def _json_response(answer: Any) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")


async def _respond(
    request: Request, updates: AsyncGenerator[PreviewResponse], *, stream: bool, as_bytes: bool
) -> Response:
    if stream:
        # Await the first response here, so that a refusal still sets the HTTP status.
        first = await _cancel_on_disconnect(request, anext(updates))
        return StreamingResponse(
            _sse_events(first, updates, _context(request)),
            media_type=EVENT_STREAM,
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )
    answer = await _cancel_on_disconnect(request, _final_response(updates))
    if as_bytes:
        require_one_sample(answer.n)
        return _file_response(answer)
    return _json_response(answer)


async def _final_response(updates: AsyncGenerator[PreviewResponse]) -> SampleResponse:
    async for answer in updates:
        if isinstance(answer, SampleResponse):
            return answer
    raise AssertionError("a job ends with a response or an error")


async def _cancel_on_disconnect(request: Request, work: Awaitable[_T]) -> _T:
    """Await some work, and cancel it if the client disconnects.

    Raises:
        ServingError: The client has disconnected.
    """
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ServingError("cancelled", "the client has disconnected")
        return task.result()
    finally:
        leaving.cancel()
        task.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _sse_events(
    first: PreviewResponse, updates: AsyncGenerator[PreviewResponse], context: RequestContext
) -> AsyncIterator[bytes]:
    """Format the responses of a job as server-sent events.

    Args:
        first: First response of the job.
        updates: Generator of the other responses.
        context: State of the HTTP request.

    Yields:
        Any number of `preview` events, then exactly one `done` or `error`, each as bytes.
    """
    pending: asyncio.Future[PreviewResponse] | None = None
    try:
        yield _sse_event("done" if isinstance(first, SampleResponse) else "preview", first)
        last = first
        while not isinstance(last, SampleResponse):
            pending = asyncio.ensure_future(anext(updates))
            while not (await asyncio.wait({pending}, timeout=_KEEP_ALIVE_S))[0]:
                yield format_sse_event(comment="still sampling", data_str=None)
            try:
                last = pending.result()
            except ServingError as refused:
                context.error = refused.reason
                yield _sse_event(
                    "error", error_body(refused.reason, str(refused), refused.retry_after_s)
                )
                return
            yield _sse_event("done" if isinstance(last, SampleResponse) else "preview", last)
    finally:
        if pending is not None and not pending.done():
            pending.cancel()
        else:
            await updates.aclose()


def _sse_event(name: str, data: Any) -> bytes:
    return format_sse_event(event=name, data_str=data.model_dump_json())


def _file_response(response: SampleResponse) -> Response:
    timing = response.timing
    headers = {
        "Anytime-Id": response.id,
        "Anytime-Model": response.model,
        "Anytime-Seed": str(response.seed),
        "Anytime-Codes": f"{response.codes_drawn}/{response.code_length}",
        "Anytime-Stop-Reason": response.stop_reason,
        "Server-Timing": f"queue;dur={timing.queue_ms}, sampling;dur={timing.sampling_ms}, "
        f"decode;dur={timing.decode_ms}",
    }
    content = base64.b64decode(response.samples[0])
    return Response(content, media_type=MEDIA_TYPES[response.format], headers=headers)


_PAGE_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
}
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; media-src data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_routes() -> APIRouter:
    """Create the routes of the web page and its files."""
    routes = APIRouter(include_in_schema=False)
    folder = resources.files("anytime_ar.serving") / "web"
    for path, (name, media_type) in _PAGE_FILES.items():
        _add_file(routes, path, (folder / name).read_bytes(), media_type)
    return routes


def _add_file(routes: APIRouter, path: str, content: bytes, media_type: str) -> None:
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {**_PAGE_HEADERS, "ETag": tag}

    @routes.get(path)
    async def file(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)
