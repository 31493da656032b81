"""Figures for Prometheus, and for whoever watches the load."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from anytime_ar.serving.call import Call
from anytime_ar.serving.occupancy import WorkOf

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SLACK = (*(-seconds for seconds in reversed(_SECONDS)), 0.0, *_SECONDS)


class Metrics:
    """Counts what is answered and shows what is going on.

    Args:
        work: what goes on in each model.
        ready: whether requests are taken.
    """

    def __init__(self, work: WorkOf, ready: Callable[[], bool]) -> None:
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
        self._stops = counter("stops", "Draws by why they ended", "model", "reason")
        self._refusals = counter("refusals", "Requests without samples, by why", "reason")
        self._asked = counter("codes_asked", "Codes asked for, of all samples", "model")
        self._granted = counter("codes_granted", "Codes drawn, of all samples", "model")
        self._degraded = counter("degraded", "Draws with fewer codes than asked for", "model")
        self._queue = histogram("queue_seconds", "From arrival to the first code")
        self._sampling = histogram("sampling_seconds", "From the first code to the last")
        self._decode = histogram("decode_seconds", "Decoding")
        self._first = histogram("first_preview_seconds", "From arrival to the first preview")
        self._request = histogram("request_seconds", "From arrival to the end of the answer")
        self._slack = histogram(
            "deadline_slack_seconds", "What was left of the deadline; negative: missed", _SLACK
        )
        gauge("draws_running", "Draws under way", lambda: _sum(work, "draws"))
        gauge("jobs_waiting", "Jobs that wait for room", lambda: _sum(work, "waiting"))
        gauge("ready", "Whether requests are taken", lambda: float(ready()))
        rows = Gauge("anytime_rows", "Rows being drawn", ["model"], registry=self.registry)
        slots = Gauge("anytime_slots", "Rows there is room for", ["model"], registry=self.registry)
        for name in work():
            rows.labels(name).set_function(partial(_of, work, name, "rows"))
            slots.labels(name).set_function(partial(_of, work, name, "slots"))

    def note(self, call: Call, route: str, method: str, status: int) -> None:
        """A request was answered.

        Args:
            call: what came of it.
            route: its path, with names in place of what varies.
            method: of HTTP.
            status: of HTTP.
        """
        now = call.clock()
        self._requests.labels(route, method, str(status)).inc()
        if call.error is not None:
            self._refusals.labels(call.error).inc()
        if call.ended is None or call.model is None:
            return
        model, ended = call.model, call.ended
        asked = call.asked or ended.codes
        self._stops.labels(model, ended.stopped_by).inc()
        self._asked.labels(model).inc(ended.n * asked)
        self._granted.labels(model).inc(ended.n * ended.codes)
        self._degraded.labels(model).inc(ended.codes < asked)
        self._queue.labels(model).observe(ended.queue_s)
        self._sampling.labels(model).observe(ended.sampling_s)
        self._decode.labels(model).observe(ended.decode_s)
        self._request.labels(model).observe(now - call.arrival)
        if call.first_look_s is not None:
            self._first.labels(model).observe(call.first_look_s)
        if call.deadline is not None:
            self._slack.labels(model).observe(call.deadline - now)

    def text(self) -> bytes:
        """All figures, as Prometheus reads them."""
        return generate_latest(self.registry)


def _sum(work: WorkOf, what: str) -> float:
    """Of all models."""
    return float(sum(getattr(one, what) for one in work().values()))


def _of(work: WorkOf, model: str, what: str) -> float:
    return float(getattr(work()[model], what))
