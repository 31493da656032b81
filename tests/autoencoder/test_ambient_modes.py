"""Blocks alone compute the same in any mode of the caller, or say what is wrong."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from test_building_blocks import D, L, decoder, encoder
from test_neural_codecs import CODECS, SAMPLES
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import anytime_ar as aar
from anytime_ar.autoencoder import VectorQuantizerConfig, check_tokenizer
from anytime_ar.autoencoder.neural_codecs import CodecTokenizer
from anytime_ar.autoencoder.quantizers import (
    FiniteScalarQuantizerConfig,
    QuantizerConfig,
    ResidualQuantizerConfig,
)
from anytime_ar.errors import InputError
from anytime_ar.prior.huggingface import HuggingFacePrior
from modes import MODES

V = 16
DTYPES = [name for name in MODES if name.startswith("default dtype")]
DEVICES = ["default device", "device context"]
QUANTIZERS: dict[str, QuantizerConfig] = {
    "vq": VectorQuantizerConfig(vocabulary=8),
    "vq by a loss": VectorQuantizerConfig(
        vocabulary=8, codebook_update="loss", error_feedback=False
    ),
    "fsq": FiniteScalarQuantizerConfig(levels=(4, 4, 4)),
    "rvq": ResidualQuantizerConfig(vocabulary=8),
}


@pytest.fixture(autouse=True)
def _global_generator() -> Iterator[None]:
    with torch.random.fork_rng():
        yield


def numbers(*shape: int) -> Tensor:
    count = torch.Size(shape).numel()
    return torch.arange(count, dtype=torch.float32, device="cpu").mul(0.7).sin().view(shape)


@cache
def modules() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return encoder(), decoder()


@cache
def codec(name: str) -> CodecTokenizer:
    torch.manual_seed(0)
    model = CODECS[name]()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith(("embed", "embed_sum")):
                buffer.normal_()
    return CodecTokenizer(model, SAMPLES, levels=3)


@cache
def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": L}
    tokens = {"vocab_size": V + 1, "bos_token_id": None, "eos_token_id": None}
    return GPT2LMHeadModel(GPT2Config(**sizes, **tokens)).eval()


def rebuilt(made: CodecTokenizer) -> CodecTokenizer:
    other = CodecTokenizer.from_config(made.get_config())
    other.load_state_dict(made.state_dict())
    return other.eval()


def codes_and_sounds(tokenizer: CodecTokenizer) -> list[Tensor]:
    codes = tokenizer.encode(0.3 * numbers(2, 1, SAMPLES))
    return [codes, *(tokenizer.decode(codes[:, :k]) for k in (3, tokenizer.frames + 2))]


def own_modules() -> list[Tensor]:
    encode, decode = modules()
    torch.manual_seed(1)
    made = aar.OrderedAutoencoder(sample_shape=(1, 4, 4), encoder=encode, decoder=decode).eval()
    codes = made.encode(numbers(2, 1, 4, 4))
    return [codes, made.decode(codes), made.decode(codes[:, :2]), made.codebook_vectors()]


def lengths() -> list[Tensor]:
    kinds = [aar.Truncation.uniform(5), aar.Truncation.powers_of_two(5), aar.Truncation.full(5)]
    kinds.append(aar.Truncation.geometric(6, 0.9).in_multiples_of(2).or_full(0.5))
    return [kind.sample(9, torch.Generator().manual_seed(0)).clone() for kind in kinds]


def causal() -> list[Tensor]:
    prior = HuggingFacePrior(gpt2(), L, V)  # tries its cache
    other = HuggingFacePrior.from_config(prior.get_config())
    other.load_state_dict(prior.state_dict())
    codes = torch.arange(2 * L, dtype=torch.int64, device="cpu").view(2, L) % V
    with torch.autocast("cpu", enabled=False), torch.no_grad():  # which `nll` follows, to train
        return [prior.nll(codes).clone(), other.eval().nll(codes).clone()]


RUNS: dict[str, Callable[[], list[Tensor]]] = {
    "own modules": own_modules,
    "truncation": lengths,
    "a prior": causal,
    "a rebuilt codec": lambda: codes_and_sounds(rebuilt(codec("encodec"))),
    "a pickled codec": lambda: codes_and_sounds(pickle.loads(pickle.dumps(codec("dac")))),
    "a copied codec": lambda: codes_and_sounds(deepcopy(codec("mimi"))),
    **{
        f"{name} alone": lambda name=name: codes_and_sounds(  # type: ignore[misc]
            CodecTokenizer(codec(name).model, SAMPLES, levels=3)
        )
        for name in CODECS
    },
}
"""What states its devices."""


@cache
def expected(run: str) -> list[Tensor]:
    return RUNS[run]()


@pytest.mark.parametrize("run", RUNS)
def test_modes_change_nothing(run: str) -> None:
    wanted = expected(run)
    for mode, enter in MODES.items():
        with enter():
            found = RUNS[run]()
        for one, other in zip(found, wanted, strict=True):
            assert (one.dtype, one.device) == (other.dtype, other.device), mode
            assert torch.equal(one, other), mode
            assert mode == "inference mode" or not one.is_inference()


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_quantizers_are_the_same_in_any_number_format(kind: str) -> None:
    """Devices are the caller's, as of all modules of PyTorch."""

    def learned() -> list[Tensor]:
        torch.manual_seed(0)
        generator, vectors = torch.Generator().manual_seed(0), numbers(32, L, D)
        quantizer = QUANTIZERS[kind].build(L, D)
        quantizer.init_codebooks(vectors, generator)
        made = quantizer(vectors)
        quantizer.update_codebooks(generator)
        codes = quantizer.eval().encode(vectors)
        return [made.codes, made.loss.detach(), made.vectors.detach(), quantizer.lookup(codes)]

    wanted = learned()
    for mode in (*DTYPES, "deterministic algorithms"):
        with MODES[mode]():
            found = learned()
        assert all(map(torch.equal, found, wanted)), mode
        assert [one.dtype for one in found] == [one.dtype for one in wanted]
    with MODES["inference mode"]():
        quantizer = QUANTIZERS[kind].build(L, D)
    vectors = numbers(2, L, D).requires_grad_()
    quantizer(vectors).vectors.sum().backward()  # it was made to learn
    with torch.device("meta"):
        assert {buffer.device.type for buffer in QUANTIZERS[kind].build(L, D).buffers()} == {"meta"}


