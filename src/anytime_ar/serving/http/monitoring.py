"""For whoever operates the server: is it alive, is it ready, and how much is going on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Literal

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.responses import Response

from anytime_ar.serving.engine.jobs import RequestContext
from anytime_ar.serving.engine.scheduler import StatsSource
from anytime_ar.serving.http.errors import error_response
from anytime_ar.serving.http.middleware import Scope
from anytime_ar.serving.http.openapi import error_responses
from anytime_ar.serving.logs import log_request
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
    requests_per_s: float
    """Answered in the last seconds."""
    codes_drawn_share: float | None
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
                    requests_per_s=round(len(recent) / _LOAD_WINDOW_S, 2),
                    codes_drawn_share=sum(one[2] for one in recent) / asked if asked else None,
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


_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SLACK_SECONDS = (*(-seconds for seconds in reversed(_SECONDS)), 0.0, *_SECONDS)


class ServerMetrics:
    """Counts what is answered and shows what is going on.

    Args:
        stats: what goes on in each model.
        ready: whether requests are taken.
    """

    def __init__(self, stats: StatsSource, ready: Callable[[], bool]) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"anytime_{name}", what, labels, registry=self.registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(
                f"anytime_{name}", what, ["model"], registry=self.registry, buckets=buckets
            )

        def gauge(name: str, what: str, value: Callable[[], float]) -> None:
            Gauge(f"anytime_{name}", what, registry=self.registry).set_function(value)

        self._requests = counter("requests", "Requests answered", "route", "method", "status")
        self._finished = counter("stops", "Draws by why they ended", "model", "reason")
        self._errors = counter("refusals", "Requests without samples, by why", "reason")
        self._codes_requested = counter("codes_asked", "Codes asked for, of all samples", "model")
        self._codes_drawn = counter("codes_granted", "Codes drawn, of all samples", "model")
        self._degraded = counter("degraded", "Draws with fewer codes than asked for", "model")
        self._queue = histogram("queue_seconds", "From arrival to the first code")
        self._sampling = histogram("sampling_seconds", "From the first code to the last")
        self._decode = histogram("decode_seconds", "Decoding")
        self._first_preview = histogram(
            "first_preview_seconds", "From arrival to the first preview"
        )
        self._request = histogram("request_seconds", "From arrival to the end of the answer")
        self._slack = histogram(
            "deadline_slack_seconds",
            "What was left of the deadline; negative: missed",
            _SLACK_SECONDS,
        )
        gauge("draws_running", "Draws under way", lambda: _sum(stats, "draws"))
        gauge("jobs_waiting", "Jobs that wait for room", lambda: _sum(stats, "waiting"))
        gauge("ready", "Whether requests are taken", lambda: float(ready()))
        rows = Gauge("anytime_rows", "Rows being drawn", ["model"], registry=self.registry)
        slots = Gauge("anytime_slots", "Rows there is room for", ["model"], registry=self.registry)
        for name in stats():
            rows.labels(name).set_function(partial(_value, stats, name, "rows"))
            slots.labels(name).set_function(partial(_value, stats, name, "slots"))

    def record_request(self, context: RequestContext, route: str, method: str, status: int) -> None:
        """A request was answered.

        Args:
            context: what came of it.
            route: its path, with names in place of what varies.
            method: of HTTP.
            status: of HTTP.
        """
        now = context.clock()
        self._requests.labels(route, method, str(status)).inc()
        if context.error is not None:
            self._errors.labels(context.error).inc()
        if context.stats is None or context.model is None:
            return
        model, ended = context.model, context.stats
        asked = context.codes_requested or ended.codes_drawn
        self._finished.labels(model, ended.stop_reason).inc()
        self._codes_requested.labels(model).inc(ended.n * asked)
        self._codes_drawn.labels(model).inc(ended.n * ended.codes_drawn)
        self._degraded.labels(model).inc(ended.codes_drawn < asked)
        self._queue.labels(model).observe(ended.queue_s)
        self._sampling.labels(model).observe(ended.sampling_s)
        self._decode.labels(model).observe(ended.decode_s)
        self._request.labels(model).observe(now - context.arrival)
        if context.first_preview_s is not None:
            self._first_preview.labels(model).observe(context.first_preview_s)
        if context.deadline is not None:
            self._slack.labels(model).observe(context.deadline - now)

    def render(self) -> bytes:
        """All figures, as Prometheus reads them."""
        return generate_latest(self.registry)


def _sum(stats: StatsSource, what: str) -> float:
    """Of all models."""
    return float(sum(getattr(one, what) for one in stats().values()))


def _value(stats: StatsSource, model: str, what: str) -> float:
    return float(getattr(stats()[model], what))
