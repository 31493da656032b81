"""Max-min fair shares of the machine's time among clients, so that all deadlines hold.

Ordered codes let load lower the number of codes of a request. A job needs at least `min_codes`
codes and asks for `max_codes`. The codes in between are its extra codes. All work is counted in
seconds of the machine's time:

- The minimum codes of all jobs are checked in order of their deadlines. They fit if all work due by
  each deadline is done by then. This order is optimal (Jackson's rule), so a job that does not fit
  in it fits in no order. Only such a job is refused.
- Clients, not jobs, share the machine's time. Each gets the same amount unless it asks for less
  (max-min fairness). A client's time pays for the minimum codes of its jobs first. The rest gives
  all of its jobs the same share of their extra codes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, Self

OverloadPolicy = Literal["elastic", "reject", "fixed"]
"""What the server gives up under load.

- `elastic`: jobs get fewer codes than requested.
- `reject`: jobs are refused unless all their codes fit.
- `fixed`: all jobs get all their codes, and deadlines are missed.

The last two are for comparison.
"""
TARGET_UTILISATION = 0.95
"""Share of the machine's time that is promised. At 1 a queue would never get shorter."""
_MIN_CLIENT_SHARE = 0.05
"""Share of the machine reserved for each active client, even if it sends few requests."""
_DEMAND_DECAY_S = 1.0
"""Time constant in seconds of the average demand of clients."""


class JobCost(NamedTuple):
    """Cost of one job, in seconds of the machine's time."""

    client: str
    """Name of the client that requests the job."""
    min_s: float
    """Seconds to draw its minimum codes and to decode them."""
    extra_s: float
    """Seconds to draw its extra codes."""
    due_in_s: float
    """Seconds from now until the job must be finished."""


def max_lateness_s(jobs: Iterable[JobCost], candidate: JobCost, speed: float = 1.0) -> float:
    """Return the maximum lateness of minimum codes if a job is admitted, in seconds.

    Args:
        jobs: Costs of all other jobs. Those due before the candidate run first in any case, so the
            candidate does not delay them and their lateness does not count.
        candidate: Cost of the job to admit.
        speed: Share of the machine that all of these jobs have, (0, 1].

    Returns:
        The lateness in seconds, 0 or less if all minimum codes fit.
    """
    done_s, worst_s = 0.0, -math.inf
    for cost in sorted([*jobs, candidate], key=lambda cost: cost.due_in_s):
        done_s += cost.min_s / speed
        if cost.due_in_s >= candidate.due_in_s:
            worst_s = max(worst_s, done_s - cost.due_in_s)
    return worst_s


class ClientDemand(NamedTuple):
    """Demand of one client: seconds of work requested per second."""

    min_rate: float = 0.0
    """Rate for minimum codes and decoding."""
    extra_rate: float = 0.0
    """Rate for the extra codes."""

    def add(self, cost: JobCost, period_s: float) -> Self:
        """Return the demand with one more job, to be done within `period_s` seconds."""
        return self._replace(
            min_rate=self.min_rate + cost.min_s / period_s,
            extra_rate=self.extra_rate + cost.extra_s / period_s,
        )


class DemandTracker:
    """Exponentially decaying averages of the demand of each client."""

    def __init__(self) -> None:
        """Start without any demand."""
        self._recorded: dict[str, tuple[ClientDemand, float]] = {}  # demand and its time

    def record(self, cost: JobCost, now: float) -> None:
        """Add a job to the demand of its client."""
        current = self.current(now)
        self._recorded = {client: (demand, now) for client, demand in current.items()}
        self._recorded[cost.client] = (
            current.get(cost.client, ClientDemand()).add(cost, _DEMAND_DECAY_S),
            now,
        )

    def current(self, now: float) -> dict[str, ClientDemand]:
        """Return the demand by client, without clients whose demand has decayed to almost 0."""
        faded = {}
        for client, (demand, then) in self._recorded.items():
            left = math.exp(-(now - then) / _DEMAND_DECAY_S)
            if demand.min_rate * left > 1e-6:
                faded[client] = ClientDemand(demand.min_rate * left, demand.extra_rate * left)
        return faded

    def guaranteed_speed(self, client: str, now: float) -> float:
        """Return the share of the machine that is guaranteed to a client.

        It is 1 less the share for the minimum codes of each other client. That share is at least
        `_MIN_CLIENT_SHARE` and at most an equal part.
        """
        others = [demand.min_rate for name, demand in self.current(now).items() if name != client]
        fair = 1 / (1 + len(others))
        return 1 - sum(min(max(min_rate, _MIN_CLIENT_SHARE), fair) for min_rate in others)


def max_min_fair_shares(
    demands: Mapping[str, ClientDemand], waiting: Iterable[JobCost], period_s: float
) -> dict[str, float]:
    """Return the share of extra codes that each client's jobs get, 0..1.

    Args:
        demands: Current demand by client. It is expected to decay within `_DEMAND_DECAY_S`, so that
            one burst of requests with distant deadlines does not lower the shares.
        waiting: Costs of the jobs that wait for slots, to be done beside the demand.
        period_s: Seconds in which the waiting jobs are to be done.

    Returns:
        The share by client, 0..1.
    """
    lasts = _DEMAND_DECAY_S / period_s * -math.expm1(-period_s / _DEMAND_DECAY_S)
    total = {
        client: ClientDemand(lasts * d.min_rate, lasts * d.extra_rate)
        for client, d in demands.items()
    }
    for cost in waiting:
        total[cost.client] = total.get(cost.client, ClientDemand()).add(cost, period_s)
    left, shares = TARGET_UTILISATION, {}
    modest_first = sorted(total, key=lambda client: sum(total[client]))
    for i, client in enumerate(modest_first):
        minimum, extra = total[client]
        given = min(minimum + extra, left / (len(total) - i))
        shares[client] = min(1.0, max(0.0, given - minimum) / extra) if extra > 0 else 1.0
        left -= max(given, minimum)
    return shares
