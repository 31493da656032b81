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

RETRIED = frozenset({502, 503})
"""HTTP statuses after which another try may help."""
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
_MARGIN_S = 0.01
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
class Ask:
    """A request to be sent."""

    method: str
    path: str
    body: dict[str, Any] | None
    timeout_s: float | None
    """After which no answer is of use."""


@dataclass(frozen=True)
class Pause:
    """Time to be waited."""

    seconds: float


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    """0: nothing, for the reason that `text` tells."""
    text: str
    retry_after_s: float | None = None


Call = Generator[Ask | Pause, Reply | None, Any]
"""To an `Ask` it is sent a `Reply`, to a `Pause` nothing; it returns what the server answers."""


@dataclass(frozen=True)
class Drawn:
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
class Sampled(Drawn):
    """The end of a draw."""

    seed: int
    first: int
    labels: list[str] | None
    stop_reason: str
    """`complete`, `deadline`, `load`, `cancelled` or `drain`."""
    kept_s: float
    """Seconds for which it can be continued."""
    timing: Mapping[str, float | None]
    """Milliseconds."""


@dataclass(frozen=True)
class Encoded:
    """Codes of samples."""

    model: str
    codes: npt.NDArray[np.int64]
    """[B, L], coarse to fine."""


def calling(
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    *,
    within_s: float | None,
    clock: Callable[[], float],
    to_deadline: bool = False,
) -> Call:
    """One call with as many tries as time allows.

    Args:
        method, path, body: of the request.
        within_s: seconds for all tries together; None: a single one, without end.
        clock: gives seconds.
        to_deadline: tell the server what is left of them, as `deadline_ms`.

    Raises:
        RequestFailed: when it is returned to.
    """
    end = None if within_s is None else clock() + within_s
    pause_s = _FIRST_PAUSE_S
    while True:
        left_s = None if end is None else max(0.001, end - clock())
        if to_deadline and left_s is not None:
            body = {**(body or {}), "deadline_ms": max(1.0, 1000 * (left_s - _MARGIN_S))}
        reply = yield Ask(method, path, body, left_s)
        assert reply is not None
        if 200 <= reply.status < 300:
            return json.loads(reply.text) if reply.text else None
        failed = failure(reply)
        wait_s = pause_s if reply.retry_after_s is None else reply.retry_after_s
        if reply.status not in {0, *RETRIED} or end is None or clock() + wait_s >= end:
            raise failed
        yield Pause(wait_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def failure(reply: Reply) -> RequestFailed:
    """What a reply that is no answer says."""
    if reply.status == 0:
        return RequestFailed("unreachable", reply.text, None)
    try:
        error = json.loads(reply.text)["error"]
        return RequestFailed(error["code"], error["message"], reply.status)
    except (ValueError, KeyError, TypeError):
        return RequestFailed("unknown", reply.text[:200], reply.status)


class Events:
    """Server-sent events of a draw, from lines of text."""

    def __init__(self) -> None:
        self._name = ""
        self._ended = False

    def take(self, line: str) -> Iterator[Drawn]:
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
            yield sampled(values) if self._ended else drawn(values)

    def end(self) -> None:
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


def drawn(values: dict[str, Any]) -> Drawn:
    """A preview."""
    return Drawn(**_common(values))


def sampled(values: dict[str, Any]) -> Sampled:
    """The end of a draw."""
    names = ("seed", "first", "labels", "stop_reason", "kept_s", "timing")
    return Sampled(**_common(values), **{name: values[name] for name in names})


def encoded(values: dict[str, Any]) -> Encoded:
    """Codes."""
    return Encoded(values["model"], np.array(values["codes"], dtype=np.int64))


def decoded(values: dict[str, Any]) -> npt.NDArray[np.float32]:
    """Samples, [B, *sample_shape]."""
    return np.stack([_read(text) for text in values["samples"]])


def encode_body(samples: npt.ArrayLike, model: str | None) -> dict[str, Any]:
    """What is sent to encode samples.

    Raises:
        InputError: there are none.
    """
    array = np.asarray(samples, dtype=np.float32)
    if array.ndim < 2 or len(array) == 0:
        raise InputError(f"samples have shape {array.shape}; pass [B, *sample_shape], B >= 1")
    named = {} if model is None else {"model": model}
    return {"samples": [_write(one) for one in array], **named}


def decode_body(
    codes: Sequence[Sequence[int]] | npt.NDArray[Any], model: str | None
) -> dict[str, Any]:
    """What is sent to decode codes [B, k]."""
    return request_body(codes=np.asarray(codes).tolist(), model=model)


def _common(values: dict[str, Any]) -> dict[str, Any]:
    names = ("id", "model", "codes_drawn", "code_length", "quality")
    codes = values.get("codes")
    return {name: values[name] for name in names} | {
        "data": decoded(values),
        "codes": None if codes is None else np.array(codes, dtype=np.int64),
    }


def _read(text: str) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False)
    return array


def _write(sample: npt.NDArray[np.float32]) -> str:
    file = io.BytesIO()
    np.save(file, sample)
    return base64.b64encode(file.getvalue()).decode()
