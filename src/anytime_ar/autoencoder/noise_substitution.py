"""Noise substitution: a decoder that fills bands which codes leave too quiet with noise.

Squared error spends the first codes on low frequencies, where the energy of speech is. High
frequencies stay silent, and consonants differ there. Their waveform would take most of the bits,
although noise of the same loudness sounds alike. So codes carry the loudness of each band of a
segment beside its samples. The decoder fills the missing loudness with noise, as audio codecs do
(perceptual noise substitution, Herre and Schulz 1998; noise filling, Valin et al. 2012, RFC 6716).
With more codes, more of a band is decoded and less is filled.

Bands are those of the modified discrete cosine transform (Princen et al. 1987). A lapped segment
(see `lapped_transform`) is odd at its start and even at its end. So the transform writes it as a
sum of sines with an odd number of quarter periods.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from anytime_ar.autoencoder.layouts import SegmentLayout

LOWEST_FREQUENCY = 0.25
"""Lower edge of the bands, as a fraction of the highest frequency; waveforms below it are soon
decoded."""
RMS_FLOOR, RMS_CEILING = 1e-3, 1.0
"""Root mean square of a coefficient in silence, and in the loudest noise."""
LOUDNESS_WEIGHT = 0.6
"""Weight of an error of one neper in one band, relative to an error of samples."""
NOISE_GAIN = 0.4
"""Amplitude of the added noise relative to the missing amplitude. The full amplitude costs more
squared error than it is worth; 0 leaves silence."""


class NoiseSubstitution(nn.Module):
    """Measurement of the loudness of bands in lapped segments, and substitution of noise.

    Args:
        segments: S.
        segment_length: P, samples of a segment.
        bands: number of bands of equal width, from a quarter of the highest frequency up; 1..3/4 P.
    """

    dst_basis: Tensor
    """Orthonormal sines, float32 [P, P]; the matrix is its own inverse."""
    band_average: Tensor
    """Weights that average the coefficients of each band, float32 [P, bands]."""
    noise: Tensor
    """Noise in the sine basis, float32 [S, P]."""

    def __init__(self, segments: int, segment_length: int, bands: int) -> None:
        """Compute the sine basis and the bands, and sample the noise."""
        super().__init__()
        positions = torch.arange(segment_length, dtype=torch.float64) + 0.5
        sines = torch.sin(math.pi / segment_length * torch.outer(positions, positions)) * math.sqrt(
            2 / segment_length
        )
        self.register_buffer("dst_basis", sines.float(), persistent=False)
        edges = (
            torch.linspace(LOWEST_FREQUENCY * segment_length, segment_length, bands + 1)
            .round()
            .long()
        )  # coefficients
        assert edges.diff().min() > 0
        shares = torch.zeros(segment_length, bands)
        for band, (low, high) in enumerate(pairwise(edges.tolist())):
            shares[low:high, band] = 1 / (high - low)
        self.register_buffer("band_average", shares, persistent=False)
        # The noise is stored with the weights: it is the same for every sample, on every machine.
        self.register_buffer("noise", nn.init.normal_(torch.empty(segments, segment_length)))

    def loudness(self, segments: Tensor) -> Tensor:
        """Measure the loudness of bands: float [B, S, P] -> [B, S, bands].

        The unit is a weighted neper above the floor.
        """
        return LOUDNESS_WEIGHT / 2 * torch.log1p(self._band_power(segments) / RMS_FLOOR**2)

    def fill_noise(self, segments: Tensor, target_loudness: Tensor) -> Tensor:
        """Add noise where segments lack loudness.

        Args:
            segments: float [B, S, P], decoded.
            target_loudness: float [B, S, bands], the loudness to reach.

        Returns:
            float [B, S, P].
        """
        target_power = RMS_FLOOR**2 * torch.expm1(
            target_loudness.clamp_min(0) * 2 / LOUDNESS_WEIGHT
        )
        # Sampled codes may ask for any loudness.
        target_power = target_power.clamp_max(RMS_CEILING**2)
        missing = (target_power - self._band_power(segments)).clamp_min(0).sqrt()  # [B, S, bands]
        noise = self.noise * (missing @ (self.band_average > 0).to(segments.dtype).T)
        return segments + NOISE_GAIN * noise @ self.dst_basis

    def _band_power(self, segments: Tensor) -> Tensor:
        """Return the mean square of the coefficients of each band: [B, S, P] -> [B, S, bands]."""
        with torch.autocast(segments.device.type, enabled=False):  # their logarithm needs float32
            return (segments.float() @ self.dst_basis).square() @ self.band_average


class NoiseSubstitutionSkip(SegmentLayout):
    """Linear skip between audio [B, 1, T] and code vectors that also carry the loudness of bands.

    Each segment has its samples and the loudness of its bands, which the decoder fills with noise.

    Args:
        levels: M, vectors for each segment.
        segments: S.
        code_width: D.
        length: T, samples of a clip.
        bands: number of bands whose loudness is coded.
    """

    def __init__(
        self, levels: int, segments: int, code_width: int, length: int, bands: int
    ) -> None:
        """Build the linear maps and the noise substitution."""
        super().__init__(
            0,
            levels,
            segments,
            code_width,
            1,
            (length,),
            hidden=0,
            overlapping=True,
            extra_features=bands,
        )
        self.segment_length = length // segments
        self.noise_substitution = NoiseSubstitution(segments, self.segment_length, bands)

    def split_segments(self, features: Tensor) -> Tensor:
        """Split audio into segments, and append the loudness of the bands of each."""
        samples = super().split_segments(features)
        return torch.cat([samples, self.noise_substitution.loudness(samples)], dim=2)

    def join_segments(self, segments: Tensor) -> Tensor:
        """Join the samples of segments to audio, without the loudness."""
        return super().join_segments(segments[..., : self.segment_length])

    def loudness(self, x: Tensor) -> Tensor:
        """Measure the loudness of each band: float [B, 1, T] -> [B, S, bands]."""
        return self.noise_substitution.loudness(super().split_segments(x))

    def decoded_loudness(self, vectors: Tensor) -> Tensor:
        """Decode the loudness of each band: float [B, M * S, D] -> [B, S, bands]."""
        return self._decode_segments(vectors)[..., self.segment_length :]

    def fill_noise(self, x: Tensor, loudness: Tensor) -> Tensor:
        """Add noise to audio where it lacks loudness.

        Args:
            x: decoded audio, float [B, 1, T].
            loudness: target loudness, float [B, S, bands].

        Returns:
            float [B, 1, T].
        """
        return super().join_segments(
            self.noise_substitution.fill_noise(super().split_segments(x), loudness)
        )
