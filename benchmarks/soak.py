"""Keep a server busy for a long time with requests of all kinds, and check that its memory is flat.

    python benchmarks/soak.py mnist fsdd --minutes 30

Several clients at once send samples, streams, disconnects, stops, refinements, encodes, decodes and
invalid requests. Memory is read every few seconds. The median after a sixth of the time is compared
with that at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from process_stats import memory_mb, thread_count
from server_process import ServerProcess

from anytime_ar.client import AsyncClient, RemoteSampleResult, RequestFailed

GROWTH = 1.02
"""Limit of the late memory, relative to the early memory."""
EVERY_S = 5.0
"""Seconds between two readings of the memory."""


class RandomClients:
    """Clients that send random requests until an end time.

    Args:
        url: address of the server.
        models: descriptions of the served models.
        until: end time, on the monotonic clock.
    """

    def __init__(self, url: str, models: list[dict[str, Any]], until: float) -> None:
        """Create clients that have sent no requests yet."""
        self.url, self.models, self.end_time = url, models, until
        self.counts: Counter[str] = Counter()
        self.actions = (
            self.sample,
            self.sample,
            self.stream,
            self.disconnect,
            self.refine,
            self.encode_decode,
            self.send_invalid,
        )

    async def client(self, seed: int, pause_s: float) -> None:
        """Run one client until the end time.

        Args:
            seed: seed of its random requests.
            pause_s: mean pause between requests, in seconds.
        """
        draw = random.Random(seed)
        async with AsyncClient(self.url) as client:
            while time.monotonic() < self.end_time:
                deed = draw.choice(self.actions)
                try:
                    await deed(client, draw)
                    self.counts[deed.__name__] += 1
                except RequestFailed as failed:
                    self.counts[f"{deed.__name__}: {failed.code}"] += 1
                await asyncio.sleep(draw.expovariate(1 / pause_s))

    def pick_model_and_codes(self, draw: random.Random) -> dict[str, Any]:
        """Return a random model and a number of codes that it has."""
        model = draw.choice(self.models)
        return {"model": model["name"], "codes": draw.randint(1, min(64, model["code_length"]))}

    async def sample(self, client: AsyncClient, draw: random.Random) -> None:
        """Generate samples with a deadline."""
        await client.sample(
            draw.randint(1, 8),
            deadline_s=draw.choice((0.2, 1, 5)),
            **self.pick_model_and_codes(draw),
        )

    async def stream(self, client: AsyncClient, draw: random.Random) -> None:
        """Read a stream to its end."""
        async for _ in client.stream(draw.randint(1, 4), **self.pick_model_and_codes(draw)):
            pass

    async def disconnect(self, client: AsyncClient, draw: random.Random) -> None:
        """Close a stream after some previews."""
        stream = client.stream(4, **self.pick_model_and_codes(draw))
        left = draw.randint(0, 4)
        async for _ in stream:
            left -= 1
            if left < 0:
                break
        await stream.aclose()  # type: ignore[attr-defined]

    async def refine(self, client: AsyncClient, draw: random.Random) -> None:
        """Refine a sample by one code, and stop its session half of the time."""
        which = self.pick_model_and_codes(draw)
        first = await client.sample(2, **which)
        assert isinstance(first, RemoteSampleResult)
        if first.codes_drawn < first.code_length:
            await client.refine(first.id, codes=first.codes_drawn + 1)
        if draw.random() < 0.5:
            await client.stop(first.id)

    async def encode_decode(self, client: AsyncClient, draw: random.Random) -> None:
        """Encode samples and decode a prefix of their codes."""
        which = self.pick_model_and_codes(draw)
        drawn = await client.sample(3, **which)
        codes = await client.encode(drawn.data, model=which["model"])
        await client.decode(codes.codes[:, : draw.randint(1, 8)], model=which["model"])

    async def send_invalid(self, client: AsyncClient, draw: random.Random) -> None:
        """Send one of several invalid requests."""
        await client.sample(**draw.choice(({"n": 0}, {"label": "?"}, {"codes": -1}, {"x": 1})))


async def soak(url: str, pid: int, minutes: float, clients: int, pause_s: float) -> list[float]:
    """Run the clients and return the memory of the server in MB, every few seconds.

    Args:
        url: address of the server.
        pid: process id of the server.
        minutes: duration.
        clients: number of clients.
        pause_s: mean pause of a client between requests, in seconds.
    """
    models = httpx.get(f"{url}/v1/models").json()["models"]
    end = time.monotonic() + 60 * minutes
    work = RandomClients(url, models, end)
    tasks = [asyncio.ensure_future(work.client(i, pause_s)) for i in range(clients)]
    seen = []
    while time.monotonic() < end:
        await asyncio.sleep(EVERY_S)
        seen.append(memory_mb(pid))
    await asyncio.gather(*tasks)
    print(f"done: {dict(sorted(work.counts.items()))}")
    return seen


def main() -> None:
    """Start a server, soak it, and compare early with late memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--pause-s", type=float, default=0.2, help="between deeds, on average")
    options = parser.parse_args()
    server = ServerProcess(options.models, Path(os.devnull), "--session-ttl-s", "20")
    url, pid = server.url, server.process.pid
    begun = thread_count(pid)
    seen = asyncio.run(soak(url, pid, options.minutes, options.clients, options.pause_s))
    early = statistics.median(seen[len(seen) // 6 : len(seen) // 3])
    late = statistics.median(seen[-max(1, len(seen) // 6) :])
    metrics = httpx.get(f"{url}/metrics").text
    left = re.findall(
        r"^anytime_(?:rows\{.*\}|requests_running|requests_waiting) (\S+)", metrics, re.M
    )
    print(f"memory {early:.0f} MB early, {late:.0f} MB late ({100 * (late / early - 1):+.1f} %)")
    print(
        f"threads {begun} at first, {thread_count(pid)} in the end; rows and requests left: {left}"
    )
    code = server.terminate()
    sys.exit(code or late > GROWTH * early or any(float(value) for value in left))


if __name__ == "__main__":
    main()
