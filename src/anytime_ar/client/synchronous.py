"""The client for programs that wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
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
    """Talks to one server.

    Args:
        url: of the server.
        key: that it knows the client by; None: it asks for none.
        transport: of httpx; None: the network.
        clock: gives seconds.
        sleep: waits some.

    Raises:
        MissingExtraError: httpx is not installed.
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
        headers = {} if key is None else {b"Authorization": f"Bearer {key}".encode()}
        self._library = protocol.require_httpx()
        self._http = self._library.Client(
            base_url=url, headers=headers, transport=transport, timeout=None
        )
        self._clock, self._sleep = clock, sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def sample(
        self, n: int = 1, *, deadline_s: float | None = None, **options: Any
    ) -> RemoteSampleResult:
        """Draw n samples.

        Args:
            n: number of samples.
            deadline_s: seconds for the whole call, of which the server is told what is left at each
                try; None: no deadline, and no second try.
            options: `model`, `label`, `seed`, `first`, `codes`, `quality`, `min_codes`,
                `min_quality`, `temperature`, `top_k`, `top_p`, `guidance`, `with_codes`, `id`; see
                the server's /openapi.json.

        Raises:
            RequestFailed: there are no samples, and why.
        """
        body = protocol.request_body(n=n, **options)
        return protocol.parse_result(self._sample("/v1/samples", body, deadline_s))

    def refine(
        self, id: str, *, deadline_s: float | None = None, **options: Any
    ) -> RemoteSampleResult:
        """Go on with a draw; as `sample`."""
        body = protocol.request_body(**options)
        return protocol.parse_result(self._sample(f"/v1/samples/{id}/refine", body, deadline_s))

    def stream(self, n: int = 1, **options: Any) -> Iterator[RemotePreview]:
        """Draw n samples with previews, the last of which is a `RemoteSampleResult`. Closing the iterator
        stops the draw.

        Args:
            n: number of samples.
            options: as of `sample`, and `deadline_ms` and `previews_per_s`.

        Raises:
            RequestFailed: at an item: there are no samples, or no more of them.
        """
        yield from self._stream("/v1/samples", protocol.request_body(n=n, **options))

    def stream_refine(self, id: str, **options: Any) -> Iterator[RemotePreview]:
        """Go on with a draw; as `stream`."""
        yield from self._stream(f"/v1/samples/{id}/refine", protocol.request_body(**options))

    def stop(self, id: str) -> None:
        """Stop a draw, whose own call returns what it has; or let go of one that has ended, which
        can be refined for a few seconds more: the stop may have come too late."""
        self._run(
            protocol.request_flow("DELETE", f"/v1/samples/{id}", deadline_s=None, clock=self._clock)
        )

    def encode(self, samples: npt.ArrayLike, *, model: str | None = None) -> RemoteCodes:
        """Codes of samples, float32 [B, *sample_shape] in [-1, 1]."""
        body = protocol.encode_body(samples, model)
        return protocol.parse_codes(self._post("/v1/encode", body))

    def decode(
        self, codes: Sequence[Sequence[int]] | npt.NDArray[Any], *, model: str | None = None
    ) -> npt.NDArray[np.float32]:
        """Samples of any prefix of codes, [B, k]: float32 [B, *sample_shape]."""
        return protocol.parse_samples(self._post("/v1/decode", protocol.decode_body(codes, model)))

    def models(self) -> list[dict[str, Any]]:
        """What is served: names, shapes, labels, measured curves."""
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
    """An answer of httpx."""
    wait = response.headers.get("Retry-After", "")
    return HTTPResponse(
        response.status_code, response.text, float(wait) if wait.isdigit() else None
    )
