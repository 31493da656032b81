"""Health, load and Prometheus metrics of the server, with their routes."""

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
"""Seconds before now whose requests count for the reported load."""


class HealthResponse(ResponseBody):
    """Response of /livez and /readyz."""

    status: Literal["alive", "ready"]
    """`alive` from /livez, `ready` from /readyz."""


class ModelLoad(ResponseBody):
    """Current load of one model."""

    model: str
    """Name of the model."""
    rows: int
    """Number of occupied batch rows."""
    slots: int
    """Number of rows that the batch has room for."""
    waiting: int
    """Number of jobs that wait for slots."""
    requests_per_s: float
    """Completed sampling requests a second, in the last 3 seconds."""
    codes_drawn_share: float | None
    """Ratio of drawn to requested codes of these requests. null if there were none."""


class LoadResponse(ResponseBody):
    """Current load of the server."""

    ready: bool
    """Whether the server accepts requests."""
    models: list[ModelLoad]
    """Load of each model."""


class Monitor:
    """A monitor that collects health, load and metrics of the server.

    Args:
        stats: Function that returns the load of each model.
        ready: Function that returns whether the server accepts requests.
        clock: Clock of the server, in seconds.
    """

    def __init__(
        self, stats: StatsSource, ready: Callable[[], bool], clock: Callable[[], float]
    ) -> None:
        """Start without observed requests."""
        self._stats, self.ready, self._clock = stats, ready, clock
        self.metrics = ServerMetrics(stats, ready)
        self._recent: dict[str, deque[tuple[float, int, int]]] = {}  # (time, requested, drawn)

    def observe(self, context: RequestContext, scope: Scope, status: int) -> None:
        """Record and log a request that has been answered.

        Args:
            context: State of the HTTP request.
            scope: ASGI scope of the request.
            status: HTTP status of the response.
        """
        route = getattr(scope.get("route"), "path", "other")
        self.record(context)
        self.metrics.record_request(context, route, scope["method"], status)
        log_request(context, scope["method"], scope["path"], status)

    def record(self, context: RequestContext) -> None:
        """Add a request to the load of its model, if its sampling job completed."""
        ended = context.stats
        if ended is None or context.model is None:
            return
        requested = ended.n * (context.codes_requested or ended.codes_drawn)
        self._recent_requests(context.model).append(
            (context.clock(), requested, ended.n * ended.codes_drawn)
        )

    def _recent_requests(self, model: str) -> deque[tuple[float, int, int]]:
        """Return the completed requests of a model in the last `_LOAD_WINDOW_S` seconds.

        Returns:
            Time, requested codes and drawn codes of each request, of all its samples.
        """
        recent, since = self._recent.setdefault(model, deque()), self._clock() - _LOAD_WINDOW_S
        while recent and recent[0][0] <= since:
            recent.popleft()
        return recent

    def load(self) -> LoadResponse:
        """Return the current load of each model, and the codes that recent requests got."""
        loads = []
        for name, stats in self._stats().items():
            recent = self._recent_requests(name)
            requested, drawn = sum(one[1] for one in recent), sum(one[2] for one in recent)
            loads.append(
                ModelLoad(
                    model=name,
                    rows=stats.rows,
                    slots=stats.slots,
                    waiting=stats.waiting,
                    requests_per_s=round(len(recent) / _LOAD_WINDOW_S, 2),
                    codes_drawn_share=drawn / requested if requested else None,
                )
            )
        return LoadResponse(ready=self.ready(), models=loads)


