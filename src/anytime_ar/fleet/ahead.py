"""Reads what a replica tells as it comes, however slowly a client takes it.

What nobody fetched would pile up in Ray; here previews make room for later ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

from anytime_ar.fleet.messages import ReplicaReply
from anytime_ar.serving.mailroom import EventQueue
from anytime_ar.serving.schema import PreviewResponse, SampleResponse

_QueueItem = ReplicaReply | Exception | None


async def buffer_replies(
    replies: AsyncGenerator[ReplicaReply], max_bytes: Callable[[], int]
) -> AsyncGenerator[ReplicaReply]:
    """Give what is told of a draw, without previews that there is no room for.

    Args:
        replies: is read to its end, or until this generator is closed.
        max_bytes: bytes that previews may take that are not fetched.

    Raises:
        Exception: what `replies` raises.
    """
    # The first one in the task of the client, as another task would ask the replica a moment later:
    # who stops the draw by then would find none, and come back when codes are drawn.
    first = await anext(replies, None)
    if first is None:
        return
    box: EventQueue[_QueueItem] = EventQueue(_reply_nbytes, max_bytes)

    async def read() -> None:
        try:
            async for told in replies:
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
        await replies.aclose()  # the task may not have begun


def _reply_nbytes(item: _QueueItem) -> int | None:
    """The bytes of a preview; None: it is something else."""
    answer = item.payload if isinstance(item, ReplicaReply) else None
    if not isinstance(answer, PreviewResponse) or isinstance(answer, SampleResponse):
        return None
    return sum(map(len, answer.samples))
