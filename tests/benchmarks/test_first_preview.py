"""The time of a first preview, on a fake clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from speed import time_first_preview
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.prior import DecodeState
from anytime_ar.sampling import AnytimeModel, load


class Clock:
    """Goes on by 10 ms with each step of a model, and by 5 ms with each decode."""

    def __init__(self, model: AnytimeModel) -> None:
        self.now, self.steps, self.decodes = 1000.0, 0, 0
        decoder, sampler = model.sampler.decoder, model.sampler
        real_step, real_decode = decoder.step, sampler.decode

        def step(rows: DecodeState[Any], count: int) -> None:
            self.steps += 1
            self.now += 0.010
            real_step(rows, count)

        def decode(codes: Tensor) -> Tensor:
            self.decodes += 1
            self.now += 0.005
            return real_decode(codes)

        decoder.step = step  # type: ignore[method-assign]
        sampler.decode = decode

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("name", ["mnist", "fsdd"])
def test_the_first_preview_beside_what_it_consists_of(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = load(name, device="cpu", backend="portable")
    clock = Clock(model)
    first, bare = time_first_preview(model, 3, rounds=2, clock=clock)
    assert (first.batch_size, bare.batch_size) == (3, 3)
    assert first.seconds == bare.seconds == pytest.approx((0.015, 0.015))
    assert (clock.steps, clock.decodes) == (6, 6)
    with pytest.raises(InputError, match="rounds=0 times nothing"):
        time_first_preview(model, 3, rounds=0)
