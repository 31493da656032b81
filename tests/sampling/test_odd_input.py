"""Tensors without plain numbers, and numbers beyond every limit, are refused in one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sampling_models import L, V

from anytime_ar.errors import InputError
from anytime_ar.sampling import AnytimeModel, plan
from anytime_ar.sampling.plan import MAX_SAMPLES


def without_plain_numbers(dense: torch.Tensor) -> dict[str, torch.Tensor]:
    made = {
        "sparse_coo": dense.to_sparse(),
        "meta": dense.to("meta"),
        "nested": torch.nested.nested_tensor([dense[0], dense[0]]),
    }
    if dense.ndim == 2:
        made["sparse_csr"] = dense.to_sparse_csr()
    if dense.is_floating_point():
        made["quantized"] = torch.quantize_per_tensor(dense, 0.1, 0, torch.qint8)
    return made


@pytest.mark.filterwarnings("ignore")  # of PyTorch, whose sparse and nested tensors may change
def test_tensors_without_plain_numbers(model: AnytimeModel) -> None:
    samples = model.sample(2, seed=0)
    codes = model.encode(samples)
    for kind, odd in without_plain_numbers(samples).items():
        with pytest.raises(InputError, match=f"samples are a {kind} tensor; pass a plain one"):
            model.encode(odd)
    for kind, odd in without_plain_numbers(codes).items():
        with pytest.raises(InputError, match=f"codes are a {kind} tensor; pass a plain one"):
            model.decode(odd)
        with pytest.raises(InputError, match=f"codes are a {kind} tensor; pass a plain one"):
            model.nll(odd)


def test_floats_are_still_floats(model: AnytimeModel) -> None:
    with pytest.raises(InputError, match="codes are float64; pass whole numbers"):
        model.decode([[0.0], [1.5]])


@pytest.mark.parametrize("code", [2**63, 2**64 - 1, 2**64, 10**30, -(2**63) - 1])
def test_codes_that_int64_cannot_hold_are_named(model: AnytimeModel, code: int) -> None:
    with pytest.raises(InputError, match=rf"code {code} at \[1, 0\] is out of range; pass codes"):
        model.decode([[0], [code]])
    if 0 <= code < 2**64:
        array = np.array([[0], [code]], dtype=np.uint64)
        for odd in (array, torch.from_numpy(array)):
            with pytest.raises(InputError, match=rf"code {code} at \[1, 0\] is out of range"):
                model.decode(odd)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint64, np.int16])
def test_codes_of_every_integer_type(model: AnytimeModel, dtype: type) -> None:
    codes = np.arange(2 * L).reshape(2, L) % V
    wanted = model.decode(codes)
    assert torch.equal(model.decode(codes.astype(dtype)), wanted)
    assert torch.equal(model.decode(torch.from_numpy(codes.astype(dtype))), wanted)


@pytest.mark.parametrize("n", [MAX_SAMPLES + 1, 10**12, 2**63, 2**70])
def test_too_many_samples(model: AnytimeModel, n: int) -> None:
    for draw in (model.sample, model.sample_codes, model.generate, model.stream):
        with pytest.raises(InputError, match=rf"{n} samples in one call.* limit is {MAX_SAMPLES}"):
            draw(n, seed=0)
    with pytest.raises(InputError, match=f"the limit is {MAX_SAMPLES}"):
        model.warm_up(n)


def test_as_many_samples_as_are_allowed(
    model: AnytimeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "MAX_SAMPLES", 3)
    assert len(model.sample_codes(3, seed=0)) == 3
    with pytest.raises(InputError, match="cannot draw 4 samples"):
        model.sample_codes(4, seed=0)


@pytest.mark.parametrize("first", [2**63 - 1, 2**64, 2**70])
def test_samples_beyond_a_seed(model: AnytimeModel, first: int) -> None:
    with pytest.raises(InputError, match=f"samples {first}.* exceed the limit of a seed"):
        model.sample(2, seed=0, first=first)


def test_the_last_samples_of_a_seed(model: AnytimeModel) -> None:
    assert len(model.sample_codes(1, seed=0, first=2**63 - 1)) == 1
