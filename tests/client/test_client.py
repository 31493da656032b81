"""The client, against a transport that fails as told."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from anytime_ar.client import Client, RequestFailed
from anytime_ar.errors import InputError

Answer = Callable[[httpx.Request], httpx.Response]


class Time:
    """A clock that sleep moves."""

    def __init__(self) -> None:
        self.now, self.slept = 50.0, []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def refusal(status: int, code: str, retry: str | None = None) -> httpx.Response:
    headers = {} if retry is None else {"Retry-After": retry}
    body = {"error": {"code": code, "message": "told", "retry_after_s": None, "details": None}}
    return httpx.Response(status, json=body, headers=headers)


class Script:
    """Answers one thing after the other, and keeps what was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers, self.bodies = list(answers), []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(json.loads(request.content or b"null"))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def scripted(*answers: httpx.Response | Exception) -> tuple[Client, Script, Time]:
    script, time = Script(*answers), Time()
    transport = httpx.MockTransport(script)
    return Client("http://x", transport=transport, clock=time, sleep=time.sleep), script, time


MODELS = httpx.Response(200, json={"models": []})


def test_another_try_waits_as_long_as_the_server_says_and_tells_it_what_is_left() -> None:
    client, script, time = scripted(
        refusal(503, "overloaded", "2"),
        httpx.ConnectError("refused"),
        refusal(422, "invalid"),
    )
    with pytest.raises(RequestFailed, match="told") as failed:
        client.sample(2, deadline_s=10.0)
    assert (failed.value.code, failed.value.status) == ("invalid", 422)  # no use to try again
    assert time.slept[0] == 2.0
    assert 0 < time.slept[1] < 0.5
    left = [body["deadline_ms"] for body in script.bodies]
    assert left == pytest.approx([9990, 7990, 7990 - 1000 * time.slept[1]])


def test_tries_end_with_the_time_for_all_of_them() -> None:
    client, script, time = scripted(*[refusal(503, "overloaded", "1")] * 10)
    with pytest.raises(RequestFailed) as failed:
        client.sample(deadline_s=3.5)
    assert failed.value.code == "overloaded"
    assert (len(script.bodies), time.slept) == (4, [1.0, 1.0, 1.0])
    client, script, time = scripted(refusal(503, "overloaded", "1"))
    with pytest.raises(RequestFailed):
        client.sample()  # without a time there is one try
    assert (len(script.bodies), time.slept) == (1, [])
    assert "deadline_ms" not in script.bodies[0]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (httpx.ConnectError("nobody there"), "unreachable"),
        (httpx.Response(500, text="<html>oh</html>"), "unknown"),
        (refusal(504, "deadline"), "deadline"),
    ],
)
def test_failures_have_a_code(answer: Any, code: str) -> None:
    client, _, _ = scripted(answer)
    with pytest.raises(RequestFailed) as failed:
        client.models()
    assert failed.value.code == code


def test_a_stream_that_is_cut_off_does_not_look_finished() -> None:
    client, _, _ = scripted(httpx.Response(200, text="event: preview\n: comment\n\n"))
    with pytest.raises(RequestFailed, match="cut off before its end"):
        list(client.stream())
    with pytest.raises(InputError, match=r"samples have shape \(0,\)"):
        client.encode([])
