"""For whoever operates the server: is it alive, is it ready, and how much is going on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

from fastapi import APIRouter
from starlette.responses import Response

from anytime_ar.serving.call import RequestContext
from anytime_ar.serving.failures import error_response
from anytime_ar.serving.guard import Scope
from anytime_ar.serving.logs import log_request
from anytime_ar.serving.metrics import ServerMetrics
from anytime_ar.serving.occupancy import StatsSource
from anytime_ar.serving.openapi import error_responses
from anytime_ar.serving.schema import ResponseBody

_LOAD_WINDOW_S = 3.0
"""Within which draws count for the load that is shown."""


class HealthResponse(ResponseBody):
    """Of the server."""

    status: Literal["alive", "ready"]


class ModelLoad(ResponseBody):
    """What goes on in one model."""

    model: str
    rows: int
    """That are being drawn."""
    slots: int
    """That there is room for."""
    waiting: int
    """Jobs that wait for room."""
    draws_per_s: float
    """Answered in the last seconds."""
    granted: float | None
    """Codes drawn in them, over codes asked for; null: there were none."""


class LoadResponse(ResponseBody):
    """How much is going on."""

    ready: bool
    models: list[ModelLoad]


class Monitor:
    """What is going on.

    Args:
        stats: what goes on in each model.
        ready: whether requests are taken.
        clock: the server's.
    """

    def __init__(
        self, stats: StatsSource, ready: Callable[[], bool], clock: Callable[[], float]
    ) -> None:
        self._stats, self.ready, self._clock = stats, ready, clock
        self.metrics = ServerMetrics(stats, ready)
        self._recent: dict[str, deque[tuple[float, int, int]]] = {}  # when, asked, granted

    def observe(self, context: RequestContext, scope: Scope, status: int) -> None:
        """A request was answered.

        Args:
            context: what came of it.
            scope: of ASGI.
            status: of HTTP.
        """
        route = getattr(scope.get("route"), "path", "other")
        self.record(context)
        self.metrics.record_request(context, route, scope["method"], status)
        log_request(context, scope["method"], scope["path"], status)

    def record(self, context: RequestContext) -> None:
        """A draw was answered, or not."""
        ended = context.stats
        if ended is None or context.model is None:
            return
        asked = ended.n * (context.codes_requested or ended.codes_drawn)
        self._recent_requests(context.model).append(
            (context.clock(), asked, ended.n * ended.codes_drawn)
        )

    def _recent_requests(self, model: str) -> deque[tuple[float, int, int]]:
        """What draws of a model got, as far as it is remembered."""
        recent, since = self._recent.setdefault(model, deque()), self._clock() - _LOAD_WINDOW_S
        while recent and recent[0][0] <= since:
            recent.popleft()
        return recent

    def load(self) -> LoadResponse:
        """What goes on in each model, and how much draws have got lately."""
        loads = []
        for name, work in self._stats().items():
            recent = self._recent_requests(name)
            asked = sum(one[1] for one in recent)
            loads.append(
                ModelLoad(
                    model=name,
                    rows=work.rows,
                    slots=work.slots,
                    waiting=work.waiting,
                    draws_per_s=round(len(recent) / _LOAD_WINDOW_S, 2),
                    granted=sum(one[2] for one in recent) / asked if asked else None,
                )
            )
        return LoadResponse(ready=self.ready(), models=loads)


def monitoring_routes(monitor: Monitor) -> APIRouter:
    """Their paths."""
    routes = APIRouter(tags=["server"])

    @routes.get("/livez", responses=error_responses())
    async def is_alive() -> HealthResponse:
        """The process answers. Needs no key."""
        return HealthResponse(status="alive")

    @routes.get("/readyz", response_model=HealthResponse, responses=error_responses(503))
    async def is_ready() -> Response:
        """Requests are taken: models are warm and work, and the server is not going down. Needs no
        key."""
        if not monitor.ready():
            return error_response(503, "not_ready", "the server takes no requests", retry_after_s=1)
        return Response(
            HealthResponse(status="ready").model_dump_json(), media_type="application/json"
        )

    @routes.get(
        "/metrics",
        response_class=Response,
        responses={
            **error_responses(),
            200: {
                "description": "Lines of text, as Prometheus reads them.",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
        },
    )
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(
            monitor.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    @routes.get("/v1/load", responses=error_responses())
    async def load() -> LoadResponse:
        """How much is going on, and what draws get of the codes that they ask for."""
        return monitor.load()

    return routes
