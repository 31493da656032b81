"""Protocol of the clients, without input and output: requests, retries and parsing of responses.

`request_flow` is a generator. It yields requests and pauses, and receives responses. So both
clients share its code, and tests need no network.
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

from anytime_ar.errors import AnytimeError, InputError, require_extras

RETRY_STATUSES = frozenset({502, 503})
"""HTTP statuses after which a retry may succeed."""
_INITIAL_BACKOFF_S = 0.05
"""Seconds before the first retry."""
_MAX_BACKOFF_S = 2.0
"""Longest exponential backoff, in seconds."""
_DEADLINE_MARGIN_S = 0.01
"""Seconds of the deadline that are reserved for the network time of the response."""


def require_httpx() -> ModuleType:
    """Import httpx, which only instances of the clients need.

    Raises:
        MissingExtraError: The package httpx is not installed.
    """
    require_extras("the client", "client")
    import httpx

    return httpx


class RequestFailed(AnytimeError):
    """Error for a request that failed.

    Args:
        code: Reason for programs; `unreachable` if there was no response.
        message: Reason for people.
        status: HTTP status; None: there was no response.
    """

    def __init__(self, code: str, message: str, status: int | None) -> None:
        """Store the reason and the status."""
        super().__init__(message)
        self.code, self.status = code, status


@dataclass(frozen=True)
class HTTPRequest:
    """An HTTP request that a client sends."""

    method: str
    """Method of HTTP, such as `POST`."""
    path: str
    """Path of the URL on the server."""
    body: dict[str, Any] | None
    """Body, sent as JSON; None: no body."""
    timeout_s: float | None
    """Seconds after which the client gives up; None: no limit."""


@dataclass(frozen=True)
class Backoff:
    """A pause before a retry."""

    seconds: float
    """Length of the pause in seconds."""


@dataclass(frozen=True)
class HTTPResponse:
    """An HTTP response, or the reason why there is none."""

    status: int
    """HTTP status; 0: no response, for the reason in `text`."""
    text: str
    """Body of the response, or the reason why there is none."""
    retry_after_s: float | None = None
    """Seconds to wait before a retry, from `Retry-After`; None: not given."""


RequestFlow = Generator[HTTPRequest | Backoff, HTTPResponse | None, Any]
"""Generator of a call with its retries.

It receives an `HTTPResponse` for an `HTTPRequest` and None for a `Backoff`. It returns the JSON
body of the successful response.
"""


@dataclass(frozen=True)
class RemotePreview:
    """A preview of samples that a server is still drawing."""

    id: str
    """Id by which the samples can be stopped and refined."""
    model: str
    """Name of the model that draws the samples."""
    codes_drawn: int
    """Number k of codes drawn so far."""
    code_length: int
    """Number L of codes of a whole sample."""
    quality: float | None
    """Share of the model's full quality at k codes, by its curve; None: not measured."""
    data: npt.NDArray[np.float32]
    """Decoded samples, float32 [n, *sample_shape] in [-1, 1], series in their own units."""
    codes: npt.NDArray[np.int64] | None
    """Codes, int64 [n, k]; None: the request did not ask for them."""


@dataclass(frozen=True)
class RemoteSampleResult(RemotePreview):
    """The result of a request for samples."""

    seed: int
    """Seed of the samples, requested or random."""
    first: int
    """Index of the first sample within the seed."""
    labels: list[str] | None
    """Names of the n classes; None: the model has no labels."""
    stop_reason: str
    """Why sampling stopped: `complete`, `deadline`, `load`, `cancelled` or `drain`."""
    expires_in_s: float
    """Seconds for which the samples can be refined."""
    timing: Mapping[str, float | None]
    """Durations of parts of the request, in milliseconds."""


@dataclass(frozen=True)
class RemoteCodes:
    """Codes of samples that a server has encoded."""

    model: str
    """Name of the model that encoded the samples."""
    codes: npt.NDArray[np.int64]
    """Codes, int64 [B, L], coarse to fine."""


def request_flow(
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    *,
    deadline_s: float | None,
    clock: Callable[[], float],
) -> RequestFlow:
    """Run one call, with as many retries as its deadline allows.

    Args:
        method: Method of HTTP, such as `POST`.
        path: Path of the URL on the server.
        body: Body, sent as JSON; None: no body.
        deadline_s: Seconds for all tries together; each sends the time that is left in the body, as
            `deadline_ms`. None: a single try without a limit.
        clock: Function that returns a monotonic time in seconds.

    Yields:
        Requests to send and pauses to wait; see `RequestFlow`.

    Returns:
        The JSON body of the successful response; None: it is empty.

    Raises:
        RequestFailed: The last try failed, or a retry would exceed the deadline.
    """
    end = None if deadline_s is None else clock() + deadline_s
    pause_s = _INITIAL_BACKOFF_S
    while True:
        left_s = None if end is None else max(0.001, end - clock())
        if left_s is not None:
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
    """Return the error that an unsuccessful response describes."""
    if response.status == 0:
        return RequestFailed("unreachable", response.text, None)
    try:
        error = json.loads(response.text)["error"]
        return RequestFailed(error["code"], error["message"], response.status)
    except (ValueError, KeyError, TypeError):
        return RequestFailed("unknown", response.text[:200], response.status)


