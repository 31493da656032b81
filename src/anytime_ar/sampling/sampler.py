"""The sampler: runs plans within budgets, with a clock, a cost model and decodes."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from anytime_ar.bundle.curve import Curve
from anytime_ar.errors import InputError, plural
from anytime_ar.kernel import load_kernel
from anytime_ar.prior import NativePriorDecoder, PriorDecoder
from anytime_ar.runtime.process_exit import end_if_exiting
from anytime_ar.runtime.torch_modes import default_torch_modes, yield_under_default_modes
from anytime_ar.sampling.batch import MAX_ROWS, DecodeBatch
from anytime_ar.sampling.budget import Budget, ResolvedBudget
from anytime_ar.sampling.cost_model import CostModel, CostModelStore, LatencyTracker
from anytime_ar.sampling.loop import NO_PREVIEWS, PreviewPolicy, decode_loop
from anytime_ar.sampling.plan import Candidates, Plan
from anytime_ar.sampling.result import Preview, SampleResult, SamplingState

if TYPE_CHECKING:
    from anytime_ar.sampling.model import AnytimeModel

MAX_CACHE_BYTES = 2**30
"""Maximum memory in bytes of the keys and values of rows sampled together."""
_WARM_UP_CODES = 16
"""Number of codes of a timed call, at most."""
_WARM_UP_DRAWS = 12
"""Number of timed calls that measure new times."""
_VERIFY_DRAWS = 4
"""Number of timed calls that check whether times of an earlier process still hold."""


@dataclass
class Sampler:
    """Runs plans on a model, within budgets."""

    model_name: str
    """Name of the model, for messages and files."""
    decoder: PriorDecoder[Any]
    """Decoder of the prior, which draws the codes."""
    decode: Callable[[Tensor], Tensor]
    """Decodes int64 [n, k] to float32 [n, *sample_shape]; the samples are complete when it
    returns."""
    curve: Curve | None
    """Measured curve of the model, which `quality` requires; None: not evaluated."""
    model: AnytimeModel
    """Model that the sampler belongs to."""
    cost_model_path: Path
    """File that stores measured times across processes."""
    clock: Callable[[], float] = time.perf_counter
    """Function that returns the time in seconds."""
    _cost_store: CostModelStore = field(init=False)

    def __post_init__(self) -> None:
        """Open the store of the cost models."""
        self._cost_store = CostModelStore(self.cost_model_path)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the sampler as an attribute of its model.

        Memory of the kernel belongs to this process, so a copied model creates its own sampler.
        """
        return attrgetter("sampler"), (self.model,)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the model's weights, in hexadecimal."""
        return self.model.fingerprint

    def max_rows(self, plan: Plan) -> int:
        """Return the maximum number of samples of a plan that are drawn together."""
        slots_per_sample = plan.num_slots // len(plan)
        return max(1, min(MAX_ROWS, MAX_CACHE_BYTES // (slots_per_sample * self.decoder.row_bytes)))

    def warm_up(self, make_plan: Callable[[], Plan]) -> CostModel:
        """Measure steps and decodes of a plan, unless this process has, and return the cost model.

        Args:
            make_plan: returns the plan; called once more for each timed call.
        """
        plan = make_plan()
        costs = self._cost_model(plan)
        if costs.is_warm:
            return costs
        measured = self._time_draws(
            make_plan, _VERIFY_DRAWS if costs.is_measured else _WARM_UP_DRAWS
        )
        if costs.is_measured and measured.is_consistent_with(costs):
            costs.confirmations += 1
        elif costs.is_measured:
            # The speed of the machine has changed.
            measured = self._time_draws(make_plan, _WARM_UP_DRAWS)
            costs.clear()
        costs.merge(measured)
        costs.is_warm = True
        self._cost_store.save(self._cost_key(plan))
        return costs

    def _time_draws(self, make_plan: Callable[[], Plan], draws: int) -> CostModel:
        """Return the cost model of a number of timed calls."""
        limit = ResolvedBudget(min(_WARM_UP_CODES, self.decoder.code_length))
        cost_model = CostModel()
        for turn in range(draws):
            if turn == 1:  # the first call includes the set-up
                cost_model = CostModel()
            begin = self.clock()
            for _ in self._run(make_plan(), limit, begin, NO_PREVIEWS, cost_model, None, None):
                pass
        return cost_model

    def _cost_model(self, plan: Plan) -> CostModel:
        return self._cost_store.cost_model(self._cost_key(plan))

    def _cost_key(self, plan: Plan) -> str:
        """Return a key of all that the times of a plan depend on."""
        rows = f"{plan.num_slots}/{len(plan)}"
        return f"{self.fingerprint()}/{decoder_key(self.decoder)}/{rows}"

    def run(
        self,
        plan: Plan,
        budget: Budget,
        *,
        started_at: float,
        previews: PreviewPolicy = NO_PREVIEWS,
        state: SamplingState | None = None,
    ) -> Iterator[Preview]:
        """Sample a plan within a budget, from the start or from a state.

        Errors are raised by the call itself; sampling begins at the first item.

        Args:
            plan: samples to draw, at most `max_rows` of them.
            budget: limits of this call.
            started_at: time of the call on the sampler's clock, in seconds. The deadline counts
                from there, or from the end of the measurement if this batch size was not measured
                yet.
            previews: when to yield before the end.
            state: state of the plan to continue from; None: from the first code.

        Yields:
            Previews, and a `SampleResult` at the end.

        Raises:
            InputError: there are too many samples at once, the model does not allow the budget, or
                the deadline is too short.
        """
        self._check_rows(plan)
        limit = self._resolve_limit(plan, budget)
        costs = CostModel()
        codes = self.leading_codes(plan, limit.max_codes) if state is None else state.codes
        if budget.deadline_s is not None:
            usual = replace(plan, fixed_codes=None, candidates=None)
            costs = self._cost_model(usual)
            if not costs.is_warm:
                self.warm_up(lambda: usual)
                started_at = self.clock()
            limit = replace(limit, deadline_at=started_at + budget.deadline_s)
            drawn = 0 if state is None else state.codes_drawn
            if plan.candidates is not None:  # each further beginning counts as so many codes
                drawn -= (plan.candidates.count - 1) * plan.candidates.codes
            self.check_deadline(
                budget.deadline_s, max(0, limit.min_codes - drawn), costs, len(plan)
            )
            if state is None and codes is not None:
                # A prefill cannot stop in time; steps can.
                fits = costs.min_latency_s(codes.shape[1]) <= budget.deadline_s
                codes = codes if fits else None
        return self._run(plan, limit, started_at, previews, costs, codes, state)

    def run_to_end(
        self,
        plan: Plan,
        budget: Budget,
        *,
        started_at: float,
        state: SamplingState | None = None,
    ) -> SampleResult:
        """Sample a plan within a budget without previews, and return the result; see `run`."""
        (result,) = self.run(plan, budget, started_at=started_at, state=state)
        assert isinstance(result, SampleResult)
        return result

    def needs_chunking(self, plan: Plan, budget: Budget) -> bool:
        """Return whether a plan has more samples than memory allows at once and can be split.

        Deadlines and cancel flags are for all samples together, so such a plan is not split.
        """
        all_at_once = budget.deadline_s is not None or budget.cancel is not None
        return len(plan) > self.max_rows(plan) and not all_at_once

    @default_torch_modes()
    def sample_codes(self, plan: Plan, budget: Budget) -> Tensor:
        """Draw codes without decoding them, int64 [n, k], in chunks where that is possible.

        Args:
            plan: samples to draw.
            budget: limits of this call.

        Raises:
            InputError: as for `run`.
        """
        if not self.needs_chunking(plan, budget):
            return self._sample_codes_chunk(plan, budget)
        size = self.max_rows(plan)
        starts = range(0, len(plan), size)
        return torch.cat(
            [self._sample_codes_chunk(plan.slice(i, i + size), budget) for i in starts]
        )

    def _sample_codes_chunk(self, plan: Plan, budget: Budget) -> Tensor:
        """Draw the codes of one chunk, whose memory is free when this returns."""
        self._check_rows(plan)
        limit = self._resolve_limit(plan, budget)
        codes = self.leading_codes(plan, limit.max_codes)
        batch, rows = self._create_batch(plan, codes)
        for _ in decode_loop(
            batch,
            batch.codes_drawn(rows[0]),
            limit,
            previews=NO_PREVIEWS,
            clock=self.clock,
            timer=LatencyTracker(CostModel()),
        ):
            pass
        return batch.codes(rows)

    def leading_codes(self, plan: Plan, limit: int) -> Tensor | None:
        """Return the first codes of a plan that are given and that one pass computes.

        Args:
            plan: samples to draw.
            limit: largest number of codes to return.

        Returns:
            int64 [n, k] with 1 <= k <= limit; None: the decoder steps over given codes.
        """
        if plan.candidates is not None or not self.decoder.one_pass_prefill:
            return None
        return plan.leading_codes(limit)

    def _resolve_limit(self, plan: Plan, budget: Budget) -> ResolvedBudget:
        """Convert a budget as `resolve_budget` does, with at least the codes of a beginning."""
        limit = self.resolve_budget(budget)
        least = check_beginning_fits(plan, limit.max_codes)
        return replace(limit, min_codes=max(limit.min_codes, least))

    def _check_rows(self, plan: Plan) -> None:
        """Raise an error if a plan has more samples than are drawn at once."""
        if len(plan) > (most := self.max_rows(plan)):
            raise InputError(
                f"{len(plan)} samples are more than the {most} that are drawn at once "
                "here; with a deadline, previews or a state, draw fewer, several times"
            )

    def resolve_budget(self, budget: Budget) -> ResolvedBudget:
        """Convert a budget to numbers of codes of this model, without its deadline.

        Raises:
            InputError: the model does not allow the budget.
        """
        most = budget.max_codes(self.decoder.code_length, self.curve)
        return ResolvedBudget(most, budget.min_codes, cancel=budget.cancel)

    def check_deadline(
        self, deadline_s: float, min_codes: int, cost_model: CostModel, n: int
    ) -> None:
        """Raise an error if a deadline is too short for the minimum number of codes.

        Args:
            deadline_s: seconds from the call.
            min_codes: number of codes still to draw, at least 0.
            cost_model: times at this batch size.
            n: number of samples, for the message.

        Raises:
            InputError: the deadline is too short; the message names one that can be kept.
        """
        need_s = cost_model.min_latency_s(min_codes)
        if deadline_s < need_s:
            shortest_s = math.ceil(round(1e4 * need_s, 3)) / 1e4
            raise InputError(
                f"deadline_s={deadline_s:g} is too short: "
                f"{plural(min_codes, 'code')} of {plural(n, 'sample')} take {shortest_s:.4f} s "
                f"here at best; pass {cost_model.suggested_deadline_s(min_codes):g} or more"
            )

    @yield_under_default_modes
    def _run(
        self,
        plan: Plan,
        budget: ResolvedBudget,
        started_at: float,
        previews: PreviewPolicy,
        cost_model: CostModel,
        codes: Tensor | None,
        state: SamplingState | None,
    ) -> Iterator[Preview]:
        tracker = LatencyTracker(cost_model)
        batch, rows = (state and state.take_batch()) or self._create_batch(plan, codes)
        drawn = batch.codes_drawn(rows[0])
        prefilled = state is None and drawn > 0
        plan = plan.without_candidates()
        decoded_count, data = 0, torch.empty(0, dtype=torch.float32, device=self.decoder.device)
        if not prefilled:  # that is no part of usual times
            tracker.record_setup(self.clock() - started_at)
        for count, stop in decode_loop(
            batch, drawn, budget, previews=previews, clock=self.clock, timer=tracker
        ):
            now = self.clock()
            codes = batch.codes(rows)
            decodes = decoded_count != count
            if decodes:
                decoded_count, data = count, self.decode(codes)
            taken_s = self.clock() - now
            elapsed_s = self.clock() - started_at
            if stop is None:
                reached = SamplingState(self, plan, codes.clone())
                yield Preview(codes, data, elapsed_s, reached)
            else:
                reached = SamplingState(self, plan, codes.clone(), (batch, rows))
                due = budget.deadline_at
                deadline_s = None if due is None else due - started_at
                yield SampleResult(codes, data, elapsed_s, reached, stop, deadline_s)
            if previews is NO_PREVIEWS:  # no preview to handle: handing over is part of the decode
                taken_s = self.clock() - now
            if decodes:
                tracker.record_decode(taken_s)

    def _create_batch(self, plan: Plan, codes: Tensor | None) -> tuple[DecodeBatch, list[int]]:
        """Return a batch with the rows of a plan, and their IDs.

        Args:
            plan: samples to draw; the best of their candidates is chosen.
            codes: codes so far, int64 [n, k]; None: none.
        """
        batch = DecodeBatch(self.decoder, plan.num_slots)
        if plan.candidates is not None:
            return batch, self._choose_beginnings(plan, plan.candidates, batch)
        rows = batch.add(
            plan.noise,
            plan.labels,
            plan.sampling_params,
            codes,
            plan.fixed_codes,
            plan.conditions,
        )
        return batch, rows

    def _choose_beginnings(
        self, plan: Plan, candidates: Candidates, batch: DecodeBatch
    ) -> list[int]:
        """Draw all beginnings of a plan, and return the IDs of the rows that are continued."""
        scorer, several = candidates.scorer, plan.beginnings()
        rows = batch.add(
            several.noise,
            several.labels,
            several.sampling_params,
            None,
            several.fixed_codes,
            several.conditions,
            scored=scorer is None,
        )
        for _ in range(candidates.codes):
            end_if_exiting()
            batch.step()
        if scorer is None:
            scores = batch.log_probabilities(rows)
        else:
            codes = batch.codes(rows)
            given = scorer(codes, self.decode(codes))
            scores = torch.as_tensor(given, dtype=torch.float64, device="cpu")
            if scores.shape != (len(rows),) or not scores.isfinite().all():
                raise InputError(
                    f"candidate_scorer returned a tensor of shape {list(scores.shape)}; return "
                    f"one finite number for each beginning, [{len(rows)}]"
                )
        return batch.keep_best(rows, scores, candidates.count)


def check_beginning_fits(plan: Plan, max_codes: int) -> int:
    """Return the codes of a beginning that candidates are chosen by; 0 without candidates.

    Args:
        plan: samples to draw.
        max_codes: largest number of codes that the budget allows.

    Raises:
        InputError: the budget allows fewer codes.
    """
    codes = 0 if plan.candidates is None else plan.candidates.codes
    if codes > max_codes:
        raise InputError(
            f"candidates have beginnings of {codes} codes, and the budget allows {max_codes}; "
            "raise it, or lower candidate_codes"
        )
    return codes


def decoder_key(decoder: PriorDecoder[Any]) -> str:
    """Name all that times depend on besides weights and rows.

    These are hardware, kernel, precision and number of threads.
    """
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
