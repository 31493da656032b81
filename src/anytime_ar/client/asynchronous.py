"""Asynchronous client of `anytime serve`, for programs with an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
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
from anytime_ar.client.synchronous import to_http_response

if TYPE_CHECKING:
    import httpx


class AsyncClient:
    """An asynchronous client of one server, with the methods of `Client` as coroutines.

    Args:
        url: URL of the server, such as `http://127.0.0.1:8000`.
        key: API key of the client; None: the server asks for none.
        transport: Transport of httpx, for tests; None: the network.
        clock: Function that returns a monotonic time in seconds.
        sleep: Coroutine function that waits a number of seconds.

    Raises:
        MissingExtraError: The package httpx is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Open the HTTP client without connecting to the server."""
        headers = {} if key is None else {b"Authorization": f"Bearer {key}".encode()}
        self._library = protocol.require_httpx()
        self._http = self._library.AsyncClient(
            base_url=url, headers=headers, transport=transport, timeout=None
        )
        self._clock, self._sleep = clock, sleep

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections of the client."""
        await self.close()

    async def close(self) -> None:
        """Close the connections of the client."""
        await self._http.aclose()

    async def sample(
        self, n: int = 1, *, deadline_s: float | None = None, **options: Any
    ) -> RemoteSampleResult:
        """Draw n samples; see `Client.sample`."""
        body = protocol.request_body(n=n, **options)
        return protocol.parse_result(await self._sample("/v1/samples", body, deadline_s))

    async def refine(
        self, id: str, *, deadline_s: float | None = None, **options: Any
    ) -> RemoteSampleResult:
        """Refine samples with more codes; see `Client.refine`."""
        body = protocol.request_body(**options)
        return protocol.parse_result(
            await self._sample(f"/v1/samples/{id}/refine", body, deadline_s)
        )

    async def stream(self, n: int = 1, **options: Any) -> AsyncIterator[RemotePreview]:
        """Draw n samples and yield previews; see `Client.stream`."""
        async for item in self._stream("/v1/samples", protocol.request_body(n=n, **options)):
            yield item

    async def stream_refine(self, id: str, **options: Any) -> AsyncIterator[RemotePreview]:
        """Refine samples and yield previews; see `Client.stream_refine`."""
        body = protocol.request_body(**options)
        async for item in self._stream(f"/v1/samples/{id}/refine", body):
            yield item

    async def stop(self, id: str) -> None:
        """Stop a running request, or release an ended session; see `Client.stop`."""
        await self._run(
            protocol.request_flow("DELETE", f"/v1/samples/{id}", deadline_s=None, clock=self._clock)
        )

    async def encode(self, samples: npt.ArrayLike, *, model: str | None = None) -> RemoteCodes:
        """Encode samples, float [B, *sample_shape] in [-1, 1]; see `Client.encode`."""
        body = protocol.encode_body(samples, model)
        return protocol.parse_codes(await self._post("/v1/encode", body))

    async def decode(
        self, codes: Sequence[Sequence[int]] | npt.NDArray[Any], *, model: str | None = None
    ) -> npt.NDArray[np.float32]:
        """Decode prefixes of codes, [B, k], to float32 [B, *sample_shape]; see `Client.decode`."""
        return protocol.parse_samples(
            await self._post("/v1/decode", protocol.decode_body(codes, model))
        )

    async def models(self) -> list[dict[str, Any]]:
        """Return the models of the server; see `Client.models`."""
        call = protocol.request_flow("GET", "/v1/models", deadline_s=None, clock=self._clock)
        models: list[dict[str, Any]] = (await self._run(call))["models"]
        return models

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        call = protocol.request_flow("POST", path, body, deadline_s=None, clock=self._clock)
        return await self._run(call)

    async def _sample(self, path: str, body: dict[str, Any], deadline_s: float | None) -> Any:
        call = protocol.request_flow(
            "POST", path, body, deadline_s=deadline_s, clock=self._clock, send_deadline=True
        )
        return await self._run(call)

    async def _run(self, flow: RequestFlow) -> Any:
        reply: HTTPResponse | None = None
        while True:
            try:
                step = flow.send(reply)
            except StopIteration as end:
                return end.value
            if isinstance(step, HTTPRequest):
                reply = await self._send(step)
            else:
                await self._sleep(step.seconds)
                reply = None

    async def _send(self, request: HTTPRequest) -> HTTPResponse:
        try:
            response = await self._http.request(
                request.method, request.path, json=request.body, timeout=request.timeout_s
            )
        except self._library.TransportError as error:
            return HTTPResponse(0, f"{self._http.base_url}: {error or type(error).__name__}")
        return to_http_response(response)

    async def _stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[RemotePreview]:
        events = EventStreamParser()
        try:
            async with self._http.stream("POST", path, json={**body, "stream": True}) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise protocol.error_from_response(to_http_response(response))
                async for line in response.aiter_lines():
                    for item in events.feed(line):
                        yield item
        except self._library.TransportError as error:
            raise protocol.error_from_response(HTTPResponse(0, str(error))) from error
        events.close()
