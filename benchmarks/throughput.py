"""Compare the throughput of a busy server with that of plain sampling, both with all codes.

    python benchmarks/throughput.py mnist --n 16

A round keeps the server busy with requests for all codes, then generates the same samples without
it in two ways: one request after the other, and all requests in flight in one batch. Both use as
many threads as the server. The share is relative to the faster way, by round: median and range.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from server_process import ConnectionPool, ServerProcess

from anytime_ar.runtime.files import write_json
from anytime_ar.sampling import AnytimeModel, load

ROUNDS = 5
"""Number of rounds of the comparison."""
CONCURRENCY = 4
"""Requests in flight, enough that the server never waits for its clients."""


@dataclass(frozen=True)
class Round:
    """The rates of one round, in requests with all codes per second."""

    served: float
    """Rate of the server, in requests per second."""
    sequential: float
    """Rate without a server, one request after the other."""
    batched: float
    """Rate without a server, all requests in flight in one batch."""

    @property
    def share(self) -> float:
        """Return the rate of the server relative to the faster rate without it."""
        return self.served / max(self.sequential, self.batched)


def direct_rate(model: AnytimeModel, n: int, seconds: float) -> float:
    """Return how many batches of n samples per second this process generates."""
    model.sample(n, seed=0)
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        model.sample(n, seed=count)
        count += 1
    return count / (time.perf_counter() - begin)


async def server_rate(url: str, n: int, seconds: float) -> float:
    """Return the rate of requests with all codes of a server that is kept busy.

    Args:
        url: address of the server.
        n: samples per request.
        seconds: duration of the measurement.
    """
    connections, end, count = ConnectionPool(url), time.perf_counter() + seconds, 0

    async def ask() -> None:
        nonlocal count
        while time.perf_counter() < end:
            await connections.post("/v1/samples", {"n": n})
            count += 1

    begin = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(CONCURRENCY)))
    connections.close()
    return count / (time.perf_counter() - begin)


def measure_rounds(name: str, url: str, n: int, seconds: float) -> list[Round]:
    """Measure several rounds with a server that is otherwise idle.

    Args:
        name: name of the model.
        url: address of the server.
        n: samples per request.
        seconds: duration of all rounds.
    """
    torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))
    model, turn, results = load(name), seconds / ROUNDS / 3, []
    for _ in range(ROUNDS):
        served = asyncio.run(server_rate(url, n, turn))
        batched = CONCURRENCY * direct_rate(model, CONCURRENCY * n, turn)
        results.append(Round(served, direct_rate(model, n, turn), batched))
    return results


def summary(rounds: list[Round], n: int) -> str:
    """Return the medians of the rounds as text for people."""
    shares = [one.share for one in rounds]
    served, sequential, batched = (
        statistics.median(getattr(one, key) for one in rounds)
        for key in ("served", "sequential", "batched")
    )
    return (
        f"all codes of {n} samples, requests a second: {served:.1f} served; without a server "
        f"{sequential:.1f} sequential, {batched:.1f} with {CONCURRENCY} in one batch; share "
        f"{statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})"
    )


def main() -> None:
    """Start a server, measure the rounds, and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--n", type=int, default=16, help="samples of a request")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=90.0, help="of all rounds")
    parser.add_argument("--out", type=Path, default=Path("runs/throughput"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    server = ServerProcess(
        [options.model], options.out / "server.log", "--slots", str(options.slots)
    )
    rounds = measure_rounds(options.model, server.url, options.n, options.seconds)
    server.terminate()
    print(summary(rounds, options.n))
    write_json(
        options.out / "throughput.json",
        {
            "model": options.model,
            "n": options.n,
            "slots": options.slots,
            "cores": os.cpu_count(),
            "rounds": [asdict(one) | {"share": one.share} for one in rounds],
        },
    )


if __name__ == "__main__":
    main()
