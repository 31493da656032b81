"""`anytime serve` as a process of its own, with tiny models, as a user would start it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import spoiled_server
from serving_fakes import tiny_bundle
from spoiled_server import Device

from anytime_ar.bundle.format import save_bundle
from processes import PATIENCE_S, command_line, descendants, wait_for


def save_models(folder: Path) -> dict[str, Path]:
    """Bundles: quick ones of images and sounds, of ours and with parts of other packages, and one
    of images of many codes, which is slow on a device of `slow_device`."""
    made = {}
    for kind in ("image", "colour", "sound", "slow", "llama", "codec"):
        bundle = tiny_bundle(kind, name=kind)
        made[kind] = folder / kind
        save_bundle(bundle, made[kind])
    return made


class RealServer:
    """A server that is running.

    Args:
        models: as `anytime serve` takes them.
        options: of the command.
        logs: where its log goes.
        device: that it draws on, if a test spoils that.
    """

    def __init__(
        self,
        *models: str,
        options: tuple[str, ...] = (),
        logs: Path,
        device: Device | None = None,
    ) -> None:
        self.logs = logs
        program = ["-m", "anytime_ar"]
        if device is not None:
            program = [spoiled_server.__file__, str(device.folder)]
        command = [sys.executable, *program, "serve", *models, "--port", "0", *options]
        with logs.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert " at http://" in line, line + logs.read_text(encoding="utf-8")
        self.url = line.rsplit(" at ", 1)[1].strip()

    def ready(self) -> RealServer:
        """Wait until it takes requests."""
        wait_for(lambda: "ready" in self.lines("message"), f"a server; see {self.logs}")
        return self

    def client(self, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE_S)

    def log(self) -> list[dict[str, Any]]:
        """Its log so far; what Ray says between the lines is not JSON."""
        lines = self.logs.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def workers(self) -> list[int]:
        """Processes of its replicas, if it is a cluster."""
        below = descendants(self.process.pid)
        return [pid for pid in below if "ServeReplica:anytime:replica" in command_line(pid)]

    def lines(self, field: str) -> list[Any]:
        """One field of each line of the log."""
        return [line.get(field) for line in self.log()]

    def terminate(self) -> int:
        """SIGTERM, and its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def events(response: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    """Server-sent events of a response, to its end."""
    return events_of(b"".join(response.iter_raw()))


def events_of(content: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Server-sent events."""
    found, name = [], ""
    for line in content.decode().splitlines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            found.append((name, json.loads(value)))
    return found
