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

from anytime_ar.bundle.curve import Curve
from anytime_ar.errors import InputError
from anytime_ar.kernel import load_kernel
from anytime_ar.prior import NativePriorDecoder, PriorDecoder
from anytime_ar.runtime.torch_modes import default_torch_modes, yield_under_default_modes
from anytime_ar.sampling.batch import DecodeBatch
from anytime_ar.sampling.budget import Budget, ResolvedBudget
from anytime_ar.sampling.cost_model import CostModel, CostModelStore, LatencyTracker
from anytime_ar.sampling.loop import PreviewPolicy, StopReason, decode_loop
from anytime_ar.sampling.plan import Plan

MAX_ROWS = 1024
"""Rows drawn or decoded together at most."""
MAX_CACHE_BYTES = 2**30
"""Keys and values of the rows drawn together take at most this much memory."""
NO_PREVIEWS = PreviewPolicy()
_WARM_UP_CODES = 16
_WARM_UP_DRAWS = 12
_VERIFY_DRAWS = 4
"""To see whether times of an earlier process still hold."""


class ResumableBatch:
    """The batch of a draw that may go on, for the first who asks; others begin from its codes."""

    def __init__(self, batch: DecodeBatch, rows: list[int]) -> None:
        self._batch = [(batch, rows)]

    def take(self) -> tuple[DecodeBatch, list[int]] | None:
        """The batch and its rows, once."""
        return self._batch.pop() if self._batch else None


@dataclass(frozen=True)
class Moment:
    """What a draw has at a pause or at its end."""

    codes: Tensor
    """int64 [n, k]."""
    data: Tensor | None
    """float32 [n, *sample_shape]; None where codes alone were asked for."""
    stop_reason: StopReason | None
    elapsed_s: float
    resumable: ResumableBatch | None
    """To go on from here without doing anything again; only at the end of a draw."""


