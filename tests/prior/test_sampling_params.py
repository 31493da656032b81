"""From logits to a code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from decoders import BACKENDS, fill
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.prior import Backend, Prior, PriorConfig, SamplingParams, make_prior_decoder
from anytime_ar.prior.sampling_params import apply_guidance

N = 20_000
LOGITS = [0.3, -1.2, 2.0, 0.9, -0.1]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return request.param


def even_noise(n: int = N) -> Tensor:
    """n numbers that cover [0, 1) evenly, so that frequencies are probabilities up to 1 / n."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def chosen_from(logits: list[float], noise: Tensor, backend: Backend, **choice: Any) -> Tensor:
    """The first code of one row for each number, from a prior that gives these logits to all."""
    prior = Prior(PriorConfig(layers=1, width=8, heads=1), 1, len(logits)).eval()
    with torch.no_grad():
        prior.norm.weight.zero_()  # what comes out of the blocks no longer matters
        prior.output_bias.copy_(torch.tensor([logits]))
    decoder = make_prior_decoder(prior, backend=backend)
    rows = decoder.allocate(len(noise))
    labels = torch.zeros(len(noise), dtype=torch.int64)
    fill(decoder, rows, labels=labels, choice=SamplingParams(**choice))
    rows.noise[:, 0] = noise
    decoder.step(rows, len(noise))
    assert set(rows.positions) == {1}
    return rows.codes[:, 0]


def frequencies(logits: list[float], backend: Backend, **choice: Any) -> Tensor:
    chosen = chosen_from(logits, even_noise(), backend, **choice)
    return torch.bincount(chosen, minlength=len(logits)) / N


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_frequencies_are_the_softmax(temperature: float, backend: Backend) -> None:
    expected = (torch.tensor(LOGITS) / temperature).softmax(-1)
    got = frequencies(LOGITS, backend, temperature=temperature)
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=0)


def test_temperature_zero_and_top_one_take_the_most_likely(backend: Backend) -> None:
    assert frequencies(LOGITS, backend, temperature=0).tolist() == [0, 0, 1, 0, 0]
    assert frequencies(LOGITS, backend, top_k=1).tolist() == [0, 0, 1, 0, 0]
    assert frequencies(LOGITS, backend, top_p=1e-9).tolist() == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("top_k", [2, 3, 5, 9])
def test_top_k(top_k: int, backend: Backend) -> None:
    expected = torch.tensor(LOGITS).softmax(-1)
    expected[torch.tensor(LOGITS).argsort(descending=True)[top_k:]] = 0
    got = frequencies(LOGITS, backend, top_k=top_k)
    torch.testing.assert_close(got, expected / expected.sum(), atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.3, [3]), (0.41, [3, 1]), (0.69, [3, 1]), (0.71, [3, 1, 0]), (0.95, [3, 1, 0, 2])],
)
def test_top_p_by_hand(top_p: float, kept: list[int], backend: Backend) -> None:
    probabilities = torch.tensor([0.2, 0.3, 0.1, 0.4])
    expected = torch.zeros(4)
    expected[kept] = probabilities[kept]
    got = frequencies(probabilities.log().tolist(), backend, top_p=top_p)
    torch.testing.assert_close(got, expected / expected.sum(), atol=2e-4, rtol=0)


def test_top_p_of_a_colder_distribution(backend: Backend) -> None:
    """Temperature comes first: what is in the nucleus depends on it."""
    logits = torch.tensor([0.2, 0.3, 0.1, 0.4]).log().tolist()
    assert frequencies(logits, backend, top_p=0.5).gt(0).tolist() == [False, True, False, True]
    assert frequencies(logits, backend, top_p=0.5, temperature=0.2).gt(0).tolist() == [
        False
    ] * 3 + [True]


def test_ties(backend: Backend) -> None:
    assert frequencies([1.0, 1.0, 0.0], backend, temperature=0)[:2].sum() == 1
    # top_k keeps whatever ties with the last entry, so that nothing depends on an order of ties
    assert frequencies([1.0, 1.0, 0.0], backend, top_k=1).tolist() == [0.5, 0.5, 0]
    assert frequencies([0.0, 0.0, 0.0, 0.0], backend, top_p=0.5).tolist() == [0.5, 0.5, 0, 0]


@pytest.mark.parametrize("choice", [{}, {"top_k": 2}, {"top_p": 0.9}, {"temperature": 100.0}])
def test_extreme_noise_stays_within_the_vocabulary(
    choice: dict[str, Any], backend: Backend
) -> None:
    noise = torch.tensor([0.0, 2.0**-53, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    logits = [-torch.inf, 1.0, 2.0, -80.0, -torch.inf]
    chosen = chosen_from(logits, noise, backend, **choice)
    assert set(chosen.tolist()) <= {1, 2, 3}
    assert chosen[0] == 1


def test_impossible_entries_are_never_drawn(backend: Backend) -> None:
    got = frequencies([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf], backend)
    assert got.tolist() == [0, 0.5, 0, 0.5, 0]


def test_guidance_by_hand() -> None:
    with_label, without = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    assert apply_guidance(with_label, without, 1.0).tolist() == [[2.0, 0.0]]
    assert apply_guidance(with_label, without, 0.0).tolist() == [[1.0, 1.0]]
    assert apply_guidance(with_label, without, 3.0).tolist() == [[4.0, -2.0]]


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
        ({"top_p": [0.5, 0.0]}, r"top_p: must be above 0 and up to 1 \(got 0.0\)"),
        ({"guidance": [2, 101]}, r"guidance: must be 0..100 \(got 101.0\)"),
        ({"temperature": []}, "temperature: an empty list says nothing"),
    ],
)
def test_bad_choice(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SamplingParams.parse(values, origin="sample")


def test_values_along_the_codes() -> None:
    choice = SamplingParams(temperature=(1.0, 0.0), guidance=(1.0, 5.0, 3.0), top_p=0.5, top_k=7)
    assert choice.has_schedule
    assert choice.guided
    assert choice.at_position(0, 9) == SamplingParams(temperature=1, guidance=1, top_p=0.5, top_k=7)
    assert choice.at_position(2, 9) == SamplingParams(
        temperature=0.75, guidance=3, top_p=0.5, top_k=7
    )
    assert choice.at_position(4, 9) == SamplingParams(
        temperature=0.5, guidance=5, top_p=0.5, top_k=7
    )
    assert choice.at_position(8, 9) == SamplingParams(temperature=0, guidance=3, top_p=0.5, top_k=7)
    assert choice.at_position(0, 1).guidance == 1
    assert not choice.at_position(0, 9).has_schedule
    plain = SamplingParams(temperature=0.5)
    assert plain.at_position(3, 9) is plain
