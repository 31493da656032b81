"""The HTTP API, version 1, as a FastAPI application."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import APIRouter, Body, FastAPI, Path, Request
from fastapi.sse import format_sse_event
from starlette.responses import Response, StreamingResponse

from anytime_ar.serving.call import Call
from anytime_ar.serving.draws import no_draw
from anytime_ar.serving.failures import answer_failures, error_body
from anytime_ar.serving.guard import MOST_BODY_BYTES
from anytime_ar.serving.jobs import Refused
from anytime_ar.serving.media import MEDIA_TYPES
from anytime_ar.serving.negotiation import EVENTS, agree, check_json, check_single
from anytime_ar.serving.openapi import DRAWN, describe, errors
from anytime_ar.serving.page import page_routes
from anytime_ar.serving.schema import (
    ID_PATTERN,
    DecodeAnswer,
    DecodeRequest,
    Drawn,
    EncodeAnswer,
    EncodeRequest,
    ModelsAnswer,
    RefineRequest,
    SampleAnswer,
    SampleRequest,
)
from anytime_ar.serving.watch import Watch, watch_routes

_KEEP_ALIVE_S = 15.0
_T = TypeVar("_T")
DrawId = Annotated[str, Path(description="Of the draw, as its answer or its previews tell it.")]


class Catalogue(Protocol):
    """Models; see `anytime_ar.serving.served.Models`."""

    def describe(self) -> ModelsAnswer:
        """For clients."""

    def formats(self, name: str | None) -> Sequence[str]:
        """That samples of a model can be written in, the usual one first."""


class Drawing(Protocol):
    """Samples; see `anytime_ar.serving.draws.Draws`."""

    def sample(self, request: SampleRequest, call: Call) -> AsyncGenerator[Drawn]:
        """Draw some."""

    def refine(self, name: str, request: RefineRequest, call: Call) -> AsyncGenerator[Drawn]:
        """Go on with a draw."""

    async def stop(self, name: str, call: Call) -> SampleAnswer | None:
        """Stop it, or forget it."""


class Coding(Protocol):
    """Encodes and decodes; see `anytime_ar.serving.computing.Computing`."""

    async def encode(self, request: EncodeRequest, call: Call) -> EncodeAnswer:
        """Codes of samples."""

    async def decode(self, request: DecodeRequest, call: Call) -> DecodeAnswer:
        """Samples of codes."""


def build_app(models: Catalogue, draws: Drawing, computing: Coding, watch: Watch) -> FastAPI:
    """The application.

    Args:
        models: that are served.
        draws: samples.
        computing: encodes and decodes.
        watch: what is going on, for operators.
    """
    app = FastAPI(
        title="anytime-ar",
        version="1",
        description="Samples that can be cut off after any number of codes.",
        generate_unique_id_function=lambda route: route.name,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        max_body_size=MOST_BODY_BYTES,  # of those that do not say their size at first
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    answer_failures(app)
    describe(app)
    app.include_router(_routes(models, draws, computing))
    app.include_router(watch_routes(watch))
    app.include_router(page_routes())
    return app


def _routes(models: Catalogue, draws: Drawing, computing: Coding) -> APIRouter:
    routes = APIRouter(prefix="/v1")
    drawing_errors = errors(404, 406, 409, 413, 415, 422, 503, 504)
    coding_errors = errors(404, 406, 413, 415, 422, 503, 504)

    @routes.post(
        "/samples",
        response_model=SampleAnswer,
        responses={**drawing_errors, **DRAWN},
        tags=["samples"],
    )
    async def draw_samples(request: Request, body: SampleRequest) -> Response:
        """Draw samples, with as many codes as deadline and load allow."""
        formats = models.formats(body.model)
        body, as_bytes = agree(_accept(request), body, formats, body.n)
        drawing = draws.sample(body, _call(request))
        return await _answer(request, drawing, stream=body.stream, as_bytes=as_bytes)

    @routes.post(
        "/samples/{id}/refine",
        response_model=SampleAnswer,
        responses={**drawing_errors, **DRAWN},
        tags=["samples"],
    )
    async def refine_samples(
        request: Request,
        id: DrawId,
        body: Annotated[RefineRequest, Body()] = RefineRequest(),  # noqa: B008 - it is frozen
    ) -> Response:
        """Go on with a draw that has ended; its samples sharpen."""
        body, as_bytes = agree(_accept(request), body, [*MEDIA_TYPES], None)
        drawing = draws.refine(_well_formed(id), body, _call(request))
        if as_bytes:
            check_single(_call(request).n)
        return await _answer(request, drawing, stream=body.stream, as_bytes=as_bytes)

    @routes.delete(
        "/samples/{id}",
        response_model=SampleAnswer,
        responses={
            **errors(404, 406, 409, 422, 503, 504),
            204: {"description": "It had ended. It is forgotten soon, unless it is gone on with."},
        },
        tags=["samples"],
    )
    async def stop_samples(request: Request, id: DrawId) -> Response:
        """Stop a draw and return what it has; let go one that has ended."""
        check_json(_accept(request))
        answer = await draws.stop(_well_formed(id), _call(request))
        return Response(status_code=204) if answer is None else _json(answer)

    @routes.post("/encode", response_model=EncodeAnswer, responses=coding_errors, tags=["codes"])
    async def encode(request: Request, body: EncodeRequest) -> Response:
        """Turn samples into codes, coarse to fine."""
        check_json(_accept(request))
        return _json(await _unless_left(request, computing.encode(body, _call(request))))

    @routes.post("/decode", response_model=DecodeAnswer, responses=coding_errors, tags=["codes"])
    async def decode(request: Request, body: DecodeRequest) -> Response:
        """Turn codes, or any prefix of them, into samples."""
        check_json(_accept(request))
        return _json(await _unless_left(request, computing.decode(body, _call(request))))

    @routes.get("/models", responses=errors(406), tags=["server"])
    async def list_models(request: Request) -> ModelsAnswer:
        """What is served: shapes, labels, and measured quality against codes."""
        check_json(_accept(request))
        return models.describe()

    return routes


def _accept(request: Request) -> str:
    return ",".join(request.headers.getlist("accept"))


def _well_formed(id: str) -> str:
    """The id of a draw; one that none can have is not looked for."""
    if not re.fullmatch(ID_PATTERN, id):
        raise no_draw(id)
    return id


def _call(request: Request) -> Call:
    call: Call = request.state.call
    return call


def _json(answer: Any) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")


async def _answer(
    request: Request, drawing: AsyncGenerator[Drawn], *, stream: bool, as_bytes: bool
) -> Response:
    if stream:
        first = await _unless_left(request, anext(drawing))  # a refusal is still an HTTP status
        return StreamingResponse(
            _events(first, drawing, _call(request)),
            media_type=EVENTS,
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )
    answer = await _unless_left(request, _last(drawing))
    if as_bytes:
        check_single(answer.n)
        return _bytes(answer)
    return _json(answer)


async def _last(drawing: AsyncGenerator[Drawn]) -> SampleAnswer:
    async for answer in drawing:
        if isinstance(answer, SampleAnswer):
            return answer
    raise AssertionError("a draw ends with an answer or an error")


async def _unless_left(request: Request, work: Awaitable[_T]) -> _T:
    """Do some work until the client leaves."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refused("cancelled", "the client has left")
        return task.result()
    finally:
        leaving.cancel()
        task.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(first: Drawn, drawing: AsyncGenerator[Drawn], call: Call) -> AsyncIterator[bytes]:
    """Server-sent events of a draw, the last of which is `done` or `error`, exactly once."""
    pending: asyncio.Future[Drawn] | None = None
    try:
        yield _event("done" if isinstance(first, SampleAnswer) else "preview", first)
        last = first
        while not isinstance(last, SampleAnswer):
            pending = asyncio.ensure_future(anext(drawing))
            while not (await asyncio.wait({pending}, timeout=_KEEP_ALIVE_S))[0]:
                yield format_sse_event(comment="still drawing", data_str=None)
            try:
                last = pending.result()
            except Refused as refused:
                call.error = refused.reason
                yield _event("error", error_body(refused.reason, str(refused), refused.retry_s))
                return
            yield _event("done" if isinstance(last, SampleAnswer) else "preview", last)
    finally:
        if pending is not None and not pending.done():
            pending.cancel()
        else:
            await drawing.aclose()


def _event(name: str, data: Any) -> bytes:
    return format_sse_event(event=name, data_str=data.model_dump_json())


def _bytes(answer: SampleAnswer) -> Response:
    timing = answer.timing
    headers = {
        "Anytime-Id": answer.id,
        "Anytime-Model": answer.model,
        "Anytime-Seed": str(answer.seed),
        "Anytime-Codes": f"{answer.codes_drawn}/{answer.code_length}",
        "Anytime-Stop-Reason": answer.stop_reason,
        "Server-Timing": f"queue;dur={timing.queue_ms}, sampling;dur={timing.sampling_ms}, "
        f"decode;dur={timing.decode_ms}",
    }
    content = base64.b64decode(answer.samples[0])
    return Response(content, media_type=MEDIA_TYPES[answer.format], headers=headers)
