"""What every request passes first, without a server."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

import pytest

from anytime_ar.serving.engine.jobs import RequestContext
from anytime_ar.serving.http.middleware import (
    MAX_LAG_S,
    AllowedHosts,
    EventLoopLag,
    Message,
    Receive,
    RequestMiddleware,
    Scope,
    Send,
    key_digest,
)
from fake_clock import FakeClock

OWN = AllowedHosts.for_server("127.0.0.1")


def messages(
    middleware: RequestMiddleware,
    method: str,
    headers: Sequence[tuple[bytes, bytes]] = (),
    kind: str = "http",
) -> list[Message]:
    """What a request is answered."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": kind, "method": method, "path": "/v1/x", "headers": headers}
    asyncio.run(middleware(scope, receive, send))
    return sent


def send_through(
    middleware: RequestMiddleware,
    method: str,
    headers: Sequence[tuple[bytes, bytes]] = (),
    kind: str = "http",
) -> int:
    """Status of a request."""
    status: int = messages(middleware, method, headers, kind)[0]["status"]
    return status


async def shows_method(scope: Scope, _receive: Receive, send: Send) -> None:
    """An application that answers the method that it sees."""
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": scope["method"].encode()})


def with_middleware(
    *,
    keys: dict[bytes, str] | None = None,
    hosts: AllowedHosts = OWN,
    seen: list[Any] | None = None,
) -> RequestMiddleware:
    clock = FakeClock()

    def observe(call: RequestContext, scope: Scope, status: int) -> None:
        if seen is not None:
            seen.append((call.client, scope["method"], status))

    return RequestMiddleware(
        shows_method, keys=keys, hosts=hosts, clock=clock, lag=EventLoopLag(clock), observe=observe
    )


def test_head_is_asked_as_get_and_noted_as_head() -> None:
    seen: list[Any] = []
    middleware = with_middleware(seen=seen)
    assert messages(middleware, "GET")[1]["body"] == b"GET"
    assert messages(middleware, "HEAD")[1]["body"] == b""
    assert [method for _, method, _ in seen] == ["GET", "HEAD"]


@pytest.mark.parametrize("key", ["s3cret", "schlüssel", "ключ", "鍵", "é"])
def test_keys_are_compared_as_bytes(key: str) -> None:
    seen: list[Any] = []
    middleware = with_middleware(keys={key_digest(key): "ada"}, seen=seen)
    bearer, basic = b"Bearer " + key.encode(), base64.b64encode(b"who:" + key.encode())
    assert send_through(middleware, "GET", [(b"authorization", bearer)]) == 200
    assert send_through(middleware, "GET", [(b"authorization", b"basic " + basic)]) == 200
    assert [client for client, *_ in seen] == ["ada", "ada"]
    for wrong in (b"Bearer " + key.encode() + b"\xff", b"Bearer \xff\xfe", b"Basic \xff", b""):
        assert send_through(middleware, "GET", [(b"authorization", wrong)]) == 401


def test_a_key_in_latin_1_is_the_same_key() -> None:
    middleware = with_middleware(keys={key_digest("schlüssel"): "ada"})
    assert (
        send_through(middleware, "GET", [(b"authorization", "Bearer schlüssel".encode("latin-1"))])
        == 200
    )


def test_only_own_names_are_answered_to() -> None:
    middleware = with_middleware(hosts=AllowedHosts.for_server("127.0.0.1", ["ok.example"]))
    assert send_through(middleware, "GET") == 200  # browsers always say it
    for host, status in ((b"localhost:8000", 200), (b"OK.example", 200), (b"evil.example", 421)):
        assert send_through(middleware, "GET", [(b"host", host)]) == status
    assert (
        send_through(middleware, "GET", [(b"host", b"localhost"), (b"host", b"evil.example")])
        == 421
    )


def test_websockets_are_closed_whatever_their_name() -> None:
    (sent,) = messages(with_middleware(), "GET", [(b"host", b"localhost")], kind="websocket")
    assert sent["type"] == "websocket.close"


def test_more_requests_than_can_be_read_are_turned_away_at_the_door() -> None:
    clock, observed = FakeClock(), []
    lag = EventLoopLag(clock)

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})

    def observe(call: RequestContext, _scope: Scope, status: int) -> None:
        observed.append((clock.now - call.arrival, status, call.error))

    middleware = RequestMiddleware(app, keys=None, hosts=OWN, clock=clock, lag=lag, observe=observe)
    assert send_through(middleware, "POST") == 200
    lag.seconds = 0.2  # it was there for so long before it was read
    assert send_through(middleware, "POST") == 200
    lag.seconds = MAX_LAG_S + 0.1
    assert send_through(middleware, "POST") == 503
    assert send_through(middleware, "GET") == 200  # operators want to see this
    waited = [round(waited, 6) for waited, _, _ in observed]
    assert waited == [0.0, 0.2, MAX_LAG_S + 0.1, MAX_LAG_S + 0.1]
    assert [error for _, _, error in observed] == [None, None, "overloaded", None]


def test_lag_is_seen_and_fades() -> None:
    clock = FakeClock()

    async def run() -> list[float]:
        lag = EventLoopLag(clock)
        watching = asyncio.ensure_future(lag.measure())
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
