"""Reads what a replica tells as it comes, however slowly a client takes it.

What nobody fetched would pile up in Ray; here previews make room for later ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

from anytime_ar.fleet.messages import Told
from anytime_ar.serving.mailroom import Box
from anytime_ar.serving.schema import Drawn, SampleAnswer

_Item = Told | Exception | None


async def read_ahead(
    telling: AsyncGenerator[Told], room: Callable[[], int]
) -> AsyncGenerator[Told]:
    """Give what is told of a draw, without previews that there is no room for.

    Args:
        telling: is read to its end, or until this generator is closed.
        room: bytes that previews may take that are not fetched.

    Raises:
        Exception: what `telling` raises.
    """
    # The first one in the task of the client, as another task would ask the replica a moment later:
    # who stops the draw by then would find none, and come back when codes are drawn.
    first = await anext(telling, None)
    if first is None:
        return
    box: Box[_Item] = Box(_weigh, room)

    async def read() -> None:
        try:
            async for told in telling:
                box.put_nowait(told)
        except Exception as error:  # raised again where the draw is followed
            box.put_nowait(error)
        else:
            box.put_nowait(None)

    reading = asyncio.ensure_future(read())
    try:
        yield first
        while (item := await box.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        await telling.aclose()  # the task may not have begun


def _weigh(item: _Item) -> int | None:
    """The bytes of a preview; None: it is something else."""
    answer = item.answer if isinstance(item, Told) else None
    if not isinstance(answer, Drawn) or isinstance(answer, SampleAnswer):
        return None
    return sum(map(len, answer.samples))
