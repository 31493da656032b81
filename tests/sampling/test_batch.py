"""Rows with budgets, labels, seeds and settings of their own, drawn in one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from sampling_models import L, build_model
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.prior.sampling_params import SamplingParams
from anytime_ar.sampling import AnytimeModel, DecodeBatch, uniform_noise


@dataclass(frozen=True)
class Request:
    """One row as a caller would ask for it alone."""

    seed: int
    label: int
    codes: int
    joins_at: int
    choice: dict[str, Any]

    def alone(self, model: AnytimeModel) -> Tensor:
        return model.sample_codes(
            1, seed=self.seed, label=self.label, codes=self.codes, **self.choice
        )[0]

    def join(self, batch: DecodeBatch) -> int:
        noise = uniform_noise(self.seed, range(1), 1 + L)[:, 1:]
        (row,) = batch.add(noise, torch.tensor([self.label]), SamplingParams(**self.choice))
        return row


REQUESTS = [
    Request(0, 0, L, 0, {}),
    Request(1, 1, 1, 0, {}),
    Request(2, 2, 3, 0, {"temperature": 0.5}),
    Request(3, 0, L, 1, {"guidance": 2.0}),
    Request(4, 1, 2, 2, {"guidance": 2.0, "top_k": 3}),
    Request(5, 2, L, 2, {"temperature": 0}),
    Request(6, 0, 4, 4, {}),
    Request(7, 1, L, 2, {"guidance": (3.0, 1.0, 2.0), "top_p": (0.9, 0.3)}),
    Request(8, 1, L, 9, {}),  # joins an empty batch
    Request(9, 2, 5, 9, {"temperature": (0.2, 2.0)}),
]


def serve(batch: DecodeBatch, requests: list[Request]) -> dict[int, Tensor]:
    """Codes by seed, each row joining when it wants and leaving when it has what it asked for."""
    waiting, running = list(requests), {}
    done: dict[int, Tensor] = {}
    time = 0
    while waiting or running:
        for request in [request for request in waiting if request.joins_at <= time]:
            running[request.join(batch)] = request
            waiting.remove(request)
        if running:
            batch.step()
        for row, request in list(running.items()):
            if batch.codes_drawn(row) == request.codes:
                done[request.seed] = batch.codes([row])[0]
                batch.remove([row])
                del running[row]
        time += 1
    return done


def test_every_row_gets_what_it_gets_alone(model: AnytimeModel) -> None:
    done = serve(DecodeBatch(model.sampler.decoder, 12), REQUESTS)
    assert len(done) == len(REQUESTS)
    for request in REQUESTS:
        assert torch.equal(done[request.seed], request.alone(model)), request


def test_the_order_of_joining_does_not_matter(model: AnytimeModel) -> None:
    done = serve(DecodeBatch(model.sampler.decoder, 12), REQUESTS[::-1])
    for request in REQUESTS:
        assert torch.equal(done[request.seed], request.alone(model)), request


def test_rows_that_left_cost_nothing(model: AnytimeModel, steps: list[list[int]]) -> None:
    serve(
        DecodeBatch(model.sampler.decoder, 12),
        [request for request in REQUESTS if request.joins_at == 0],
    )
    assert [len(positions) for positions in steps] == [3, 2, 2, 1, 1, 1]


def test_room(model: AnytimeModel) -> None:
    batch = DecodeBatch(model.sampler.decoder, 3)
    noise = uniform_noise(0, range(4), L)
    with pytest.raises(InputError, match="4 rows do not fit: 0 of 3 places are taken"):
        batch.add(noise, None, SamplingParams())
    rows = batch.add(noise[:2], None, SamplingParams())
    assert batch.free_slots == 1
    with pytest.raises(InputError, match="1 guided rows do not fit: 2 of 3"):
        batch.add(noise[:1], torch.tensor([0]), SamplingParams(guidance=2.0))
    batch.remove(rows[:1])
    batch.add(noise[:1], torch.tensor([0]), SamplingParams(guidance=2.0))
    assert batch.free_slots == 0


def test_rows_with_codes_join_where_they_stopped(model: AnytimeModel) -> None:
    whole = model.sample_codes(3, seed=0, label=1)
    noise = uniform_noise(0, range(3), 1 + L)[:, 1:]
    batch = DecodeBatch(model.sampler.decoder, 3)
    label = torch.tensor([1])
    ids = [
        batch.add(noise[i : i + 1], label, SamplingParams(), whole[i : i + 1, :k] if k else None)[0]
        for i, k in enumerate((0, 2, 4))
    ]
    for _ in range(2):
        batch.step()
    for i, k in enumerate((2, 4, 6)):
        assert torch.equal(batch.codes([ids[i]])[0], whole[i, :k])


def test_memory_goes_back_once_nobody_holds_the_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model()  # whose memory no other test has used
    expected = model.sample_codes(9, seed=1)
    result = model.generate(9, seed=0)  # in the memory of the first draw

    def refuse(_: int) -> None:
        raise AssertionError("fresh memory")

    monkeypatch.setattr(model.sampler.decoder, "_new_state", refuse)
    with pytest.raises(AssertionError, match="fresh memory"):
        model.sample_codes(9, seed=1)
    del result
    assert torch.equal(model.sample_codes(9, seed=1), expected)  # in used memory


@pytest.mark.parametrize(
    ("labels", "codes", "message"),
    [
        ([0, 4], None, r"labels \[0, 4\] are not all in 0..3"),
        ([-1, 0], None, r"labels \[-1, 0\] are not all in 0..3"),
        ([0, 0], [[0], [10**9]], "code 1000000000 at row 1, position 0 is out of range"),
        ([0, 0], [[0], [-1]], "code -1 at row 1"),
        ([0, 0], [[0] * (L + 1)] * 2, f"prefix {L + 1} exceeds code length {L}"),
    ],
)
def test_what_no_table_has_is_not_looked_up(
    model: AnytimeModel, labels: list[int], codes: list[list[int]] | None, message: str
) -> None:
    batch = DecodeBatch(model.sampler.decoder, 2)
    given = None if codes is None else torch.tensor(codes)
    with pytest.raises(InputError, match=message):
        batch.add(uniform_noise(0, range(2), L), torch.tensor(labels), SamplingParams(), given)
    assert batch.free_slots == 2
