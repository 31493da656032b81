"""Which names a server answers to."""

from __future__ import annotations

import socket

import pytest
from real_server import RealServer

from anytime_ar.errors import InputError
from anytime_ar.serving.http.middleware import AllowedHosts

LOCAL = ("localhost", "LOCALHOST:8000", "localhost.", "a.localhost:1", "127.0.0.1", "127.3.2.1:80")
LOCAL += ("[::1]", "[::1]:8000", "::1", socket.gethostname(), f"{socket.gethostname()}:8000")
FOREIGN = ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example")
FOREIGN += ("evillocalhost", "", ":8000", "localhost@evil.example", "localhost/evil", "*")
FOREIGN += ("evil.example#localhost", "localhost,evil.example", "localhost evil.example")
ELSEWHERE = ("192.168.7.9", "10.1.2.3:8000", "[fe80::1]:8000")


@pytest.mark.parametrize("host", LOCAL)
@pytest.mark.parametrize("bound", ["127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.7"])
def test_own_names_are_answered_to(bound: str, host: str) -> None:
    assert AllowedHosts.for_server(bound).allows(host)


@pytest.mark.parametrize("host", FOREIGN)
@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0", "::"])
def test_names_of_others_are_not(bound: str, host: str) -> None:
    assert not AllowedHosts.for_server(bound, ["ok.example"]).allows(host)


@pytest.mark.parametrize("host", ELSEWHERE)
def test_addresses_are_answered_to_where_the_server_listens_at_all_of_them(host: str) -> None:
    assert AllowedHosts.for_server("0.0.0.0").allows(host)
    assert AllowedHosts.for_server("::").allows(host)
    assert not AllowedHosts.for_server("127.0.0.1").allows(host)
    assert not AllowedHosts.for_server("10.0.0.7").allows(host)
    assert AllowedHosts.for_server("127.0.0.1", [host.split(":8000")[0]]).allows(host)
    assert AllowedHosts.for_server("10.0.0.7").allows("10.0.0.7:8000")


def test_more_names_are_told() -> None:
    hosts = AllowedHosts.for_server("127.0.0.1", ["Anytime.example", "*.lab.example"])
    for host in ("anytime.example", "ANYTIME.example:443", "a.lab.example", "a.b.lab.example."):
        assert hosts.allows(host)
    for host in ("lab.example", "xlab.example", "b.anytime.example"):
        assert not hosts.allows(host)
    assert all(
        AllowedHosts.for_server("127.0.0.1", ["*"]).allows(host) for host in (*LOCAL, *ELSEWHERE)
    )
    assert AllowedHosts.for_server("127.0.0.1", ["*"]).allows("evil.example")


@pytest.mark.parametrize(
    "name", ["http://a.example", "a.example:80", "a b", "a/b", "a@b", "[::1]:1"]
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="is not a host name; pass names"):
        AllowedHosts.for_server("127.0.0.1", [name])


def test_a_page_that_points_its_name_here_gets_nothing(server: RealServer) -> None:
    body = {"n": 1, "codes": 1}
    with server.client(Host="evil.example") as client:
        answers = [client.get(path) for path in ("/", "/livez", "/metrics", "/v1/models", "/no")]
        answers += [client.post("/v1/samples", json=one) for one in (body, body | {"stream": True})]
        answers += [client.delete("/v1/samples/aaaaaaaa"), client.options("/v1/samples")]
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        answers.append(client.get("/", headers=upgrade | {"Sec-WebSocket-Key": "a" * 22 + "=="}))
    for answer in answers:
        assert answer.status_code == 421
        told = answer.json()["error"]
        assert told["code"] == "wrong_host"
        assert "--allowed-hosts" in told["message"]
    with server.client(Host="localhost:1234") as client:
        assert client.get("/v1/models").status_code == 200
