"""What replicas tell of draws whose clients read slowly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from anytime_ar.serving.cluster.gateway import buffer_replies
from anytime_ar.serving.cluster.replica import RemoteError, ReplicaReply, ReplicaState
from anytime_ar.serving.engine.jobs import ServingError
from anytime_ar.serving.schema import PreviewResponse

KB = 1000


def preview(codes: int) -> ReplicaReply:
    answer = PreviewResponse(
        id="a-draw",
        model="m",
        n=1,
        codes_drawn=codes,
        code_length=99,
        quality=None,
        format="png",
        samples=["x" * KB],
    )
    return ReplicaReply("a", ReplicaState(True, {}), answer)


END = ReplicaReply("a", ReplicaState(True, {}), RemoteError("not_found", "it is over"))


class Source:
    """Tells some previews, and how far it came."""

    def __init__(self, previews: int, error: Exception | None = None) -> None:
        self.previews, self.error = previews, error
        self.told, self.closed = 0, False

    async def tell(self) -> AsyncGenerator[ReplicaReply]:
        try:
            for codes in range(1, self.previews + 1):
                self.told = codes
                yield preview(codes)
                await asyncio.sleep(0)
            if self.error is not None:
                raise self.error
            yield END
        finally:
            self.closed = True


def codes_of(told: list[ReplicaReply]) -> list[int]:
    return [one.payload.codes_drawn for one in told if isinstance(one.payload, PreviewResponse)]


def test_all_is_read_although_the_client_takes_nothing() -> None:
    async def run() -> None:
        source = Source(50)
        ahead = buffer_replies(source.tell(), lambda: 3 * KB)
        assert codes_of([await anext(ahead)]) == [1]
        while not source.closed:
            await asyncio.sleep(0)
        rest = [told async for told in ahead]
        assert codes_of(rest) == [48, 49, 50]
        assert rest[-1] is END

    asyncio.run(run())


def test_a_client_that_keeps_up_misses_nothing() -> None:
    async def run() -> None:
        told = [one async for one in buffer_replies(Source(50).tell(), lambda: 0)]
        assert codes_of(told) == [*range(1, 51)]

    asyncio.run(run())


def test_errors_are_raised_after_what_was_told() -> None:
    async def run() -> None:
        source = Source(2, ServingError("broken", "it is over"))
        ahead = buffer_replies(source.tell(), lambda: 9 * KB)
        found = [await anext(ahead), await anext(ahead)]
        assert codes_of(found) == [1, 2]
        with pytest.raises(ServingError, match="it is over"):
            await anext(ahead)

    asyncio.run(run())


def test_who_leaves_ends_the_telling() -> None:
    async def run() -> None:
        source = Source(10**9)
        ahead = buffer_replies(source.tell(), lambda: 0)
        await anext(ahead)
        await ahead.aclose()
        assert source.closed
        told = source.told
        await asyncio.sleep(0.01)
        assert source.told == told

    asyncio.run(run())
