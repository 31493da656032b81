"""Noise in place of what codes leave out of a sound: measured, coded, filled up, and no more."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from anytime_ar.autoencoder import AutoencoderConfig, OrderedAutoencoder
from anytime_ar.autoencoder.layouts import lapped_transform
from anytime_ar.autoencoder.noise_substitution import (
    LOUDNESS_WEIGHT,
    NOISE_GAIN,
    RMS_FLOOR,
    NoiseSubstitution,
    NoiseSubstitutionSkip,
)
from anytime_ar.errors import InputError
from anytime_ar.media.spectra import stft_magnitudes

SEGMENTS, SIZE, BANDS = 8, 64, 3
LENGTH = SEGMENTS * SIZE


def config(**changes: Any) -> AutoencoderConfig:
    values: dict[str, Any] = {
        "layout": "lapped_segment",
        "segments": SEGMENTS,
        "noise_bands": BANDS,
        "code_length": SEGMENTS * 4,
        "code_width": 4,
        "quantizer": {"kind": "residual_pca", "vocabulary": 32},
        "network": {"patch": 2, "widths": [4], "blocks": 0, "hidden": 0},
    }
    return AutoencoderConfig.parse(values | changes, origin="test")


def build(**changes: Any) -> OrderedAutoencoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return OrderedAutoencoder(config(**changes), (1, LENGTH)).eval()


def filling() -> NoiseSubstitution:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NoiseSubstitution(SEGMENTS, SIZE, BANDS)


def hum_and_hiss(n: int, seed: int = 0) -> Tensor:
    """Loud low tones, and much weaker noise that comes and goes: float32 [n, 1, T]."""
    generator = torch.Generator().manual_seed(seed)
    phase, pace = torch.rand(2, n, 1, generator=generator)
    hum = torch.sin(6.3 * phase + (0.1 + 0.2 * pace) * torch.arange(LENGTH))
    strength = 0.1 * (torch.rand(n, SEGMENTS, generator=generator) > 0.5)
    hiss = strength.repeat_interleave(SIZE, 1) * torch.randn(n, LENGTH, generator=generator)
    return (0.5 * hum + hiss)[:, None]


@pytest.mark.parametrize(("frequency", "band"), [(0.3, 0), (0.6, 1), (0.9, 2), (0.1, None)])
def test_a_tone_is_loud_in_its_own_band(frequency: float, band: int | None) -> None:
    """Bands divide what lies above a quarter of the highest frequency evenly."""
    tone = 0.5 * torch.sin(math.pi * frequency * torch.arange(LENGTH))[None, None]
    parts = lapped_transform(tone, SEGMENTS).view(1, SEGMENTS, SIZE)
    loudness = filling().loudness(parts)[0, 1:-1]  # [S - 2, bands]; the ends have no neighbour
    nepers = loudness / LOUDNESS_WEIGHT + math.log(
        RMS_FLOOR
    )  # of the root mean square of a coefficient
    for at in range(BANDS):
        if at == band:
            expected = 0.5 * math.log(0.5**2 / 2 * SIZE / (SIZE / 4))  # all in a quarter of them
            assert nepers[:, at].mean().item() == pytest.approx(expected, abs=0.2)
        else:
            assert nepers[:, at].max() < math.log(0.02)


def test_silence_has_no_loudness_and_gets_no_noise() -> None:
    silence = torch.zeros(2, SEGMENTS, SIZE)
    fill = filling()
    assert torch.equal(fill.loudness(silence), torch.zeros(2, SEGMENTS, BANDS))
    assert torch.equal(fill.fill_noise(silence, torch.zeros(2, SEGMENTS, BANDS)), silence)


def test_noise_fills_what_is_lacking_in_its_band_only() -> None:
    fill = filling()
    parts = torch.zeros(1, SEGMENTS, SIZE)
    wanted = torch.zeros(1, SEGMENTS, BANDS)
    wanted[0, 3, 1] = (
        LOUDNESS_WEIGHT / 2 * math.log1p(0.1**2 / RMS_FLOOR**2)
    )  # rms of 0.1 a coefficient
    made = fill.fill_noise(parts, wanted) @ fill.dst_basis  # coefficients
    quiet = made.clone()
    quiet[0, 3, SIZE // 2 : 3 * SIZE // 4] = 0
    assert quiet.abs().max() < 1e-6
    level = made[0, 3, SIZE // 2 : 3 * SIZE // 4].square().mean().sqrt().item()
    assert level == pytest.approx(0.1 * NOISE_GAIN, rel=0.5)  # sixteen random numbers
    assert level > 0.01


def test_noise_is_never_louder_than_a_sound_can_be() -> None:
    fill = filling()
    made = fill.fill_noise(torch.zeros(1, SEGMENTS, SIZE), torch.full((1, SEGMENTS, BANDS), 1e3))
    assert made.isfinite().all()
    assert made.square().mean().sqrt() < 1


def test_what_is_loud_enough_stays_as_it_is() -> None:
    parts = torch.randn(2, SEGMENTS, SIZE, generator=torch.Generator().manual_seed(0))
    fill = filling()
    loudness = fill.loudness(parts)
    torch.testing.assert_close(fill.fill_noise(parts, loudness), parts, atol=2e-3, rtol=0)
    torch.testing.assert_close(fill.fill_noise(parts, loudness - 0.1), parts)
    assert (fill.fill_noise(parts, loudness + 0.3) - parts).square().mean() > 0.01


def test_codes_tell_how_loud_noise_is_before_they_tell_its_waveform() -> None:
    x = hum_and_hiss(400)
    models = {bands: build(noise_bands=bands) for bands in (0, BANDS)}

    def above(sounds: Tensor) -> Tensor:
        """Level of each segment where there is only hiss: [n, S]."""
        levels = stft_magnitudes(sounds, SIZE)[:, SIZE // 4 :].square().mean(1).sqrt()
        return levels[:, :-1].unflatten(1, (SEGMENTS, -1)).mean(2)

    errors = {}
    for bands, model in models.items():
        model.init_codebooks([x], torch.Generator().manual_seed(0))
        codes = model.encode(x)
        made = model.decode(codes[:, : 2 * SEGMENTS])
        errors[bands] = (above(made) - above(x)).abs().mean().item()
        squared = [(model.decode(codes[:, :k]) - x).square().mean() for k in (8, 16, 32)]
        assert squared[0] > squared[1] > squared[2]
    assert errors[BANDS] < 0.8 * errors[0]


@torch.no_grad()
def test_decoding_adds_noise_up_to_the_coded_loudness() -> None:
    model, x = build(), hum_and_hiss(200)
    model.init_codebooks([x], torch.Generator().manual_seed(0))
    codes = model.encode(x)[:, : 3 * SEGMENTS]
    vectors = torch.nn.functional.pad(model.quantizer.lookup(codes), (0, 0, 0, SEGMENTS))
    plain, loudness = model.decode_vectors(vectors, torch.full((200,), 3 * SEGMENTS))
    path = model.linear_skip
    assert isinstance(path, NoiseSubstitutionSkip)
    assert loudness is not None
    assert torch.equal(model.decode(codes), path.fill_noise(plain, loudness).clamp(-1, 1))
    before, after, wanted = path.loudness(plain), path.loudness(model.decode(codes)), loudness
    lacking = wanted > before + 0.5
    assert lacking.float().mean() > 0.2
    assert (after - before)[lacking].mean() > 0.3
    assert (after <= wanted.maximum(before) + 0.4).float().mean() > 0.99


def test_the_noise_belongs_to_the_weights() -> None:
    """A model that was saved makes the same sounds wherever it is loaded."""
    model = build()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        other = OrderedAutoencoder(model.config, (1, LENGTH)).eval()
    other.load_state_dict(model.state_dict())
    codes = model.encode(hum_and_hiss(3))
    assert torch.equal(model.decode(codes), other.decode(codes))


@pytest.mark.parametrize("layout", ["segment", "projection"])
def test_noise_is_for_lapped_segments(layout: str) -> None:
    values = {"layout": layout, "noise_bands": 3}
    message = f"noise_bands is 3, a setting of layout=lapped_segment, not of {layout}; drop it"
    with pytest.raises(InputError, match=message):
        AutoencoderConfig.parse(values, origin="test")


@pytest.mark.parametrize(
    ("bands", "shape", "message"),
    [
        (17, (1, LENGTH), "noise_bands is 17, and segments of 64 samples have room for 16"),
        (3, (2, LENGTH), r"samples of shape \(2, 512\) are no mono sounds"),
        (3, (1, 32, 32), r"samples of shape \(1, 32, 32\) are no mono sounds"),
    ],
)
def test_samples_that_cannot_be_filled(bands: int, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OrderedAutoencoder(config(noise_bands=bands), shape)