def monitoring_routes(monitor: Monitor) -> APIRouter:
    """Create the routes of health, load and metrics."""
    routes = APIRouter(tags=["server"])

    @routes.get("/livez", responses=error_responses())
    async def is_alive() -> HealthResponse:
        """Return that the process responds. No API key is needed."""
        return HealthResponse(status="alive")

    @routes.get("/readyz", response_model=HealthResponse, responses=error_responses(503))
    async def is_ready() -> Response:
        """Return whether the server accepts requests. No API key is needed.

        It does if its models are warmed up and work, and it is not shutting down.
        """
        if not monitor.ready():
            return error_response(
                503, "not_ready", "the server accepts no requests; try again later", retry_after_s=1
            )
        return Response(
            HealthResponse(status="ready").model_dump_json(), media_type="application/json"
        )

    @routes.get(
        "/metrics",
        response_class=Response,
        responses={
            **error_responses(),
            200: {
                "description": "Metrics in the text format of Prometheus.",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
        },
    )
    async def metrics() -> Response:
        """Return the metrics of the server in the text format of Prometheus."""
        return Response(
            monitor.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    @routes.get("/v1/load", responses=error_responses())
    async def load() -> LoadResponse:
        """Return the load of each model, and the ratio of drawn to requested codes."""
        return monitor.load()

    return routes


_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SLACK_SECONDS = (*(-seconds for seconds in reversed(_SECONDS)), 0.0, *_SECONDS)


class ServerMetrics:
    """Prometheus metrics of requests, sampling jobs and models.

    Args:
        stats: Function that returns the load of each model.
        ready: Function that returns whether the server accepts requests.
    """

    def __init__(self, stats: StatsSource, ready: Callable[[], bool]) -> None:
        """Register all metrics of the server."""
        self.registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"anytime_{name}", what, labels, registry=self.registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(
                f"anytime_{name}", what, ["model"], registry=self.registry, buckets=buckets
            )

        def gauge(name: str, what: str, value: Callable[[], float]) -> None:
            Gauge(f"anytime_{name}", what, registry=self.registry).set_function(value)

        self._requests = counter("requests", "Answered requests", "route", "method", "status")
        self._finished = counter(
            "requests_finished", "Completed sampling requests by stop reason", "model", "reason"
        )
        self._errors = counter("errors", "Requests that ended with an error, by its code", "reason")
        self._codes_requested = counter(
            "codes_requested", "Requested codes of all samples", "model"
        )
        self._codes_drawn = counter("codes_drawn", "Drawn codes of all samples", "model")
        self._degraded = counter(
            "requests_degraded", "Sampling requests with fewer codes than requested", "model"
        )
        self._queue = histogram("queue_seconds", "Seconds from arrival to the first step")
        self._sampling = histogram("sampling_seconds", "Seconds from the first step to the last")
        self._decode = histogram("decode_seconds", "Seconds to decode the batch")
        self._first_preview = histogram(
            "first_preview_seconds", "Seconds from arrival to the first preview"
        )
        self._request = histogram(
            "request_seconds", "Seconds from arrival to the end of the response"
        )
        self._slack = histogram(
            "deadline_slack_seconds",
            "Seconds left before the deadline; negative if it was missed",
            _SLACK_SECONDS,
        )
        gauge("requests_running", "Requests in the batch", lambda: _sum(stats, "running"))
        gauge("requests_waiting", "Requests that wait for slots", lambda: _sum(stats, "waiting"))
        gauge("ready", "1 if the server accepts requests, else 0", lambda: float(ready()))
        rows = Gauge("anytime_rows", "Occupied batch rows", ["model"], registry=self.registry)
        slots = Gauge("anytime_slots", "Batch rows", ["model"], registry=self.registry)
        for name in stats():
            rows.labels(name).set_function(partial(_value, stats, name, "rows"))
            slots.labels(name).set_function(partial(_value, stats, name, "slots"))

    def record_request(self, context: RequestContext, route: str, method: str, status: int) -> None:
        """Record a request that has been answered.

        Args:
            context: State of the HTTP request.
            route: Path of the route, with the names of its parameters.
            method: HTTP method of the request.
            status: HTTP status of the response.
        """
        now = context.clock()
        self._requests.labels(route, method, str(status)).inc()
        if context.error is not None:
            self._errors.labels(context.error).inc()
        if context.stats is None or context.model is None:
            return
        model, ended = context.model, context.stats
        requested = context.codes_requested or ended.codes_drawn
        self._finished.labels(model, ended.stop_reason).inc()
        self._codes_requested.labels(model).inc(ended.n * requested)
        self._codes_drawn.labels(model).inc(ended.n * ended.codes_drawn)
        self._degraded.labels(model).inc(ended.codes_drawn < requested)
        self._queue.labels(model).observe(ended.queue_s)
        self._sampling.labels(model).observe(ended.sampling_s)
        self._decode.labels(model).observe(ended.decode_s)
        self._request.labels(model).observe(now - context.arrival)
        if context.first_preview_s is not None:
            self._first_preview.labels(model).observe(context.first_preview_s)
        if context.deadline is not None:
            self._slack.labels(model).observe(context.deadline - now)

    def render(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self.registry)


def _sum(stats: StatsSource, what: str) -> float:
    """Return the sum of a field of `ModelStats` over all models."""
    return float(sum(getattr(one, what) for one in stats().values()))


def _value(stats: StatsSource, model: str, what: str) -> float:
    return float(getattr(stats()[model], what))
