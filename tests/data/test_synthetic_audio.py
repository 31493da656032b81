"""The embedded sounds: what they are made from, and that they come out as they were asked for."""

from __future__ import annotations

import numpy as np
import pytest

from anytime_ar.data import DataConfig, load_data
from anytime_ar.data.sources.synthetic_audio import (
    CLASSES,
    SAMPLE_RATE,
    PluckedString,
    SungVowel,
    synthesize_clip,
)


def spectrum(wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    padded = 1 << 16
    level = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), padded))
    return np.fft.rfftfreq(padded, 1 / SAMPLE_RATE), level


@pytest.mark.parametrize("index", range(8))
def test_a_sound_depends_on_its_index_alone(index: int) -> None:
    synthesize_clip(index + 1).render()  # nothing is shared that another sound would move
    first, again = synthesize_clip(index), synthesize_clip(index)
    assert first == again
    assert first.label == index
    np.testing.assert_array_equal(first.render(), again.render())
    assert not np.array_equal(first.render()[:2000], synthesize_clip(index + 8).render()[:2000])


@pytest.mark.parametrize("index", range(0, 80, 3))
def test_length_and_level(index: int) -> None:
    made = synthesize_clip(index)
    wave = made.render()
    assert wave.dtype == np.float32
    assert len(wave) == made.num_samples
    assert 0.3 <= len(wave) / SAMPLE_RATE <= 0.5
    assert np.abs(wave).max() == pytest.approx(made.peak)
    assert 0.3 <= made.peak <= 0.9
    assert wave[-1] == 0
    assert abs(wave.mean()) < 0.02 * made.peak


@pytest.mark.parametrize("pitch", [77.0, 150.3, 441.0, 587.3])
def test_a_string_is_in_tune(pitch: float) -> None:
    string = PluckedString(pitch=pitch, decay_s=3, damping=0.1, brightness=1500, position=0.23)
    hertz, level = spectrum(string.render(SAMPLE_RATE, np.random.default_rng(0))[400:])
    near = np.abs(hertz / pitch - 1) < 0.3
    assert hertz[near][level[near].argmax()] == pytest.approx(pitch, rel=0.004)


def test_a_string_fades_in_the_time_that_it_was_given() -> None:
    string = PluckedString(pitch=200, decay_s=1, damping=1e-6, brightness=2000, position=0.23)
    wave = string.render(SAMPLE_RATE, np.random.default_rng(0))
    early, late = (np.square(wave[start : start + 800]).mean() for start in (400, 4400))
    assert 10 * np.log10(early / late) == pytest.approx(30, abs=1)  # 60 dB a second


def test_a_vowel_is_loudest_at_its_formants() -> None:
    vowel = SungVowel(
        pitch=100,
        glide=1,
        jitter=1e-6,
        formants=(700, 1800, 2600),
        bandwidths=(60, 60, 60),
        tilt_cutoff_hz=2000,
        breathiness=1e-6,
    )
    hertz, level = spectrum(vowel.render(4000, np.random.default_rng(0)))
    for formant in vowel.formants:
        near, between = (
            level[np.abs(hertz - place) < 120].max() for place in (formant, formant + 350)
        )
        assert near > 2 * between


def test_the_embedded_set_loads_as_any_other() -> None:
    splits = load_data(DataConfig(name="sounds"))
    assert splits.label_names == CLASSES
    assert splits.sample_shape == (1, len(next(splits.test.batches(1)).data[0, 0]))
    assert splits.sample_rate == SAMPLE_RATE
