"""One model in the server: its batch, what is in it, and what its work takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.sampling import AnytimeModel, DecodeBatch
from anytime_ar.sampling.engine import CACHE_BYTES
from anytime_ar.serving.costs import Costs, Shape
from anytime_ar.serving.jobs import Draw

_TIMED_ROWS = (1, 4, 16)
_TIMED_STEPS = 5
_REPEATS = 3


class Lane:
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
        self._engine = model.engine
        self.slots = max(1, min(slots, CACHE_BYTES // self._engine.decoder.row_bytes))
        self.batch = DecodeBatch(self._engine.decoder, self.slots)
        self.active: list[Draw] = []
        self.busy_s = 0.0
        """That the model has taken for steps and decodes."""
        self.costs = Costs(Shape(1e-3, 0, 0), Shape(1e-3, 0, 0), self.slots)
        """Anything, until they are measured."""
        self.measured = False
        self.task_s = {"encode": 1e-3, "decode": 1e-3}
        """Seconds a sample of what else clients ask for, likewise."""

    def measure(self) -> None:
        """Time steps of several sizes, at the first codes and at the last, and the rest."""
        steps, decodes = [], []
        length = self._engine.decoder.code_length
        for rows in sorted({min(rows, self.slots) for rows in _TIMED_ROWS}):
            plan = self.model.plan(rows, seed=0, guidance=1.0)[0]
            kept = max(1, length - _TIMED_STEPS)
            codes = torch.zeros(rows, kept, dtype=torch.int64, device="cpu")
            for start in {0, codes.shape[1] if length > 1 else 0}:
                for _ in range(_REPEATS):
                    batch = DecodeBatch(self._engine.decoder, rows)
                    given = codes[:, :start] if start else None
                    ids = batch.join(plan.noise, plan.labels, plan.choice, given)
                    for drawn in range(start, min(start + _TIMED_STEPS, length)):
                        begin = self._clock()
                        batch.step()
                        steps.append((rows, rows * drawn, self._clock() - begin))
                    decodes.append((rows, 0, self._decode(batch.codes(ids))[1]))
        # The first ones pay for what is set up once.
        self.costs = Costs(Shape.fit(_fastest(steps)), Shape.fit(_fastest(decodes)), self.slots)
        shape = self.model.sample_shape
        nothing = torch.zeros(1, *shape, dtype=torch.float32, device="cpu")
        self.task_s = {
            "encode": self._timed(lambda: self.model.encode(nothing)),
            "decode": self.costs.decode_s(1),
        }
        self.measured = True

    @property
    def rows(self) -> int:
        """Rows that are being drawn."""
        return self.slots - self.batch.room

    @property
    def past(self) -> int:
        """Codes that they have together."""
        return sum(draw.places * draw.drawn for draw in self.active)

    def step_s(self, draw: Draw | None = None) -> float:
        """What the next step takes, with one more draw if that is given; 0 without any."""
        rows, past = self.rows, self.past
        if draw is not None:
            rows, past = rows + draw.places, past + draw.places * draw.drawn
        return self.costs.step_s(rows, past) if rows else 0.0

    def alone_s(self, draw: Draw) -> float:
        """What a step takes with one draw by itself."""
        return self.costs.step_s(draw.places, draw.places * draw.drawn)

    def needs(self, draw: Draw) -> tuple[float, float]:
        """What a draw still needs of the machine's time: until it has its floor and is decoded, and
        from there to its cap."""
        work_s, drawn, floor = self.costs.work_s, draw.drawn, draw.floor
        least_s = work_s(draw.places, drawn, floor) + self.costs.decode_work_s(draw.samples)
        return least_s, work_s(draw.places, max(drawn, floor), draw.cap)

    def has_room(self, draw: Draw) -> bool:
        """Whether a draw may be drawn beside those that are: while more rows make steps slower
        and nothing else, they wait, as long as there are others."""
        rows = self.rows + draw.places
        return rows <= self.slots and (rows <= self.costs.comfort or not self.active)

    def join(self, draw: Draw) -> None:
        """Let a draw in; there is room for it."""
        plan = draw.plan
        draw.rows = self.batch.join(plan.noise, plan.labels, plan.choice, draw.codes)
        draw.codes = None
        self.active.append(draw)
        if draw.joined is None:
            draw.joined = self._clock()

    def leave(self, draw: Draw) -> None:
        """Let a draw out; it keeps its codes."""
        draw.codes = self.codes(draw)
        self.batch.leave(draw.rows)
        draw.rows = []
        self.active.remove(draw)

    def step(self) -> None:
        """Draw the next code of all that are in."""
        rows, past, begin = self.rows, self.past, self._clock()
        self.batch.step()
        seconds = self._clock() - begin
        self.busy_s += seconds
        self.costs.stepped(rows, past, seconds)
        for draw in self.active:
            draw.drawn += 1

    def decode(self, draws: Sequence[Draw]) -> Iterator[tuple[Draw, Tensor, Tensor, float]]:
        """Decode what draws have, the first ones first, and with each as many of equal length as
        are quicker together.

        Yields:
            each draw, its codes int64 [n, k], its data float32 [n, *sample_shape], and the seconds
            that the decode took.
        """
        left = list(draws)
        while left:
            together: list[Draw] = []
            samples = 0
            for draw in left:
                samples += draw.samples
                if draw.drawn == left[0].drawn and (
                    not together or samples <= self.costs.decoded_at_once
                ):
                    together.append(draw)
            left = [draw for draw in left if draw not in together]
            codes = [
                draw.codes if draw.codes is not None else self.codes(draw) for draw in together
            ]
            data, seconds = self._decode(torch.cat(codes))
            self.costs.decoded(len(data), seconds)
            parts = data.split([draw.samples for draw in together])
            yield from zip(together, codes, parts, [seconds] * len(together), strict=True)

    def codes(self, draw: Draw) -> Tensor:
        """What a draw has that is in the batch."""
        return self.batch.codes(draw.rows)

    def _timed(self, work: Callable[[], object]) -> float:
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
        ids = self.batch.join(plan.noise, plan.labels, plan.choice)
        for drawn in range(min(_TIMED_STEPS, self._engine.decoder.code_length)):
            begin = self._clock()
            self.batch.step()
            self.costs.stepped(1, drawn, self._clock() - begin)
            self.costs.decoded(1, self._decode(self.batch.codes(ids))[1])
        self.batch.leave(ids)

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
