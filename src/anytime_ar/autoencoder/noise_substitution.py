"""Noise in place of what codes leave out of a sound: a decoder that draws the missing detail.

Squared error spends the first codes on low frequencies, where the energy of speech is, and leaves
silence above, where consonants differ. Their waveform would take most of the bits, and nobody hears
it: noise of the same loudness sounds alike. So codes say how loud each band of a segment is, beside
its samples, and the decoder fills what the decoded sound lacks of that with noise, as audio codecs
do (perceptual noise substitution, Herre and Schulz 1998; noise filling, Valin et al. 2012, RFC
6716). The more codes, the more of a band is decoded, and the less is filled.

Bands are those of the modified discrete cosine transform (Princen et al. 1987): a lapped segment
(see `laps`) is odd at its start and even at its end, so sines of odd quarters of a period, of which
it is a sum, are what that transform comes to.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

LOWEST_FREQUENCY = 0.25
"""Where the bands begin, as a share of the highest frequency; below, waveforms are soon decoded."""
RMS_FLOOR, RMS_CEILING = 1e-3, 1.0
"""Root mean square of a coefficient that counts as silence, and of the loudest noise."""
LOUDNESS_WEIGHT = 0.6
"""What an error of one neper in one band counts for, as an error of samples."""
NOISE_GAIN = 0.4
"""Noise for what is missing, of its amplitude: all of it would cost more squared error than it is
worth, and none leaves silence."""


class NoiseSubstitution(nn.Module):
    """Measures how loud the bands of lapped segments are, and fills them up.

    Args:
        segments: S.
        segment_length: P, samples of a segment.
        bands: of equal width, from a quarter of the highest frequency up; 1..3/4 P.
    """

    dst_basis: Tensor
    band_average: Tensor
    noise: Tensor

    def __init__(self, segments: int, segment_length: int, bands: int) -> None:
        super().__init__()
        places = torch.arange(segment_length, dtype=torch.float64) + 0.5
        sines = torch.sin(math.pi / segment_length * torch.outer(places, places)) * math.sqrt(
            2 / segment_length
        )
        self.register_buffer(
            "dst_basis", sines.float(), persistent=False
        )  # [P, P], its own inverse
        edges = (
            torch.linspace(LOWEST_FREQUENCY * segment_length, segment_length, bands + 1)
            .round()
            .long()
        )  # coefficients
        assert edges.diff().min() > 0
        shares = torch.zeros(segment_length, bands)
        for band, (low, high) in enumerate(pairwise(edges.tolist())):
            shares[low:high, band] = 1 / (high - low)
        self.register_buffer("band_average", shares, persistent=False)  # [P, bands]
        # Stored with the weights: the same noise for every sample, on every machine.
        self.register_buffer(
            "noise", nn.init.normal_(torch.empty(segments, segment_length))
        )  # [S, P]

    def loudness(self, segments: Tensor) -> Tensor:
        """Of each band, in weighted nepers above the floor: float [B, S, P] -> [B, S, bands]."""
        return LOUDNESS_WEIGHT / 2 * torch.log1p(self._band_power(segments) / RMS_FLOOR**2)

    def fill_noise(self, segments: Tensor, target_loudness: Tensor) -> Tensor:
        """Add noise where segments lack loudness.

        Args:
            segments: float [B, S, P], decoded.
            target_loudness: float [B, S, bands], as it should be.

        Returns:
            float [B, S, P].
        """
        wanted = RMS_FLOOR**2 * torch.expm1(target_loudness.clamp_min(0) * 2 / LOUDNESS_WEIGHT)
        wanted = wanted.clamp_max(RMS_CEILING**2)  # codes that were drawn may ask for anything
        lacking = (wanted - self._band_power(segments)).clamp_min(0).sqrt()  # [B, S, bands]
        noise = self.noise * (lacking @ (self.band_average > 0).to(segments.dtype).T)
        return segments + NOISE_GAIN * noise @ self.dst_basis

    def _band_power(self, segments: Tensor) -> Tensor:
        """Mean square of the coefficients of each band: [B, S, P] -> [B, S, bands]."""
        with torch.autocast(segments.device.type, enabled=False):  # logarithms are taken of them
            return (segments.float() @ self.dst_basis).square() @ self.band_average
