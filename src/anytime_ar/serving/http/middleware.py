"""ASGI middleware that checks the size, the host and the API key of every request.

It records the arrival of requests and turns HEAD into GET without the body, for all paths.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from starlette.responses import Response

from anytime_ar.errors import InputError
from anytime_ar.serving.engine.jobs import RequestContext
from anytime_ar.serving.http.errors import error_response
from anytime_ar.serving.schema import ErrorCode

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
RequestObserver = Callable[[RequestContext, Scope, int], None]

MAX_HEADER_BYTES = 16 * 1024
"""Maximum bytes of all headers of a request."""
MAX_BODY_BYTES = 64 * 2**20
"""Maximum bytes of the body of a request."""
UNAUTHENTICATED_PATHS = ("/livez", "/readyz")
"""Paths that need no API key, as orchestrators and load balancers have none. They reveal only the
health of the server."""
_WEBSOCKET_UNSUPPORTED = 1003
_AUTH_CHALLENGE = {"WWW-Authenticate": 'Basic realm="anytime-ar", charset="UTF-8"'}


class RequestMiddleware:
    """ASGI middleware that checks requests and reports the answered ones.

    Args:
        app: ASGI application that answers the accepted requests.
        keys: Names of clients by the SHA-256 of their API keys; None to accept requests without a
            key.
        hosts: Host names that the server answers to.
        clock: Clock of the server, in seconds.
        lag: Lag of the event loop that reads the requests.
        observe: Function that is called after each answered request with its context, its ASGI
            scope and its HTTP status.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Mapping[bytes, str] | None,
        hosts: AllowedHosts,
        clock: Callable[[], float],
        lag: EventLoopLag,
        observe: RequestObserver,
    ) -> None:
        """Wrap an ASGI application."""
        self._app, self._keys, self._hosts, self._clock = app, keys, hosts, clock
        self._lag, self._observe = lag, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection.

        Args:
            scope: ASGI scope of the connection.
            receive: Function that receives the next ASGI message of the client.
            send: Function that sends an ASGI message to the client.
        """
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # WebSocket: no path supports it
            await receive()
            await send({"type": "websocket.close", "code": _WEBSOCKET_UNSUPPORTED})
            return
        arrival = self._clock() - self._lag.seconds  # the request waited for the event loop
        context = RequestContext(self._clock, arrival, client=(scope.get("client") or ("?",))[0])
        scope.setdefault("state", {})["context"] = context
        status = 499  # for clients that disconnect before a response
        method = scope["method"]
        # A copy, because uvicorn still reads the method HEAD from the original scope.
        inner = {**scope, "method": "GET" if method == "HEAD" else method}

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        try:
            refusal = self._reject(scope, context)
            await (refusal or self._app)(inner, receive, noting_send)
        finally:
            self._observe(context, {**inner, "method": method}, status)

    def _reject(self, scope: Scope, context: RequestContext) -> Response | None:
        def refuse(status: int, code: ErrorCode, message: str, **options: Any) -> Response:
            context.error = code
            return error_response(status, code, message, **options)

        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
            return refuse(
                431, "too_large", f"headers take more than {MAX_HEADER_BYTES} bytes; send fewer"
            )
        for header, value in headers:
            if header == b"host" and not self._hosts.allows(value.decode("latin-1")):
                return refuse(
                    421,
                    "wrong_host",
                    "the server does not accept the name in the header Host; if it should, "
                    "start it with --allowed-hosts NAME",
                )
        if self._lag.overloaded and scope["method"] == "POST":
            return refuse(
                503,
                "overloaded",
                "the server receives more requests than it can read; try again",
                retry_after_s=1,
            )
        length = dict(headers).get(b"content-length", b"")
        if length.isdigit() and int(length) > MAX_BODY_BYTES:
            return refuse(
                413, "too_large", f"the body has more than {MAX_BODY_BYTES} bytes; send less"
            )
        coding = dict(headers).get(b"content-encoding", b"identity").strip().lower()
        if coding not in (b"", b"identity") and scope["method"] == "POST":
            return refuse(
                415,
                "invalid",
                f"the header Content-Encoding is {coding[:40].decode('latin-1')!r}, and the server "
                "reads bodies without an encoding; send plain JSON without this header",
                headers={"Accept-Encoding": "identity"},
            )
        if self._keys is None or scope["path"] in UNAUTHENTICATED_PATHS:
            return None
        name = self._keys.get(_authorization_digest(dict(headers).get(b"authorization", b"")))
        if name is None:
            return refuse(
                401,
                "unauthorized",
                "send one of the server's keys: Authorization: Bearer KEY",
                headers=_AUTH_CHALLENGE,
            )
        context.client = name
        return None


def key_digest(key: str | bytes) -> bytes:
    """Return the SHA-256 digest by which an API key is looked up.

    A look-up by digest takes equally long for all wrong keys. Text is encoded as UTF-8.
    """
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()


def _authorization_digest(authorization: bytes) -> bytes:
    """Return the digest of the API key in the header Authorization.

    The header is `Bearer KEY`, or from browsers `Basic` with the key as password. The key is
    UTF-8. Some clients write headers in Latin-1, which is hardly ever valid UTF-8 as well.

    Args:
        authorization: Value of the header; empty without one.
    """
    scheme, _, value = authorization.partition(b" ")
    if scheme.lower() == b"basic":
        try:
            value = base64.b64decode(value, validate=True).partition(b":")[2]
        except binascii.Error:
            value = b""
    value = value.strip()
    try:
        value.decode()
    except UnicodeDecodeError:
        return key_digest(value.decode("latin-1"))
    return key_digest(value)


_LOCAL_NAMES = ("localhost", "*.localhost")
_PORT = re.compile(r":\d*$")


@dataclass(frozen=True)
class AllowedHosts:
    """Host names that the server answers to."""

    names: frozenset[str]
    """Names in lower case. `*.example.org` matches all names below example.org, `*` every name."""
    any_ip: bool
    """Whether all IP addresses are allowed, rather than loopback addresses only. This is safe: DNS
    rebinding attacks, which the check of names prevents, need a host name."""

    @classmethod
    def for_server(cls, bind_host: str, allowed: Iterable[str] = ()) -> AllowedHosts:
        """Collect the names of a server.

        They are localhost, the address that it listens at, the names of the machine, and `allowed`.

        Args:
            bind_host: Address or host name that the server listens at.
            allowed: Further host names.

        Raises:
            InputError: One of `allowed` is not a host name.
        """
        names = {*_LOCAL_NAMES, _normalise(bind_host), _normalise(socket.gethostname())}
        for name in allowed:
            if not re.fullmatch(r"[\w.*-]+|\[?[0-9a-fA-F:.]+\]?", name) or _has_port(name):
                raise InputError(
                    f"allowed_hosts: {name!r} is not a host name; pass names like example.org or "
                    "*.example.org, or * for all, without http:// and without a port"
                )
            names.add(_normalise(name))
        address = _parse_ip(bind_host)
        if address is None or not address.is_loopback:
            names.add(_normalise(socket.getfqdn()))  # may send a DNS query
        return cls(frozenset(names), address is not None and address.is_unspecified)

    def allows(self, host: str | None) -> bool:
        """Return whether the server answers to a host.

        Args:
            host: Value of the header Host, with or without a port. None if a request has no such
                header, which is allowed: programs may leave it out, browsers never do.
        """
        if host is None:
            return True
        name = _normalise(_PORT.sub("", host) if _has_port(host) else host)
        address = _parse_ip(name)
        if address is not None and (address.is_loopback or self.any_ip):
            return True
        return any(fnmatchcase(name, own) for own in self.names)


def _has_port(host: str) -> bool:
    """Return whether a host ends with a port.

    The colons of an IPv6 address without brackets do not count.
    """
    return bool(_PORT.search(host)) and (host.count(":") == 1 or "]:" in host)


def _normalise(host: str) -> str:
    """Return a host name in the form in which names are compared."""
    name = host.lower().removesuffix(".").removeprefix("[").removesuffix("]")
    address = _parse_ip(name)
    return name if address is None else str(address)


def _parse_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address that a host is; None if it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


MAX_LAG_S = 0.5
"""Lag in seconds above which POST requests are refused unread, at a tenth of their cost."""
_LAG_INTERVAL_S = 0.01
_LAG_DECAY = 0.8


class EventLoopLag:
    """A measurement of the lag of the event loop.

    Args:
        clock: Clock of the server, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Start with a lag of 0."""
        self._clock = clock
        self.seconds = 0.0
        """Approximate seconds that a request waits until the event loop reads it."""

    @property
    def overloaded(self) -> bool:
        """Return whether the lag exceeds `MAX_LAG_S`."""
        return self.seconds > MAX_LAG_S

    async def measure(self) -> None:
        """Measure the lag until cancelled."""
        while True:
            begin = self._clock()
            await asyncio.sleep(_LAG_INTERVAL_S)
            late_s = max(0.0, self._clock() - begin - _LAG_INTERVAL_S)
            self.seconds = max(late_s, _LAG_DECAY * self.seconds)
