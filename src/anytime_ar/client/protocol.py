"""What a client says and what it makes of the answers; it neither sends nor waits.

A call is a generator: it yields what is to be sent, or how long to pause, and is sent what came
back. So both clients share all of it, and tests need no network.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from anytime_ar.errors import AnytimeError, InputError, MissingExtraError, install_command

RETRY_STATUSES = frozenset({502, 503})
"""HTTP statuses after which another try may help."""
_INITIAL_BACKOFF_S = 0.05
_MAX_BACKOFF_S = 2.0
_DEADLINE_MARGIN_S = 0.01
"""Kept for the way of the answer."""


def require_httpx() -> ModuleType:
    """Import what carries requests; the client can be imported without it, and made only with it.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import httpx
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"the client needs {error.name}; install it: {install_command('client')}"
        ) from None
    return httpx


class RequestFailed(AnytimeError):
    """The server did not do what was asked.

    Args:
        code: why, for programs; `unreachable` if there was no answer at all.
        message: why, for people.
        status: of HTTP; None if there was no answer.
    """

    def __init__(self, code: str, message: str, status: int | None) -> None:
        super().__init__(message)
        self.code, self.status = code, status


@dataclass(frozen=True)
class HTTPRequest:
    """A request to be sent."""

    method: str
    path: str
    body: dict[str, Any] | None
    timeout_s: float | None
    """After which no answer is of use."""


@dataclass(frozen=True)
class Backoff:
    """Time to be waited."""

    seconds: float


@dataclass(frozen=True)
class HTTPResponse:
    """What came back."""

    status: int
    """0: nothing, for the reason that `text` tells."""
    text: str
    retry_after_s: float | None = None


RequestFlow = Generator[HTTPRequest | Backoff, HTTPResponse | None, Any]
"""To an `HTTPRequest` it is sent a `HTTPResponse`, to a `Backoff` nothing; it returns what the server answers."""


@dataclass(frozen=True)
class RemotePreview:
    """Samples on their way."""

    id: str
    """By which the draw can be stopped and continued."""
    model: str
    codes_drawn: int
    code_length: int
    quality: float | None
    """The share of the model's full quality that so many codes have; None: not measured."""
    data: npt.NDArray[np.float32]
    """[n, *sample_shape] in [-1, 1]."""
    codes: npt.NDArray[np.int64] | None
    """[n, k], where they were asked for."""


@dataclass(frozen=True)
class RemoteSampleResult(RemotePreview):
    """The end of a draw."""

    seed: int
    first: int
    labels: list[str] | None
    stop_reason: str
    """`complete`, `deadline`, `load`, `cancelled` or `drain`."""
    expires_in_s: float
    """Seconds for which it can be continued."""
    timing: Mapping[str, float | None]
    """Milliseconds."""


@dataclass(frozen=True)
class RemoteCodes:
    """Codes of samples."""

    model: str
    codes: npt.NDArray[np.int64]
    """[B, L], coarse to fine."""


def request_flow(
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    *,
    deadline_s: float | None,
    clock: Callable[[], float],
    send_deadline: bool = False,
) -> RequestFlow:
    """One call with as many tries as time allows.

    Args:
        method, path, body: of the request.
        deadline_s: seconds for all tries together; None: a single one, without end.
        clock: gives seconds.
        send_deadline: tell the server what is left of them, as `deadline_ms`.

    Raises:
        RequestFailed: when it is returned to.
    """
    end = None if deadline_s is None else clock() + deadline_s
    pause_s = _INITIAL_BACKOFF_S
    while True:
        left_s = None if end is None else max(0.001, end - clock())
        if send_deadline and left_s is not None:
            body = {**(body or {}), "deadline_ms": max(1.0, 1000 * (left_s - _DEADLINE_MARGIN_S))}
        reply = yield HTTPRequest(method, path, body, left_s)
        assert reply is not None
        if 200 <= reply.status < 300:
            return json.loads(reply.text) if reply.text else None
        failed = error_from_response(reply)
        wait_s = pause_s if reply.retry_after_s is None else reply.retry_after_s
        if reply.status not in {0, *RETRY_STATUSES} or end is None or clock() + wait_s >= end:
            raise failed
        yield Backoff(wait_s)
        pause_s = min(2 * pause_s, _MAX_BACKOFF_S)


