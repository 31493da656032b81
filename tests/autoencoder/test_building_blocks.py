"""Blocks of the library alone: quantizers, truncation, and autoencoders of any modules."""

from __future__ import annotations

import pickle
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import anytime_ar as aar
from anytime_ar.autoencoder import CustomConfig, TruncationConfig, VectorQuantizerConfig
from anytime_ar.autoencoder.quantizers import (
    FiniteScalarQuantizerConfig,
    QuantizerConfig,
    ResidualQuantizerConfig,
)
from anytime_ar.errors import InputError
from anytime_ar.plugins import PartConfig

L, D = 4, 3


def encoder(length: int = L) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, length * D), nn.Unflatten(1, (length, D)))


def decoder() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(L * D, 16), nn.Unflatten(1, (1, 4, 4)))


@aar.register("test_own_autoencoder")
class Own(aar.OrderedAutoencoder):
    def __init__(self, vocabulary: int = 8) -> None:
        quantizer = VectorQuantizerConfig(vocabulary=vocabulary)
        super().__init__(
            sample_shape=(1, 4, 4), encoder=encoder(), decoder=decoder(), quantizer=quantizer
        )


def test_an_autoencoder_of_any_modules_learns_and_is_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator, autoencoder = torch.Generator().manual_seed(0), Own(vocabulary=16)
    x = torch.rand(64, 1, 4, 4) * 2 - 1
    optimizer = torch.optim.Adam(autoencoder.parameters(), 1e-2)
    truncation = aar.Truncation.uniform(L)
    autoencoder.init_codebooks([x], generator)
    errors = []
    for _ in range(200):
        made = autoencoder(x, truncation.sample(len(x), generator))
        error = (made.samples - x).square().mean()
        (error + made.loss).backward()
        autoencoder.quantizer.update_codebooks(generator)
        optimizer.step()
        optimizer.zero_grad()
        errors.append(float(error.detach()))
    assert sum(errors[-20:]) < 0.8 * sum(errors[:20])
    autoencoder.eval()
    whole = autoencoder(x)
    codes = autoencoder.encode(x)
    assert torch.equal(whole.codes, codes)
    assert torch.allclose(whole.samples.clamp(-1, 1), autoencoder.decode(codes), atol=1e-6)

    aar.AnytimeModel.from_parts(autoencoder, device="cpu").save(tmp_path / "model")
    loaded = aar.load(tmp_path / "model", device="cpu")
    assert loaded.vocabulary == 16
    copies = [loaded.autoencoder, deepcopy(autoencoder), pickle.loads(pickle.dumps(autoencoder))]
    for copied in copies:
        assert torch.equal(copied.decode(codes[:, :2]), autoencoder.decode(codes[:, :2]))
        assert isinstance(copied, Own)
        assert copied.get_config() == {"vocabulary": 16}


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (
            (nn.Flatten(), decoder()),
            r"encoder returns torch.float32 \[2, 16\] for 2 samples \[1, 4",
        ),
        ((nn.Linear(3, 3), decoder()), r"encoder cannot compute float32 \[2, 1, 4, 4\]: "),
        ((Pair(), decoder()), "the encoder returns a tuple; return a tensor"),
        (
            (encoder(), nn.Flatten()),
            r"decoder returns \[2, 12\] for 2 samples of 4 code vectors of",
        ),
        ((encoder(5), decoder()), r"decoder cannot compute float32 \[2, 5, 3\]"),
        ((encoder(), None), "takes either a configuration, or an encoder and a decoder; pass one"),
    ],
)
def test_modules_that_do_not_fit(modules: tuple[nn.Module, nn.Module], message: str) -> None:
    with pytest.raises(InputError, match=message):
        aar.OrderedAutoencoder(sample_shape=(1, 4, 4), encoder=modules[0], decoder=modules[1])


