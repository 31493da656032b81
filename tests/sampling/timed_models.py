"""A tiny model whose time is told by a fake clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sampling_models import tiny_bundle
from torch import Tensor

from anytime_ar.bundle.format import Bundle
from anytime_ar.prior import DecodeState
from anytime_ar.sampling import AnytimeModel
from fake_clock import FakeClock


class TimedModel(AnytimeModel):
    """Steps and decodes take as long as they are told to; everything else takes no time."""

    def __init__(self, costs_path: Path, bundle: Bundle | None = None) -> None:
        self.clock = FakeClock()
        super().__init__(
            bundle or tiny_bundle(), device="cpu", cost_model_path=costs_path, clock=self.clock
        )
        self.step_s: Callable[[int], float] = lambda _position: 0.010
        self.decode_s = 0.005
        self.steps = self.decodes = 0
        decoder, engine = self.sampler.decoder, self.sampler
        real_step, real_decode = decoder.step, engine.decode

        def step(rows: DecodeState[Any], count: int) -> None:
            self.steps += 1
            self.clock.now += self.step_s(rows.positions[0])
            real_step(rows, count)

        def decode(codes: Tensor) -> Tensor:
            self.decodes += 1
            self.clock.now += self.decode_s
            return real_decode(codes)

        decoder.step = step  # type: ignore[method-assign]
        engine.decode = decode
