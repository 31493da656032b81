"""Start `anytime serve` as a process and connect to it, for benchmarks."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx


class ConnectionPool:
    """Persistent connections, as many as there are requests in flight.

    At the request rates of the benchmarks, httpx would take much of the machine from the server.

    Args:
        url: address of the server.
    """

    def __init__(self, url: str) -> None:
        """Create a pool without connections."""
        self._host, port = url.removeprefix("http://").split(":")
        self._port = int(port)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Send a POST request and return the status and the JSON of the response."""
        content = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():  # the server closes connections that are idle for seconds
                break
        else:
            reader, writer = await asyncio.open_connection(self._host, self._port)
        writer.write(head.encode() + content)
        status = int((await reader.readline()).split()[1])
        length = 0
        while (line := await reader.readline()) not in (b"\r\n", b""):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        answer = json.loads(await reader.readexactly(length))
        self._idle.append((reader, writer))
        return status, answer

    def close(self) -> None:
        """Close all idle connections."""
        for _, writer in self._idle:
            writer.close()


class ServerProcess:
    """A running `anytime serve` process.

    Args:
        models: the models, as the command takes them.
        log: file for the log of the server.
        options: further command-line options.
    """

    def __init__(self, models: Sequence[str], log: Path, *options: str) -> None:
        """Start the server and wait until it is ready."""
        command = [sys.executable, "-m", "anytime_ar", "serve", *models, "--port", "0"]
        command += ["--deadline-s", "60", *options]
        with log.open("w", encoding="utf-8") as file:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if " at http://" not in line:
            sys.exit(f"the server did not start; see {log}")
        self.url = line.rsplit(" at ", 1)[1].strip()
        while httpx.get(f"{self.url}/readyz").status_code != 200:
            time.sleep(0.1)

    def terminate(self) -> int:
        """Send SIGTERM, wait until the server has ended, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)
