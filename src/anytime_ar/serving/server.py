"""The process: models, worker and HTTP put together, started, and brought to a good end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import uvicorn
from pydantic import Field

from anytime_ar.config import Config
from anytime_ar.errors import InputError
from anytime_ar.sampling import AnytimeModel
from anytime_ar.serving.app import build_app
from anytime_ar.serving.call import Call
from anytime_ar.serving.computing import Computing
from anytime_ar.serving.control import Policy
from anytime_ar.serving.draws import Draws
from anytime_ar.serving.guard import Guard, Scope
from anytime_ar.serving.jobs import Refused
from anytime_ar.serving.kept import Keeper
from anytime_ar.serving.lag import Lag
from anytime_ar.serving.lane import Lane
from anytime_ar.serving.logs import log_call, log_event
from anytime_ar.serving.mailroom import Mailroom
from anytime_ar.serving.scheduler import Scheduler
from anytime_ar.serving.schema import SampleRequest
from anytime_ar.serving.served import Models
from anytime_ar.serving.watch import Watch
from anytime_ar.serving.worker import Worker, no_progress

_SWITCH_S = 0.00005
"""How long a thread may keep the others from running: the usual 5 ms are many steps."""
_DRAW_SHARE = 0.8
"""Of the grace period that is spent on draws; the rest is for their answers."""
_POLL_S = 0.02
_WATCH_S = 0.25
_WRITERS = 2
"""Threads that write samples as files: more of them only take Python from the worker's thread."""


class ServerConfig(Config):
    """How to serve."""

    host: str = "127.0.0.1"
    """Address to listen at; only this machine by default."""
    port: int = Field(8000, ge=0, le=65535)
    """0: a free one."""
    slots: int = Field(64, ge=1, le=4096)
    """Rows of a model drawn at once, as far as memory goes; guided samples take two."""
    deadline_s: float = Field(30.0, gt=0, allow_inf_nan=False)
    """The deadline of requests that have none, and the longest one."""
    keep_s: float = Field(300.0, ge=0, allow_inf_nan=False)
    """How long a draw can be continued after its end."""
    grace_s: float = Field(10.0, gt=0, allow_inf_nan=False)
    """How long the server may take to end: all draws are answered within it."""
    policy: Policy = "elastic"
    """What gives way under load; `elastic` unless to compare."""


def serve(
    models: Mapping[str, AnytimeModel],
    config: ServerConfig,
    *,
    keys: Mapping[bytes, str] | None,
    listening: Callable[[str], None],
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Serve models until SIGTERM or SIGINT.

    Args:
        models: with priors, by the names that clients use, the usual one first.
        config: how.
        keys: names of clients by `key_digest` of their keys; None: everyone may come.
        listening: told the server's address, once it is reached there.
        clock: gives seconds.

    Raises:
        InputError: the address cannot be listened at, or a model has no prior.
    """
    sock = _listen(config.host, config.port)
    sys.setswitchinterval(_SWITCH_S)
    lanes = {name: Lane(name, model, config.slots, clock) for name, model in models.items()}
    scheduler = Scheduler(lanes, clock, policy=config.policy)
    worker = Worker(scheduler)
    settings = uvicorn.Config(
        lambda: None,
        http="httptools",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round((1 - _DRAW_SHARE) * config.grace_s)),
        backlog=2048,
    )

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(_WRITERS, "anytime-writer"))
        mailroom = Mailroom(loop)
        served = Models(lanes)
        keeper = Keeper(config.keep_s, clock)
        draws = Draws(served, worker, mailroom, keeper, longest_s=config.deadline_s)
        computing = Computing(served, worker, mailroom, longest_s=config.deadline_s)
        server = _Server(settings, lambda: listening(_url(sock)))
        ending = _Ending(server, worker, draws, config.grace_s)
        rehearsed = asyncio.Event()

        def ready() -> bool:
            return rehearsed.is_set() and worker.progresses and not ending.begun

        watch = Watch(scheduler, ready, clock)
        app = build_app(served, draws, computing, watch)

        def observe(call: Call, scope: Scope, status: int) -> None:
            if call.done is not None:
                worker.note_response(len(call.done.codes), clock() - call.done.at)
            route = getattr(scope.get("route"), "path", "other")
            watch.note(call)
            watch.metrics.note(call, route, scope["method"], status)
            log_call(call, scope["method"], scope["path"], status)

        lag = Lag(clock)
        settings.app = Guard(app, keys=keys, clock=clock, lag=lag, observe=observe)
        worker.start()

        async def rehearse() -> None:
            await _rehearse(draws, models, clock)
            gc.collect()
            gc.freeze()  # what is here stays; to look through it all takes longer than deadlines
            rehearsed.set()
            log_event("ready")

        works = (rehearse(), lag.watch(), _watch_for_stuck(worker, mailroom))
        beside = [asyncio.ensure_future(work) for work in works]
        await server.serve(sockets=[sock])
        for task in beside:
            task.cancel()

    with asyncio.Runner(loop_factory=settings.get_loop_factory()) as runner:
        runner.run(run())
    log_event("ended" if worker.end() else "ended with a model that is stuck")


async def _watch_for_stuck(worker: Worker, mailroom: Mailroom) -> None:
    """Nobody else would tell those who wait for a model that makes no progress."""
    was_stuck = False
    while True:
        await asyncio.sleep(_WATCH_S)
        if worker.stuck:
            mailroom.tell_all(no_progress())
        if worker.stuck != was_stuck:
            was_stuck = not was_stuck
            log_event("stuck: models make no progress" if was_stuck else "models go on")


async def _rehearse(draws: Draws, names: Iterable[str], clock: Callable[[], float]) -> None:
    """Answer a few requests for nobody: the first ones pay for much that is set up once."""
    for name in names:
        for stream in (False, True):
            request = SampleRequest(model=name, stream=stream, codes=2)
            call = Call(clock, clock(), client="rehearsal")
            with contextlib.suppress(Refused):  # nobody promised anything
                async for _ in draws.sample(request, call):
                    pass


class _Server(uvicorn.Server):
    """One whose end is ours to begin: it would cut streams off, and end by the signal."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell = started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are handled by `_Ending`."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self._tell()


class _Ending:
    """From the first signal to the last answer.

    Args:
        server: to be ended when there is nothing left to answer.
        worker: finishes what there is.
        draws: that are under way.
        grace_s: the time for it.
    """

    def __init__(self, server: _Server, worker: Worker, draws: Draws, grace_s: float) -> None:
        self._server, self._worker, self._draws = server, worker, draws
        self._grace_s = grace_s
        self._task: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signal)

    @property
    def begun(self) -> bool:
        """Whether the server is going down."""
        return self._task is not None

    def _signal(self) -> None:
        if self._task is not None:  # a second time: at once
            self._server.should_exit = self._server.force_exit = True
            return
        log_event("draining", draws=len(self._draws))
        self._worker.drain(_DRAW_SHARE * self._grace_s)
        self._task = asyncio.ensure_future(self._end())

    async def _end(self) -> None:
        rounds = round(self._grace_s / _POLL_S)
        for _ in range(rounds):
            if not len(self._draws):
                break
            await asyncio.sleep(_POLL_S)
        self._server.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as error:
        raise InputError(
            f"cannot listen at {host}:{port}: {error.strerror or error}; choose another --host or "
            "--port"
        ) from error
    return sock


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
