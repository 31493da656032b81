"""The server process: start the engine and the HTTP API, and shut both down gracefully."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from anytime_ar.errors import InputError
from anytime_ar.sampling import AnytimeModel
from anytime_ar.serving.config import ServerConfig
from anytime_ar.serving.engine.jobs import RequestContext
from anytime_ar.serving.engine.sample_service import SampleService
from anytime_ar.serving.engine.serving_engine import ServingEngine
from anytime_ar.serving.engine.worker import Worker
from anytime_ar.serving.http.app import build_app
from anytime_ar.serving.http.middleware import AllowedHosts, EventLoopLag, RequestMiddleware, Scope
from anytime_ar.serving.http.monitoring import Monitor
from anytime_ar.serving.logs import log_event

SWITCH_INTERVAL_S = 0.00005
"""Switch interval of Python's threads in seconds. Python's default of 5 ms lasts many steps."""
DRAIN_SHARE = 0.8
"""Share of the grace period for sampling jobs. The rest is for their responses."""
_POLL_S = 0.02
_WRITER_THREADS = 2
"""Threads that write samples as files. More of them would only slow down the worker thread."""


def serve(
    models: Mapping[str, AnytimeModel],
    config: ServerConfig,
    *,
    keys: Mapping[bytes, str] | None,
    on_listening: Callable[[str], None],
) -> None:
    """Serve models until SIGTERM or SIGINT.

    Args:
        models: Models with priors by the names that clients use, the default model first.
        config: Configuration of the server.
        keys: Names of clients by `key_digest` of their API keys; None to accept requests without a
            key.
        on_listening: Function that is called with the server's URL once it accepts connections.

    Raises:
        InputError: The server cannot listen at the address, an allowed host is not a host name, or
            a model has no prior.
    """
    clock = time.perf_counter
    hosts = AllowedHosts.for_server(config.host, config.allowed_host_names)
    sock = listen(config.host, config.port)
    for model in models.values():
        # Compile the kernel here if necessary: in the event loop it would block signals.
        _ = model.sampler
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    settings = uvicorn.Config(
        lambda: None,
        http=HttpToolsProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round((1 - DRAIN_SHARE) * config.grace_s)),
        backlog=2048,
    )

    async def run() -> Worker:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(_WRITER_THREADS, "anytime-writer"))
        engine = ServingEngine(models, config, clock)
        worker = engine.worker
        server = _UvicornServer(settings, lambda: on_listening(url_of(sock)))
        ending = _GracefulShutdown(server, worker, engine.sample_service, config.grace_s)
        monitor = Monitor(engine.stats, lambda: engine.ready and not ending.started, clock)
        app = build_app(engine.models, engine.sample_service, engine.codec_service, monitor)

        def observe(context: RequestContext, scope: Scope, status: int) -> None:
            if context.stats is not None and context.decoded_at is not None:
                worker.record_response(context.stats.n, clock() - context.decoded_at)
            monitor.observe(context, scope, status)

        lag = EventLoopLag(clock)
        settings.app = RequestMiddleware(
            app, keys=keys, hosts=hosts, clock=clock, lag=lag, observe=observe
        )
        worker.start()
        coroutines = (engine.warm_up(), lag.measure(), engine.watch_for_stalls())
        background = [asyncio.ensure_future(work) for work in coroutines]
        await server.serve(sockets=[sock])
        for task in background:
            task.cancel()
        return worker

    with asyncio.Runner(loop_factory=settings.get_loop_factory()) as runner:
        worker = runner.run(run())
    log_event("ended" if worker.stop() else "ended with a stalled model")


class _UvicornServer(uvicorn.Server):
    """A uvicorn server that leaves signals to `_GracefulShutdown`.

    On a signal uvicorn itself would cut streams off, and let the signal end the process.

    Args:
        config: Settings of uvicorn.
        on_started: Function that is called once the server accepts connections.
    """

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        """Create the server without starting it."""
        super().__init__(config)
        self._on_started = on_started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `_GracefulShutdown`."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, and report it.

        Args:
            sockets: Sockets to accept connections from.
        """
        await super().startup(sockets)
        self._on_started()


class _GracefulShutdown:
    """A graceful shutdown, from the first signal to the last response.

    It handles SIGTERM and SIGINT in the running event loop. A second signal ends the server at
    once.

    Args:
        server: Server to end after the last response.
        worker: Thread that finishes the running jobs.
        samples: Service whose jobs must end first.
        grace_s: Maximum seconds of the shutdown.
    """

    def __init__(
        self, server: _UvicornServer, worker: Worker, samples: SampleService, grace_s: float
    ) -> None:
        """Handle SIGTERM and SIGINT from now on."""
        self._server, self._worker, self._samples = server, worker, samples
        self._grace_s = grace_s
        self._task: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signal)

    @property
    def started(self) -> bool:
        """Return whether the server is shutting down."""
        return self._task is not None

    def _signal(self) -> None:
        if self._task is not None:  # second signal: end at once
            self._server.should_exit = self._server.force_exit = True
            return
        log_event("draining", requests=len(self._samples))
        self._worker.drain(DRAIN_SHARE * self._grace_s)
        self._task = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        rounds = round(self._grace_s / _POLL_S)
        for _ in range(rounds):
            if not len(self._samples):
                break
            await asyncio.sleep(_POLL_S)
        self._server.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """Bind a socket to an address.

    Args:
        host: Address or host name.
        port: Port; 0 for a free one.

    Raises:
        InputError: The address is invalid or cannot be bound.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with contextlib.ExitStack() as failing:
            sock = failing.enter_context(socket.socket(family, socket.SOCK_STREAM))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            failing.pop_all()  # bound: left open
    except OSError as error:
        raise InputError(
            f"cannot listen at {host}:{port}: {error.strerror or error}; choose another --host or "
            "--port"
        ) from error
    return sock


def url_of(sock: socket.socket) -> str:
    """Return the URL of a bound socket."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
