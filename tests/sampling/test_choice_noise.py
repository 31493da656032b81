"""From logits to a code, and the numbers that decide."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.sampling import ChoiceConfig, row_noise
from anytime_ar.sampling.choice import choose, guide

N = 20_000


def even_noise(n: int = N) -> Tensor:
    """n numbers that cover [0, 1) evenly, so that frequencies are probabilities up to 1 / n."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def frequencies(logits: list[float], **choice: Any) -> Tensor:
    table = torch.tensor(logits).expand(N, -1)
    chosen = choose(table, even_noise(), ChoiceConfig(**choice))
    assert chosen.dtype == torch.int64
    return torch.bincount(chosen, minlength=len(logits)) / N


LOGITS = [0.3, -1.2, 2.0, 0.9, -0.1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_frequencies_are_the_softmax(temperature: float) -> None:
    expected = (torch.tensor(LOGITS) / temperature).softmax(-1)
    got = frequencies(LOGITS, temperature=temperature)
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=0)


def test_temperature_zero_and_top_one_take_the_most_likely() -> None:
    assert frequencies(LOGITS, temperature=0).tolist() == [0, 0, 1, 0, 0]
    assert frequencies(LOGITS, top_k=1).tolist() == [0, 0, 1, 0, 0]
    assert frequencies(LOGITS, top_p=1e-9).tolist() == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("top_k", [2, 3, 5, 9])
def test_top_k(top_k: int) -> None:
    expected = torch.tensor(LOGITS).softmax(-1)
    expected[torch.tensor(LOGITS).argsort(descending=True)[top_k:]] = 0
    got = frequencies(LOGITS, top_k=top_k)
    torch.testing.assert_close(got, expected / expected.sum(), atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.3, [3]), (0.41, [3, 1]), (0.69, [3, 1]), (0.71, [3, 1, 0]), (0.95, [3, 1, 0, 2])],
)
def test_top_p_by_hand(top_p: float, kept: list[int]) -> None:
    probabilities = torch.tensor([0.2, 0.3, 0.1, 0.4])
    expected = torch.zeros(4)
    expected[kept] = probabilities[kept]
    got = frequencies(probabilities.log().tolist(), top_p=top_p)
    torch.testing.assert_close(got, expected / expected.sum(), atol=2e-4, rtol=0)


def test_top_p_of_a_colder_distribution() -> None:
    """Temperature comes first: what is in the nucleus depends on it."""
    logits = torch.tensor([0.2, 0.3, 0.1, 0.4]).log().tolist()
    assert frequencies(logits, top_p=0.5).gt(0).tolist() == [False, True, False, True]
    assert frequencies(logits, top_p=0.5, temperature=0.2).gt(0).tolist() == [False] * 3 + [True]


def test_ties() -> None:
    assert frequencies([1.0, 1.0, 0.0], temperature=0)[:2].sum() == 1
    # top_k keeps whatever ties with the last entry, so that nothing depends on an order of ties
    assert frequencies([1.0, 1.0, 0.0], top_k=1).tolist() == [0.5, 0.5, 0]
    assert frequencies([0.0, 0.0, 0.0, 0.0], top_p=0.5).tolist() == [0.5, 0.5, 0, 0]


@pytest.mark.parametrize("choice", [{}, {"top_k": 2}, {"top_p": 0.9}, {"temperature": 100.0}])
def test_extreme_noise_stays_within_the_vocabulary(choice: dict[str, Any]) -> None:
    noise = torch.tensor([0.0, 2.0**-53, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    logits = torch.tensor([[-torch.inf, 1.0, 2.0, -80.0, -torch.inf]]).expand(4, -1)
    chosen = choose(logits, noise, ChoiceConfig(**choice))
    assert set(chosen.tolist()) <= {1, 2, 3}
    assert chosen[0] == 1


def test_impossible_entries_are_never_drawn() -> None:
    got = frequencies([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf])
    assert got.tolist() == [0, 0.5, 0, 0.5, 0]


def test_rows_do_not_disturb_each_other() -> None:
    logits = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    noise = even_noise(50)
    config = ChoiceConfig(temperature=0.8, top_k=4, top_p=0.9)
    together = choose(logits, noise, config)
    alone = [choose(logits[i : i + 1], noise[i : i + 1], config) for i in range(50)]
    assert torch.equal(together, torch.cat(alone))


def test_guidance_by_hand() -> None:
    with_label, without = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    assert guide(with_label, without, 1.0).tolist() == [[2.0, 0.0]]
    assert guide(with_label, without, 0.0).tolist() == [[1.0, 1.0]]
    assert guide(with_label, without, 3.0).tolist() == [[4.0, -2.0]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1}, r"temperature: .*got -1"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": 0}, r"top_k: .*got 0"),
        ({"top_p": 0}, r"top_p: .*got 0"),
        ({"top_p": 1.1}, r"top_p: .*got 1.1"),
        ({"guidance": -0.5}, r"guidance: .*got -0.5"),
        ({"temprature": 1}, "temprature: extra inputs"),
    ],
)
def test_bad_choice(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ChoiceConfig.parse(values, origin="sample")


def test_noise_is_a_function_of_seed_and_row() -> None:
    whole = row_noise(5, range(20), 6)
    assert whole.shape == (20, 6)
    assert whole.dtype == torch.float64
    assert torch.equal(row_noise(5, range(20), 6), whole)
    assert torch.equal(row_noise(5, range(7, 9), 6), whole[7:9])
    assert torch.equal(row_noise(5, range(20), 3), whole[:, :3])
    assert not torch.equal(row_noise(6, range(20), 6), whole)
    assert len(whole.unique()) == whole.numel()
    assert not torch.equal(row_noise(7, range(5, 6), 6), row_noise(5, range(7, 8), 6))


def test_noise_leaves_the_global_generators_alone() -> None:
    before, numpy_before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    row_noise(0, range(3), 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert str(np.random.get_state()) == numpy_before  # noqa: NPY002


def test_noise_is_uniform_and_unrelated() -> None:
    noise = row_noise(0, range(2000), 10)
    assert noise.min() >= 0
    assert noise.max() < 1
    counts = torch.histc(noise.float(), bins=20, min=0, max=1)
    expected = noise.numel() / 20
    assert ((counts - expected).square() / expected).sum() < 43.8  # chi², 19 degrees, p = 0.001
    between = torch.corrcoef(noise.T) - torch.eye(10)
    assert between.abs().max() < 5 / 2000**0.5
    assert torch.corrcoef(torch.stack([noise[:-1, 0], noise[1:, 0]]))[0, 1].abs() < 5 / 2000**0.5


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_out_of_range(seed: int) -> None:
    with pytest.raises(InputError, match=rf"seed {seed} is outside 0..2\*\*64-1"):
        row_noise(seed, range(1), 1)
    assert row_noise(2**64 - 1, range(1), 1).shape == (1, 1)
