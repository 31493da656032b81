"""The third stage: what decodes learns against a discriminator, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from training_fakes import last, tiny

from anytime_ar.autoencoder import (
    NetworkConfig,
    OrderedAutoencoder,
    ProjectionConfig,
    TruncationConfig,
)
from anytime_ar.bundle.format import build_bundle
from anytime_ar.data import DataSplits
from anytime_ar.errors import InputError
from anytime_ar.runtime.seeding import seeded
from anytime_ar.training import DecoderGANConfig, train
from anytime_ar.training.checkpoint import CheckpointManager
from anytime_ar.training.run import build_card
from anytime_ar.training.stages.decoder_gan import (
    R1_INTERVAL,
    DecoderGANObjective,
    Discriminator,
)


def made(data: DataSplits, **changes: object) -> DecoderGANObjective:
    """An objective over an untrained autoencoder whose discriminator has an opinion."""
    config = DecoderGANConfig.model_validate({"width": 4, **changes})
    with seeded(0, "test"):
        objective = DecoderGANObjective(build_bundle(build_card(tiny(), data)).autoencoder, config)
        torch.nn.init.normal_(objective.discriminator.prefix_embedding.weight)
    return objective


def losses_of(objective: DecoderGANObjective, x: Tensor, step: int = 1) -> dict[str, Tensor]:
    losses: dict[str, Tensor] = objective(x, step, torch.Generator().manual_seed(1))
    return losses


@pytest.fixture
def x(data: DataSplits) -> Tensor:
    return next(data.train.batches(64)).data


def test_samples_keep_their_codes(tmp_path: Path, data: DataSplits, x: Tensor) -> None:
    sharpened = train(tiny(), tmp_path / "a", device="cpu", show_progress=False, data=data)
    plain = train(
        tiny(decoder_gan=None), tmp_path / "b", device="cpu", show_progress=False, data=data
    )
    codes = plain.autoencoder.encode(x)
    assert torch.equal(sharpened.autoencoder.encode(x), codes)
    for k in (1, 3, 4):
        decoded = [bundle.autoencoder.decode(codes[:, :k]) for bundle in (sharpened, plain)]
        assert not torch.allclose(*decoded, atol=1e-3)
    # The prior is trained on codes alone, so it is the same one.
    priors = [
        last(CheckpointManager(tmp_path / run / "checkpoints", "prior")).groups["average"]
        for run in "ab"
    ]
    assert all(torch.equal(priors[0][name], priors[1][name]) for name in priors[0])


def test_each_side_learns_from_its_own_loss(data: DataSplits, x: Tensor) -> None:
    objective = made(data)
    losses = losses_of(objective, x)
    judges = [*objective.discriminator.parameters()]
    draws = [p for p in objective.autoencoder.parameters() if p.requires_grad]
    for name, theirs in (("adversarial", draws), ("error", draws), ("discriminator", judges)):
        others = judges if theirs is draws else draws
        gradients = torch.autograd.grad(
            losses[name], [*theirs, *others], retain_graph=True, allow_unused=True
        )
        assert all(gradient is not None for gradient in gradients[: len(theirs)]), name
        assert all(gradient is None for gradient in gradients[len(theirs) :]), name
    total = losses["error"] + 0.1 * losses["adversarial"] + losses["discriminator"]
    torch.testing.assert_close(losses["loss"], total)


def test_losses_are_those_of_the_discriminator(data: DataSplits, x: Tensor) -> None:
    """Recomputed from decoded prefixes, one sample at a time."""
    objective = made(data)
    losses = losses_of(objective, x)
    model, judge = objective.autoencoder, objective.discriminator
    kept = objective.truncation.sample(len(x), torch.Generator().manual_seed(1))
    codes = model.encode(x)
    errors, fooled, caught = [], [], []
    for i, k in enumerate(kept):
        entries = F.pad(model.quantizer.lookup(codes[i : i + 1, :k]), (0, 0, 0, 4 - int(k)))
        drawn = model.decode_vectors(entries, kept[i : i + 1]).samples
        judged, real = (judge(some, kept[i : i + 1]) for some in (drawn, x[i : i + 1]))
        errors.append((drawn - x[i]).square().mean())
        fooled.append(F.softplus(-judged))
        caught.append(F.softplus(-real) + F.softplus(judged))
    for name, expected in (("error", errors), ("adversarial", fooled), ("discriminator", caught)):
        torch.testing.assert_close(losses[name], torch.stack(expected).mean())


def test_steep_discriminators_pay_every_few_steps(data: DataSplits, x: Tensor) -> None:
    objective, free = made(data), made(data, r1_gamma=0)
    costs = [
        losses_of(objective, x, step)["discriminator"].item()
        - losses_of(free, x, step)["discriminator"].item()
        for step in range(2 * R1_INTERVAL)
    ]
    assert [cost > 1e-4 for cost in costs] == [True, False, False, False] * 2
    assert costs[1] == 0


def test_how_many_codes_it_sees_is_configured(data: DataSplits, x: Tensor) -> None:
    objective = made(data, truncation=TruncationConfig(distribution="full"))
    model = objective.autoencoder
    with torch.no_grad():
        vectors = model.quantizer.lookup(model.encode(x))
        drawn = model.decode_vectors(vectors, torch.full((len(x),), 4)).samples
        expected = (drawn - x).square().mean()
    torch.testing.assert_close(losses_of(objective, x)["error"].detach(), expected)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 64, 64)])
def test_discriminators_fit_images(shape: tuple[int, ...]) -> None:
    network = Discriminator(DecoderGANConfig(discriminator_width=4), shape, code_length=5)
    torch.nn.init.normal_(network.prefix_embedding.weight)
    x = torch.randn(5, *shape)
    kept = torch.tensor([1, 2, 3, 4, 5])
    judged = network(x, kept)
    assert judged.shape == (5,)
    assert not torch.allclose(judged, network(x, kept.flip(0)))
    assert not torch.allclose(judged, network(x.flip(0), kept))


def test_nothing_but_what_decodes_is_trained() -> None:
    config = ProjectionConfig(
        code_length=4, code_width=3, network=NetworkConfig(widths=(4,), hidden=6), linear_skip=True
    )
    model = OrderedAutoencoder(config, (1, 8, 8))
    model.freeze_encoder()
    codes = model.encode_vectors(torch.randn(2, 1, 8, 8))
    assert not codes.requires_grad
    model.decode_vectors(codes, torch.tensor([1, 3])).samples.sum().backward()
    missed = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missed == []
    trained = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {"decoder", "fill", "layout", "linear_skip"}


def test_sounds_are_not_sharpened(data: DataSplits) -> None:
    sounds = replace(data, sample_shape=(1, 64))
    with pytest.raises(InputError, match="decoder_gan is for images, and the samples of digits"):
        build_card(tiny(), sounds)
