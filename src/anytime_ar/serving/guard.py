"""What every request passes first: its arrival is noted, its host and its key checked, its headers
measured.

HEAD is answered here as well, for all paths at once: as GET, without the body."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from starlette.responses import Response

from anytime_ar.serving.call import RequestContext
from anytime_ar.serving.failures import error_response
from anytime_ar.serving.hosts import AllowedHosts
from anytime_ar.serving.lag import EventLoopLag

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
