"""Which names a server answers to.

A web page can give its own name the address 127.0.0.1 (DNS rebinding): to the browser, a server
there is then part of that page's site, and needs no key. Its requests still carry the page's name
in their `Host` header, so a server answers only to names that are its own.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from anytime_ar.errors import InputError

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
