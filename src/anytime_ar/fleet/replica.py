"""One replica of a fleet: a station without HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from anytime_ar.errors import InputError
from anytime_ar.fleet.messages import Caller, Mistake, State, Told
from anytime_ar.serving.call import Call
from anytime_ar.serving.jobs import Refused
from anytime_ar.serving.schema import (
    DecodeAnswer,
    DecodeRequest,
    Drawn,
    EncodeAnswer,
    EncodeRequest,
    RefineRequest,
    SampleRequest,
)
from anytime_ar.serving.station import Station


class Replica:
    """Answers what `anytime_ar.fleet.front` asks: each method tells any number of things.

    Args:
        name: among the replicas.
        station: that it is.
        clock: gives seconds.
    """

    def __init__(self, name: str, station: Station, clock: Callable[[], float]) -> None:
        self.name, self.station, self._clock = name, station, clock

    async def look(self) -> AsyncGenerator[Told]:
        """How it is."""
        yield Told(self.name, self._state(), None)

    async def describe(self) -> AsyncGenerator[Told]:
        """What it serves."""
        yield Told(self.name, self._state(), self.station.models.describe())

    async def drain(self, within_s: float) -> AsyncGenerator[Told]:
        """Finish all there is within some seconds, and refuse whatever comes."""
        self.station.worker.drain(within_s)
        yield Told(self.name, self._state(), None)

    def sample(self, request: SampleRequest, caller: Caller) -> AsyncGenerator[Told]:
        """See `Draws.sample`."""
        return self._draw(lambda call: self.station.draws.sample(request, call), caller)

    def refine(self, name: str, request: RefineRequest, caller: Caller) -> AsyncGenerator[Told]:
        """See `Draws.refine`."""
        return self._draw(lambda call: self.station.draws.refine(name, request, call), caller)

    def stop(self, name: str, caller: Caller) -> AsyncGenerator[Told]:
        """See `Draws.stop`."""
        return self._answer(lambda call: self.station.draws.stop(name, call), caller)

    def encode(self, request: EncodeRequest, caller: Caller) -> AsyncGenerator[Told]:
        """See `Computing.encode`."""
        return self._answer(lambda call: self.station.computing.encode(request, call), caller)

    def decode(self, request: DecodeRequest, caller: Caller) -> AsyncGenerator[Told]:
        """See `Computing.decode`."""
        return self._answer(lambda call: self.station.computing.decode(request, call), caller)

    async def _draw(
        self, begin: Callable[[Call], AsyncGenerator[Drawn]], caller: Caller
    ) -> AsyncGenerator[Told]:
        call, came = self._call(caller), self._clock()
        try:
            async with aclosing(begin(call)) as drawing:
                async for drawn in drawing:
                    if call.ended is not None and call.decoded is not None:
                        since_s = self._clock() - call.decoded
                        self.station.worker.note_response(call.ended.n, since_s)
                    yield self._told(drawn, call, came)
        except (Refused, InputError) as error:
            yield self._told(Mistake.of(error), call, came)

    async def _answer(
        self,
        work: Callable[[Call], Awaitable[Drawn | EncodeAnswer | DecodeAnswer | None]],
        caller: Caller,
    ) -> AsyncGenerator[Told]:
        call, came = self._call(caller), self._clock()
        answer: Drawn | EncodeAnswer | DecodeAnswer | Mistake | None
        try:
            answer = await work(call)
        except (Refused, InputError) as error:
            answer = Mistake.of(error)
        yield self._told(answer, call, came)

    def _call(self, caller: Caller) -> Call:
        return Call(self._clock, self._clock() - caller.elapsed_s, client=caller.client)

    def _told(
        self,
        answer: Drawn | EncodeAnswer | DecodeAnswer | Mistake | None,
        call: Call,
        came: float,
    ) -> Told:
        took_s = self._clock() - came
        return Told(self.name, self._state(), answer, took_s, call.asked, call.ended)

    def _state(self) -> State:
        return State(self.station.ready, self.station.work())
