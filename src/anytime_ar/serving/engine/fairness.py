"""How much of what was asked each draw gets, so that all deadlines hold.

Ordered codes turn load into a matter of degree. A draw has a floor, without which it is worth
nothing, and a cap, what was asked for; in between, every code is a gift. Everything here is counted
in seconds of the machine's time:

- Floors fit if, with the nearest deadline first, all that is due by a deadline is done by then.
  That order is optimal (Jackson's rule), so when it fails nothing else would do: only then is a
  newcomer refused.
- The machine's time is shared by clients, not by draws: all may have the same amount, unless they
  ask for less (max-min fairness). A client pays for its floors first; what is left of its time
  gives all of its draws the same share of what they asked for beyond.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, Self

OverloadPolicy = Literal["elastic", "reject", "fixed"]
"""What gives way under load: numbers of codes; or requests, refused where all their codes do not
fit; or deadlines, where everything is drawn in full. The last two are for comparison."""
TARGET_UTILISATION = 0.95
"""How much of the machine's time is given away: a queue that is fed as fast as it is served never
gets shorter."""
_MIN_CLIENT_SHARE = 0.05
"""Of the machine, for a client that asks now and then: it comes when the others' queue is full."""
_DEMAND_DECAY_S = 1.0
"""How long what clients ask for is remembered."""


class JobCost(NamedTuple):
    """What one job needs, in seconds of the machine's time."""

    client: str
    min_s: float
    """Until it has its floor and is decoded."""
    extra_s: float
    """From there to its cap."""
    due_in_s: float
    """When it has to be finished, from now."""


def max_lateness_s(jobs: Iterable[JobCost], candidate: JobCost, speed: float = 1.0) -> float:
    """By how much floors are late at most because of a newcomer; 0 or less if all fit.

    Args:
        jobs: of all other jobs. Those that are due before the newcomer come first in any case,
            so that whether they are late is not its fault.
        candidate: what is to be taken in.
        speed: the share of the machine that there is for all of them, (0, 1].
    """
    done_s, worst_s = 0.0, -math.inf
    for claim in sorted([*jobs, candidate], key=lambda claim: claim.due_in_s):
        done_s += claim.min_s / speed
        if claim.due_in_s >= candidate.due_in_s:
            worst_s = max(worst_s, done_s - claim.due_in_s)
    return worst_s


class ClientDemand(NamedTuple):
    """What a client asks for: seconds of work a second."""

    min_rate: float = 0.0
    """For floors and decodes."""
    extra_rate: float = 0.0
    """For all codes beyond."""

    def add(self, cost: JobCost, period_s: float) -> Self:
        """With a job more, to be done in some seconds."""
        return self._replace(
            min_rate=self.min_rate + cost.min_s / period_s,
            extra_rate=self.extra_rate + cost.extra_s / period_s,
        )


class DemandTracker:
    """What clients have been asking for lately: decaying averages."""

    def __init__(self) -> None:
        self._recorded: dict[str, tuple[ClientDemand, float]] = {}  # and when that was true

    def record(self, cost: JobCost, now: float) -> None:
        """A client asks for something."""
        current = self.current(now)
        self._recorded = {client: (demand, now) for client, demand in current.items()}
        self._recorded[cost.client] = (
            current.get(cost.client, ClientDemand()).add(cost, _DEMAND_DECAY_S),
            now,
        )

    def current(self, now: float) -> dict[str, ClientDemand]:
        """By client; those that stopped asking are forgotten."""
        faded = {}
        for client, (demand, then) in self._recorded.items():
            left = math.exp(-(now - then) / _DEMAND_DECAY_S)
            if demand.min_rate * left > 1e-6:
                faded[client] = ClientDemand(demand.min_rate * left, demand.extra_rate * left)
        return faded

    def guaranteed_speed(self, client: str, now: float) -> float:
        """The share of the machine that a client may count on: all but what the floors of others
        take, of which each keeps a little in any case, and at most an equal part."""
        others = [demand.min_rate for name, demand in self.current(now).items() if name != client]
        fair = 1 / (1 + len(others))
        return 1 - sum(min(max(least, _MIN_CLIENT_SHARE), fair) for least in others)


def max_min_fair_shares(
    demands: Mapping[str, ClientDemand], waiting: Iterable[JobCost], period_s: float
) -> dict[str, float]:
    """The share of their extra codes that draws get, by client, 0..1.

    Args:
        demands: what comes in. That it goes on is believed for as long as it is remembered: much
            at once, with time enough, is no reason to give less.
        waiting: what there is no room for, to be worked off beside it.
        period_s: the time for that.
    """
    lasts = _DEMAND_DECAY_S / period_s * -math.expm1(-period_s / _DEMAND_DECAY_S)
    total = {
        client: ClientDemand(lasts * d.min_rate, lasts * d.extra_rate)
        for client, d in demands.items()
    }
    for claim in waiting:
        total[claim.client] = total.get(claim.client, ClientDemand()).add(claim, period_s)
    left, shares = TARGET_UTILISATION, {}
    modest_first = sorted(total, key=lambda client: sum(total[client]))
    for i, client in enumerate(modest_first):
        least, extra = total[client]
        given = min(least + extra, left / (len(total) - i))
        shares[client] = min(1.0, max(0.0, given - least) / extra) if extra > 0 else 1.0
        left -= max(given, least)
    return shares