def test_modules_are_tried_in_evaluation_mode() -> None:
    norm, frozen = nn.BatchNorm1d(L), nn.BatchNorm1d(L).eval()
    network = nn.Sequential(encoder(), norm, frozen)
    aar.OrderedAutoencoder(sample_shape=(1, 4, 4), encoder=network, decoder=decoder())
    assert (network.training, norm.training, frozen.training) == (True, True, False)
    assert norm.num_batches_tracked == 0


def test_modules_that_were_passed_as_objects_are_not_saved(tmp_path: Path) -> None:
    made = aar.OrderedAutoencoder(sample_shape=(1, 4, 4), encoder=encoder(), decoder=decoder())
    model = aar.AnytimeModel.from_parts(made, device="cpu")
    with pytest.raises(InputError, match="cannot be saved if its modules were passed as objects"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    config = CustomConfig(encoder=PartConfig(kind="torch.nn.Identity"), code_length=4)
    with pytest.raises(InputError, match=r"autoencoder.decoder is needed for layout=custom; set"):
        aar.OrderedAutoencoder(config.model_copy(update={"code_width": 4}), (4, 4))


@pytest.mark.parametrize(
    "config",
    [
        VectorQuantizerConfig(vocabulary=8),
        VectorQuantizerConfig(vocabulary=8, codebook_update="loss", error_feedback=False),
        FiniteScalarQuantizerConfig(levels=(4, 4, 4)),
        ResidualQuantizerConfig(vocabulary=8),
    ],
)
def test_a_quantizer_alone(config: QuantizerConfig) -> None:
    """Without a mask, no position is truncated; codebooks are learned in this process alone."""
    torch.manual_seed(0)
    quantizer = config.build(L, D)
    vectors = torch.randn(32, L, D, requires_grad=True)
    every = torch.ones(32, L, dtype=torch.bool)
    made, masked = quantizer(vectors), deepcopy(quantizer)(vectors, every)
    assert torch.equal(made.codes, masked.codes)
    assert torch.equal(made.loss, masked.loss)
    (made.vectors.square().sum() + made.loss).backward()
    assert vectors.grad is not None
    assert vectors.grad.abs().sum() > 0
    quantizer.update_codebooks(torch.Generator().manual_seed(0))
    codes = quantizer.eval().encode(vectors.detach())
    assert torch.equal(quantizer.lookup(codes[:, :2]), quantizer.lookup(codes)[:, :2])


def test_residual_quantization_of_one_vector() -> None:
    """More levels leave less."""
    generator = torch.Generator().manual_seed(0)
    quantizer = ResidualQuantizerConfig(vocabulary=16).build(L, D)
    x = torch.randn(200, D, generator=generator)
    levels = torch.cat([x[:, None], torch.zeros(200, L - 1, D)], dim=1)
    quantizer.init_codebooks(levels, generator)
    vectors = quantizer.lookup(quantizer.encode(levels))
    left = [(x - vectors[:, :k].sum(1)).square().mean().item() for k in range(1, L + 1)]
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.3 * left[0]


def steep(code_length: int, power: float = 1.0) -> list[float]:
    return [k**-power for k in range(1, code_length + 1)]


def wrong(_: int) -> list[float]:
    return [1.0, 2.0]


def test_a_truncation_distribution_of_the_user() -> None:
    def config(name: str, **arguments: float) -> TruncationConfig:
        kind = PartConfig(kind=f"{__name__}.{name}", config=arguments)
        return TruncationConfig(distribution=kind, full_probability=0)

    weights = torch.tensor(steep(5, 2.0), dtype=torch.float64)
    assert torch.allclose(config("steep", power=2.0).build(5).pmf, weights / weights.sum())
    with pytest.raises(InputError, match=r"wrong returns 2 weights; return 5"):
        config("wrong").build(5)
    with pytest.raises(InputError, match="steep: exponent is no argument of it; it takes power"):
        config("steep", exponent=2.0).build(5)
    with pytest.raises(InputError, match="must have finite weights"):
        config("steep", power=float("nan")).build(5)
