"""The one thread that owns the models. Nothing else in the server computes or waits for them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from anytime_ar.serving.jobs import Job, Refused
from anytime_ar.serving.scheduler import Scheduler

STUCK_S = 10.0
"""A turn that takes longer than this makes no progress."""
_RETRY_S = 1.0
_log = logging.getLogger(__name__)


def no_progress() -> Refused:
    """What clients hear while the models are stuck."""
    return Refused("broken", "the model makes no progress; try again later", STUCK_S)


class Worker:
    """Turns a scheduler in a thread of its own.

    Args:
        scheduler: is not touched by anyone else once the thread runs.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._inbox: deque[Callable[[], object]] = deque()
        self._wake = threading.Condition()
        self._ending = False
        self._warm = False
        self._broken = False
        self._turn_began: float | None = None
        self._thread = threading.Thread(target=self._run, name="anytime-worker", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> bool:
        """Stop after this turn, and wait for that; False: it does not end."""
        self._ending = True
        self._post(lambda: None)
        self._thread.join(0 if self.stuck else STUCK_S)
        return not self._thread.is_alive()

    @property
    def stuck(self) -> bool:
        """Whether warm models do not come to the end of a turn."""
        began = self._turn_began
        return self._warm and began is not None and self._scheduler.clock() - began > STUCK_S

    @property
    def progresses(self) -> bool:
        """Whether the models work: not before they are warm."""
        return self._thread.is_alive() and self._warm and not self._broken and not self.stuck

    def submit(self, job: Job) -> None:
        """Hand a job over; what becomes of it, its listener hears, also that it is refused."""
        if self.stuck:
            job.listener(no_progress())
        else:
            self._post(lambda: self._submit(job))

    def cancel(self, job: Job) -> None:
        """Stop a job after the code that is being drawn."""
        job.cancelled = True

    def drain(self, within_s: float) -> None:
        """Finish all there is within some seconds, and refuse whatever comes."""
        self._post(lambda: self._scheduler.drain(self._scheduler.clock() + within_s))

    def note_response(self, samples: int, seconds: float) -> None:
        """Tell what it took from decoded samples to the end of their response."""
        self._inbox.append(
            lambda: self._scheduler.outlook.responses.add(samples, seconds)
        )  # wakes nobody

    def _post(self, command: Callable[[], object]) -> None:
        with self._wake:
            self._inbox.append(command)
            self._wake.notify()

    def _submit(self, job: Job) -> None:
        try:
            if self._broken:
                raise Refused("broken", "the model does not work now; try again later", _RETRY_S)
            self._scheduler.submit(job)
        except Refused as refused:
            job.listener(refused)

    def _run(self) -> None:
        while not self._ending:
            with self._wake:
                while self._warm and not self._inbox and self._scheduler.idle and not self._broken:
                    self._wake.wait()
                if self._broken:
                    self._wake.wait(_RETRY_S)
            self._turn_began = self._scheduler.clock()
            try:
                self._turn()
                self._broken = False
            except Exception:  # whatever a device throws: the server goes on, and says so
                _log.exception("the models failed; all jobs are given up")
                self._broken = True
                self._scheduler.lose_all()
            self._turn_began = None

    def _turn(self) -> None:
        while self._inbox and (self._warm or self._broken):
            self._inbox.popleft()()
        if not self._warm:
            self._scheduler.warm_up()
            self._warm = True
        elif self._broken:
            self._scheduler.probe()
        if not self._scheduler.idle:
            self._scheduler.turn()
