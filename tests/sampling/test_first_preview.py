"""The time of a first preview, on a fake clock."""

from __future__ import annotations

from pathlib import Path

import pytest
from timed_models import TimedModel

from anytime_ar.errors import InputError
from anytime_ar.evaluation.previews import time_first_preview


def test_the_first_preview_beside_what_it_consists_of(tmp_path: Path) -> None:
    model = TimedModel(tmp_path / "costs.json")
    first, bare = time_first_preview(model, 3, rounds=2, clock=model.clock)
    assert (first.batch_size, bare.batch_size) == (3, 3)
    assert first.seconds == bare.seconds == pytest.approx((0.015, 0.015))
    assert (model.steps, model.decodes) == (6, 6)
    with pytest.raises(InputError, match="rounds=0 times nothing"):
        time_first_preview(model, 3, rounds=0)
