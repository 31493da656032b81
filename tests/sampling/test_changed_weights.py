"""Weights that change after the first use of a model are noticed, or a new model has them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sampling_models import tiny_bundle
from torch import nn

from anytime_ar.errors import InputError
from anytime_ar.prior import Backend
from anytime_ar.sampling import AnytimeModel


def step(optimizer: type[torch.optim.Optimizer]) -> Callable[[nn.Module], None]:
    """A step of an optimizer, as training goes on."""

    def run(network: nn.Module) -> None:
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        optimizer(weights, lr=0.1).step()  # type: ignore[call-arg]  # of the subclasses

    return run


def average(network: nn.Module) -> None:
    """An exponential moving average that is copied back."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(weight * 0.5)


def average_data(network: nn.Module) -> None:
    """An exponential moving average of code that writes through `.data`."""
    for weight in network.parameters():
        weight.data.mul_(0.5).add_(0.1)


def replace_data(network: nn.Module) -> None:
    for weight in network.parameters():
        weight.data = weight.data * 0.5 + 0.1


CHANGES = {
    "average data": average_data,
    "replace data": replace_data,
    "one weight": lambda network: next(network.parameters()).data.zero_(),
    "a conversion": lambda network: network.to(torch.float64),
    "SGD": step(torch.optim.SGD),
    "AdamW": step(torch.optim.AdamW),
    "average": average,
    "load": lambda network: network.load_state_dict(tiny_bundle(seed=1).prior.state_dict()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_that_are_noticed(name: str, backend: Backend, kind: str) -> None:
    if (name, kind) == ("a conversion", "parts of the user"):
        pytest.skip("its own cache holds float32")
    model = AnytimeModel(tiny_bundle(), device="cpu", backend=backend)
    model.sample(1, seed=0)
    assert model.prior is not None
    CHANGES[name](model.prior)
    with pytest.raises(InputError, match=r"have changed .* AnytimeModel\(model.bundle\)"):
        model.sample(1, seed=0)
    AnytimeModel(model.bundle, device="cpu", backend=backend).sample(1, seed=0)


def test_a_new_model_has_what_was_written_through_data(backend: Backend) -> None:
    model = AnytimeModel(tiny_bundle(), device="cpu", backend=backend)
    before = model.sample_codes(8, seed=0)
    other = tiny_bundle(seed=1)
    assert model.prior is not None
    assert other.prior is not None
    for weight, source in zip(model.prior.parameters(), other.prior.parameters(), strict=True):
        weight.data.copy_(source.data)
    for buffer, source in zip(model.prior.buffers(), other.prior.buffers(), strict=True):
        buffer.data.copy_(source.data)
    found = AnytimeModel(model.bundle, device="cpu", backend=backend).sample_codes(8, seed=0)
    wanted = AnytimeModel(other, device="cpu", backend=backend).sample_codes(8, seed=0)
    assert torch.equal(found, wanted)
    assert not torch.equal(found, before)
