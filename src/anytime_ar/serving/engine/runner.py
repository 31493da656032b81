"""Runner of one model: its batch, the jobs in the batch, and the measured costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.sampling import AnytimeModel, DecodeBatch
from anytime_ar.sampling.cost_model import LatencyWindow
from anytime_ar.sampling.sampler import MAX_CACHE_BYTES
from anytime_ar.serving.engine.costs import BatchCostModel, LinearCost
from anytime_ar.serving.engine.jobs import CodecJob, CodecResultEvent, SamplingJob

_MEASURED_ROWS = (1, 4, 16)
_MEASURED_STEPS = 5
_MEASURED_REPEATS = 3


class ModelRunner:
    """A runner of the sampling jobs of one model, which share the steps of one batch.

    Args:
        name: Name by which clients request the model.
        model: Model with a prior.
        slots: Maximum rows that are sampled at once, fewer if memory is short. A sample with
            guidance takes two rows.
        clock: Clock of the engine, in seconds.

    Raises:
        InputError: The model has no prior, or `slots` is less than 1.
    """

    def __init__(
        self, name: str, model: AnytimeModel, slots: int, clock: Callable[[], float]
    ) -> None:
        """Create an empty batch. The costs are placeholders until they are measured."""
        if slots < 1:
            raise InputError(f"slots={slots} leaves no room for a sample; pass at least 1")
        self.name, self.model, self._clock = name, model, clock
        self._engine = model.sampler
        self.slots = max(1, min(slots, MAX_CACHE_BYTES // self._engine.decoder.row_bytes))
        self.batch = DecodeBatch(self._engine.decoder, self.slots)
        self.active: list[SamplingJob] = []
        self.busy_s = 0.0
        """Total seconds of steps and decodes."""
        self.costs = BatchCostModel(LinearCost(1e-3, 0, 0), LinearCost(1e-3, 0, 0), self.slots)
        """Cost model of steps and decodes. Its values are placeholders until `measured`."""
        self.measured = False
        """Whether the costs have been measured."""
        self.codec_s = {"encode": 1e-3, "decode": 1e-3}
        """Seconds a sample to encode and to decode. Placeholders until `measured`."""

    def measure_costs(self) -> None:
        """Measure steps at several batch sizes and positions, and encodes and decodes."""
        steps, decodes = [], []
        length = self._engine.decoder.code_length
        for rows in sorted({min(rows, self.slots) for rows in _MEASURED_ROWS}):
            plan = self.model.plan(rows, seed=0, guidance=1.0)[0]
            num_kept = max(1, length - _MEASURED_STEPS)
            codes = torch.zeros(rows, num_kept, dtype=torch.int64, device="cpu")
            for start in {0, codes.shape[1] if length > 1 else 0}:
                for _ in range(_MEASURED_REPEATS):
                    batch = DecodeBatch(self._engine.decoder, rows)
                    given = codes[:, :start] if start else None
                    ids = batch.add(plan.noise, plan.labels, plan.sampling_params, given)
                    for drawn in range(start, min(start + _MEASURED_STEPS, length)):
                        begin = self._clock()
                        batch.step()
                        steps.append((rows, rows * drawn, self._clock() - begin))
                    decodes.append((rows, 0, self._decode(batch.codes(ids))[1]))
        # Take the fastest: the first steps of each size include one-time initialisation.
        self.costs = BatchCostModel(
            LinearCost.fit(_fastest(steps)), LinearCost.fit(_fastest(decodes)), self.slots
        )
        shape = self.model.sample_shape
        nothing = torch.zeros(1, *shape, dtype=torch.float32, device="cpu")
        self.codec_s = {
            "encode": self._time(lambda: self.model.encode(nothing)),
            "decode": self.costs.decode_s(1),
        }
        self.measured = True

    @property
    def num_rows(self) -> int:
        """Return the number of occupied rows in the batch."""
        return self.slots - self.batch.free_slots

    @property
    def past_codes(self) -> int:
        """Return the number of codes that all rows in the batch have together."""
        return sum(job.num_slots * job.codes_drawn for job in self.active)

    def step_s(self, job: SamplingJob | None = None) -> float:
        """Return the expected seconds of the next step, 0 for an empty batch.

        Args:
            job: Job to add to the batch; None for none.
        """
        rows, past = self.num_rows, self.past_codes
        if job is not None:
            rows, past = rows + job.num_slots, past + job.num_slots * job.codes_drawn
        return self.costs.step_s(rows, past) if rows else 0.0

    def step_alone_s(self, job: SamplingJob) -> float:
        """Return the expected seconds of a step with one job alone in the batch."""
        return self.costs.step_s(job.num_slots, job.num_slots * job.codes_drawn)

    def remaining_work_s(self, job: SamplingJob) -> tuple[float, float]:
        """Return the seconds of the machine's time that a job still needs.

        Returns:
            The seconds to draw its minimum codes and to decode, and the seconds to draw the
            remaining extra codes.
        """
        work_s, drawn, min_codes = self.costs.sampling_work_s, job.codes_drawn, job.min_codes
        min_s = work_s(job.num_slots, drawn, min_codes) + self.costs.decode_work_s(job.num_samples)
        return min_s, work_s(job.num_slots, max(drawn, min_codes), job.max_codes)

    def has_room(self, job: SamplingJob) -> bool:
        """Return whether a job may enter the batch.

        A job waits if the slots do not suffice. It also waits if other jobs are in the batch and
        more rows would exceed `saturation_rows`.
        """
        rows = self.num_rows + job.num_slots
        return rows <= self.slots and (rows <= self.costs.saturation_rows or not self.active)

    def add(self, job: SamplingJob) -> None:
        """Add a job to the batch, which has room for it."""
        plan = job.plan if job.plan.candidates is None else job.plan.beginnings()
        job.rows = self.batch.add(
            plan.noise,
            plan.labels,
            plan.sampling_params,
            job.codes,
            plan.fixed_codes,
            plan.conditions,
            scored=job.plan.candidates is not None,
        )
        job.codes = None
        self.active.append(job)
        if job.started_at is None:
            job.started_at = self._clock()

    def remove(self, job: SamplingJob) -> None:
        """Remove a job from the batch, and store the codes so far in the job.

        A job that has to choose among candidates yet will begin again, unless it ends.
        """
        if job.plan.candidates is not None and job.cancelled:
            self._choose_beginnings(job)
        if job.plan.candidates is None:
            job.codes = self.codes(job)
        else:
            job.codes_drawn = 0
        self.batch.remove(job.rows)
        job.rows = []
        self.active.remove(job)

    def step(self) -> None:
        """Draw the next code of all jobs in the batch."""
        rows, past, begin = self.num_rows, self.past_codes, self._clock()
        self.batch.step()
        seconds = self._clock() - begin
        self.busy_s += seconds
        self.costs.observe_step(rows, past, seconds)
        for job in self.active:
            job.codes_drawn += 1
            if job.plan.candidates is not None and job.codes_drawn == job.plan.candidates.codes:
                self._choose_beginnings(job)

    def _choose_beginnings(self, job: SamplingJob) -> None:
        """Continue the likeliest of the beginnings of each sample, and end the others."""
        assert job.plan.candidates is not None
        scores = self.batch.log_probabilities(job.rows)
        job.rows = self.batch.keep_best(job.rows, scores, job.plan.candidates.count)
        job.plan = job.plan.without_candidates()
        job.num_slots = job.plan.num_slots

    def decode(
        self, jobs: Sequence[SamplingJob]
    ) -> Iterator[tuple[SamplingJob, Tensor, Tensor, float]]:
        """Decode the samples of jobs in order.

        Each decode takes the first job that is left, and later jobs with equally many codes, up to
        `decode_batch_size` samples.

        Args:
            jobs: Jobs in the order in which they should be decoded.

        Yields:
            Each job, its codes int64 [n, k], its samples float32 [n, *sample_shape] in [-1, 1], and
            the seconds of their joint decode.
        """
        left = list(jobs)
        while left:
            together: list[SamplingJob] = []
            samples = 0
            for job in left:
                samples += job.num_samples
                if job.codes_drawn == left[0].codes_drawn and (
                    not together or samples <= self.costs.decode_batch_size
                ):
                    together.append(job)
            left = [job for job in left if job not in together]
            codes = [job.codes if job.codes is not None else self.codes(job) for job in together]
            data, seconds = self._decode(torch.cat(codes))
            self.costs.observe_decode(len(data), seconds)
            parts = data.split([job.num_samples for job in together])
            yield from zip(together, codes, parts, [seconds] * len(together), strict=True)

    def codes(self, job: SamplingJob) -> Tensor:
        """Return the codes of a job in the batch, int64 [n, k]."""
        return self.batch.codes(job.rows)

    def _time(self, work: Callable[[], object]) -> float:
        """Return the seconds of the second of two calls, which excludes one-time initialisation."""
        for _ in range(2):
            begin = self._clock()
            work()
            seconds = self._clock() - begin
        return max(seconds, 1e-6)

    def _decode(self, codes: Tensor) -> tuple[Tensor, float]:
        begin = self._clock()
        data = self._engine.decode(codes)
        seconds = self._clock() - begin
        self.busy_s += seconds
        return data, seconds

    def probe(self) -> None:
        """Measure a few steps and decodes while the batch is empty."""
        plan = self.model.plan(1, seed=0, guidance=1.0)[0]
        ids = self.batch.add(plan.noise, plan.labels, plan.sampling_params)
        for drawn in range(min(_MEASURED_STEPS, self._engine.decoder.code_length)):
            begin = self._clock()
            self.batch.step()
            self.costs.observe_step(1, drawn, self._clock() - begin)
            self.costs.observe_decode(1, self._decode(self.batch.codes(ids))[1])
        self.batch.remove(ids)

    def reset(self) -> None:
        """Replace the batch by an empty one after a failure."""
        self.active = []
        self.batch = DecodeBatch(self._engine.decoder, self.slots)


def _fastest(observed: list[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
    """Return the shortest of repeated observations, as other processes only lengthen them.

    Args:
        observed: (rows, past codes, seconds) of each observation.

    Returns:
        One observation of the same form for each pair of rows and past codes.
    """
    best: dict[tuple[int, int], float] = {}
    for rows, past, seconds in observed:
        best[rows, past] = min(seconds, best.get((rows, past), seconds))
    return [(rows, past, max(seconds, 1e-7)) for (rows, past), seconds in best.items()]


_CODEC_WINDOW = 32


class CodecCostModel:
    """Cost model of codec jobs, in seconds a sample for each model and operation.

    Args:
        runners: Runners of the models by name, whose measured costs are the first estimates.
    """

    def __init__(self, runners: Mapping[str, ModelRunner]) -> None:
        """Start with the measured costs of the models alone."""
        self._runners = runners
        self._sample_s: dict[tuple[str, str], LatencyWindow] = {}
        self.busy_s = 0.0
        """Total seconds that codec jobs have taken."""

    def _times(self, job: CodecJob) -> LatencyWindow:
        key = job.model, job.operation
        if key not in self._sample_s:
            self._sample_s[key] = LatencyWindow(
                [self._runners[job.model].codec_s[job.operation]], window=_CODEC_WINDOW
            )
        return self._sample_s[key]

    def chunk_s(self, job: CodecJob) -> float:
        """Return the expected seconds of the next chunk of a job."""
        return job.chunk_size * self._times(job).quantile(0.5)

    def remaining_s(self, job: CodecJob) -> float:
        """Return the expected seconds of all remaining chunks of a job."""
        return len(job.chunks) * self.chunk_s(job)

    def run_chunk(self, job: CodecJob, clock: Callable[[], float]) -> CodecResultEvent | None:
        """Run the next chunk of a job.

        Args:
            job: Job with at least one remaining chunk.
            clock: Clock of the engine, in seconds.

        Returns:
            The result of all chunks after the last chunk; None before.
        """
        begin = clock()
        if job.started_at is None:
            job.started_at = begin
        job.results.append(job.chunks.pop(0)())
        now = clock()
        self.busy_s += now - begin
        self._times(job).add((now - begin) / job.chunk_size)
        if job.chunks:
            return None
        return CodecResultEvent(
            torch.cat(job.results), job.started_at - job.arrival, now - job.started_at
        )
