"""The one thread that owns the models. Nothing else in the server computes or waits for them."""

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
"""A turn that takes longer than this makes no progress."""
_RETRY_S = 1.0
_log = logging.getLogger(__name__)


def stalled_error() -> ServingError:
    """What clients hear while the models are stuck."""
    return ServingError("broken", "the model makes no progress; try again later", STALL_TIMEOUT_S)


class Worker:
    """Turns a scheduler in a thread of its own.

    Args:
        scheduler: is not touched by anyone else once the thread runs.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._inbox: deque[Callable[[], object]] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._warm = False
        self._broken = False
        self._iteration_started_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="anytime-worker", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> bool:
        """Stop after this turn, and wait for that; False: it does not end."""
        self._stopping = True
        self._post(lambda: None)
        self._thread.join(0 if self.stalled else STALL_TIMEOUT_S)
        return not self._thread.is_alive()

    @property
    def stalled(self) -> bool:
        """Whether warm models do not come to the end of a turn."""
        began = self._iteration_started_at
        return (
            self._warm and began is not None and self._scheduler.clock() - began > STALL_TIMEOUT_S
        )

    @property
    def healthy(self) -> bool:
        """Whether the models work: not before they are warm."""
        return self._thread.is_alive() and self._warm and not self._broken and not self.stalled

    def submit(self, job: Job) -> None:
        """Hand a job over; what becomes of it, its listener hears, also that it is refused."""
        if self.stalled:
            job.listener(stalled_error())
        else:
            self._post(lambda: self._submit(job))

    def cancel(self, job: Job) -> None:
        """Stop a job after the code that is being drawn."""
        job.cancelled = True

    def drain(self, timeout_s: float) -> None:
        """Finish all there is within some seconds, and refuse whatever comes."""
        self._post(lambda: self._scheduler.drain(self._scheduler.clock() + timeout_s))

    def record_response(self, num_samples: int, seconds: float) -> None:
        """Tell what it took from decoded samples to the end of their response."""
        self._inbox.append(
            lambda: self._scheduler.admission.response_costs.add(num_samples, seconds)
        )  # wakes nobody

    def _post(self, command: Callable[[], object]) -> None:
        with self._wake:
            self._inbox.append(command)
            self._wake.notify()

    def _submit(self, job: Job) -> None:
        try:
            if self._broken:
                raise ServingError(
                    "broken", "the model does not work now; try again later", _RETRY_S
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
            except Exception:  # whatever a device throws: the server goes on, and says so
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
"""What looks take together that nobody has fetched yet: a client that reads slowly misses some."""


class EventQueue(asyncio.Queue[_T]):
    """A queue for one job. Of looks that are not fetched the oldest are dropped, except the last
    one: whoever is behind wants to see what there is now.

    Args:
        preview_bytes: the bytes of a look; None for what is none, and ends the job.
        max_bytes: bytes that its looks may take.
    """

    def __init__(
        self, preview_bytes: Callable[[_T], int | None], max_bytes: Callable[[], int]
    ) -> None:
        super().__init__()
        self._preview_bytes, self._max_bytes = preview_bytes, max_bytes
        self._previews = self._bytes = 0
        self._ended = False

    def _put(self, item: _T) -> None:
        nbytes = self._preview_bytes(item)
        if nbytes is None:
            self._ended = True
        elif self._ended:  # nothing comes after the end
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
    """Brings events to queues, as many at once as there are: waking a thread costs more than a
    step.

    Args:
        loop: of the thread in which the queues are read.
        max_bytes: of looks that wait in all queues together, about.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, max_bytes: int = MAX_PREVIEW_BYTES) -> None:
        self._loop, self._max_bytes = loop, max_bytes
        self._pending: deque[tuple[EventQueue[JobEvent], JobEvent]] = deque()
        self._wakeup_scheduled = False
        self._queues: WeakSet[EventQueue[JobEvent]] = WeakSet()

    def open_queue(self) -> tuple[EventQueue[JobEvent], Listener]:
        """A queue, and what puts events into it from another thread."""
        queue = EventQueue(preview_nbytes, lambda: self._max_bytes // max(1, len(self._queues)))
        self._queues.add(queue)

        def post(event: JobEvent) -> None:
            self._pending.append((queue, event))
            if not self._wakeup_scheduled:
                self._wakeup_scheduled = True
                self._loop.call_soon_threadsafe(self._deliver)

        return queue, post

    def broadcast(self, event: JobEvent) -> None:
        """Put an event into every queue that somebody still has, from their own thread."""
        for queue in self._queues:
            queue.put_nowait(event)

    def _deliver(self) -> None:
        self._wakeup_scheduled = False  # before looking: what comes now calls again
        while self._pending:
            queue, event = self._pending.popleft()
            queue.put_nowait(event)


def preview_nbytes(event: JobEvent) -> int | None:
    return event.nbytes if isinstance(event, PreviewEvent) else None
