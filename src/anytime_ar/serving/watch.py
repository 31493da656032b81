"""For whoever operates the server: is it alive, is it ready, and how much is going on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

from fastapi import APIRouter
from starlette.responses import Response

from anytime_ar.serving.call import Call
from anytime_ar.serving.failures import error_response
from anytime_ar.serving.guard import Scope
from anytime_ar.serving.logs import log_call
from anytime_ar.serving.metrics import Metrics
from anytime_ar.serving.occupancy import WorkOf
from anytime_ar.serving.openapi import errors
from anytime_ar.serving.schema import Answer

_MEMORY_S = 3.0
"""Within which draws count for the load that is shown."""


class State(Answer):
    """Of the server."""

    status: Literal["alive", "ready"]


class ModelLoad(Answer):
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


class LoadAnswer(Answer):
    """How much is going on."""

    ready: bool
    models: list[ModelLoad]


class Watch:
    """What is going on.

    Args:
        work: what goes on in each model.
        ready: whether requests are taken.
        clock: the server's.
    """

    def __init__(self, work: WorkOf, ready: Callable[[], bool], clock: Callable[[], float]) -> None:
        self._work, self.ready, self._clock = work, ready, clock
        self.metrics = Metrics(work, ready)
        self._recent: dict[str, deque[tuple[float, int, int]]] = {}  # when, asked, granted

    def observe(self, call: Call, scope: Scope, status: int) -> None:
        """A request was answered.

        Args:
            call: what came of it.
            scope: of ASGI.
            status: of HTTP.
        """
        route = getattr(scope.get("route"), "path", "other")
        self.note(call)
        self.metrics.note(call, route, scope["method"], status)
        log_call(call, scope["method"], scope["path"], status)

    def note(self, call: Call) -> None:
        """A draw was answered, or not."""
        ended = call.ended
        if ended is None or call.model is None:
            return
        asked = ended.n * (call.asked or ended.codes)
        self._lately(call.model).append((call.clock(), asked, ended.n * ended.codes))

    def _lately(self, model: str) -> deque[tuple[float, int, int]]:
        """What draws of a model got, as far as it is remembered."""
        recent, since = self._recent.setdefault(model, deque()), self._clock() - _MEMORY_S
        while recent and recent[0][0] <= since:
            recent.popleft()
        return recent

    def load(self) -> LoadAnswer:
        """What goes on in each model, and how much draws have got lately."""
        loads = []
        for name, work in self._work().items():
            recent = self._lately(name)
            asked = sum(one[1] for one in recent)
            loads.append(
                ModelLoad(
                    model=name,
                    rows=work.rows,
                    slots=work.slots,
                    waiting=work.waiting,
                    draws_per_s=round(len(recent) / _MEMORY_S, 2),
                    granted=sum(one[2] for one in recent) / asked if asked else None,
                )
            )
        return LoadAnswer(ready=self.ready(), models=loads)


def watch_routes(watch: Watch) -> APIRouter:
    """Their paths."""
    routes = APIRouter(tags=["server"])

    @routes.get("/livez", responses=errors())
    async def is_alive() -> State:
        """The process answers. Needs no key."""
        return State(status="alive")

    @routes.get("/readyz", response_model=State, responses=errors(503))
    async def is_ready() -> Response:
        """Requests are taken: models are warm and work, and the server is not going down. Needs no
        key."""
        if not watch.ready():
            return error_response(503, "not_ready", "the server takes no requests", retry_s=1)
        return Response(State(status="ready").model_dump_json(), media_type="application/json")

    @routes.get(
        "/metrics",
        response_class=Response,
        responses={
            **errors(),
            200: {
                "description": "Lines of text, as Prometheus reads them.",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
        },
    )
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(watch.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @routes.get("/v1/load", responses=errors())
    async def load() -> LoadAnswer:
        """How much is going on, and what draws get of the codes that they ask for."""
        return watch.load()

    return routes
