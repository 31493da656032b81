"""Draws that share their steps."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from sampling_models import L
from timed_models import TimedModel

from anytime_ar.errors import InputError
from anytime_ar.sampling import AnytimeModel, Finished, SharedDraws

DRAWS: list[tuple[int, dict[str, Any]]] = [
    (1, {"seed": 0}),
    (2, {"seed": 1, "codes": 2, "label": ["cat", "owl"], "temperature": 0.5}),
    (3, {"seed": 2, "codes": 4, "label": "dog", "guidance": 2.0}),
    (1, {"seed": 3, "codes": 1, "top_k": 2}),
    (2, {"seed": 4}),
]


def run(draws: SharedDraws, model: AnytimeModel, *, together: bool) -> dict[int, Finished]:
    """All of DRAWS, joining at once or one at every step; by ticket."""
    waiting, done = list(DRAWS), {}
    while waiting or len(draws):
        while waiting:
            n, options = waiting.pop(0)
            draws.join(*model.plan(n, **options))
            if not together:
                break
        done.update({finished.ticket: finished for finished in draws.step()})
    return done


@pytest.mark.parametrize("together", [True, False])
def test_every_draw_gets_what_it_gets_alone(model: AnytimeModel, together: bool) -> None:
    done = run(model.share(12), model, together=together)
    assert sorted(done) == list(range(len(DRAWS)))
    for ticket, (n, options) in enumerate(DRAWS):
        alone = model.draw(n, **options)
        assert torch.equal(done[ticket].codes, alone.codes)
        torch.testing.assert_close(done[ticket].data, alone.data)
        assert done[ticket].stopped_by == alone.stopped_by


def test_room_comes_back(model: AnytimeModel) -> None:
    draws = model.share(4)
    draws.join(*model.plan(3, seed=0, codes=1))
    with pytest.raises(InputError, match="2 rows do not fit: 3 of 4 places are taken"):
        draws.join(*model.plan(2, seed=1))
    assert len(draws.step()) == 1
    assert (len(draws), draws.room) == (0, 4)
    with pytest.raises(InputError, match="there is nothing to draw"):
        draws.step()
    with pytest.raises(InputError, match="capacity=0 has room for nothing"):
        model.share(0)


def test_deadlines_and_flags_end_their_own_draw_only(tmp_path: Path) -> None:
    timed = TimedModel(tmp_path / "costs.json")
    draws, flag = timed.share(4), threading.Event()
    stopped = draws.join(*timed.plan(1, seed=2, cancel=flag))
    patient = draws.join(*timed.plan(1, seed=1))
    hurried = draws.join(*timed.plan(1, seed=0, deadline_s=0.036))
    done: dict[int, Finished] = {}
    begin = timed.clock()
    while len(draws):
        if timed.clock() - begin > 0.015:
            flag.set()
        done.update({finished.ticket: finished for finished in draws.step()})
    assert (done[hurried].stopped_by, done[hurried].codes.shape[1]) == ("deadline", 3)
    assert done[hurried].elapsed_s <= 0.036
    assert done[stopped].stopped_by == "cancelled"
    assert (done[patient].stopped_by, done[patient].codes.shape[1]) == ("complete", L)
    with pytest.raises(InputError, match=r"deadline_s=0.01 is too short: 1 code of 4 samples take"):
        draws.join(*timed.plan(1, deadline_s=0.01))
