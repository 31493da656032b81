"""Synchronous client of `anytime serve`, which blocks until the response."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from anytime_ar.client import protocol
from anytime_ar.client.protocol import (
    EventStreamParser,
    HTTPRequest,
    HTTPResponse,
    RemoteCodes,
    RemotePreview,
    RemoteSampleResult,
    RequestFlow,
)

if TYPE_CHECKING:
    import httpx


class Client:
    """A synchronous client of one server.

    Args:
        url: URL of the server, such as `http://127.0.0.1:8000`.
        key: API key of the client; None: the server asks for none.
        transport: Transport of httpx, for tests; None: the network.
        clock: Function that returns a monotonic time in seconds.
        sleep: Function that waits a number of seconds.

    Raises:
        MissingExtraError: The package httpx is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Open the HTTP client without connecting to the server."""
        headers = {} if key is None else {b"Authorization": f"Bearer {key}".encode()}
        self._library = protocol.require_httpx()
        self._http = self._library.Client(
            base_url=url, headers=headers, transport=transport, timeout=None
        )
        self._clock, self._sleep = clock, sleep

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections of the client."""
        self.close()

    def close(self) -> None:
        """Close the connections of the client."""
        self._http.close()

    def sample(
        self, n: int = 1, *, deadline_s: float | None = None, **options: Any
    ) -> RemoteSampleResult:
        """Draw n samples.

        Args:
            n: Number of samples.
            deadline_s: Seconds for the whole call with its retries; each try sends the time that is
                left. None: no deadline and no retry.
            **options: `model`, `label`, `seed`, `first`, `codes`, `quality`, `min_codes`,
                `min_quality`, `temperature`, `top_k`, `top_p`, `guidance`, `with_codes`, `id`; see
                /openapi.json of the server.

        Raises:
            RequestFailed: The server returned an error, or no response.
        """
        body = protocol.request_body(n=n, **options)
        return protocol.parse_result(self._sample("/v1/samples", body, deadline_s))

    def refine(
        self, id: str, *, deadline_s: float | None = None, **options: Any
    ) -> RemoteSampleResult:
        """Refine samples with more codes, within their session on the server.

        Args:
            id: Id of the samples.
            deadline_s: Seconds for the whole call with its retries; None: no deadline and no retry.
            **options: Limits of the request such as `codes` and `quality`, counted from the first
                code of the samples, and `with_codes`; see /openapi.json of the server.

        Raises:
            RequestFailed: The session has expired, the server returned another error, or there was
                no response.
        """
        body = protocol.request_body(**options)
        return protocol.parse_result(self._sample(f"/v1/samples/{id}/refine", body, deadline_s))

    def stream(self, n: int = 1, **options: Any) -> Iterator[RemotePreview]:
        """Draw n samples and yield previews of them.

        Closing the iterator stops the request.

        Args:
            n: Number of samples.
            **options: Options of `sample`, and `deadline_ms` and `previews_per_s`.

        Yields:
            Previews; the last item is a `RemoteSampleResult`.

        Raises:
            RequestFailed: The server returned an error, or the stream broke off.
        """
        yield from self._stream("/v1/samples", protocol.request_body(n=n, **options))

    def stream_refine(self, id: str, **options: Any) -> Iterator[RemotePreview]:
        """Refine samples with more codes and yield previews of them.

        Args:
            id: Id of the samples.
            **options: Options of `refine`, and `deadline_ms` and `previews_per_s`.

        Yields:
            Previews; the last item is a `RemoteSampleResult`.

        Raises:
            RequestFailed: The session has expired, the server returned another error, or the stream
                broke off.
        """
        yield from self._stream(f"/v1/samples/{id}/refine", protocol.request_body(**options))

    def stop(self, id: str) -> None:
        """Stop a running request, or release the session of one that has ended.

        The call that waits for a running request returns the codes drawn so far. A released session
        can be refined for a few more seconds, in case the stop arrives too late.

        Args:
            id: Id of the samples, from a preview or chosen by the caller.

        Raises:
            RequestFailed: There is no such request or session, or no response.
        """
        self._run(
            protocol.request_flow("DELETE", f"/v1/samples/{id}", deadline_s=None, clock=self._clock)
        )

    def encode(self, samples: npt.ArrayLike, *, model: str | None = None) -> RemoteCodes:
        """Encode samples.

        Args:
            samples: Samples, float [B, *sample_shape] in [-1, 1].
            model: Name of the model; None: the server's first.

        Raises:
            InputError: The array has too few dimensions or no samples.
            RequestFailed: The server returned an error, or no response.
        """
        body = protocol.encode_body(samples, model)
        return protocol.parse_codes(self._post("/v1/encode", body))

    def decode(
        self, codes: Sequence[Sequence[int]] | npt.NDArray[Any], *, model: str | None = None
    ) -> npt.NDArray[np.float32]:
        """Decode prefixes of codes.

        Args:
            codes: Codes, int [B, k] with 1 <= k <= L.
            model: Name of the model; None: the server's first.

        Returns:
            Samples, float32 [B, *sample_shape] in [-1, 1].

        Raises:
            RequestFailed: The server returned an error, or no response.
        """
        return protocol.parse_samples(self._post("/v1/decode", protocol.decode_body(codes, model)))

    def models(self) -> list[dict[str, Any]]:
        """Return the models of the server: names, shapes, labels and measured curves.

        Raises:
            RequestFailed: The server returned an error, or no response.
        """
        call = protocol.request_flow("GET", "/v1/models", deadline_s=None, clock=self._clock)
        models: list[dict[str, Any]] = self._run(call)["models"]
        return models

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        call = protocol.request_flow("POST", path, body, deadline_s=None, clock=self._clock)
        return self._run(call)

    def _sample(self, path: str, body: dict[str, Any], deadline_s: float | None) -> Any:
        call = protocol.request_flow(
            "POST", path, body, deadline_s=deadline_s, clock=self._clock, send_deadline=True
        )
        return self._run(call)

    def _run(self, flow: RequestFlow) -> Any:
        reply: HTTPResponse | None = None
        while True:
            try:
                step = flow.send(reply)
            except StopIteration as end:
                return end.value
            if isinstance(step, HTTPRequest):
                reply = self._send(step)
            else:
                self._sleep(step.seconds)
                reply = None

    def _send(self, request: HTTPRequest) -> HTTPResponse:
        try:
            response = self._http.request(
                request.method, request.path, json=request.body, timeout=request.timeout_s
            )
        except self._library.TransportError as error:
            return HTTPResponse(0, f"{self._http.base_url}: {error or type(error).__name__}")
        return to_http_response(response)

    def _stream(self, path: str, body: dict[str, Any]) -> Iterator[RemotePreview]:
        events = EventStreamParser()
        try:
            with self._http.stream("POST", path, json={**body, "stream": True}) as response:
                if response.status_code != 200:
                    response.read()
                    raise protocol.error_from_response(to_http_response(response))
                for line in response.iter_lines():
                    yield from events.feed(line)
        except self._library.TransportError as error:
            raise protocol.error_from_response(HTTPResponse(0, str(error))) from error
        events.close()


def to_http_response(response: httpx.Response) -> HTTPResponse:
    """Convert a response of httpx to an `HTTPResponse`."""
    wait = response.headers.get("Retry-After", "")
    return HTTPResponse(
        response.status_code, response.text, float(wait) if wait.isdigit() else None
    )
