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

Policy = Literal["elastic", "reject", "fixed"]
"""What gives way under load: numbers of codes; or requests, refused where all their codes do not
fit; or deadlines, where everything is drawn in full. The last two are for comparison."""
USED = 0.95
"""How much of the machine's time is given away: a queue that is fed as fast as it is served never
gets shorter."""
_KEPT = 0.05
"""Of the machine, for a client that asks now and then: it comes when the others' queue is full."""
_MEMORY_S = 1.0
"""How long what clients ask for is remembered."""


class Claim(NamedTuple):
    """What one job needs, in seconds of the machine's time."""

    client: str
    least_s: float
    """Until it has its floor and is decoded."""
    extra_s: float
    """From there to its cap."""
    due_s: float
    """When it has to be finished, from now."""


def shortage_s(claims: Iterable[Claim], newcomer: Claim, speed: float = 1.0) -> float:
    """By how much floors are late at most because of a newcomer; 0 or less if all fit.

    Args:
        claims: of all other jobs. Those that are due before the newcomer come first in any case,
            so that whether they are late is not its fault.
        newcomer: what is to be taken in.
        speed: the share of the machine that there is for all of them, (0, 1].
    """
    done_s, worst_s = 0.0, -math.inf
    for claim in sorted([*claims, newcomer], key=lambda claim: claim.due_s):
        done_s += claim.least_s / speed
        if claim.due_s >= newcomer.due_s:
            worst_s = max(worst_s, done_s - claim.due_s)
    return worst_s


class Demand(NamedTuple):
    """What a client asks for: seconds of work a second."""

    least: float = 0.0
    """For floors and decodes."""
    extra: float = 0.0
    """For all codes beyond."""

    def plus(self, claim: Claim, within_s: float) -> Self:
        """With a job more, to be done in some seconds."""
        return self._replace(
            least=self.least + claim.least_s / within_s,
            extra=self.extra + claim.extra_s / within_s,
        )


class Demands:
    """What clients have been asking for lately: decaying averages."""

    def __init__(self) -> None:
        self._noted: dict[str, tuple[Demand, float]] = {}  # and when that was true

    def note(self, claim: Claim, now: float) -> None:
        """A client asks for something."""
        current = self.at(now)
        self._noted = {client: (demand, now) for client, demand in current.items()}
        self._noted[claim.client] = (
            current.get(claim.client, Demand()).plus(claim, _MEMORY_S),
            now,
        )

    def at(self, now: float) -> dict[str, Demand]:
        """By client; those that stopped asking are forgotten."""
        faded = {}
        for client, (demand, then) in self._noted.items():
            left = math.exp(-(now - then) / _MEMORY_S)
            if demand.least * left > 1e-6:
                faded[client] = Demand(demand.least * left, demand.extra * left)
        return faded

    def speed_for(self, client: str, now: float) -> float:
        """The share of the machine that a client may count on: all but what the floors of others
        take, of which each keeps a little in any case, and at most an equal part."""
        others = [demand.least for name, demand in self.at(now).items() if name != client]
        fair = 1 / (1 + len(others))
        return 1 - sum(min(max(least, _KEPT), fair) for least in others)


def share_out(
    demands: Mapping[str, Demand], waiting: Iterable[Claim], within_s: float
) -> dict[str, float]:
    """The share of their extra codes that draws get, by client, 0..1.

    Args:
        demands: what comes in. That it goes on is believed for as long as it is remembered: much
            at once, with time enough, is no reason to give less.
        waiting: what there is no room for, to be worked off beside it.
        within_s: the time for that.
    """
    lasts = _MEMORY_S / within_s * -math.expm1(-within_s / _MEMORY_S)
    total = {client: Demand(lasts * d.least, lasts * d.extra) for client, d in demands.items()}
    for claim in waiting:
        total[claim.client] = total.get(claim.client, Demand()).plus(claim, within_s)
    left, shares = USED, {}
    modest_first = sorted(total, key=lambda client: sum(total[client]))
    for i, client in enumerate(modest_first):
        least, extra = total[client]
        given = min(least + extra, left / (len(total) - i))
        shares[client] = min(1.0, max(0.0, given - least) / extra) if extra > 0 else 1.0
        left -= max(given, least)
    return shares
