"""A prior learns what its conditions say of the samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_fakes import tiny

from anytime_ar.conditions import ClassCondition
from anytime_ar.data import DataConfig
from anytime_ar.errors import InputError
from anytime_ar.prior import Prior, PriorConfig
from anytime_ar.runtime.distributed import FULL_BATCH
from anytime_ar.sampling import load
from anytime_ar.training import OptimizerConfig, PriorTrainingConfig, train
from anytime_ar.training.stages.prior import PriorObjective

COUNT = 160
CONDITIONS: dict[str, Any] = {"side": {}, "text": {"kind": "text"}, "level": {"kind": "vector"}}


def quarters() -> tuple[Tensor, None, dict[str, Any]]:
    """Images of which one quarter is bright: left or right, up as a text and a number say."""
    generator = torch.Generator().manual_seed(0)
    left, up = torch.randint(2, (2, COUNT), generator=generator).bool()
    samples = torch.full((COUNT, 1, 8, 8), -1.0)
    for i in range(COUNT):
        samples[i, :, 4 * (not up[i]) :, 4 * (not left[i]) :][:, :4, :4] = 1
    named = {
        "side": ["left" if one else "right" for one in left],
        "text": ["up" if one else "far down" for one in up],
        "level": [5 * float(one) for one in up],
    }
    return samples, None, named


def test_samples_follow_each_condition(tmp_path: Path) -> None:
    usual = tiny()
    config = tiny(
        data=DataConfig(conditions=CONDITIONS),
        autoencoder_training=usual.autoencoder_training.model_copy(update={"steps": 60}),
        decoder_gan=None,
        prior=PriorConfig(layers=1, width=16, heads=2, dropout=0, condition_dropout=0.3),
        prior_training=PriorTrainingConfig(
            steps=250,
            batch_size=64,
            validate_every=50,
            optimizer=OptimizerConfig(kind="adamw", warmup_steps=3, learning_rate=1e-2),
        ),
        precision="32-true",
    )
    model = train(config, tmp_path, data=quarters(), show_progress=False)
    assert list(model.conditions) == ["side", "text", "level"]
    samples, _, named = quarters()
    codes = model.encode(samples)
    of_all = {name: model.nll(codes, conditions={name: named[name]}).sum(1) for name in named}
    without = model.nll(codes).sum(1)
    for name, costs in of_all.items():
        assert (without - costs).mean() > 0.3, name  # a bit, 0.69 nats, at most
    both: dict[str, Any] = {"conditions": {"side": "left", "text": "up"}, "seed": 0}
    is_both = [i for i in range(COUNT) if (named["side"][i], named["text"][i]) == ("left", "up")]
    expected = codes[is_both[0]]
    usual_share, share = (
        float((drawn == expected).all(1).float().mean())
        for drawn in (model.sample_codes(64, seed=0), model.sample_codes(64, guidance=2.0, **both))
    )
    assert usual_share < 0.5 < 0.7 < share
    again = load(tmp_path / "bundle")
    assert torch.equal(again.sample_codes(8, **both), model.sample_codes(8, **both))


def test_conditions_are_hidden_alone_and_together() -> None:
    prior = tiny_prior()
    objective = PriorObjective(prior).train()
    labels, given = torch.zeros(400, dtype=torch.int64), {"side": torch.zeros(400).long()}
    generator = torch.Generator().manual_seed(0)
    new_labels, new = objective._drop(labels, labels, given, generator, FULL_BATCH)
    assert new_labels is not None
    assert new is not None
    no_label, no_side = new_labels == prior.no_label, new["side"] == 2
    shares = [
        float(one.float().mean())
        for one in (no_label & no_side, no_label & ~no_side, ~no_label & no_side)
    ]
    together = 0.5 + 0.5 * 0.2 * 0.2
    assert shares == pytest.approx([together, 0.5 * 0.16, 0.5 * 0.16], abs=0.06)


def tiny_prior() -> Any:
    config = PriorConfig(layers=1, width=8, heads=1, label_dropout=0.5, condition_dropout=0.2)
    return Prior(config, 3, 4, 1, {"side": ClassCondition(names=("left", "right"))})


def test_priors_of_others_take_no_conditions(tmp_path: Path) -> None:
    config = tiny(data=DataConfig(conditions=CONDITIONS)).model_copy(
        update={"prior": tiny().model_validate({"prior": {"kind": "huggingface_prior"}}).prior}
    )
    with pytest.raises(InputError, match="huggingface_prior does not take; drop them"):
        train(config, tmp_path, data=quarters(), show_progress=False)
