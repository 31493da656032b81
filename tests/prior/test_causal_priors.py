"""Priors that are not ours: recurrent networks and causal models of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from anytime_ar.errors import InputError
from anytime_ar.prior import CausalPrior, CausalPriorDecoder, TensorCache, make_prior_decoder
from anytime_ar.prior.huggingface import HuggingFacePrior

L, V, LABELS, B = 9, 7, 3, 5


class RecurrentPrior(CausalPrior):
    """A GRU; its cache is the state of each row."""

    def __init__(self) -> None:
        super().__init__(L, V, LABELS)
        self.labels = nn.Embedding(LABELS + 1, 8)
        self.embedding = nn.Embedding(V, 8)
        self.cell = nn.GRUCell(8, 8)
        self.out = nn.Linear(8, V)

    def new_cache(self, capacity: int) -> TensorCache:
        return TensorCache(capacity, [(8,)], device=self.device)

    def next_logits(
        self, inputs: Tensor, positions: Sequence[int], cache: TensorCache, rows: slice
    ) -> Tensor:
        state, logits = cache.tensors[0][rows].clone(), []
        starts = torch.tensor(positions)[:, None]
        for step in range(inputs.shape[1]):
            is_label = starts + step == 0
            before = inputs[:, step]
            label, code = before.clamp(max=LABELS), before.clamp(max=V - 1)
            x = torch.where(is_label, self.labels(label), self.embedding(code))
            state = self.cell(x, torch.where(is_label, torch.zeros_like(state), state))
            logits.append(self.out(state))
        cache.tensors[0][rows] = state.detach()
        return torch.stack(logits, dim=1)


def llama(**changes: Any) -> LlamaForCausalLM:
    sizes = {
        "vocab_size": V + LABELS + 1,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": L,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**sizes | changes))


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": L}
    tokens = {"vocab_size": L * V + LABELS + 1, "bos_token_id": None, "eos_token_id": None}
    return GPT2LMHeadModel(GPT2Config(**sizes, **tokens))


PRIORS = {
    "recurrent": RecurrentPrior,
    "llama": lambda: HuggingFacePrior(llama(), L, V, LABELS),
    "gpt2": lambda: HuggingFacePrior(gpt2(), L, V, LABELS, tokens="per_position"),
}


@pytest.fixture(params=PRIORS)
def prior(request: pytest.FixtureRequest) -> CausalPrior:
    torch.manual_seed(0)
    built: CausalPrior = PRIORS[request.param]().eval()
    with torch.no_grad():  # weights start small; here everything should matter
        for weight in built.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return built


def codes() -> Tensor:
    return torch.randint(V, (B, L), generator=torch.Generator().manual_seed(0))


LABELLED = torch.tensor([0, 1, 2, LABELS, 1])


@torch.no_grad()
def test_causality_labels_and_likelihood(prior: CausalPrior) -> None:
    whole, x = prior(codes(), LABELLED), codes()
    assert whole.shape == (B, L, V)
    for position in range(L):
        other = x.clone()
        other[:, position] = (other[:, position] + 1) % V
        after = prior(other, LABELLED)
        torch.testing.assert_close(after[:, : position + 1], whole[:, : position + 1])
        assert (after != whole)[:, position + 1 :].any(-1).all()
    assert not torch.allclose(prior(x, torch.zeros(B, dtype=torch.int64))[1], whole[1])
    torch.testing.assert_close(prior(x)[3], whole[3])
    expected = -whole.log_softmax(-1).gather(2, x[..., None])[..., 0]
    torch.testing.assert_close(prior.nll(x, LABELLED), expected)


@torch.no_grad()
@pytest.mark.parametrize("tokens", ["shared", "per_position"])
def test_logits_are_those_of_the_model_itself(tokens: Any) -> None:
    model = llama() if tokens == "shared" else gpt2()
    prior = HuggingFacePrior(model, L, V, LABELS, tokens=tokens)
    offset = 0 if tokens == "shared" else V
    labels = (V if tokens == "shared" else L * V) + LABELLED[:, None]
    ids = torch.cat([labels, codes()[:, :-1] + offset * torch.arange(L - 1)], dim=1)
    bare = model(input_ids=ids).logits
    own = [bare[:, i, offset * i : offset * i + V] for i in range(L)]
    torch.testing.assert_close(prior(codes(), LABELLED), torch.stack(own, dim=1))


@torch.no_grad()
def test_rows_at_other_positions_get_their_own_logits(prior: CausalPrior) -> None:
    whole, decoder = prior(codes(), LABELLED), make_prior_decoder(prior)
    assert isinstance(decoder, CausalPriorDecoder)
    state, standing = decoder.allocate(B), [0, 3, 8, 1, 5]
    decoder.set_conditions(state, 0, LABELLED, None)
    state.codes[:] = codes()
    for row, position in enumerate(standing):
        state.positions[row] = position
        if position:
            decoder.prefill(state, row, 1)
    state.copy_row(4, 0)
    standing[0] = 5
    expected = whole[[4, 1, 2, 3, 4], standing]
    torch.testing.assert_close(decoder.logits(state, B), expected)


@torch.no_grad()
def test_steps_equal_the_whole_and_memory_serves_again(prior: CausalPrior) -> None:
    decoder = make_prior_decoder(prior)
    for _ in range(2):
        state = decoder.allocate(B)
        decoder.set_conditions(state, 0, LABELLED, None)
        state.codes[:] = codes()
        whole = prior(codes(), LABELLED)
        for position in range(L):
            state.positions[:B] = [position] * B
            torch.testing.assert_close(decoder.logits(state, B), whole[:, position])
        decoder.release(state)
    assert decoder.allocate(B) is state
    assert decoder.row_bytes == state.cache.row_bytes > 0


def test_precisions_and_backends_are_for_our_own_prior(prior: CausalPrior) -> None:
    with pytest.raises(InputError, match="backend native draws from our own prior only"):
        make_prior_decoder(prior, backend="native")
    with pytest.raises(InputError, match="precision 'int8' is for our own prior"):
        make_prior_decoder(prior, "int8")
    assert make_prior_decoder(prior, "auto").precision == "float32"


def test_models_that_cannot_be_priors() -> None:
    with pytest.raises(InputError, match="has 11 tokens, and 12 are needed: 7 for codes, 4 for"):
        HuggingFacePrior(llama(), L, V, LABELS + 1)
    with pytest.raises(InputError, match=r"context of 9 tokens, and a sample has 10 codes"):
        HuggingFacePrior(llama(), L + 1, V, LABELS)
    state_space = MambaForCausalLM(
        MambaConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, state_size=4)
    )
    with pytest.raises(InputError, match="MambaForCausalLM cannot be a prior"):
        HuggingFacePrior(state_space, L, V, LABELS)


def test_a_prior_learns_by_its_likelihood(prior: CausalPrior) -> None:
    optimizer = torch.optim.Adam(prior.parameters(), 0.02)
    losses = []
    for _ in range(60):
        loss = prior.nll(codes(), LABELLED).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all(weight.grad is not None for weight in prior.parameters())
