"""What every request passes first, without a server."""

from __future__ import annotations

import asyncio
from typing import Any

from serving_fakes import FakeClock

from anytime_ar.serving.call import Call
from anytime_ar.serving.guard import Guard, Message, Receive, Scope, Send
from anytime_ar.serving.lag import MOST_S, Lag


def send_through(guard: Guard, method: str) -> int:
    """Status of a request."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "method": method, "path": "/v1/x", "headers": []}
    asyncio.run(guard(scope, receive, send))
    status: int = sent[0]["status"]
    return status


def test_more_requests_than_can_be_read_are_turned_away_at_the_door() -> None:
    clock, observed = FakeClock(), []
    lag = Lag(clock)

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})

    def observe(call: Call, _scope: Scope, status: int) -> None:
        observed.append((clock.now - call.arrival, status, call.error))

    guard = Guard(app, keys=None, clock=clock, lag=lag, observe=observe)
    assert send_through(guard, "POST") == 200
    lag.seconds = 0.2  # it was there for so long before it was read
    assert send_through(guard, "POST") == 200
    lag.seconds = MOST_S + 0.1
    assert send_through(guard, "POST") == 503
    assert send_through(guard, "GET") == 200  # operators want to see this
    waited = [round(waited, 6) for waited, _, _ in observed]
    assert waited == [0.0, 0.2, MOST_S + 0.1, MOST_S + 0.1]
    assert [error for _, _, error in observed] == [None, None, "overloaded", None]


def test_lag_is_seen_and_fades() -> None:
    clock = FakeClock()

    async def run() -> list[float]:
        lag = Lag(clock)
        watching = asyncio.ensure_future(lag.watch())
        await asyncio.sleep(0)
        clock.now += 1.0  # something kept the loop
        seen = []
        while len(seen) < 3:
            await asyncio.sleep(0.001)
            if lag.seconds and lag.seconds not in seen:
                seen.append(lag.seconds)
        watching.cancel()
        return seen

    seen = asyncio.run(run())
    assert seen[0] > 0.9
    assert seen[0] > seen[1] > seen[2]
