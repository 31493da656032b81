"""Changes of training sounds: what they may touch, and what they must leave alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from anytime_ar.data.augmentation import (
    NO_AUGMENTATION,
    AudioAugmentationConfig,
    AugmentationConfig,
    augment,
    random_crops,
)

LENGTH = 1000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tones(count: int, cycles: float, sounding: int = 400) -> Tensor:
    """float32 [count, 1, LENGTH]: a sine of `cycles` a LENGTH that ends after `sounding`."""
    wave = 0.5 * torch.sin(2 * math.pi * cycles * torch.arange(LENGTH) / LENGTH)
    wave[sounding:] = 0
    return wave.expand(count, 1, LENGTH).clone()


def changed(sounds: Tensor, **how: float) -> Tensor:
    config = AugmentationConfig(audio=AudioAugmentationConfig.model_validate(how))
    return augment(sounds, config, seeded())


def test_nothing_asked_nothing_changed() -> None:
    sounds = tones(3, 20)
    assert augment(sounds, NO_AUGMENTATION, seeded()) is sounds


def test_a_delay_moves_whole_samples_and_cuts_nothing_off() -> None:
    sounds = tones(64, 20, sounding=900)
    moved = changed(sounds, delay=0.5)
    energy = sounds.square().sum(dim=(1, 2))
    torch.testing.assert_close(moved.square().sum(dim=(1, 2)), energy)
    starts = (moved[:, 0] != 0).int().argmax(dim=1) - 1  # the sine begins with a zero
    assert starts.min() >= 0
    assert starts.max() <= 100  # the silence at the end is as long
    assert len(starts.unique()) > 20
    for start, sound in zip(starts.tolist(), moved[:, 0], strict=True):
        torch.testing.assert_close(sound[start : start + 900], sounds[0, 0, :900])


def test_channels_of_a_sound_change_alike() -> None:
    both = torch.cat([tones(16, 20), -0.5 * tones(16, 20)], dim=1)
    moved = changed(both, delay=0.3, speed=0.2, attenuation_db=6.0, invert_polarity=True)
    torch.testing.assert_close(moved[:, 1], -0.5 * moved[:, 0], atol=1e-6, rtol=1e-4)
    assert len((moved[:, 0] != 0).int().argmax(dim=1).unique()) > 5
    stored = (both * 20_000).short()
    crops = random_crops(stored, 100, seeded())
    assert crops.shape == (16, 2, 100)
    torch.testing.assert_close(crops[:, 1].float(), -0.5 * crops[:, 0].float(), atol=1.0, rtol=0)


def test_a_delay_is_at_most_what_was_asked() -> None:
    moved = changed(tones(64, 20, sounding=100), delay=0.1)
    starts = (moved[:, 0] != 0).int().argmax(dim=1) - 1
    assert 80 < starts.max() <= 100


def test_speed_changes_pitch_and_length_together() -> None:
    moved = changed(tones(64, 50, sounding=500), speed=0.2)[:, 0]
    ends = torch.where(moved.abs() > 1e-3, torch.arange(LENGTH), 0).amax(dim=1)
    crossings = ((moved[:, 1:] > 0) & (moved[:, :-1] <= 0)).sum(dim=1)
    assert ends.min() < 440
    assert ends.max() > 580
    # 25 cycles, whatever the speed: pitch times length stays.
    assert crossings.sub(25).abs().max() <= 1


def test_interpolation_keeps_a_sine_a_sine() -> None:
    sounds = tones(1, 20, sounding=LENGTH)
    for seed in range(5):
        config = AugmentationConfig(audio=AudioAugmentationConfig(speed=0.1))
        moved = augment(sounds, config, seeded(seed))[0, 0]
        factor = 1 + (float(torch.rand(4, 1, generator=seeded(seed))[0]) * 2 - 1) * 0.1
        times = torch.arange(LENGTH) * factor
        inside = times < LENGTH - 2
        ideal = 0.5 * torch.sin(2 * math.pi * 20 * times / LENGTH)
        torch.testing.assert_close(moved[inside], ideal[inside], atol=5e-4, rtol=0)


def test_loudness_and_sign() -> None:
    sounds = tones(200, 20)
    moved = changed(sounds, loudness_db=6, invert=True)
    gain = (moved * sounds).sum(dim=(1, 2)) / sounds.square().sum(dim=(1, 2))
    assert gain.abs().max() <= 1
    assert 0.5 <= gain.abs().min() < 0.55
    assert 60 < int((gain < 0).sum()) < 140
    torch.testing.assert_close(moved, gain[:, None, None] * sounds)


def test_the_range_is_kept() -> None:
    loud = torch.ones(8, 1, LENGTH)
    loud[:, :, ::3] = -1
    assert changed(loud, speed=0.3).abs().max() <= 1


@pytest.mark.parametrize("ends", [100, 400, 1000])
def test_crops_stay_within_the_sound(ends: int) -> None:
    sounds = torch.zeros(200, 1, LENGTH, dtype=torch.int16)
    sounds[:, :, :ends] = torch.arange(1, ends + 1, dtype=torch.int16)
    crops = random_crops(sounds, 300, seeded())
    assert crops.shape == (200, 1, 300)
    first = crops[:, 0, 0]
    assert first.min() >= 1
    if ends <= 300:
        assert first.max() == 1
        torch.testing.assert_close(crops, sounds[:, :, :300])
    else:
        assert first.max() <= ends - 300 + 1
        assert crops[:, 0, -1].min() >= 300  # never into the silence behind the sound
        assert len(first.unique()) > 50
    assert random_crops(sounds, LENGTH, seeded()) is sounds
