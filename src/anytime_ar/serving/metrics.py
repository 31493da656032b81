"""Figures for Prometheus, and for whoever watches the load."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from anytime_ar.serving.call import RequestContext
from anytime_ar.serving.occupancy import StatsSource

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
