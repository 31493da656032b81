"""Events between threads: what a slow client has not fetched stays within bounds."""

from __future__ import annotations

import asyncio

import torch

from anytime_ar.serving.engine.jobs import JobEvent, PreviewEvent, ResultEvent, ServingError
from anytime_ar.serving.engine.worker import EventQueue, ThreadBridge, preview_nbytes

MB = 2**20


def preview(codes: int) -> PreviewEvent:
    """Of one sample, with a megabyte of data."""
    return PreviewEvent(torch.zeros(1, codes, dtype=torch.int64), torch.empty(1, MB // 4))


def done() -> ResultEvent:
    codes, data = preview(9).codes, preview(9).data
    return ResultEvent(codes, data, "complete", 0.0, 0.0, 0.0, 0.0)


def drained(box: EventQueue[JobEvent]) -> list[JobEvent]:
    return [box.get_nowait() for _ in range(box.qsize())]


def play(most_bytes: int, boxes: int, events: int) -> list[list[JobEvent]]:
    """What clients find that read nothing before the end."""

    async def run() -> list[list[JobEvent]]:
        bridge = ThreadBridge(asyncio.get_running_loop(), most_bytes)
        made = [bridge.open_queue() for _ in range(boxes)]
        for _, listener in made:
            for codes in range(1, events + 1):
                listener(preview(codes))
            listener(done())
        await asyncio.sleep(0.01)
        return [drained(box) for box, _ in made]

    return asyncio.run(run())


def codes_of(events: list[JobEvent]) -> list[int]:
    return [event.codes.shape[1] for event in events if isinstance(event, PreviewEvent)]


def test_whoever_reads_late_finds_the_latest_looks_and_the_end() -> None:
    (found,) = play(4 * MB + 2000, 1, 50)
    assert codes_of(found) == [47, 48, 49, 50]
    assert isinstance(found[-1], ResultEvent)
    (found,) = play(100 * MB, 1, 50)
    assert codes_of(found) == [*range(1, 51)]  # there is room for all


def test_all_that_read_late_share_the_room() -> None:
    found = play(8 * MB + 8000, 4, 20)
    assert [codes_of(one) for one in found] == [[19, 20]] * 4
    found = play(MB, 16, 20)  # but the latest preview is there in any case
    assert [codes_of(one) for one in found] == [[20]] * 16


def test_nothing_comes_after_the_end_and_no_end_is_dropped() -> None:
    box = EventQueue(preview_nbytes, lambda: 0)
    box.put_nowait(preview(1))
    box.put_nowait(ServingError("broken", "it is over"))
    for codes in (2, 3, 4):
        box.put_nowait(preview(codes))
    found = drained(box)
    assert codes_of(found) == [1]
    assert isinstance(found[-1], ServingError)


def test_who_waits_is_woken() -> None:
    async def run() -> list[int]:
        box = EventQueue(preview_nbytes, lambda: 0)
        first = asyncio.ensure_future(box.get())
        second = asyncio.ensure_future(box.get())
        await asyncio.sleep(0)
        for codes in (1, 2, 3):
            box.put_nowait(preview(codes))
        found = [await first]
        box.put_nowait(preview(4))
        found.append(await second)
        return codes_of(found)

    first, second = asyncio.run(run())
    assert 1 <= first < second
