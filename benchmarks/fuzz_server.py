"""Send invalid and hostile requests to a server, and check that it replies and keeps running.

    anytime serve mnist --port 8000
    python benchmarks/fuzz_server.py http://127.0.0.1:8000 --pid $(pgrep -f "anytime serve")

schemathesis generates half of the requests from the server's own OpenAPI document, valid and
invalid ones. The other half are:

- bytes that are not HTTP, and connections that end early;
- broken JSON, invalid numbers and wrong types;
- broken images and audio, and decompression bombs (`fuzz_media`);
- path traversal, other host names, large headers and bodies.

Violations are a 5xx status other than 503 and 504, an error in another format than ours, a
traceback, no response, and, with `--pid`, growing memory.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import itertools
import json
import random
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import schemathesis
from fuzz_media import hostile_file
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis.errors import Unsatisfiable
from process_stats import memory_mb

ALLOWED = {503, 504}
"""Server error statuses that are not violations."""
INVALID_HTTP_TEXT = "Invalid HTTP request received."
"""Response of the HTTP parser itself, before there is a request."""
GROWTH = 1.05
"""Limit of the final memory, relative to the memory in the first fifth of the requests."""


@dataclass
class FuzzReport:
    """The counts and violations of one fuzzing run."""

    requests: int = 0
    """Number of requests that were sent."""
    statuses: Counter[int] = field(default_factory=Counter)
    """Number of responses by status."""
    violations: list[str] = field(default_factory=list)
    """Descriptions of violations, at most a hundred."""

    def record_response(self, what: str, status: int, text: str) -> None:
        """Count a response and record its violations.

        Args:
            what: description of the request.
            status: status of the response.
            text: body of the response, as text.
        """
        self.requests += 1
        self.statuses[status] += 1
        if status >= 500 and status not in ALLOWED:
            self.record_violation(f"{what}: {status} {text[:300]}")
        elif "Traceback" in text or 'File "' in text:
            self.record_violation(f"{what}: a traceback: {text[:300]}")
        elif status >= 400 and not _is_error(text) and text != INVALID_HTTP_TEXT:
            self.record_violation(f"{what}: {status} is no error of ours: {text[:300]}")

    def record_violation(self, what: str) -> None:
        """Record a violation unless there are a hundred."""
        if len(self.violations) < 100:
            self.violations.append(what)


def fuzz(
    url: str, *, requests: int, seed: int, progress: Callable[[int], None] = lambda _: None
) -> FuzzReport:
    """Send requests of both kinds.

    Args:
        url: address of the server.
        requests: approximate number of requests.
        seed: seed of the requests.
        progress: called with the number of requests sent.
    """
    report = FuzzReport()
    with httpx.Client(base_url=url, timeout=60.0) as client:
        _from_schema(client, report, requests // 2, seed, progress)
        _from_generators(client, url, report, requests - report.requests, seed, progress)
    return report


def _from_schema(
    client: httpx.Client,
    report: FuzzReport,
    requests: int,
    seed: int,
    progress: Callable[[int], None],
) -> None:
    """Send requests that schemathesis generates from the OpenAPI document."""
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    operations = [result.ok() for result in schema.get_all_operations()]
    each = max(1, requests // (2 * len(operations)))
    for operation in operations:
        for valid in (True, False):
            _from_operation(client, report, operation, valid, each, seed, progress)


def _from_operation(
    client: httpx.Client,
    report: FuzzReport,
    operation: Any,
    valid: bool,
    requests: int,
    seed: int,
    progress: Callable[[int], None],
) -> None:
    """Send valid or invalid requests for one operation of the OpenAPI document."""
    mode = schemathesis.GenerationMode.POSITIVE if valid else schemathesis.GenerationMode.NEGATIVE

    @hypothesis_seed(seed)
    @settings(
        max_examples=requests,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        if valid and isinstance(case.body, dict):
            for name in ("model", "label", "min_quality", "id"):  # random values are mostly unknown
                case.body.pop(name, None)
            case.body["n"] = min(case.body.get("n", 1), 8)
        values = case.as_transport_kwargs(base_url=str(client.base_url).rstrip("/"))
        try:
            response = client.request(**_for_httpx(values))
        except (httpx.InvalidURL, httpx.LocalProtocolError, UnicodeError, TypeError, ValueError):
            return  # httpx cannot send this request
        report.record_response(
            f"{case.method} {case.path}", response.status_code, _response_text(response)
        )
        progress(report.requests)

    with contextlib.suppress(Unsatisfiable):  # some operations have no invalid requests
        send()


def _for_httpx(values: dict[str, Any]) -> dict[str, Any]:
    """Return the request arguments of another library for httpx, with bodies as bytes."""
    kept = {name: values[name] for name in ("method", "url", "headers", "params") if name in values}
    if "json" in values:
        kept["content"] = json.dumps(values["json"]).encode()
        kept["headers"] = {**(kept.get("headers") or {}), "Content-Type": "application/json"}
    elif isinstance(values.get("data"), str | bytes):
        kept["content"] = values["data"]
    return kept


def _response_text(response: httpx.Response) -> str:
    """Return the body of a text response, else an empty string."""
    kind = response.headers.get("content-type", "")
    return response.text if kind.startswith(("application/json", "text/")) else ""


def _is_error(text: str) -> bool:
    """Return whether a text is an error in the format of the server."""
    try:
        return {"code", "message"} <= json.loads(text)["error"].keys()
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


PATHS = (
    "/v1/samples",
    "/v1/encode",
    "/v1/decode",
    "/v1/samples/aaaaaaaa/refine",
    "/v1/samples/../../../etc/passwd",
    "/v1//samples",
    "/page/../app.py",
    "/page/%2e%2e%2fapp.py",
    "/%00",
    "/\u2603",
    "/v1/samples/" + "a" * 3000,
    "/metrics/../livez",
)
"""Request paths, most of them invalid."""
METHODS = ("POST", "GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "NONSENSE")
"""Request methods; the first is valid for most paths."""
NUMBERS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-1",
    "0",
    "1.5",
    "99999999999999999999999",
    "true",
    "null",
    '"7"',
    "[]",
    "{}",
    "[[1]]",
    '"\\ud800"',
)
"""JSON values to put where a number belongs."""
FIELDS = (
    "n",
    "codes",
    "min_codes",
    "deadline_ms",
    "quality",
    "min_quality",
    "seed",
    "first",
    "label",
    "temperature",
    "top_k",
    "top_p",
    "guidance",
    "format",
    "stream",
    "previews_per_s",
    "model",
    "id",
    "samples",
    "nothing",
)
"""Names of fields in request bodies."""


def _bodies(draw: random.Random) -> Iterator[bytes]:
    """Yield request bodies, most of them invalid."""
    for i in itertools.count():
        names = draw.sample(FIELDS, draw.randint(1, 4))
        pairs = ", ".join(f'"{name}": {draw.choice(NUMBERS)}' for name in names)
        yield f"{{{pairs}}}".encode()
        yield draw.randbytes(draw.randint(0, 200))
        yield b"[" * draw.choice((10, 1000, 100_000))
        yield b'{"n": 1' + b" " * draw.randint(0, 5000)
        yield json.dumps(
            {"codes": [[draw.randint(-5, 40) for _ in range(draw.randint(0, 30))]]}
        ).encode()
        yield json.dumps({"n": draw.randint(1, 8), "codes": 3, "stream": i % 2 == 0}).encode()
        yield json.dumps({"samples": [draw.choice(("", "AAAA", "%%%", "iVBORw0KGgo="))]}).encode()


def _from_generators(
    client: httpx.Client,
    url: str,
    report: FuzzReport,
    requests: int,
    seed: int,
    progress: Callable[[int], None],
) -> None:
    """Send requests from our own generators."""
    draw = random.Random(seed)
    bodies = _bodies(draw)
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    models = [model["name"] for model in client.get("/v1/models").json()["models"]]
    for i in range(requests):
        if i % 5 == 4:
            _raw(host, int(port), next(bodies), draw, report)
        elif i % 5 == 3:
            _encode(client, draw.choice(models), draw, report)
        else:
            method, path = draw.choice(METHODS[: 1 + 8 * (i % 3 == 0)]), draw.choice(PATHS)
            headers = {"Content-Type": draw.choice(("application/json", "text/plain", "nonsense"))}
            if i % 7 == 0:
                headers["X-" + "y" * draw.randint(1, 50)] = "z" * draw.choice((10, 5_000, 30_000))
            if i % 11 == 0:
                headers["Host"] = draw.choice(("evil.example", "localhost", "x" * 300, "[", ""))
            response = client.request(method, path, content=next(bodies), headers=headers)
            text = (
                _response_text(response)
                if method != "HEAD"
                else '{"error": {"code": 0, "message": 0}}'
            )
            report.record_response(f"{method} {path[:60]}", response.status_code, text)
        progress(report.requests)


def _encode(client: httpx.Client, model: str, draw: random.Random, report: FuzzReport) -> None:
    """Send images, audio and arrays, which the server encodes or refuses with a reason."""
    files = [hostile_file(draw) for _ in range(draw.choice((1, 1, 1, 3)))]
    body = {"model": model, "samples": [base64.b64encode(file).decode() for file in files]}
    response = client.post("/v1/encode", json=body)
    report.record_response(f"encode {files[0][:40]!r}", response.status_code, response.text)
    if response.status_code not in {200, 422, *ALLOWED}:
        report.record_violation(f"encode {files[0][:40]!r}: {response.status_code}")


def _raw(host: str, port: int, body: bytes, draw: random.Random, report: FuzzReport) -> None:
    """Send bytes that are barely HTTP, or that end early.

    The server may close the connection, but must keep running.
    """
    head = b"POST /v1/samples HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    message = draw.choice(
        (
            draw.randbytes(300),
            head + b"Content-Length: 100000\r\n\r\n" + body,
            head + b"Content-Length: -5\r\n\r\n" + body,
            head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + body,
            head + b"X-Long: " + b"a" * 200_000 + b"\r\n\r\n",
            head + b"Content-Length: 2\r\n\r\n{}" * 3,
            b"GET / HTTP/9.9\r\n\r\n",
            head,
        )
    )
    report.requests += 1
    try:
        with socket.create_connection((host, port), timeout=10) as connection:
            connection.sendall(message)
            connection.settimeout(0.05)
            answer = connection.recv(65536)
        status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0
        if status >= 500 and status not in ALLOWED:
            report.record_violation(f"raw {message[:60]!r}: {answer[:300]!r}")
    except (TimeoutError, ConnectionError):
        pass  # the server waits for the rest or closes the connection: both are valid


def main() -> None:
    """Fuzz a server and print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pid", type=int, help="of the server, to see its memory")
    options = parser.parse_args()
    seen: list[tuple[int, float]] = []

    def progress(done: int) -> None:
        if options.pid is not None and done % 100 == 0:
            seen.append((done, memory_mb(options.pid)))

    report = fuzz(options.url, requests=options.requests, seed=options.seed, progress=progress)
    print(f"{report.requests} requests; by status: {dict(sorted(report.statuses.items()))}")
    if seen:
        early = [mb for done, mb in seen if done <= report.requests / 5]
        print(f"memory {max(early):.0f} MB after a fifth, {seen[-1][1]:.0f} MB in the end")
        if seen[-1][1] > GROWTH * max(early):
            report.record_violation("memory grew")
    print("\n".join(report.violations) or "nothing wrong")
    sys.exit(bool(report.violations))


if __name__ == "__main__":
    main()