def test_modules_of_another_number_format_are_told() -> None:
    with MODES["default dtype float64"]():
        double = encoder()
        with pytest.raises(InputError, match=r"its weights are torch.float64: convert it with"):
            aar.OrderedAutoencoder(sample_shape=(1, 4, 4), encoder=double, decoder=decoder())


@pytest.mark.parametrize("mode", DEVICES)
def test_modules_without_values_are_refused(mode: str) -> None:
    with MODES[mode]():
        empty = encoder()
        with pytest.raises(InputError, match="encoder Sequential has weights on the device meta"):
            aar.OrderedAutoencoder(sample_shape=(1, 4, 4), encoder=empty, decoder=decoder())


class Means(aar.Tokenizer):
    """The mean of 4 x 4 pixels in 16 levels, with weights as the caller's modes make them."""

    code_length, vocabulary, sample_shape = 1, V, (1, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.linspace(-1, 1, V))

    def encode(self, x: Tensor) -> Tensor:
        return (x.mean((1, 2, 3))[:, None] - self.levels).abs().argmin(-1, keepdim=True)

    def decode(self, codes: Tensor) -> Tensor:
        return self.levels[codes].detach()[..., None, None].expand(-1, 1, 4, 4)


class Product(Means):
    def encode(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.levels).long()[:, None].clamp(0, V - 1)


def test_tokenizers_of_another_number_format_are_told() -> None:
    with MODES["default dtype float64"]():
        tokenizer, product = Means(), Product()
    with pytest.raises(InputError, match=r"decode returns torch.float64 \[2, 1, 4, 4\] for 1 of"):
        check_tokenizer(tokenizer)
    with pytest.raises(InputError, match=r"Product.encode does not encode float32 \[2, 1, 4, 4\]"):
        check_tokenizer(product)


@pytest.mark.parametrize("mode", DEVICES)
def test_parts_without_values_are_refused(mode: str) -> None:
    with MODES[mode]():
        tokenizer = Means()
        with pytest.raises(InputError, match="tokenizer Means has weights on the device meta"):
            aar.AnytimeModel.from_parts(tokenizer, device="cpu")
        prior = HuggingFacePrior(gpt2(), 1, V)
        prior.model = GPT2LMHeadModel(gpt2().config)
    with pytest.raises(InputError, match="the prior HuggingFacePrior has weights on the device"):
        aar.AnytimeModel.from_parts(Means(), prior, device="cpu")


@pytest.mark.parametrize("mode", MODES)
def test_a_codec_of_a_folder_is_the_same(mode: str, tmp_path: Path) -> None:
    codec("encodec").model.save_pretrained(tmp_path)
    wanted = codes_and_sounds(codec("encodec"))
    with MODES[mode]():
        loaded = CodecTokenizer.from_pretrained(str(tmp_path), SAMPLES, levels=3)
    assert all(map(torch.equal, codes_and_sounds(loaded), wanted))
