"""Synthesize short labelled clips of plucked strings and sung vowels from a few parameters.

Strings follow Karplus and Strong (1983, Digital Synthesis of Plucked-String and Drum Timbres), with
the tuning and the plucking position of Jaffe and Smith (1983, Extensions of the Karplus-Strong
Plucked-String Algorithm). Vowels are source and filter: a glottal pulse train through the
resonators of Klatt (1980, Software for a Cascade/Parallel Formant Synthesizer). Their formants are
those that Peterson and Barney measured (1952, Control Methods Used in a Study of the Vowels).

Clip `index` is a pure function of `index`, the same on every machine up to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from anytime_ar.media.audio import Waveform
from anytime_ar.runtime.seeding import stable_hash

SAMPLE_RATE = 8000
"""Sample rate of all clips, in Hz."""
_FFT_PADDING = SAMPLE_RATE // 10
"""Samples in which a vocal tract decays to silence, so that the end does not wrap to the start."""

_Signal = npt.NDArray[np.floating]


@dataclass(frozen=True)
class PluckedString:
    """The parameters of one plucked string."""

    pitch: float
    """Fundamental frequency in Hz."""
    decay_s: float
    """Time in seconds to lose 60 dB without damping."""
    damping: float
    """Weight, 0 to 0.25, of each neighbour in the average that smooths each period. High partials
    decay first."""
    brightness: float
    """Frequency in Hz above which the pluck excites less."""
    position: float
    """Plucking position, as a share of the string's length. Partials with a node there are
    missing."""

    def render(self, samples: int, noise: np.random.Generator) -> _Signal:
        """Synthesize the waveform, float64 [samples], at any level.

        Args:
            samples: length of the waveform, in samples.
            noise: generates the burst that excites the string.
        """
        period = SAMPLE_RATE / self.pitch
        # The loop delays by an integer number of samples, and the average by one more. An all-pass
        # filter, exact at the pitch, delays by the remaining 0.1 to 1.1 samples.
        whole = math.floor(period - 1.1)
        rest = period - 1 - whole
        step = 2 * math.pi / period
        allpass = math.sin((1 - rest) * step / 2) / math.sin((1 + rest) * step / 2)
        gain = 10 ** (-3 / (self.pitch * self.decay_s))
        mean = [self.damping, 1 - 2 * self.damping, self.damping]
        loop = np.zeros(whole + 4)
        loop[:2] = 1, allpass
        loop[whole:] -= gain * np.convolve(mean, [allpass, 1])

        burst = noise.uniform(-1, 1, math.ceil(period))
        pluck = np.zeros(samples)
        # The difference of two bursts has no DC component, which would decay last in the loop.
        pluck[: len(burst)] = burst - np.roll(burst, math.ceil(self.position * period))
        pole = math.exp(-2 * math.pi * self.brightness / SAMPLE_RATE)
        return lfilter([1, allpass], loop, lfilter([1 - pole], [1, -pole], pluck))


@dataclass(frozen=True)
class SungVowel:
    """The parameters of one vowel, sung by one speaker."""

    pitch: float
    """Fundamental frequency at the start, in Hz."""
    glide: float
    """Pitch at the end, as a multiple of that at the start."""
    jitter: float
    """Standard deviation of the pitch around its glide, as a share of it."""
    formants: tuple[float, ...]
    """Resonances of the vocal tract in Hz. Those above half the sample rate still raise the level
    below."""
    bandwidths: tuple[float, ...]
    """Bandwidth of each formant, in Hz."""
    tilt_cutoff_hz: float
    """Frequency in Hz above which the glottal flow falls by 12 dB per octave."""
    breathiness: float
    """Level of the breath noise, relative to that of the glottal flow."""

    def render(self, samples: int, noise: np.random.Generator) -> _Signal:
        """Synthesize the waveform, float64 [samples], at any level.

        Args:
            samples: length of the waveform, in samples.
            noise: generates jitter and breath noise.
        """
        pulses = _pulse_train(self._pitch_contour(samples, noise))
        size = samples + _FFT_PADDING
        hertz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
        flow = np.fft.rfft(pulses, size) / (1 + 1j * hertz / self.tilt_cutoff_hz) ** 2
        level = self.breathiness * np.sqrt(np.mean(np.abs(flow) ** 2) / samples)
        source = flow + np.fft.rfft(level * noise.standard_normal(samples), size)
        # The lips radiate the derivative of the flow, so the level rises with frequency.
        return np.fft.irfft(source * hertz * 1j * self._vocal_tract_gain(hertz), size)[:samples]

    def _vocal_tract_gain(self, hertz: _Signal) -> npt.NDArray[np.complex128]:
        """Return the complex gain of the vocal tract: a product of resonances, each 1 at 0 Hz.

        The resonances are analogue: digital resonators near half the sample rate raise each other.

        Args:
            hertz: frequencies in Hz.
        """
        gain = np.ones(len(hertz), dtype=np.complex128)
        for frequency, bandwidth in zip(self.formants, self.bandwidths, strict=True):
            pole = complex(-bandwidth / 2, frequency)  # in Hz
            gain *= abs(pole) ** 2 / ((1j * hertz - pole) * (1j * hertz - pole.conjugate()))
        return gain

    def _pitch_contour(self, samples: int, noise: np.random.Generator) -> _Signal:
        """Return the pitch at each sample in Hz, float64 [samples]."""
        glide = self.glide ** np.linspace(0, 1, samples)
        every = SAMPLE_RATE // 100  # samples, about one glottal cycle
        points = noise.standard_normal(samples // every + 2)
        jitter = np.interp(np.arange(samples) / every, np.arange(len(points)), points)
        return self.pitch * glide * (1 + self.jitter * jitter)


def _pulse_train(hertz: _Signal) -> _Signal:
    """Return the sum of all harmonics below half the sample rate, as cosines of equal amplitude.

    Pulses at integer sample positions would be out of tune and alias.

    Args:
        hertz: pitch at each sample in Hz.
    """
    harmonics = int(SAMPLE_RATE / 2 / hertz.max())
    half = np.pi * np.cumsum(hertz) / SAMPLE_RATE
    above, below = np.sin((2 * harmonics + 1) * half), np.sin(half)
    limit = np.full_like(half, 2 * harmonics + 1)  # where both are zero
    return (np.divide(above, below, out=limit, where=np.abs(below) > 1e-9) - 1) / 2


@dataclass(frozen=True)
class SyntheticClip:
    """The parameters of one synthetic clip."""

    index: int
    """Position of the clip in the set."""
    label: int
    """Class of the clip: a position in `CLASSES`."""
    source: PluckedString | SungVowel
    num_samples: int
    """Length of the clip, in samples."""
    attack_s: float
    """Time in seconds in which it rises to full level."""
    release_s: float
    """Time in seconds in which it falls to silence, at its end."""
    peak: float
    """Largest magnitude of the waveform, below 1."""

    def render(self) -> Waveform:
        """Synthesize the waveform, float32 [samples]; its last sample is 0."""
        signal = self.source.render(self.num_samples, _generator("noise", self.index))
        time = np.arange(self.num_samples) / SAMPLE_RATE
        rise = np.clip(time / self.attack_s, 0, 1)
        fall = np.clip((time[-1] - time) / self.release_s, 0, 1)
        signal = signal * np.sin(np.pi / 2 * rise) ** 2 * np.sin(np.pi / 2 * fall) ** 2
        return (signal * (self.peak / np.abs(signal).max())).astype(np.float32)


_Range = tuple[float, float]
"""Lowest and highest value of a random parameter, both above 0."""


def _log_uniform(bounds: _Range, generator: np.random.Generator) -> float:
    """Return a random number with a uniform logarithm, because hearing is logarithmic."""
    return math.exp(generator.uniform(math.log(bounds[0]), math.log(bounds[1])))


@dataclass(frozen=True)
class _StringClass:
    """The parameter ranges of one class of strings; units as in `PluckedString`."""

    pitch: _Range
    decay_s: _Range
    damping: _Range
    brightness: _Range
    attack_s: _Range = (0.001, 0.004)
    release_s: _Range = (0.03, 0.1)

    def sample(self, generator: np.random.Generator) -> PluckedString:
        """Return a string with random parameters."""
        return PluckedString(
            pitch=_log_uniform(self.pitch, generator),
            decay_s=_log_uniform(self.decay_s, generator),
            damping=_log_uniform(self.damping, generator),
            brightness=_log_uniform(self.brightness, generator),
            position=_log_uniform((0.1, 0.45), generator),
        )


_SPEAKERS: tuple[tuple[_Range, float], ...] = (
    ((105, 165), 500),
    ((180, 260), 600),
    ((220, 310), 700),
)
"""Pitch range, and lowest resonance of the vocal tract as a uniform tube, of men, women and
children. Both are in Hz."""
_BANDWIDTHS = (70, 100, 160, 220, 280)
"""Bandwidths of the formants, in Hz."""


@dataclass(frozen=True)
class _VowelClass:
    """The parameter ranges of one vowel, for all speakers."""

    formants: tuple[tuple[float, ...], ...]
    """Lowest three formants in Hz of each of `_SPEAKERS`: averages of Peterson and Barney, table
    II."""
    attack_s: _Range = (0.02, 0.06)
    release_s: _Range = (0.05, 0.12)

    def sample(self, generator: np.random.Generator) -> SungVowel:
        """Return a vowel of a random speaker with random parameters."""
        speaker = int(generator.integers(len(_SPEAKERS)))
        pitch, tube = _SPEAKERS[speaker]
        # The higher formants hardly differ between vowels: odd multiples, as in a uniform tube.
        formants = (*self.formants[speaker], 7 * tube, 9 * tube)
        size = _log_uniform((0.95, 1.05), generator)
        firmness = _log_uniform((0.8, 1.4), generator)
        return SungVowel(
            pitch=_log_uniform(pitch, generator),
            glide=_log_uniform((0.8, 1.15), generator),
            jitter=_log_uniform((0.002, 0.01), generator),
            formants=tuple(frequency / size for frequency in formants),
            bandwidths=tuple(bandwidth / firmness for bandwidth in _BANDWIDTHS),
            tilt_cutoff_hz=_log_uniform((100, 400), generator),
            breathiness=_log_uniform((0.0005, 0.005), generator),
        )


_SOUND_CLASSES: dict[str, _StringClass | _VowelClass] = {
    "low string": _StringClass((70, 140), (0.8, 4), (0.1, 0.25), (300, 2000)),
    "high string": _StringClass((300, 600), (0.8, 4), (0.03, 0.12), (300, 2000)),
    "muted string": _StringClass((90, 250), (0.12, 0.3), (0.1, 0.25), (300, 2000)),
    "vowel a": _VowelClass(((730, 1090, 2440), (850, 1220, 2810), (1030, 1370, 3170))),
    "vowel e": _VowelClass(((530, 1840, 2480), (610, 2330, 2990), (690, 2610, 3570))),
    "vowel i": _VowelClass(((270, 2290, 3010), (310, 2790, 3310), (370, 3200, 3730))),
    "vowel o": _VowelClass(((570, 840, 2410), (590, 920, 2710), (680, 1060, 3180))),
    "vowel u": _VowelClass(((300, 870, 2240), (370, 950, 2670), (430, 1170, 3260))),
}
CLASSES = tuple(_SOUND_CLASSES)
"""Names of the classes: strings that ring low or high or are muted, and the vowels of hod, head,
heed, hawed and who'd."""


def _generator(*parts: int | str) -> np.random.Generator:
    """Return a random generator whose stream the parts name."""
    return np.random.default_rng(stable_hash("sounds", *parts))


def synthesize_clip(index: int) -> SyntheticClip:
    """Return clip `index` >= 0 of an endless set whose classes take turns."""
    generator = _generator("clip", index)
    label = index % len(CLASSES)
    kind = _SOUND_CLASSES[CLASSES[label]]
    return SyntheticClip(
        index=index,
        label=label,
        source=kind.sample(generator),
        num_samples=round(_log_uniform((0.3, 0.5), generator) * SAMPLE_RATE),
        attack_s=_log_uniform(kind.attack_s, generator),
        release_s=_log_uniform(kind.release_s, generator),
        peak=_log_uniform((0.3, 0.9), generator),
    )
