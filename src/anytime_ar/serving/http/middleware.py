"""What every request passes first: its arrival is noted, its host and its key checked, its headers
measured.

HEAD is answered here as well, for all paths at once: as GET, without the body."""

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

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
RequestObserver = Callable[[RequestContext, Scope, int], None]

MAX_HEADER_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 2**20
UNAUTHENTICATED_PATHS = ("/livez", "/readyz")
"""That need no key: whoever restarts the server, or sends requests its way, has none. They tell yes
or no and nothing else."""
_WEBSOCKET_UNSUPPORTED = 1003
_AUTH_CHALLENGE = {"WWW-Authenticate": 'Basic realm="anytime-ar", charset="UTF-8"'}


class RequestMiddleware:
    """ASGI middleware.

    Args:
        app: behind it.
        keys: names of clients by the SHA-256 of their keys; None: everyone may come.
        hosts: names that are answered to.
        clock: the server's.
        lag: of the thread in which all this is done.
        observe: told of every request that has been answered: its path's scope and its status.
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
        self._app, self._keys, self._hosts, self._clock = app, keys, hosts, clock
        self._lag, self._observe = lag, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # no path speaks anything else
            await receive()
            await send({"type": "websocket.close", "code": _WEBSOCKET_UNSUPPORTED})
            return
        arrival = self._clock() - self._lag.seconds  # it has waited to be read
        call = RequestContext(self._clock, arrival, client=(scope.get("client") or ("?",))[0])
        scope.setdefault("state", {})["context"] = call
        status = 499  # the client left before there was an answer
        method = scope["method"]
        # A copy: the server that calls us still has to know that the method is HEAD.
        inner = {**scope, "method": "GET" if method == "HEAD" else method}

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        try:
            refusal = self._reject(scope, call)
            await (refusal or self._app)(inner, receive, noting_send)
        finally:
            self._observe(call, {**inner, "method": method}, status)

    def _reject(self, scope: Scope, context: RequestContext) -> Response | None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
            context.error = "too_large"
            return error_response(
                431, "too_large", f"headers take more than {MAX_HEADER_BYTES} bytes; send fewer"
            )
        for header, value in headers:
            if header == b"host" and not self._hosts.allows(value.decode("latin-1")):
                context.error = "wrong_host"
                return error_response(
                    421,
                    "wrong_host",
                    "this server does not answer to the name in the header Host; if it should, "
                    "start it with --allowed-hosts NAME",
                )
        if self._lag.overloaded and scope["method"] == "POST":
            context.error = "overloaded"
            return error_response(
                503, "overloaded", "more requests come than can be read; try again", retry_after_s=1
            )
        length = dict(headers).get(b"content-length", b"")
        if length.isdigit() and int(length) > MAX_BODY_BYTES:
            context.error = "too_large"
            return error_response(
                413, "too_large", f"the body has more than {MAX_BODY_BYTES} bytes; send less"
            )
        if self._keys is None or scope["path"] in UNAUTHENTICATED_PATHS:
            return None
        name = self._keys.get(_authorization_digest(dict(headers).get(b"authorization", b"")))
        if name is None:
            context.error = "unauthorized"
            return error_response(
                401,
                "unauthorized",
                "send one of the server's keys: Authorization: Bearer KEY",
                headers=_AUTH_CHALLENGE,
            )
        context.client = name
        return None


def key_digest(key: str | bytes) -> bytes:
    """By which a key is looked up: equal time for all that are wrong. Text is taken as UTF-8."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()


def _authorization_digest(authorization: bytes) -> bytes:
    """Of the key in a header: `Bearer KEY`, or from a browser `Basic` with the key as password.

    The key is bytes, in UTF-8; some clients write headers in Latin-1, which is hardly ever valid
    UTF-8 as well.
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
    """Names that are answered to."""

    names: frozenset[str]
    """In lower case; `*.example.org` is all below example.org, `*` is every name."""
    any_ip: bool
    """Whether all IP addresses are answered to, and not only those that lead from this machine to
    itself. No page has another's address as its name, so this is safe."""

    @classmethod
    def for_server(cls, bind_host: str, allowed: Iterable[str] = ()) -> AllowedHosts:
        """Collect the own names of a server.

        Args:
            bind_host: the address or name that it listens at.
            allowed: further names.

        Raises:
            InputError: one of them is no name.
        """
        names = {*_LOCAL_NAMES, _normalise(bind_host), _normalise(socket.gethostname())}
        for name in allowed:
            if not re.fullmatch(r"[\w.*-]+|\[?[0-9a-fA-F:.]+\]?", name) or _has_port(name):
                raise InputError(
                    f"allowed_hosts: {name!r} is no name of a host; pass names like example.org or "
                    "*.example.org, or * for all, without http:// and without a port"
                )
            names.add(_normalise(name))
        address = _parse_ip(bind_host)
        if address is None or not address.is_loopback:
            names.add(_normalise(socket.getfqdn()))  # may ask the network
        return cls(frozenset(names), address is not None and address.is_unspecified)

    def allows(self, host: str | None) -> bool:
        """Whether the value of a `Host` header is one of them, with or without a port. None: there
        is no such header; programs may leave it out, browsers never do."""
        if host is None:
            return True
        name = _normalise(_PORT.sub("", host) if _has_port(host) else host)
        address = _parse_ip(name)
        if address is not None and (address.is_loopback or self.any_ip):
            return True
        return any(fnmatchcase(name, own) for own in self.names)


def _has_port(host: str) -> bool:
    """Whether it ends with a port; the colons of an IPv6 address without brackets are none."""
    return bool(_PORT.search(host)) and (host.count(":") == 1 or "]:" in host)


def _normalise(host: str) -> str:
    """A name as it is compared."""
    name = host.lower().removesuffix(".").removeprefix("[").removesuffix("]")
    address = _parse_ip(name)
    return name if address is None else str(address)


def _parse_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An IP address; None: it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


MAX_LAG_S = 0.5
"""Behind by more than this, requests are turned away at the door, at a tenth of their cost."""
_LAG_INTERVAL_S = 0.01
_LAG_DECAY = 0.8


class EventLoopLag:
    """Watches the event loop.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.seconds = 0.0
        """That a request waits, about, until it is looked at."""

    @property
    def overloaded(self) -> bool:
        """Whether there is more to do than can be done."""
        return self.seconds > MAX_LAG_S

    async def measure(self) -> None:
        """Until it is cancelled."""
        while True:
            begin = self._clock()
            await asyncio.sleep(_LAG_INTERVAL_S)
            late_s = max(0.0, self._clock() - begin - _LAG_INTERVAL_S)
            self.seconds = max(late_s, _LAG_DECAY * self.seconds)
