"""Measure a cluster that loses a replica under load.

    python benchmarks/replica_loss.py mnist --n 4 --replicas 2 --out runs/replica_loss

Requests arrive at random at `anytime serve --engine ray`, with mixed deadlines, at a fraction of
the rate with all codes. After a third of the time one replica gets SIGKILL, and Ray restarts it.
Clients retry once after a refusal or a lost response, within the deadline of the first try. Prints
the figures of requests before the loss, until all replicas are back, and after that. For comparison
it prints those of a single server without Ray. Writes replica_loss.json.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from load_test import (
    RequestResult,
    figures_table,
    poisson_arrivals,
    post_sample,
    summarize,
)
from process_stats import command_line, descendants
from server_process import ConnectionPool, ServerProcess
from throughput import server_rate

from anytime_ar.runtime.files import write_json

_REPLICA = "ServeReplica:anytime:replica"
"""Part of the command line of a replica process."""
CLIENT_TIMEOUT_S = 5.0
"""Seconds that a client waits beyond its deadline."""


@dataclass(frozen=True)
class TimedRequest:
    """One request as its client sees it, with its send time."""

    sent_s: float
    """Send time in seconds since the start."""
    tries: int
    """Number of tries, 1 or 2."""
    result: RequestResult
    """Result of the last try."""


async def send_with_retry(
    url: str, body: dict[str, Any], deadline_s: float
) -> tuple[int, RequestResult]:
    """Send a request, and retry once within the deadline if there was no sample.

    Args:
        url: address of the server.
        body: body of the request without its deadline.
        deadline_s: deadline for both tries, in seconds.

    Returns:
        The number of tries, and the result.
    """
    begin, tries = time.perf_counter(), 0
    status, response = 0, {}
    while tries < 2 and (tries == 0 or time.perf_counter() - begin < deadline_s):
        tries += 1
        left_s = deadline_s - (time.perf_counter() - begin)
        connections = ConnectionPool(url)
        status, response = await post_sample(
            connections, {**body, "deadline_ms": 1000 * left_s}, left_s + CLIENT_TIMEOUT_S
        )
        connections.close()
        if status == 200:
            break
    return tries, RequestResult.of(deadline_s, time.perf_counter() - begin, status, response)


async def send_at_random(
    url: str, n: int, rate: float, seconds: float, deadlines_s: Sequence[float]
) -> list[TimedRequest]:
    """Send requests with Poisson arrivals and return them by send time.

    Args:
        url: address of the server.
        n: samples per request.
        rate: mean rate, in requests per second.
        seconds: duration.
        deadlines_s: deadlines to pick from at random, in seconds.
    """
    draw = random.Random(0)
    found: list[TimedRequest] = []

    async def one(at: float, number: int) -> None:
        body = {"n": n, "seed": number}
        tries, answer = await send_with_retry(url, body, draw.choice(deadlines_s))
        found.append(TimedRequest(at, tries, answer))

    begin, tasks = time.perf_counter(), []
    async for number, due in poisson_arrivals(draw, rate, seconds):
        tasks.append(asyncio.ensure_future(one(due - begin, number)))
    await asyncio.gather(*tasks)
    return sorted(found, key=lambda request: request.sent_s)


async def kill_one(server: ServerProcess, replicas: int, after_s: float) -> tuple[float, float]:
    """Kill a replica and wait until all replicas are back.

    Args:
        server: the server of the cluster.
        replicas: number of replicas.
        after_s: seconds until the kill.

    Returns:
        Times of the kill and of the recovery, in seconds since the call.
    """
    begin = time.perf_counter()
    await asyncio.sleep(after_s)
    victims = workers(server)
    os.kill(victims[0], signal.SIGKILL)
    killed = time.perf_counter() - begin
    slots = 0
    while slots < replicas:  # until every replica reports its slots
        await asyncio.sleep(0.25)
        fresh = set(workers(server)) - {victims[0]}
        load = await asyncio.to_thread(lambda: httpx.get(f"{server.url}/v1/load").json())
        slots = load["models"][0]["slots"] // 64 if len(fresh) >= replicas else 0
    return killed, time.perf_counter() - begin


def workers(server: ServerProcess) -> list[int]:
    """Return the process ids of the replicas."""
    return [pid for pid in descendants(server.process.pid) if _REPLICA in command_line(pid)]


async def run_with_replica_loss(
    server: ServerProcess, options: argparse.Namespace, rate: float
) -> tuple[list[TimedRequest], float, float]:
    """Send requests and kill a replica meanwhile.

    Args:
        server: the server of the cluster.
        options: parsed arguments.
        rate: mean rate, in requests per second.

    Returns:
        The requests, and the times of the kill and of the recovery in seconds.
    """
    deadlines_s = [ms / 1000 for ms in options.deadlines_ms]
    offering = asyncio.ensure_future(
        send_at_random(server.url, options.n, rate, options.seconds, deadlines_s)
    )
    killed, back = await kill_one(server, options.replicas, options.seconds / 3)
    return await offering, killed, back


def summarize_phase(
    name: str, requests: Sequence[TimedRequest], code_length: int
) -> dict[str, Any]:
    """Return the figures of the requests of one phase."""
    found = summarize([one.result for one in requests], code_length) if requests else {}
    again = sum(one.tries > 1 for one in requests)
    unanswered = sum(one.result.status == 0 for one in requests)
    missed = [
        [round(one.sent_s, 2), one.tries, one.result.status, round(one.result.latency_s, 3)]
        for one in requests
        if not one.result.in_time
    ]
    return {
        "phase": name,
        "requests": 0,
        **found,
        "again": again,
        "unanswered": unanswered,
        "missed": missed,
    }


def main() -> None:
    """Measure a single server and a cluster, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--n", type=int, default=4, help="samples of a request")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--load", type=float, default=0.5, help="of what it can draw in full")
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument(
        "--deadlines-ms", type=float, nargs="+", default=[500.0, 1000.0, 2000.0], help="drawn from"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/replica_loss"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows, rates = [], {}
    for name, extra in (
        ("one server", ("--threads", "1")),
        ("cluster", ("--threads", "1", "--engine", "ray", "--replicas", str(options.replicas))),
    ):
        server = ServerProcess(
            [options.model], options.out / f"{name.replace(' ', '-')}.log", *extra
        )
        length = httpx.get(f"{server.url}/v1/models").json()["models"][0]["code_length"]
        rates[name] = asyncio.run(server_rate(server.url, options.n, 5.0))
        print(f"{name}: {rates[name]:.1f} requests of {options.n} samples a second, in full")
        rate = options.load * rates[name]
        if name == "cluster":
            requests, killed, back = asyncio.run(run_with_replica_loss(server, options, rate))
            print(f"a replica killed after {killed:.1f} s, there again after {back:.1f} s")
            before = [
                one for one in requests if one.sent_s + max(options.deadlines_ms) / 1000 < killed
            ]
            lost = [one for one in requests if one not in before and one.sent_s < back]
            after = [one for one in requests if one.sent_s >= back]
            for phase, some in (("before", before), ("a replica lost", lost), ("after", after)):
                rows.append(summarize_phase(phase, some, length))
        else:
            deadlines_s = [ms / 1000 for ms in options.deadlines_ms]
            seconds = options.seconds / 3
            requests = asyncio.run(
                send_at_random(server.url, options.n, rate, seconds, deadlines_s)
            )
            rows.append(summarize_phase(name, requests, length))
        server.terminate()
    names = ("phase", "requests", "unanswered", "again")
    sent = [([str(one[name]) for name in names], one) for one in rows if one["requests"]]
    print(figures_table(names, sent))
    settings = {key: value for key, value in vars(options).items() if key != "out"}
    write_json(
        options.out / "replica_loss.json",
        {**settings, "cores": os.cpu_count(), "rates": rates, "rows": rows},
    )


if __name__ == "__main__":
    main()
