"""Draws plans within budgets: the decode loop with its clock, its costs and its decodes."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from anytime_ar.ambient import defaults, items_under_defaults
from anytime_ar.curve import Curve
from anytime_ar.errors import InputError
from anytime_ar.kernel import load_kernel
from anytime_ar.prior import Decoder, NativeDecoder
from anytime_ar.sampling.batch import DecodeBatch
from anytime_ar.sampling.budget import Budget, Limit
from anytime_ar.sampling.costs import CostBook, Costs, Pace
from anytime_ar.sampling.draw import Pauses, Stop, draw
from anytime_ar.sampling.plan import Plan

ROWS_AT_ONCE = 1024
"""Rows drawn or decoded together at most."""
CACHE_BYTES = 2**30
"""Keys and values of the rows drawn together take at most this much memory."""
NEVER = Pauses()
_WARM_UP_CODES = 16
_WARM_UP_DRAWS = 12
_TRIAL_DRAWS = 4
"""To see whether times of an earlier process still hold."""


class Live:
    """The batch of a draw that may go on, for the first who asks; others begin from its codes."""

    def __init__(self, batch: DecodeBatch, rows: list[int]) -> None:
        self._held = [(batch, rows)]

    def take(self) -> tuple[DecodeBatch, list[int]] | None:
        """The batch and its rows, once."""
        return self._held.pop() if self._held else None


@dataclass(frozen=True)
class Moment:
    """What a draw has at a pause or at its end."""

    codes: Tensor
    """int64 [n, k]."""
    data: Tensor | None
    """float32 [n, *sample_shape]; None where codes alone were asked for."""
    stopped_by: Stop | None
    elapsed_s: float
    live: Live | None
    """To go on from here without doing anything again; only at the end of a draw."""


class HasEngine(Protocol):
    """A model."""

    @property
    def engine(self) -> Engine:
        """What draws from it."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of its weights."""
        ...

    @property
    def sample_rate(self) -> int | None:
        """Of sounds, in Hz."""
        ...


