"""What the HTTP API of a fleet stands before: the same as that of one server, elsewhere."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from anytime_ar.fleet.ahead import read_ahead
from anytime_ar.fleet.held import Held, Holdings
from anytime_ar.fleet.messages import Mistake, Told
from anytime_ar.fleet.relay import Lost, Relay
from anytime_ar.serving.call import Call
from anytime_ar.serving.config import Service
from anytime_ar.serving.draws import SEED_BITS, Conflict, no_draw, under_way
from anytime_ar.serving.jobs import Refused
from anytime_ar.serving.logs import log_event
from anytime_ar.serving.mailroom import MOST_BYTES
from anytime_ar.serving.schema import (
    DecodeAnswer,
    DecodeRequest,
    Drawn,
    EncodeAnswer,
    EncodeRequest,
    Limits,
    ModelsAnswer,
    RefineRequest,
    SampleAnswer,
    SampleRequest,
)
from anytime_ar.serving.served import no_model

_AGAIN_S = 0.01


class FleetModels:
    """What all replicas serve.

    Args:
        answer: of one of them.
    """

    def __init__(self, answer: ModelsAnswer) -> None:
        self._answer = answer

    def describe(self) -> ModelsAnswer:
        """For clients."""
        return self._answer

    def formats(self, name: str | None) -> Sequence[str]:
        """See `anytime_ar.serving.served.Models.formats`."""
        formats = {model.name: model.formats for model in self._answer.models}
        name = next(iter(formats)) if name is None else name
        if name not in formats:
            raise no_model(name, formats)
        return formats[name]


class FleetDraws:
    """Draws samples on replicas. What one has drawn is not lost with it: a draw follows from its
    request and its seed, so that another replica draws the same again.

    Args:
        relay: to replicas.
        service: that they give.
        clock: gives seconds.
    """

    def __init__(self, relay: Relay, service: Service, clock: Callable[[], float]) -> None:
        self._relay, self._service, self._clock = relay, service, clock
        self._holdings = Holdings(service.keep_s, clock)
        self.draining = False

    def __len__(self) -> int:
        """How many have not ended."""
        return self._holdings.underway

    def sample(self, request: SampleRequest, call: Call) -> AsyncGenerator[Drawn]:
        """See `anytime_ar.serving.draws.Draws.sample`; all mistakes but a name that is taken show
        at the first item."""
        seed = secrets.randbits(SEED_BITS) if request.seed is None else request.seed
        name = request.id or secrets.token_urlsafe(12)
        request = request.model_copy(update={"seed": seed, "id": name})
        if self._holdings.get(name) is not None:
            raise Conflict(f"id {name!r} is taken; choose another one, or none")
        return self._draw(name, Held(request, call.client), None, call)

    def refine(self, name: str, request: RefineRequest, call: Call) -> AsyncGenerator[Drawn]:
        """See `anytime_ar.serving.draws.Draws.refine`."""
        held = self._holdings.get(name) or Held(None, call.client)  # of another front, perhaps
        if held.client != call.client:
            raise no_draw(name)
        return self._draw(name, held, request, call)

    async def stop(self, name: str, call: Call) -> SampleAnswer | None:
        """See `anytime_ar.serving.draws.Draws.stop`."""
        while True:
            held = self._holdings.get(name)
            if held is not None and held.client != call.client:
                raise no_draw(name)
            async for told in self._known(held, "stop", name, call=call):
                answer = _taken(told, call)
                self._holdings.drop(name)
                assert answer is None or isinstance(answer, SampleAnswer)
                return answer
            if held is None or held.until is not None:
                raise no_draw(name)
            await asyncio.sleep(_AGAIN_S)  # it is on its way to a replica

    def _room(self) -> int:
        """Bytes that previews of one draw may take until its client fetches them."""
        return MOST_BYTES // max(1, len(self))

    async def _draw(
        self, name: str, held: Held, refining: RefineRequest | None, call: Call
    ) -> AsyncGenerator[Drawn]:
        limits = refining or held.request
        assert limits is not None
        self._note_deadline(limits, call)
        if self.draining:
            raise Refused("draining", "the server is going down; ask another one", retry_s=1)
        if self._holdings.get(name) not in (None, held) or self._holdings.is_underway(name):
            raise under_way(name)
        had_ended = held.until is not None
        self._holdings.begin(name, held)
        answer: SampleAnswer | None = None
        shown = 0
        try:
            async with (
                aclosing(self._tell(name, held, refining, call)) as telling,
                aclosing(read_ahead(telling, self._room)) as ahead,
            ):
                async for told in ahead:
                    drawn = _taken(told, call)
                    assert isinstance(drawn, Drawn)
                    if isinstance(drawn, SampleAnswer):
                        answer = drawn
                        break
                    if drawn.codes_drawn > shown:  # not again, if another replica began afresh
                        shown = drawn.codes_drawn
                        if call.first_look_s is None:
                            call.first_look_s = self._clock() - call.arrival
                        yield drawn
        finally:
            self._holdings.end(name, kept=had_ended or answer is not None)
        assert answer is not None
        yield answer

    async def _tell(
        self, name: str, held: Held, refining: RefineRequest | None, call: Call
    ) -> AsyncGenerator[Told]:
        """What the replica tells that has a draw; if there is none, what another one does that
        draws it from its seed."""
        request = held.request
        if refining is not None:
            async for told in self._known(held, "refine", name, refining, call=call):
                held.replica = told.replica
                yield told
            if request is None:
                raise no_draw(name)
            request = request.model_copy(update=dict(refining))
        assert request is not None

        def chosen(replica: str) -> None:
            held.replica = replica

        work_s = request.n * self._relay.places.sample_s(request.model)
        asking = self._relay.ask("sample", request, call=call, work_s=work_s, chosen=chosen)
        async with aclosing(asking):
            async for told in asking:
                held.replica = told.replica
                yield told

    async def _known(
        self, held: Held | None, method: str, *arguments: object, call: Call
    ) -> AsyncGenerator[Told]:
        """What the replica tells that has a draw; nothing, if none has it."""
        known = None if held is None else held.replica
        for replica in self._relay.crew.running() if known is None else (known,):
            try:
                at = self._relay.at(replica, method, *arguments, call=call)
                async with aclosing(at) as telling:
                    async for told in telling:
                        if isinstance(told.answer, Mistake) and told.answer.kind == "missing":
                            break
                        yield told
            except Lost as lost:
                log_event("a replica is lost, and the draws that it kept", reason=str(lost))

    def _note_deadline(self, limits: Limits, call: Call) -> None:
        if limits.deadline_ms is not None:
            within_s = min(self._service.deadline_s, limits.deadline_ms / 1000)
            call.deadline = call.arrival + within_s


class FleetComputing:
    """Encodes and decodes on replicas.

    Args:
        relay: to them.
    """

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    async def encode(self, request: EncodeRequest, call: Call) -> EncodeAnswer:
        """See `anytime_ar.serving.computing.Computing.encode`."""
        call.n = len(request.samples)
        answer = await self._ask("encode", request, call)
        assert isinstance(answer, EncodeAnswer)
        return answer

    async def decode(self, request: DecodeRequest, call: Call) -> DecodeAnswer:
        """See `anytime_ar.serving.computing.Computing.decode`."""
        call.n = len(request.codes)
        answer = await self._ask("decode", request, call)
        assert isinstance(answer, DecodeAnswer)
        return answer

    async def _ask(self, method: str, request: EncodeRequest | DecodeRequest, call: Call) -> object:
        async with aclosing(self._relay.ask(method, request, call=call, work_s=0.0)) as telling:
            async for told in telling:
                return _taken(told, call)
        raise AssertionError("a call ends with an answer or an error")


def _taken(told: Told, call: Call) -> object:
    """The answer that was told; what is to be logged of it goes to the call.

    Raises:
        AnytimeError: it is a mistake.
    """
    call.asked, call.ended = told.asked, told.ended
    if isinstance(told.answer, Mistake):
        raise told.answer.error()
    if isinstance(told.answer, Drawn):
        call.model, call.n = told.answer.model, told.answer.n
    elif isinstance(told.answer, EncodeAnswer | DecodeAnswer):
        call.model = told.answer.model
    return told.answer