class EventStreamParser:
    """A parser of the server-sent events of a stream of samples."""

    def __init__(self) -> None:
        """Start before the first event."""
        self._name = ""
        self._ended = False

    def feed(self, line: str) -> Iterator[RemotePreview]:
        """Parse a line of the stream and yield the preview or result that it completes, if any.

        Raises:
            RequestFailed: The stream ended with an error.
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
        """Check at the end of the stream that the result has arrived.

        Raises:
            RequestFailed: The stream broke off before the result.
        """
        if not self._ended:
            raise RequestFailed("unreachable", "the stream was cut off before its end", None)


def request_body(**options: Any) -> dict[str, Any]:
    """Return the body of a request: options that are not None, and arrays as the format of data.

    Codes in `fixed_codes` may be an array or a list, [k] or [n, k].
    """
    given = {name: value for name, value in options.items() if value is not None}
    fixed = given.get("fixed_codes")
    if fixed is not None:
        rows = fixed.tolist() if hasattr(fixed, "tolist") else list(fixed)
        several = bool(rows) and isinstance(rows[0], Sequence)
        given["fixed_codes"] = rows if several else [rows]
    return {"format": "npy", **given}


def vary_params(x: str | RemotePreview | npt.ArrayLike, keep: int, index: int) -> dict[str, Any]:
    """Return what a request for variations says about the sample to vary.

    Args:
        x: Id of samples on the server, what `sample` returned, or a sample, float [*sample_shape].
        keep: Number of codes to keep.
        index: Index of the sample among those with the id.
    """
    if isinstance(x, RemotePreview):
        x = x.id
    if isinstance(x, str):
        return {"id": x, "index": index, "keep": keep}
    return {"sample": _array_to_base64(np.asarray(x, dtype=np.float32)), "keep": keep}


def parse_preview(values: dict[str, Any]) -> RemotePreview:
    """Parse the JSON values of a preview."""
    return RemotePreview(**_preview_fields(values))


def parse_result(values: dict[str, Any]) -> RemoteSampleResult:
    """Parse the JSON values of a result."""
    names = ("seed", "first", "labels", "stop_reason", "expires_in_s", "timing")
    return RemoteSampleResult(**_preview_fields(values), **{name: values[name] for name in names})


def parse_codes(values: dict[str, Any]) -> RemoteCodes:
    """Parse the JSON values of encoded samples."""
    return RemoteCodes(values["model"], np.array(values["codes"], dtype=np.int64))


def parse_samples(values: dict[str, Any]) -> npt.NDArray[np.float32]:
    """Parse the JSON values of decoded samples: float32 [B, *sample_shape] in [-1, 1]."""
    return np.stack([_array_from_base64(text) for text in values["samples"]])


def encode_body(samples: npt.ArrayLike, model: str | None) -> dict[str, Any]:
    """Return the body of a request to encode samples, float [B, *sample_shape] in [-1, 1].

    Raises:
        InputError: The array has too few dimensions or no samples.
    """
    array = np.asarray(samples, dtype=np.float32)
    if array.ndim < 2 or len(array) == 0:
        raise InputError(f"samples have shape {array.shape}; pass [B, *sample_shape], B >= 1")
    named = {} if model is None else {"model": model}
    return {"samples": [_array_to_base64(one) for one in array], **named}


def decode_body(
    codes: Sequence[Sequence[int]] | npt.NDArray[Any], model: str | None
) -> dict[str, Any]:
    """Return the body of a request to decode codes, int [B, k]."""
    return request_body(codes=np.asarray(codes).tolist(), model=model)


def _preview_fields(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that previews and results share."""
    names = ("id", "model", "codes_drawn", "code_length", "quality")
    codes = values.get("codes")
    return {name: values[name] for name in names} | {
        "data": parse_samples(values),
        "codes": None if codes is None else np.array(codes, dtype=np.int64),
    }


def _array_from_base64(text: str) -> npt.NDArray[np.float32]:
    """Decode an array from base64 of the npy format."""
    array: npt.NDArray[np.float32] = np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False)
    return array


def _array_to_base64(sample: npt.NDArray[np.float32]) -> str:
    """Encode an array as base64 of the npy format."""
    file = io.BytesIO()
    np.save(file, sample)
    return base64.b64encode(file.getvalue()).decode()