@dataclass
class Engine:
    """Draws plans from a model, within budgets."""

    name: str
    """The model's, for people."""
    decoder: Decoder[Any]
    decode: Callable[[Tensor], Tensor]
    """Codes int64 [n, k] -> samples float32 [n, *sample_shape], complete when it returns."""
    curve: Curve | None
    owner: HasEngine
    """The model."""
    costs_path: Path
    clock: Callable[[], float] = time.perf_counter
    _book: CostBook = field(init=False)

    def __post_init__(self) -> None:
        self._book = CostBook(self.costs_path)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is that of a copy of the model: memory of the kernel is of this process."""
        return attrgetter("engine"), (self.owner,)

    def fingerprint(self) -> str:
        """Of the model's weights."""
        return self.owner.fingerprint

    def most_rows(self, plan: Plan) -> int:
        """How many rows of a plan are drawn together at most."""
        places = plan.places // len(plan)
        return max(1, min(ROWS_AT_ONCE, CACHE_BYTES // (places * self.decoder.row_bytes)))

    def warm_up(self, make_plan: Callable[[], Plan]) -> Costs:
        """Time some steps and decodes of a plan, unless that was done; returns its costs."""
        plan = make_plan()
        costs = self._costs(plan)
        if costs.warm:
            return costs
        trial = self._trial(make_plan, _TRIAL_DRAWS if costs.known else _WARM_UP_DRAWS)
        if costs.known and trial.agrees_with(costs):
            costs.confirmed += 1
        elif costs.known:
            trial = self._trial(make_plan, _WARM_UP_DRAWS)  # the machine is not what it was
            costs.clear()
        costs.add(trial)
        costs.warm = True
        self._book.save(self._key(plan))
        return costs

    def _trial(self, make_plan: Callable[[], Plan], draws: int) -> Costs:
        """What some draws take."""
        limit = Limit(min(_WARM_UP_CODES, self.decoder.code_length))
        trial = Costs()
        for turn in range(draws):
            if turn == 1:  # the first one pays for set-up
                trial = Costs()
            begin = self.clock()
            for _ in self._run(make_plan(), limit, begin, NEVER, trial, True, None, None):
                pass
        return trial

    def _costs(self, plan: Plan) -> Costs:
        return self._book.costs(self._key(plan))

    def _key(self, plan: Plan) -> str:
        """What the times of a plan depend on."""
        rows = f"{plan.places}/{len(plan)}"
        return f"{self.fingerprint()}/{describe(self.decoder)}/{rows}"

    def run(
        self,
        plan: Plan,
        budget: Budget,
        *,
        begin: float,
        pauses: Pauses = NEVER,
        decoded: bool = True,
        codes: Tensor | None = None,
        live: Live | None = None,
    ) -> Iterator[Moment]:
        """Draw a plan within a budget. Mistakes show at the call, drawing begins at the first item.

        Args:
            plan: at most `most_rows` of it.
            budget: when to stop.
            begin: when the caller began, on the engine's clock; its deadline counts from there, or,
                where this size was not drawn before, from the end of the measurement.
            pauses: where to yield before the end.
            decoded: whether to decode what is yielded.
            codes: int64 [n, k], drawn before; the draw continues after them.
            live: the batch that drew them.

        Yields:
            One moment at every pause, and a last one at the end.

        Raises:
            InputError: too many rows at once, a budget that the model does not allow, or a deadline
                that leaves no time.
        """
        if len(plan) > (most := self.most_rows(plan)):
            raise InputError(
                f"{len(plan)} samples are more than the {most} that are drawn at once "
                "here; with a deadline, previews or a state, draw fewer, several times"
            )
        limit = self.limit(budget)
        costs = Costs()
        if budget.deadline_s is not None:
            costs = self._costs(plan)
            if not costs.warm:
                self.warm_up(lambda: plan)
                begin = self.clock()
            limit = replace(limit, deadline=begin + budget.deadline_s)
            drawn = 0 if codes is None else codes.shape[1]
            self.check_deadline(
                budget.deadline_s, max(0, limit.min_codes - drawn), costs, len(plan)
            )
        return self._run(plan, limit, begin, pauses, costs, decoded, codes, live)

    def in_parts(self, plan: Plan, budget: Budget) -> bool:
        """Whether there are more rows than memory allows at once, and nothing against parts."""
        whole = budget.deadline_s is not None or budget.cancel is not None
        return len(plan) > self.most_rows(plan) and not whole

    @defaults()
    def codes(self, plan: Plan, budget: Budget) -> Tensor:
        """Draw the codes alone, int64 [n, k], of any number of rows if `in_parts` allows it."""
        if not self.in_parts(plan, budget):
            return self._codes(plan, budget)
        size = self.most_rows(plan)
        starts = range(0, len(plan), size)
        return torch.cat([self._codes(plan.rows(i, i + size), budget) for i in starts])

    def _codes(self, plan: Plan, budget: Budget) -> Tensor:
        """Of one part; what it remembered is free again when this returns."""
        (moment,) = self.run(plan, budget, begin=self.clock(), decoded=False)
        return moment.codes

    def limit(self, budget: Budget) -> Limit:
        """A budget in codes of this model; its deadline is not set yet.

        Raises:
            InputError: the model does not allow it.
        """
        most = budget.most_codes(self.decoder.code_length, self.curve)
        return Limit(most, budget.min_codes, cancel=budget.cancel)

    def check_deadline(self, deadline_s: float, least: int, costs: Costs, n: int) -> None:
        """Refuse a deadline that is too short for the least number of codes of n samples.

        Raises:
            InputError: with the shortest one that would do.
        """
        need_s = costs.least_s(least)
        if deadline_s < need_s:
            raise InputError(
                f"deadline_s={deadline_s:g} is too short: {least} code{'' if least == 1 else 's'} "
                f"of {n} sample{'' if n == 1 else 's'} take {need_s:.4f} s here; "
                "pass at least that"
            )

    @items_under_defaults
    def _run(
        self,
        plan: Plan,
        limit: Limit,
        begin: float,
        pauses: Pauses,
        costs: Costs,
        decoded: bool,
        codes: Tensor | None,
        live: Live | None,
    ) -> Iterator[Moment]:
        pace = Pace(costs)
        batch, rows = (live.take() if live else None) or self._start(plan, codes)
        drawn = 0 if codes is None else codes.shape[1]
        seen: tuple[int, Tensor | None] = (0, None)
        pace.started(self.clock() - begin)
        for count, stop in draw(batch, drawn, limit, pauses=pauses, clock=self.clock, pace=pace):
            now = self.clock()
            codes = batch.codes(rows)
            decodes = decoded and seen[0] != count
            if decodes:
                seen = count, self.decode(codes)
            taken_s = self.clock() - now
            rest = Live(batch, rows) if stop is not None else None
            yield Moment(codes, seen[1], stop, self.clock() - begin, rest)
            if pauses is NEVER:  # nobody looks at it: the time to hand it over belongs to it
                taken_s = self.clock() - now
            if decodes:
                pace.finished(taken_s)

    def _start(self, plan: Plan, codes: Tensor | None) -> tuple[DecodeBatch, list[int]]:
        batch = DecodeBatch(self.decoder, plan.places)
        return batch, batch.join(plan.noise, plan.labels, plan.choice, codes)


def describe(decoder: Decoder[Any]) -> str:
    """Name what times depend on beside weights and rows: the hardware, the kernel, the precision,
    the threads."""
    threads = torch.get_num_threads()
    kind = type(decoder).__name__
    if isinstance(decoder, NativeDecoder):
        loaded = load_kernel()
        kind += f" {loaded.instructions}, {loaded.origin}"
    return f"{_hardware(decoder.device)}/{kind}/{decoder.precision}/{threads} threads"


@cache
def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()} {platform.node()}"
