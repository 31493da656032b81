"""One model in the server: its batch, what is in it, and what its work takes."""

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
    """Draws of one model that share their steps.

    Args:
        name: of the model, for clients.
        model: with a prior.
        slots: rows drawn at once at most; guided samples take two. Fewer where memory says so.
        clock: the engine's.

    Raises:
        InputError: the model has no prior, or there is no room for a single row.
    """

    def __init__(
        self, name: str, model: AnytimeModel, slots: int, clock: Callable[[], float]
    ) -> None:
        if slots < 1:
            raise InputError(f"slots={slots} has room for nothing; pass at least 1")
        self.name, self.model, self._clock = name, model, clock
        self._engine = model.sampler
        self.slots = max(1, min(slots, MAX_CACHE_BYTES // self._engine.decoder.row_bytes))
        self.batch = DecodeBatch(self._engine.decoder, self.slots)
        self.active: list[SamplingJob] = []
        self.busy_s = 0.0
        """That the model has taken for steps and decodes."""
        self.costs = BatchCostModel(LinearCost(1e-3, 0, 0), LinearCost(1e-3, 0, 0), self.slots)
        """Anything, until they are measured."""
        self.measured = False
        self.codec_s = {"encode": 1e-3, "decode": 1e-3}
        """Seconds a sample of what else clients ask for, likewise."""

    def measure_costs(self) -> None:
        """Time steps of several sizes, at the first codes and at the last, and the rest."""
        steps, decodes = [], []
        length = self._engine.decoder.code_length
        for rows in sorted({min(rows, self.slots) for rows in _MEASURED_ROWS}):
            plan = self.model.plan(rows, seed=0, guidance=1.0)[0]
            kept = max(1, length - _MEASURED_STEPS)
            codes = torch.zeros(rows, kept, dtype=torch.int64, device="cpu")
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
        # The first ones pay for what is set up once.
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
        """Rows that are being drawn."""
        return self.slots - self.batch.free_slots

    @property
    def past_codes(self) -> int:
        """Codes that they have together."""
        return sum(draw.num_slots * draw.codes_drawn for draw in self.active)

    def step_s(self, job: SamplingJob | None = None) -> float:
        """What the next step takes, with one more draw if that is given; 0 without any."""
        rows, past = self.num_rows, self.past_codes
        if job is not None:
            rows, past = rows + job.num_slots, past + job.num_slots * job.codes_drawn
        return self.costs.step_s(rows, past) if rows else 0.0

    def step_alone_s(self, job: SamplingJob) -> float:
        """What a step takes with one draw by itself."""
        return self.costs.step_s(job.num_slots, job.num_slots * job.codes_drawn)

    def remaining_work_s(self, job: SamplingJob) -> tuple[float, float]:
        """What a draw still needs of the machine's time: until it has its floor and is decoded, and
        from there to its cap."""
        work_s, drawn, floor = self.costs.sampling_work_s, job.codes_drawn, job.min_codes
        least_s = work_s(job.num_slots, drawn, floor) + self.costs.decode_work_s(job.num_samples)
        return least_s, work_s(job.num_slots, max(drawn, floor), job.max_codes)

    def has_room(self, job: SamplingJob) -> bool:
        """Whether a draw may be drawn beside those that are: while more rows make steps slower
        and nothing else, they wait, as long as there are others."""
        rows = self.num_rows + job.num_slots
        return rows <= self.slots and (rows <= self.costs.saturation_rows or not self.active)

    def add(self, job: SamplingJob) -> None:
        """Let a draw in; there is room for it."""
        plan = job.plan
        job.rows = self.batch.add(plan.noise, plan.labels, plan.sampling_params, job.codes)
        job.codes = None
        self.active.append(job)
        if job.started_at is None:
            job.started_at = self._clock()

    def remove(self, job: SamplingJob) -> None:
        """Let a draw out; it keeps its codes."""
        job.codes = self.codes(job)
        self.batch.remove(job.rows)
        job.rows = []
        self.active.remove(job)

    def step(self) -> None:
        """Draw the next code of all that are in."""
        rows, past, begin = self.num_rows, self.past_codes, self._clock()
        self.batch.step()
        seconds = self._clock() - begin
        self.busy_s += seconds
        self.costs.observe_step(rows, past, seconds)
        for draw in self.active:
            draw.codes_drawn += 1

    def decode(
        self, jobs: Sequence[SamplingJob]
    ) -> Iterator[tuple[SamplingJob, Tensor, Tensor, float]]:
        """Decode what draws have, the first ones first, and with each as many of equal length as
        are quicker together.

        Yields:
            each draw, its codes int64 [n, k], its data float32 [n, *sample_shape], and the seconds
            that the decode took.
        """
        left = list(jobs)
        while left:
            together: list[SamplingJob] = []
            samples = 0
            for draw in left:
                samples += draw.num_samples
                if draw.codes_drawn == left[0].codes_drawn and (
                    not together or samples <= self.costs.decode_batch_size
                ):
                    together.append(draw)
            left = [draw for draw in left if draw not in together]
            codes = [
                draw.codes if draw.codes is not None else self.codes(draw) for draw in together
            ]
            data, seconds = self._decode(torch.cat(codes))
            self.costs.observe_decode(len(data), seconds)
            parts = data.split([draw.num_samples for draw in together])
            yield from zip(together, codes, parts, [seconds] * len(together), strict=True)

    def codes(self, job: SamplingJob) -> Tensor:
        """What a draw has that is in the batch."""
        return self.batch.codes(job.rows)

    def _time(self, work: Callable[[], object]) -> float:
        """Seconds that something takes, the second time."""
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
        """Find out how fast it goes now, while there is nothing else to do."""
        plan = self.model.plan(1, seed=0, guidance=1.0)[0]
        ids = self.batch.add(plan.noise, plan.labels, plan.sampling_params)
        for drawn in range(min(_MEASURED_STEPS, self._engine.decoder.code_length)):
            begin = self._clock()
            self.batch.step()
            self.costs.observe_step(1, drawn, self._clock() - begin)
            self.costs.observe_decode(1, self._decode(self.batch.codes(ids))[1])
        self.batch.remove(ids)

    def reset(self) -> None:
        """Throw the batch away, after a failure."""
        self.active = []
        self.batch = DecodeBatch(self._engine.decoder, self.slots)


def _fastest(observed: list[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
    """Of observations that should be the same, the shortest: the rest is somebody else's work."""
    best: dict[tuple[int, int], float] = {}
    for rows, past, seconds in observed:
        best[rows, past] = min(seconds, best.get((rows, past), seconds))
    return [(rows, past, max(seconds, 1e-7)) for (rows, past), seconds in best.items()]


_CODEC_WINDOW = 32


class CodecCostModel:
    """What tasks take for each sample, by model and kind.

    Args:
        runners: of the models, which know what they take to begin with.
    """

    def __init__(self, runners: Mapping[str, ModelRunner]) -> None:
        self._runners = runners
        self._sample_s: dict[tuple[str, str], LatencyWindow] = {}
        self.busy_s = 0.0
        """That tasks have taken."""

    def _times(self, job: CodecJob) -> LatencyWindow:
        key = job.model, job.operation
        if key not in self._sample_s:
            self._sample_s[key] = LatencyWindow(
                [self._runners[job.model].codec_s[job.operation]], window=_CODEC_WINDOW
            )
        return self._sample_s[key]

    def chunk_s(self, job: CodecJob) -> float:
        """The next part of a task."""
        return job.chunk_size * self._times(job).quantile(0.5)

    def remaining_s(self, job: CodecJob) -> float:
        """All that is left of it."""
        return len(job.chunks) * self.chunk_s(job)

    def run_chunk(self, job: CodecJob, clock: Callable[[], float]) -> CodecResultEvent | None:
        """Do the next part of a task; returns what came of all of them after the last."""
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
