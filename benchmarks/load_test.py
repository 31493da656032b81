"""Load test of the server: compare the elastic policy with those of other servers.

    python benchmarks/load_test.py mnist --n 16 --out runs/load

Requests arrive at random (Poisson arrivals, independent of the server) with mixed deadlines. The
rates are multiples of the rate at which the server can generate all codes. Each of three policies
has its own server on the same machine, one after the other. `elastic` gives fewer codes. `reject`
refuses samples that it cannot complete by the deadline. `fixed` completes everything in order of
arrival. Latency counts from the scheduled send time of a request. Prints a table, writes load.json
and load.png.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from matplotlib.figure import Figure
from server_process import ConnectionPool, ServerProcess
from throughput import server_rate

from anytime_ar.evaluation.report import align_table
from anytime_ar.runtime.files import write_json

POLICIES = ("elastic", "reject", "fixed")
"""Policies of the server under overload."""
LOADS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Request rates, relative to the rate with all codes."""
CLIENT_TIMEOUT_DEADLINES = 5.0
"""Client timeout, as a multiple of the deadline."""


@dataclass(frozen=True)
class RequestResult:
    """The result of one request as its client sees it."""

    deadline_s: float
    """Deadline of the request, in seconds."""
    latency_s: float
    """Seconds from the scheduled send time to the response."""
    status: int
    """Status of the response; 0: no response."""
    codes: int | None = None
    """Number of codes per sample; None: no sample."""
    quality: float | None = None
    """Quality of the samples by the curve; None: no sample."""
    stop_reason: str | None = None
    """Reason why the sample ended; None: no sample."""

    @property
    def in_time(self) -> bool:
        """Return whether a sample arrived by its deadline."""
        return self.status == 200 and self.latency_s <= self.deadline_s

    @classmethod
    def of(
        cls, deadline_s: float, latency_s: float, status: int, response: dict[str, Any]
    ) -> RequestResult:
        """Take the figures of a sample from the body of its response, if there is one."""
        values = response if status == 200 else {}
        figures = (values.get(name) for name in ("codes_drawn", "quality", "stop_reason"))
        return cls(deadline_s, latency_s, status, *figures)


async def post_sample(
    connections: ConnectionPool, body: dict[str, Any], timeout_s: float
) -> tuple[int, dict[str, Any]]:
    """Request samples, and return status and body of the response; status 0 without a response."""
    try:
        async with asyncio.timeout(timeout_s):
            return await connections.post("/v1/samples", body)
    except (ConnectionError, asyncio.IncompleteReadError, TimeoutError, IndexError):
        return 0, {}


async def poisson_arrivals(
    draw: random.Random, rate: float, seconds: float
) -> AsyncIterator[tuple[int, float]]:
    """Wait for Poisson arrivals, and yield number and scheduled time of each.

    Args:
        draw: source of randomness.
        rate: mean rate, in arrivals per second.
        seconds: duration.
    """
    begin, due, number = time.perf_counter(), 0.0, 0
    while (due := due + draw.expovariate(rate)) < seconds:
        await asyncio.sleep(max(0.0, begin + due - time.perf_counter()))
        yield number, begin + due
        number += 1


async def send_poisson(
    url: str, n: int, rate: float, seconds: float, deadlines_s: Sequence[float], seed: int
) -> list[RequestResult]:
    """Send requests with Poisson arrivals and return their results.

    Args:
        url: address of the server.
        n: samples per request.
        rate: mean rate, in requests per second.
        seconds: duration.
        deadlines_s: deadlines to pick from at random, in seconds.
        seed: seed of the arrivals and deadlines.
    """
    draw, connections = random.Random(seed), ConnectionPool(url)
    answers: list[RequestResult] = []

    async def ask(due: float, deadline_s: float, number: int) -> None:
        body = {"n": n, "seed": number, "deadline_ms": 1000 * deadline_s}
        reply = await post_sample(connections, body, CLIENT_TIMEOUT_DEADLINES * deadline_s)
        answers.append(RequestResult.of(deadline_s, time.perf_counter() - due, *reply))

    tasks = []
    async for number, due in poisson_arrivals(draw, rate, seconds):
        tasks.append(asyncio.ensure_future(ask(due, draw.choice(deadlines_s), number)))
    await asyncio.gather(*tasks)
    connections.close()
    return answers


