"""The numbers that decide."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sampling_models import ONE_KIND

from anytime_ar.errors import InputError
from anytime_ar.sampling import uniform_noise

pytestmark = ONE_KIND


def test_noise_is_a_function_of_seed_and_row() -> None:
    whole = uniform_noise(5, range(20), 6)
    assert whole.shape == (20, 6)
    assert whole.dtype == torch.float64
    assert torch.equal(uniform_noise(5, range(20), 6), whole)
    assert torch.equal(uniform_noise(5, range(7, 9), 6), whole[7:9])
    assert torch.equal(uniform_noise(5, range(20), 3), whole[:, :3])
    assert not torch.equal(uniform_noise(6, range(20), 6), whole)
    assert len(whole.unique()) == whole.numel()
    assert not torch.equal(uniform_noise(7, range(5, 6), 6), uniform_noise(5, range(7, 8), 6))


def test_noise_leaves_the_global_generators_alone() -> None:
    before, numpy_before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    uniform_noise(0, range(3), 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert str(np.random.get_state()) == numpy_before  # noqa: NPY002


def test_noise_is_uniform_and_unrelated() -> None:
    noise = uniform_noise(0, range(2000), 10)
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
        uniform_noise(seed, range(1), 1)
    assert uniform_noise(2**64 - 1, range(1), 1).shape == (1, 1)
