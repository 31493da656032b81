"""Clients of `anytime serve`: one that blocks until the response, and one for an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
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


class _Calls:
    """Requests that both clients send.

    Args:
        url: URL of the server.
        key: API key of the client; None: the server asks for none.
        clock: Function that returns a monotonic time in seconds.
    """

    _http: Any
    """Client of httpx, blocking or asynchronous."""

    def __init__(self, url: str, key: str | None, clock: Callable[[], float]) -> None:
        """Import httpx and store what its client needs."""
        headers = {} if key is None else {b"Authorization": f"Bearer {key}".encode()}
        self._library = protocol.require_httpx()
        self._settings: dict[str, Any] = {"base_url": url, "headers": headers, "timeout": None}
        self._clock = clock

    def _call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        deadline_s: float | None = None,
    ) -> RequestFlow:
        """Return the flow of a call; see `request_flow`."""
        return protocol.request_flow(method, path, body, deadline_s=deadline_s, clock=self._clock)

    def _unreachable(self, error: Exception) -> HTTPResponse:
        """Return the response that stands for an error of the transport."""
        return HTTPResponse(0, f"{self._http.base_url}: {error or type(error).__name__}")


class Client(_Calls):
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
        super().__init__(url, key, clock)
        self._http = self._library.Client(transport=transport, **self._settings)
        self._sleep = sleep

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
                `min_quality`, `temperature`, `top_k`, `top_p`, `guidance`, `conditions`,
                `condition_guidance`, `fixed_codes`,
                `candidates`, `candidate_codes`, `with_codes`, `id`; see /openapi.json of the
                server.

        Raises:
            RequestFailed: The server returned an error, or no response.
        """
        body = protocol.request_body(n=n, **options)
        return protocol.parse_result(self._run(self._call("POST", "/v1/samples", body, deadline_s)))

    def vary(
        self,
        x: str | RemotePreview | npt.ArrayLike,
        n: int = 1,
        *,
        keep: int,
        index: int = 0,
        deadline_s: float | None = None,
        **options: Any,
    ) -> RemoteSampleResult:
        """Draw n variations of a sample: its first codes are kept, and the others drawn anew.

        Args:
            x: What `sample` or `refine` returned, its id, or a sample, float [*sample_shape] in
                [-1, 1].
            n: Number of variations.
            keep: Number of codes to keep.
            index: Index of the sample among those of an earlier request.
            deadline_s: As for `sample`.
            **options: As for `sample`, without `fixed_codes`.

        Raises:
            RequestFailed: The session has expired, the server returned another error, or there was
                no response.
        """
        return self.sample(
            n, deadline_s=deadline_s, vary=protocol.vary_params(x, keep, index), **options
        )

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
        call = self._call("POST", f"/v1/samples/{id}/refine", body, deadline_s)
        return protocol.parse_result(self._run(call))

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
        self._run(self._call("DELETE", f"/v1/samples/{id}"))

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
        return protocol.parse_codes(self._run(self._call("POST", "/v1/encode", body)))

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
        body = protocol.decode_body(codes, model)
        return protocol.parse_samples(self._run(self._call("POST", "/v1/decode", body)))

    def models(self) -> list[dict[str, Any]]:
        """Return the models of the server: names, shapes, labels and measured curves.

        Raises:
            RequestFailed: The server returned an error, or no response.
        """
        models: list[dict[str, Any]] = self._run(self._call("GET", "/v1/models"))["models"]
        return models

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
            return self._unreachable(error)
        return _to_http_response(response)

    def _stream(self, path: str, body: dict[str, Any]) -> Iterator[RemotePreview]:
        events = EventStreamParser()
        try:
            with self._http.stream("POST", path, json={**body, "stream": True}) as response:
                if response.status_code != 200:
                    response.read()
                    raise protocol.error_from_response(_to_http_response(response))
                for line in response.iter_lines():
                    yield from events.feed(line)
        except self._library.TransportError as error:
            raise protocol.error_from_response(HTTPResponse(0, str(error))) from error
        events.close()


class AsyncClient(_Calls):
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
        super().__init__(url, key, clock)
        self._http = self._library.AsyncClient(transport=transport, **self._settings)
        self._sleep = sleep

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
        call = self._call("POST", "/v1/samples", body, deadline_s)
        return protocol.parse_result(await self._run(call))

    async def vary(
        self,
        x: str | RemotePreview | npt.ArrayLike,
        n: int = 1,
        *,
        keep: int,
        index: int = 0,
        deadline_s: float | None = None,
        **options: Any,
    ) -> RemoteSampleResult:
        """Draw n variations of a sample; see `Client.vary`."""
        return await self.sample(
            n, deadline_s=deadline_s, vary=protocol.vary_params(x, keep, index), **options
        )

    async def refine(
        self, id: str, *, deadline_s: float | None = None, **options: Any
    ) -> RemoteSampleResult:
        """Refine samples with more codes; see `Client.refine`."""
        body = protocol.request_body(**options)
        call = self._call("POST", f"/v1/samples/{id}/refine", body, deadline_s)
        return protocol.parse_result(await self._run(call))

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
        await self._run(self._call("DELETE", f"/v1/samples/{id}"))

    async def encode(self, samples: npt.ArrayLike, *, model: str | None = None) -> RemoteCodes:
        """Encode samples, float [B, *sample_shape] in [-1, 1]; see `Client.encode`."""
        body = protocol.encode_body(samples, model)
        return protocol.parse_codes(await self._run(self._call("POST", "/v1/encode", body)))

    async def decode(
        self, codes: Sequence[Sequence[int]] | npt.NDArray[Any], *, model: str | None = None
    ) -> npt.NDArray[np.float32]:
        """Decode prefixes of codes, [B, k], to float32 [B, *sample_shape]; see `Client.decode`."""
        body = protocol.decode_body(codes, model)
        return protocol.parse_samples(await self._run(self._call("POST", "/v1/decode", body)))

    async def models(self) -> list[dict[str, Any]]:
        """Return the models of the server; see `Client.models`."""
        models: list[dict[str, Any]] = (await self._run(self._call("GET", "/v1/models")))["models"]
        return models

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
            return self._unreachable(error)
        return _to_http_response(response)

    async def _stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[RemotePreview]:
        events = EventStreamParser()
        try:
            async with self._http.stream("POST", path, json={**body, "stream": True}) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise protocol.error_from_response(_to_http_response(response))
                async for line in response.aiter_lines():
                    for item in events.feed(line):
                        yield item
        except self._library.TransportError as error:
            raise protocol.error_from_response(HTTPResponse(0, str(error))) from error
        events.close()


def _to_http_response(response: httpx.Response) -> HTTPResponse:
    """Convert a response of httpx to an `HTTPResponse`."""
    wait = response.headers.get("Retry-After", "")
    return HTTPResponse(
        response.status_code, response.text, float(wait) if wait.isdigit() else None
    )