def summarize(answers: Sequence[RequestResult], code_length: int) -> dict[str, Any]:
    """Return the figures of the requests of one load.

    Args:
        answers: results of the requests.
        code_length: number of codes of a complete sample.
    """
    done = [answer for answer in answers if answer.status == 200]
    latencies = sorted(answer.latency_s for answer in done)
    lateness = sorted(answer.latency_s - answer.deadline_s for answer in done)
    reasons = [answer.stop_reason for answer in done]

    def quantile(values: list[float], share: float) -> float | None:
        return (
            round(1000 * values[min(len(values) - 1, int(share * len(values)))], 2)
            if values
            else None
        )

    return {
        "requests": len(answers),
        "in_time": sum(answer.in_time for answer in answers) / len(answers),
        "late": (len(done) - sum(answer.in_time for answer in done)) / len(answers),
        "refused": sum(answer.status == 503 for answer in answers) / len(answers),
        "failed": sum(answer.status not in (200, 503) for answer in answers) / len(answers),
        "codes": statistics.mean(a.codes for a in done if a.codes) / code_length if done else None,
        "quality": statistics.mean(a.quality for a in done if a.quality is not None)
        if done
        else None,
        "p50_ms": quantile(latencies, 0.5),
        "p99_ms": quantile(latencies, 0.99),
        "p99_late_ms": quantile(lateness, 0.99),
        "stops": {str(reason): reasons.count(reason) for reason in sorted(map(str, set(reasons)))},
    }


_SHARES = ("in_time", "late", "refused", "failed", "codes", "quality")
_TIMES = ("p50_ms", "p99_ms", "p99_late_ms")


def figures_table(heads: Sequence[str], rows: Sequence[tuple[list[str], dict[str, Any]]]) -> str:
    """Return a table for people: the given cells of each row, and the figures of `summarize`."""
    cells = [[*heads, *(name.replace("_", " ") for name in (*_SHARES, *_TIMES))]]
    for first, figures in rows:
        shares = ("-" if (x := figures[name]) is None else f"{100 * x:.1f} %" for name in _SHARES)
        times = ("-" if (x := figures[name]) is None else f"{x:.0f}" for name in _TIMES)
        cells.append([*first, *shares, *times])
    return align_table(cells)


def plot(results: dict[str, dict[str, dict[str, Any]]], path: Path) -> None:
    """Plot requests in time, quality, and latency against load."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    for panel, (key, name) in zip(
        panels,
        (
            ("in_time", "answered in time"),
            ("quality", "quality of the answers"),
            ("p99_ms", "p99, ms"),
        ),
        strict=True,
    ):
        for policy, by_load in results.items():
            loads = [float(times) for times in by_load]
            values = [math.nan if row[key] is None else row[key] for row in by_load.values()]
            panel.plot(loads, values, marker="o", label=policy)
        panel.set_xscale("log", base=2)
        panel.set_xticks(LOADS, [f"{times:g}x" for times in LOADS])
        panel.set_xlabel("load, in terms of all codes")
        panel.set_title(name)
        panel.grid(alpha=0.3)
        panel.set_yscale("log") if key == "p99_ms" else panel.set_ylim(0, 1.05)
    panels[0].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run the load test for each policy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--n", type=int, default=16, help="samples of a request")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument(
        "--deadlines-ms", type=float, nargs="+", default=[150.0, 300.0, 600.0], help="drawn from"
    )
    parser.add_argument("--loads", type=float, nargs="+", default=LOADS)
    parser.add_argument("--policies", nargs="+", default=POLICIES, choices=POLICIES)
    parser.add_argument("--out", type=Path, default=Path("runs/load"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, dict[str, Any]]] = {}
    full_rate = None
    for policy in options.policies:
        log = options.out / f"{policy}.log"
        server = ServerProcess(
            [options.model], log, "--policy", policy, "--slots", str(options.slots)
        )
        models = httpx.get(f"{server.url}/v1/models").json()["models"]
        if full_rate is None:
            full_rate = asyncio.run(server_rate(server.url, options.n, options.seconds / 2))
            print(f"all codes of {options.n} samples: {full_rate:.1f} requests a second")
        results[policy] = {}
        for times in options.loads:
            answers = asyncio.run(
                send_poisson(
                    server.url,
                    options.n,
                    times * full_rate,
                    options.seconds,
                    [ms / 1000 for ms in options.deadlines_ms],
                    seed=round(100 * times),
                )
            )
            results[policy][f"{times:g}"] = summarize(answers, models[0]["code_length"])
        server.terminate()
    rows = [
        ([policy, f"{times}x", str(figures["requests"])], figures)
        for policy, by_load in results.items()
        for times, figures in by_load.items()
    ]
    print(figures_table(["policy", "load", "sent"], rows))
    write_json(
        options.out / "load.json",
        {
            "model": options.model,
            "n": options.n,
            "slots": options.slots,
            "seconds": options.seconds,
            "deadlines_ms": options.deadlines_ms,
            "cores": os.cpu_count(),
            "full_rate": full_rate,
            "results": results,
        },
    )
    plot(results, options.out / "load.png")


if __name__ == "__main__":
    main()
