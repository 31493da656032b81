"""Measure server memory held by clients that do not read their streams, and by stored samples.

    anytime serve fsdd --port 8000
    python benchmarks/slow_readers.py http://127.0.0.1:8000 --pid PID

It reads the memory from /proc, so it runs on the machine of the server.
"""

from __future__ import annotations

import argparse
import json
import socket
import time

import httpx
from process_stats import memory_mb


def open_stream(host: str, port: int, n: int) -> socket.socket:
    """Open a stream that the client never reads, and return its socket."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect((host, port))
    body = json.dumps({"n": n, "stream": True}).encode()
    raw.sendall(
        b"POST /v1/samples HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    return raw


def main() -> None:
    """Open streams and generate samples, and print the memory of the server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--pid", type=int, required=True, help="of the server")
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--draws", type=int, default=3000)
    options = parser.parse_args()
    url = httpx.URL(options.url)
    with httpx.Client(base_url=options.url, timeout=120) as client:

        def idle() -> bool:
            load = client.get("/v1/load").json()["models"]
            return not any(one["rows"] or one["waiting"] for one in load)

        client.post("/v1/samples", json={"n": options.n})
        print(f"at first {memory_mb(options.pid):.0f} MB")
        assert url.port is not None
        streams = [open_stream(url.host, url.port, options.n) for _ in range(options.streams)]
        most = 0.0
        time.sleep(1)
        while not idle():
            most = max(most, memory_mb(options.pid))
            time.sleep(0.1)
        most = max(most, memory_mb(options.pid))
        print(f"{options.streams} streams of {options.n} that nobody reads: {most:.0f} MB at most")
        for stream in streams:
            stream.close()
        time.sleep(1)
        before = memory_mb(options.pid)
        for _ in range(options.draws):
            client.post("/v1/samples", json={"codes": 1}).raise_for_status()
        now = memory_mb(options.pid)
        each = 1024 * (now - before) / options.draws
        print(f"{options.draws} kept draws: from {before:.0f} to {now:.0f} MB, {each:.1f} KB each")


if __name__ == "__main__":
    main()