class SamplerModel(Protocol):
    """A model."""

    @property
    def sampler(self) -> Sampler:
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
class Sampler:
    """Draws plans from a model, within budgets."""

    model_name: str
    """The model's, for people."""
    decoder: PriorDecoder[Any]
    decode: Callable[[Tensor], Tensor]
    """Codes int64 [n, k] -> samples float32 [n, *sample_shape], complete when it returns."""
    curve: Curve | None
    model: SamplerModel
    """The model."""
    cost_model_path: Path
    clock: Callable[[], float] = time.perf_counter
    _cost_store: CostModelStore = field(init=False)

    def __post_init__(self) -> None:
        self._cost_store = CostModelStore(self.cost_model_path)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is that of a copy of the model: memory of the kernel is of this process."""
        return attrgetter("sampler"), (self.model,)

    def fingerprint(self) -> str:
        """Of the model's weights."""
        return self.model.fingerprint

    def max_rows(self, plan: Plan) -> int:
        """How many rows of a plan are drawn together at most."""
        places = plan.num_slots // len(plan)
        return max(1, min(MAX_ROWS, MAX_CACHE_BYTES // (places * self.decoder.row_bytes)))

    def warm_up(self, make_plan: Callable[[], Plan]) -> CostModel:
        """Time some steps and decodes of a plan, unless that was done; returns its costs."""
        plan = make_plan()
        costs = self._cost_model(plan)
        if costs.is_warm:
            return costs
        trial = self._time_draws(make_plan, _VERIFY_DRAWS if costs.is_measured else _WARM_UP_DRAWS)
        if costs.is_measured and trial.is_consistent_with(costs):
            costs.confirmations += 1
        elif costs.is_measured:
            trial = self._time_draws(make_plan, _WARM_UP_DRAWS)  # the machine is not what it was
            costs.clear()
        costs.merge(trial)
        costs.is_warm = True
        self._cost_store.save(self._cost_key(plan))
        return costs

    def _time_draws(self, make_plan: Callable[[], Plan], draws: int) -> CostModel:
        """What some draws take."""
        limit = ResolvedBudget(min(_WARM_UP_CODES, self.decoder.code_length))
        trial = CostModel()
        for turn in range(draws):
            if turn == 1:  # the first one pays for set-up
                trial = CostModel()
            begin = self.clock()
            for _ in self._run(make_plan(), limit, begin, NO_PREVIEWS, trial, True, None, None):
                pass
        return trial

    def _cost_model(self, plan: Plan) -> CostModel:
        return self._cost_store.cost_model(self._cost_key(plan))

    def _cost_key(self, plan: Plan) -> str:
        """What the times of a plan depend on."""
        rows = f"{plan.num_slots}/{len(plan)}"
        return f"{self.fingerprint()}/{decoder_key(self.decoder)}/{rows}"

    def run(
        self,
        plan: Plan,
        budget: Budget,
        *,
        started_at: float,
        previews: PreviewPolicy = NO_PREVIEWS,
        decoded: bool = True,
        codes: Tensor | None = None,
        resumable: ResumableBatch | None = None,
    ) -> Iterator[Moment]:
        """Draw a plan within a budget. Mistakes show at the call, drawing begins at the first item.

        Args:
            plan: at most `max_rows` of it.
            budget: when to stop.
            started_at: when the caller began, on the engine's clock; its deadline counts from there, or,
                where this size was not drawn before, from the end of the measurement.
            previews: where to yield before the end.
            decoded: whether to decode what is yielded.
            codes: int64 [n, k], drawn before; the draw continues after them.
            resumable: the batch that drew them.

        Yields:
            One moment at every pause, and a last one at the end.

        Raises:
            InputError: too many rows at once, a budget that the model does not allow, or a deadline
                that leaves no time.
        """
        if len(plan) > (most := self.max_rows(plan)):
            raise InputError(
                f"{len(plan)} samples are more than the {most} that are drawn at once "
                "here; with a deadline, previews or a state, draw fewer, several times"
            )
        limit = self.resolve_budget(budget)
        costs = CostModel()
        if budget.deadline_s is not None:
            costs = self._cost_model(plan)
            if not costs.is_warm:
                self.warm_up(lambda: plan)
                started_at = self.clock()
            limit = replace(limit, deadline_at=started_at + budget.deadline_s)
            drawn = 0 if codes is None else codes.shape[1]
            self.check_deadline(
                budget.deadline_s, max(0, limit.min_codes - drawn), costs, len(plan)
            )
        return self._run(plan, limit, started_at, previews, costs, decoded, codes, resumable)

    def needs_chunking(self, plan: Plan, budget: Budget) -> bool:
        """Whether there are more rows than memory allows at once, and nothing against parts."""
        whole = budget.deadline_s is not None or budget.cancel is not None
        return len(plan) > self.max_rows(plan) and not whole

    @default_torch_modes()
    def sample_codes(self, plan: Plan, budget: Budget) -> Tensor:
        """Draw the codes alone, int64 [n, k], of any number of rows if `needs_chunking` allows it."""
        if not self.needs_chunking(plan, budget):
            return self._sample_codes_chunk(plan, budget)
        size = self.max_rows(plan)
        starts = range(0, len(plan), size)
        return torch.cat(
            [self._sample_codes_chunk(plan.slice(i, i + size), budget) for i in starts]
        )

    def _sample_codes_chunk(self, plan: Plan, budget: Budget) -> Tensor:
        """Of one part; what it remembered is free again when this returns."""
        (moment,) = self.run(plan, budget, started_at=self.clock(), decoded=False)
        return moment.codes

    def resolve_budget(self, budget: Budget) -> ResolvedBudget:
        """A budget in codes of this model; its deadline is not set yet.

        Raises:
            InputError: the model does not allow it.
        """
        most = budget.max_codes(self.decoder.code_length, self.curve)
        return ResolvedBudget(most, budget.min_codes, cancel=budget.cancel)

    def check_deadline(
        self, deadline_s: float, min_codes: int, cost_model: CostModel, n: int
    ) -> None:
        """Refuse a deadline that is too short for the least number of codes of n samples.

        Raises:
            InputError: with the shortest one that would do.
        """
        need_s = cost_model.min_latency_s(min_codes)
        if deadline_s < need_s:
            raise InputError(
                f"deadline_s={deadline_s:g} is too short: {min_codes} code{'' if min_codes == 1 else 's'} "
                f"of {n} sample{'' if n == 1 else 's'} take {need_s:.4f} s here; "
                "pass at least that"
            )

    @yield_under_default_modes
    def _run(
        self,
        plan: Plan,
        budget: ResolvedBudget,
        started_at: float,
        previews: PreviewPolicy,
        cost_model: CostModel,
        decoded: bool,
        codes: Tensor | None,
        resumable: ResumableBatch | None,
    ) -> Iterator[Moment]:
        pace = LatencyTracker(cost_model)
        batch, rows = (resumable.take() if resumable else None) or self._create_batch(plan, codes)
        drawn = 0 if codes is None else codes.shape[1]
        seen: tuple[int, Tensor | None] = (0, None)
        pace.record_setup(self.clock() - started_at)
        for count, stop in decode_loop(
            batch, drawn, budget, previews=previews, clock=self.clock, timer=pace
        ):
            now = self.clock()
            codes = batch.codes(rows)
            decodes = decoded and seen[0] != count
            if decodes:
                seen = count, self.decode(codes)
            taken_s = self.clock() - now
            rest = ResumableBatch(batch, rows) if stop is not None else None
            yield Moment(codes, seen[1], stop, self.clock() - started_at, rest)
            if (
                previews is NO_PREVIEWS
            ):  # nobody looks at it: the time to hand it over belongs to it
                taken_s = self.clock() - now
            if decodes:
                pace.record_decode(taken_s)

    def _create_batch(self, plan: Plan, codes: Tensor | None) -> tuple[DecodeBatch, list[int]]:
        batch = DecodeBatch(self.decoder, plan.num_slots)
        return batch, batch.add(plan.noise, plan.labels, plan.sampling_params, codes)


def decoder_key(decoder: PriorDecoder[Any]) -> str:
    """Name what times depend on beside weights and rows: the hardware, the kernel, the precision,
    the threads."""
    threads = torch.get_num_threads()
    kind = type(decoder).__name__
    if isinstance(decoder, NativePriorDecoder):
        loaded = load_kernel()
        kind += f" {loaded.instruction_set}, {loaded.origin}"
    return f"{_hardware_name(decoder.device)}/{kind}/{decoder.precision}/{threads} threads"


@cache
def _hardware_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()} {platform.node()}"
