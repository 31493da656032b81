"""Requests to draw samples, to go on with them, and to stop.

Everything here runs in the server's own thread; the worker's thread is reached through jobs and
their listeners only.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.sampling import Budget
from anytime_ar.sampling.budget import codes_for
from anytime_ar.sampling.plan import Plan
from anytime_ar.serving.answers import Writer
from anytime_ar.serving.call import Call, Ended
from anytime_ar.serving.jobs import Done, Draw, Event, Look, Refused
from anytime_ar.serving.kept import Keeper
from anytime_ar.serving.mailroom import Mailroom
from anytime_ar.serving.schema import (
    Drawn,
    Limits,
    RefineRequest,
    SampleAnswer,
    SampleRequest,
)
from anytime_ar.serving.served import Missing, Models, Served
from anytime_ar.serving.worker import Worker

_OPTIONS = ("label", "temperature", "top_k", "top_p", "guidance")
SEED_BITS = 48
"""Of fresh seeds: programs that read JSON numbers as doubles keep them whole."""


class Conflict(InputError):
    """The draw is under way, or its id is taken."""


@dataclass
class _Underway:
    """A draw that has not ended."""

    draw: Draw
    ended: asyncio.Future[SampleAnswer]


class Draws:
    """Answers them.

    Args:
        models: of the server.
        worker: draws.
        mailroom: brings what it tells.
        keeper: of the draws that have ended.
        longest_s: the deadline of requests that have none, and the longest one.
    """

    def __init__(
        self,
        models: Models,
        worker: Worker,
        mailroom: Mailroom,
        keeper: Keeper,
        *,
        longest_s: float,
    ) -> None:
        self._models, self._worker, self._mailroom = models, worker, mailroom
        self._keeper, self._longest_s = keeper, longest_s
        self._underway: dict[str, _Underway] = {}

    def __len__(self) -> int:
        """How many have not ended."""
        return len(self._underway)

    def sample(self, request: SampleRequest, call: Call) -> AsyncGenerator[Drawn]:
        """Draw samples: any number of previews, where they are asked for, and a `SampleAnswer`.

        Closing the generator stops the draw. Mistakes show at the call, the rest at its first item.

        Raises:
            InputError: the request cannot be met by this model.
            Missing, Conflict: see there.
            Refused: at an item: there will be no samples.
        """
        served = self._models.get(request.model)
        options: dict[str, Any] = {
            name: value for name in _OPTIONS if (value := getattr(request, name)) is not None
        }
        seed = secrets.randbits(SEED_BITS) if request.seed is None else request.seed
        _check_room(served, request.n, request.guidance)
        plan, _ = served.model.plan(request.n, seed=seed, first=request.first, **options)
        name = request.id or secrets.token_urlsafe(12)
        if self._keeper.has(name):
            raise Conflict(f"id {name!r} is taken; choose another one, or none")
        return self._start(name, served, plan, None, request, call)

    def refine(self, name: str, request: RefineRequest, call: Call) -> AsyncGenerator[Drawn]:
        """Go on with a draw that has ended; as `sample`.

        Raises:
            InputError, Missing, Conflict, Refused: as there.
        """
        kept = self._keeper.get(name)
        if kept is None and name in self._underway:
            raise under_way(name)
        if kept is None or kept.client != call.client:
            raise no_draw(name)
        served = self._models.get(kept.model)
        return self._start(name, served, kept.plan, kept.codes.long(), request, call)

    async def stop(self, name: str, call: Call) -> SampleAnswer | None:
        """Stop a draw and return what it has. One that has ended is let go: None. A little later it
        is forgotten, unless it is gone on with: the client may have meant to stop it, a moment too
        late.

        Raises:
            Missing: there is none.
            Refused: it has nothing.
        """
        underway = self._underway.get(name)
        if underway is not None and underway.draw.client == call.client:
            self._worker.cancel(underway.draw)
            return await asyncio.shield(underway.ended)
        kept = self._keeper.get(name)
        if kept is None or kept.client != call.client or not self._keeper.has(name):
            raise no_draw(name)
        self._keeper.let_go(name)
        return None

    def _start(
        self,
        name: str,
        served: Served,
        plan: Plan,
        codes: Tensor | None,
        request: SampleRequest | RefineRequest,
        call: Call,
    ) -> AsyncGenerator[Drawn]:
        drawn = 0 if codes is None else codes.shape[1]
        floor, cap = _floor_and_cap(served, request, drawn)
        kind = served.media.check(request.format)
        within_s = self._longest_s
        if request.deadline_ms is not None:
            within_s = min(within_s, request.deadline_ms / 1000)
            call.deadline = call.arrival + within_s
        call.model, call.n, call.asked = served.name, len(plan), cap
        queue, listener = self._mailroom.box()
        draw = Draw(
            model=served.name,
            client=call.client,
            arrival=call.arrival,
            deadline=call.arrival + within_s,
            listener=listener,
            plan=plan,
            floor=floor,
            cap=cap,
            codes=codes,
            drawn=drawn,
        )
        if request.stream:
            draw.look_every_s = 1 / request.previews_per_s if request.previews_per_s else 0.0
        writer = Writer(name, served, kind, request.with_codes, call)
        return self._follow(draw, queue, writer)

    async def _follow(
        self, draw: Draw, queue: asyncio.Queue[Event], writer: Writer
    ) -> AsyncGenerator[Drawn]:
        """Submit a draw and answer what is heard of it.

        Raises:
            Conflict: another one of that name is under way. This is seen here, where the name is
                taken: two requests can be made before either is begun.
        """
        if writer.name in self._underway:
            raise under_way(writer.name)
        ended: asyncio.Future[SampleAnswer] = asyncio.get_running_loop().create_future()
        self._underway[writer.name] = _Underway(draw, ended)
        self._worker.submit(draw)
        answer: SampleAnswer | None = None
        error: BaseException = Refused("cancelled", "the client that asked for it has left")
        try:
            while answer is None:
                match await queue.get():
                    case Look() as look:
                        shown = await writer.drawn(look)
                        if writer.call.first_look_s is None:
                            writer.call.first_look_s = writer.call.clock() - draw.arrival
                        yield shown
                    case Done() as done:
                        writer.call.ended, writer.call.decoded = Ended.of(done), done.at
                        self._keeper.put(writer.name, draw, done.codes)
                        answer = await writer.done(done, draw, self._keeper.seconds)
                    case Refused() as refused:
                        error = refused
                        raise refused
        finally:
            self._worker.cancel(draw)  # does nothing if it has ended
            del self._underway[writer.name]
            if answer is not None:
                ended.set_result(answer)
            else:
                ended.set_exception(error)
                ended.exception()  # nobody has to be waiting for it
        yield answer


def _check_room(served: Served, n: int, guidance: object) -> None:
    """Before anything is made for each sample."""
    guided = served.model.bundle.card.choice.guided if guidance is None else guidance != 1
    rows = n * (2 if guided and served.model.labels is not None else 1)
    if rows > served.slots:
        raise InputError(
            f"n={n}{' with guidance' if guided else ''} takes {rows} rows, and {served.slots} are "
            "drawn at once here; ask for fewer, several times"
        )


def _floor_and_cap(served: Served, limits: Limits, drawn: int) -> tuple[int, int]:
    """Codes that a draw needs, and that it may have."""
    floor = limits.min_codes
    if limits.min_quality is not None:
        floor = max(floor, codes_for(limits.min_quality, served.model.curve))
    budget = Budget(codes=limits.codes, quality=limits.quality, min_codes=floor)
    cap = served.model.engine.limit(budget).codes
    if cap < drawn:
        raise InputError(
            f"this draw has {drawn} codes, and {cap} were asked for; ask for as many or more, or "
            f"decode its first {cap}"
        )
    return max(floor, drawn), cap


def under_way(name: str) -> Conflict:
    """What who asks for a draw hears that has not ended."""
    return Conflict(f"draw {name!r} is still under way; wait for its end, or stop it")


def no_draw(name: str) -> Missing:
    """What who asks for a draw hears that there is not."""
    return Missing(f"there is no draw {name[:64]!r} (any more); draws are kept for a while only")
