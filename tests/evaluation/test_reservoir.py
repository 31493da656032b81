"""What is kept of a stream."""

from __future__ import annotations

import torch

from anytime_ar.evaluation.metrics.distribution import Reservoir


def kept(count: int, batch: int, capacity: int = 50) -> torch.Tensor:
    reservoir = Reservoir(capacity)
    for rows in torch.arange(count)[:, None].split(batch):
        reservoir.add(rows)
    return reservoir.rows[:, 0]


def test_everything_is_kept_while_there_is_room() -> None:
    assert torch.equal(kept(50, 7), torch.arange(50))


def test_batches_do_not_matter() -> None:
    for batch in (1, 7, 400):
        assert torch.equal(kept(400, batch), kept(400, 33))


def test_it_is_a_sample_without_repetition_from_all_over() -> None:
    numbers = kept(10_000, 64, capacity=1000)
    assert len(numbers.unique()) == 1000
    counts = torch.bincount(numbers // 1000, minlength=10)
    assert counts.min() > 70  # 100 each, with a deviation of 9
    assert counts.max() < 130
