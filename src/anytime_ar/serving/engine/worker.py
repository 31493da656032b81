"""Worker thread that owns the models, and the bridge that brings its events to the event loop.

No other thread runs a model or waits for one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakSet

from anytime_ar.serving.engine.jobs import Job, JobEvent, Listener, PreviewEvent, ServingError
from anytime_ar.serving.engine.scheduler import Scheduler

STALL_TIMEOUT_S = 10.0
"""Seconds after which an iteration counts as stalled."""
_RETRY_S = 1.0
_log = logging.getLogger(__name__)


def stalled_error() -> ServingError:
    """Return the error for requests while a model is stalled."""
    return ServingError("broken", "the model is stalled; try again later", STALL_TIMEOUT_S)


class Worker:
    """A thread that runs the iterations of a scheduler.

    Args:
        scheduler: Scheduler that no other thread may change once the worker runs.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        """Create the thread without starting it."""
        self._scheduler = scheduler
        self._inbox: deque[Callable[[], object]] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._warm = False
        self._broken = False
        self._iteration_started_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="anytime-worker", daemon=True)

    def start(self) -> None:
        """Start the worker thread."""
        self._thread.start()

    def stop(self) -> bool:
        """Stop after the current iteration, and wait for its end.

        Returns:
            Whether the thread has ended. A stalled thread does not end.
        """
        self._stopping = True
        self._post(lambda: None)
        self._thread.join(0 if self.stalled else STALL_TIMEOUT_S)
        return not self._thread.is_alive()

    @property
    def stalled(self) -> bool:
        """Return whether an iteration takes longer than `STALL_TIMEOUT_S` after the warm-up."""
        began = self._iteration_started_at
        return (
            self._warm and began is not None and self._scheduler.clock() - began > STALL_TIMEOUT_S
        )

    @property
    def healthy(self) -> bool:
        """Return whether the models are warmed up and work."""
        return self._thread.is_alive() and self._warm and not self._broken and not self.stalled

    def submit(self, job: Job) -> None:
        """Submit a job. Its listener receives all events, including a refusal."""
        if self.stalled:
            job.listener(stalled_error())
        else:
            self._post(lambda: self._submit(job))

    def cancel(self, job: Job) -> None:
        """Cancel a job after the code that is being drawn. An ended job is not changed."""
        job.cancelled = True

    def drain(self, timeout_s: float) -> None:
        """Finish all jobs within `timeout_s` seconds, and refuse new ones."""
        self._post(lambda: self._scheduler.drain(self._scheduler.clock() + timeout_s))

    def record_response(self, num_samples: int, seconds: float) -> None:
        """Record the time from decoded samples to the end of their response.

        Args:
            num_samples: Number of samples in the response.
            seconds: Seconds from the end of the decode to the end of the response.
        """
        # This does not wake the worker: it can wait for the next iteration.
        self._inbox.append(
            lambda: self._scheduler.admission.response_costs.add(num_samples, seconds)
        )

    def _post(self, command: Callable[[], object]) -> None:
        with self._wake:
            self._inbox.append(command)
            self._wake.notify()

    def _submit(self, job: Job) -> None:
        try:
            if self._broken:
                raise ServingError(
                    "broken", "the model failed and has not recovered; try again later", _RETRY_S
                )
            self._scheduler.submit(job)
        except ServingError as refused:
            job.listener(refused)

    def _run(self) -> None:
        while not self._stopping:
            with self._wake:
                while self._warm and not self._inbox and self._scheduler.idle and not self._broken:
                    self._wake.wait()
                if self._broken:
                    self._wake.wait(_RETRY_S)
            self._iteration_started_at = self._scheduler.clock()
            try:
                self._run_iteration()
                self._broken = False
            except Exception:  # a device may raise anything; the server must survive it
                _log.exception("the models failed; all jobs are given up")
                self._broken = True
                self._scheduler.fail_all()
            self._iteration_started_at = None

    def _run_iteration(self) -> None:
        while self._inbox and (self._warm or self._broken):
            self._inbox.popleft()()
        if not self._warm:
            self._scheduler.warm_up()
            self._warm = True
        elif self._broken:
            self._scheduler.probe()
        if not self._scheduler.idle:
            self._scheduler.run_iteration()


_T = TypeVar("_T")
MAX_PREVIEW_BYTES = 2**26
"""Maximum bytes of unread previews of all jobs. Clients that read slowly miss some previews."""


class EventQueue(asyncio.Queue[_T]):
    """A queue of the events of one job, with limited memory for previews.

    Beyond the limit the oldest unread previews are dropped. The latest preview stays in the queue.

    Args:
        preview_bytes: Function that returns the bytes of a preview, and None for an event that is
            not a preview and ends the job.
        max_bytes: Function that returns the maximum bytes of unread previews.
    """

    def __init__(
        self, preview_bytes: Callable[[_T], int | None], max_bytes: Callable[[], int]
    ) -> None:
        """Create an empty queue."""
        super().__init__()
        self._preview_bytes, self._max_bytes = preview_bytes, max_bytes
        self._previews = self._bytes = 0
        self._ended = False

    def _put(self, item: _T) -> None:
        nbytes = self._preview_bytes(item)
        if nbytes is None:
            self._ended = True
        elif self._ended:  # no event follows the last one
            return
        else:
            self._previews, self._bytes = self._previews + 1, self._bytes + nbytes
        super()._put(item)
        while self._previews > 1 and self._bytes > self._max_bytes():
            self._get()

    def _get(self) -> _T:
        item = super()._get()
        nbytes = self._preview_bytes(item)
        if nbytes is not None:
            self._previews, self._bytes = self._previews - 1, self._bytes - nbytes
        return item


class ThreadBridge:
    """A bridge that brings events from the worker thread to queues of the event loop.

    One wake-up delivers all pending events, as waking a thread costs more than a step.

    Args:
        loop: Event loop in which the queues are read.
        max_bytes: Approximate maximum bytes of unread previews in all queues.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, max_bytes: int = MAX_PREVIEW_BYTES) -> None:
        """Create a bridge without queues."""
        self._loop, self._max_bytes = loop, max_bytes
        self._pending: deque[tuple[EventQueue[JobEvent], JobEvent]] = deque()
        self._wakeup_scheduled = False
        self._queues: WeakSet[EventQueue[JobEvent]] = WeakSet()

    def open_queue(self) -> tuple[EventQueue[JobEvent], Listener]:
        """Open a queue for one job.

        Returns:
            The queue, and a listener that puts events into it from another thread.
        """
        queue = EventQueue(preview_nbytes, lambda: self._max_bytes // max(1, len(self._queues)))
        self._queues.add(queue)

        def post(event: JobEvent) -> None:
            self._pending.append((queue, event))
            if not self._wakeup_scheduled:
                self._wakeup_scheduled = True
                self._loop.call_soon_threadsafe(self._deliver)

        return queue, post

    def broadcast(self, event: JobEvent) -> None:
        """Put an event into every open queue. Only the thread of the event loop may call it."""
        for queue in self._queues:
            queue.put_nowait(event)

    def _deliver(self) -> None:
        self._wakeup_scheduled = False  # first: later events then schedule a wake-up of their own
        while self._pending:
            queue, event = self._pending.popleft()
            queue.put_nowait(event)


def preview_nbytes(event: JobEvent) -> int | None:
    """Return the bytes of a preview; None for any other event."""
    return event.nbytes if isinstance(event, PreviewEvent) else None
