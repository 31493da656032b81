"""Beginnings of which the likeliest is continued, beside other requests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from serving_fakes import L, Stage

SEVERAL = {"candidates": 3, "candidate_codes": 2, "label": "owl"}


def test_candidates_are_those_of_the_model_alone_and_free_their_rows(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    (model,) = stage.models
    expected = model.sample_codes(2, seed=3, **SEVERAL)
    first = stage.ask(2, seed=3, floor=2, **SEVERAL)
    second = stage.ask(1, seed=4)
    (runner,) = stage.scheduler.runners.values()
    rows = []
    while not stage.scheduler.idle:
        stage.scheduler.run_iteration()
        rows.append(runner.num_rows)
    assert torch.equal(first.done.codes, expected)
    assert torch.equal(second.done.codes, model.sample_codes(1, seed=4))
    assert max(rows) >= 6
    assert 2 <= rows[-2] <= 3  # one row a sample
    assert first.draw.num_slots == 2


def test_a_job_that_leaves_before_it_has_chosen_begins_again(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    (runner,) = stage.scheduler.runners.values()
    job = stage.ask(2, seed=3, floor=2, **SEVERAL).draw
    runner.add(job)
    runner.step()
    runner.remove(job)
    assert (job.codes, job.codes_drawn, job.num_slots, runner.num_rows) == (None, 0, 6, 0)
    runner.add(job)
    for _ in range(5):
        runner.step()
    runner.remove(job)  # after its choice it goes on
    runner.add(job)
    while job.codes_drawn < L:
        runner.step()
    assert torch.equal(runner.codes(job), stage.models[0].sample_codes(2, seed=3, **SEVERAL))


@pytest.mark.parametrize("steps", [1, 4])
def test_a_job_that_is_stopped_answers_with_its_best_beginning(tmp_path: Path, steps: int) -> None:
    stage = Stage(tmp_path)
    asked = stage.ask(2, seed=3, floor=2, **SEVERAL, look_every_s=0.0)
    for _ in range(steps):
        stage.scheduler.run_iteration()
    asked.draw.cancelled = True
    stage.run()
    assert asked.done.stop_reason == "cancelled"
    assert asked.done.codes.shape[0] == 2
    assert asked.done.codes.shape[1] >= steps
    previews = [event for _, event in asked.events[:-1]]
    assert all(event.codes.shape[1] >= 2 for event in previews)
