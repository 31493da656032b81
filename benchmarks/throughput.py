"""All codes a second: of a server that is kept busy, and of the engine without one.

    python benchmarks/throughput.py mnist --n 16

A round keeps the server busy with requests for all codes, then draws as many at a time without it:
a request's samples, one request after the other, and those of all requests under way in one batch.
Both by as many threads as the server has. The share is that of the faster of the two ways, round by
round: median and range.
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
from served import ConnectionPool, ServerProcess

from anytime_ar.runtime.files import write_json
from anytime_ar.sampling import AnytimeModel, load

ROUNDS = 5
CONCURRENCY = 4
"""Requests under way: enough for the server never to wait for its clients."""


@dataclass(frozen=True)
class Round:
    """Requests a second, each with all codes of its samples."""

    served: float
    sequential: float
    batched: float

    @property
    def share(self) -> float:
        """Of the engine's rate without a server."""
        return self.served / max(self.sequential, self.batched)


def direct_rate(model: AnytimeModel, n: int, seconds: float) -> float:
    """Draws of n samples a second in this process."""
    model.sample(n, seed=0)
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        model.sample(n, seed=count)
        count += 1
    return count / (time.perf_counter() - begin)


async def server_rate(url: str, n: int, seconds: float) -> float:
    """Requests a second that are answered with all codes, as many at once as keep it busy."""
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
    """Rounds with a server that has nothing else to do; `seconds` for all of them."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))
    model, turn, results = load(name), seconds / ROUNDS / 3, []
    for _ in range(ROUNDS):
        served = asyncio.run(server_rate(url, n, turn))
        together = CONCURRENCY * direct_rate(model, CONCURRENCY * n, turn)
        results.append(Round(served, direct_rate(model, n, turn), together))
    return results


def summary(rounds: list[Round], n: int) -> str:
    """For people."""
    shares = [one.share for one in rounds]
    served, one_by_one, together = (
        statistics.median(getattr(one, key) for one in rounds)
        for key in ("served", "one_by_one", "together")
    )
    return (
        f"all codes of {n} samples, requests a second: {served:.1f} served; without a server "
        f"{one_by_one:.1f} one by one, {together:.1f} with {CONCURRENCY} in one batch; share "
        f"{statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--n", type=int, default=16, help="samples of a request")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=90.0, help="of all rounds")
    parser.add_argument("--out", type=Path, default=Path("runs/throughput"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    server = ServerProcess(options.model, options.out / "server.log", "--slots", str(options.slots))
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
