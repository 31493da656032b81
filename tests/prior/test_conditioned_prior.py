"""A prior that is conditioned on attributes, vectors and tokens beside its label."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from decoders import BACKENDS, fill, put, step_through
from torch import Tensor

from anytime_ar.conditions import (
    ClassCondition,
    CodesCondition,
    Condition,
    TextCondition,
    VectorCondition,
    encode_conditions,
    hidden_conditions,
)
from anytime_ar.prior import (
    Backend,
    Prior,
    PriorConfig,
    RowSamplingParams,
    SamplingParams,
    link_rows,
    make_prior_decoder,
)

L, V, LABELS = 11, 7, 3
CPU = torch.device("cpu")
KNOWN: dict[str, Condition] = {
    "style": ClassCondition(names=("flat", "round")),
    "voice": VectorCondition(width=4),
    "text": TextCondition(words=("cloud", "key", "lock"), max_tokens=3),
    "coarse": CodesCondition(vocabulary=5, max_tokens=2),
}
GIVEN: dict[str, Any] = {
    "style": ["flat", None, 1],
    "voice": [None, [1.0, 2.0, -1.0, 0.5], [0.0, 0.0, 0.0, 1.0]],
    "text": ["Cloud, lock", "key", ""],
    "coarse": [[4, 0], [3], None],
}


def build(*, everywhere: bool = False, known: dict[str, Condition] | None = None) -> Prior:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = PriorConfig(
            layers=2, width=24, heads=2, condition_every_position=everywhere, dropout=0
        )
        prior = Prior(config, L, V, LABELS, KNOWN if known is None else known).eval()
        with torch.no_grad():
            for weight in prior.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
    return prior


def codes(n: int = 3) -> Tensor:
    return torch.randint(V, (n, L), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_decoders_see_what_training_saw(backend: Backend, everywhere: bool) -> None:
    prior, labels = build(everywhere=everywhere), torch.tensor([0, 2, 3])
    given = encode_conditions(KNOWN, GIVEN, 3)
    whole, decoder = prior(codes(), labels, given), make_prior_decoder(prior, backend=backend)
    for replay in (False, True):
        got = step_through(decoder, codes(), labels, start=4, replay=replay, conditions=given)
        torch.testing.assert_close(got, whole[:, 4:], atol=1e-4, rtol=1e-4)
    hidden = step_through(decoder, codes(), labels)
    torch.testing.assert_close(hidden, prior(codes(), labels), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", KNOWN)
@torch.no_grad()
def test_each_condition_changes_every_code(name: str) -> None:
    prior = build()
    given = encode_conditions(KNOWN, GIVEN, 3)
    without = {**given, name: hidden_conditions(KNOWN, 3, CPU)[name]}
    differs = (prior(codes(), None, given) != prior(codes(), None, without)).any(-1)
    row = GIVEN[name].index(next(value for value in GIVEN[name] if value))
    assert differs[row].all()


@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_a_row_alone_and_after_moving_is_the_same_to_the_bit(backend: Backend) -> None:
    decoder, labels = make_prior_decoder(build(), backend=backend), torch.tensor([0, 2, 3])
    given = encode_conditions(KNOWN, GIVEN, 3)
    whole = step_through(decoder, codes(), labels, conditions=given)
    for row in range(3):
        part = {name: rows[row : row + 1] for name, rows in given.items()}
        alone = step_through(
            decoder, codes()[row : row + 1], labels[row : row + 1], conditions=part
        )
        assert torch.equal(alone, whole[row : row + 1])
    state = decoder.allocate(3)
    fill(decoder, state, labels=labels, codes=codes(), conditions=given)
    put(state, [5] * 3)
    decoder.prefill(state, 0, 3)
    state.copy_row(2, 0)
    assert torch.equal(decoder.logits(state, 3)[0], whole[2, 5])


@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_each_guidance_has_a_row_of_its_own(backend: Backend) -> None:
    """Temperature 0 shows which logits a row is drawn from."""
    prior = build()
    decoder = make_prior_decoder(prior, backend=backend)
    given = encode_conditions(KNOWN, {"style": "flat", "text": "cloud lock"}, 1)
    labels = torch.tensor([1])
    hidden = hidden_conditions(KNOWN, 1, CPU)
    rows = [
        (labels, given),
        (torch.tensor([prior.no_label]), hidden),
        (labels, {**given, "text": hidden["text"]}),
    ]
    with_all, without_any, without_text = (prior(codes(1), *row)[0, 0] for row in rows)
    from_any, from_text = with_all - without_any, with_all - without_text
    expected = without_any + 6 * from_any + 6 * from_text
    for less in (with_all, without_any + 6 * from_any, with_all + 6 * from_text):
        assert expected.argmax() != less.argmax()  # otherwise this shows nothing
    state = decoder.allocate(3)
    for slot, (label, conditions) in enumerate(rows):
        decoder.set_conditions(state, slot, label, conditions)
        scale = (1.0, 6.0, 7.0)[slot]
        state.sampling_params[slot] = RowSamplingParams.of(SamplingParams(temperature=0), scale)
    link_rows(state.sampling_params, [0, 1, 2])
    put(state, [0] * 3)
    decoder.step(state, 3)
    assert state.codes[:, 0].tolist() == [int(expected.argmax())] * 3
    assert state.positions[:3] == [1] * 3