def error_from_response(response: HTTPResponse) -> RequestFailed:
    """What a reply that is no answer says."""
    if response.status == 0:
        return RequestFailed("unreachable", response.text, None)
    try:
        error = json.loads(response.text)["error"]
        return RequestFailed(error["code"], error["message"], response.status)
    except (ValueError, KeyError, TypeError):
        return RequestFailed("unknown", response.text[:200], response.status)


class EventStreamParser:
    """Server-sent events of a draw, from lines of text."""

    def __init__(self) -> None:
        self._name = ""
        self._ended = False

    def feed(self, line: str) -> Iterator[RemotePreview]:
        """What a line completes.

        Raises:
            RequestFailed: the draw ended with an error.
        """
        field, _, value = line.partition(": ")
        if field == "event":
            self._name = value
        elif field == "data":
            values = json.loads(value)
            if self._name == "error":
                raise RequestFailed(values["error"]["code"], values["error"]["message"], 200)
            self._ended = self._name == "done"
            yield parse_result(values) if self._ended else parse_preview(values)

    def close(self) -> None:
        """The stream has ended.

        Raises:
            RequestFailed: before the draw.
        """
        if not self._ended:
            raise RequestFailed("unreachable", "the stream was cut off before its end", None)


def request_body(**options: Any) -> dict[str, Any]:
    """What is sent for options, without those that are not given; data comes as arrays."""
    given = {name: value for name, value in options.items() if value is not None}
    return {"format": "npy", **given}


def parse_preview(values: dict[str, Any]) -> RemotePreview:
    """A preview."""
    return RemotePreview(**_preview_fields(values))


def parse_result(values: dict[str, Any]) -> RemoteSampleResult:
    """The end of a draw."""
    names = ("seed", "first", "labels", "stop_reason", "kept_s", "timing")
    return RemoteSampleResult(**_preview_fields(values), **{name: values[name] for name in names})


def parse_codes(values: dict[str, Any]) -> RemoteCodes:
    """Codes."""
    return RemoteCodes(values["model"], np.array(values["codes"], dtype=np.int64))


def parse_samples(values: dict[str, Any]) -> npt.NDArray[np.float32]:
    """Samples, [B, *sample_shape]."""
    return np.stack([_array_from_base64(text) for text in values["samples"]])


def encode_body(samples: npt.ArrayLike, model: str | None) -> dict[str, Any]:
    """What is sent to encode samples.

    Raises:
        InputError: there are none.
    """
    array = np.asarray(samples, dtype=np.float32)
    if array.ndim < 2 or len(array) == 0:
        raise InputError(f"samples have shape {array.shape}; pass [B, *sample_shape], B >= 1")
    named = {} if model is None else {"model": model}
    return {"samples": [_array_to_base64(one) for one in array], **named}


def decode_body(
    codes: Sequence[Sequence[int]] | npt.NDArray[Any], model: str | None
) -> dict[str, Any]:
    """What is sent to decode codes [B, k]."""
    return request_body(codes=np.asarray(codes).tolist(), model=model)


def _preview_fields(values: dict[str, Any]) -> dict[str, Any]:
    names = ("id", "model", "codes_drawn", "code_length", "quality")
    codes = values.get("codes")
    return {name: values[name] for name in names} | {
        "data": parse_samples(values),
        "codes": None if codes is None else np.array(codes, dtype=np.int64),
    }


def _array_from_base64(text: str) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False)
    return array


def _array_to_base64(sample: npt.NDArray[np.float32]) -> str:
    file = io.BytesIO()
    np.save(file, sample)
    return base64.b64encode(file.getvalue()).decode()
