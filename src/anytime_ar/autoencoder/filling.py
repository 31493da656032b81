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

LOWEST = 0.25
"""Where the bands begin, as a share of the highest frequency; below, waveforms are soon decoded."""
FLOOR, CEILING = 1e-3, 1.0
"""Root mean square of a coefficient that counts as silence, and of the loudest noise."""
WEIGHT = 0.6
"""What an error of one neper in one band counts for, as an error of samples."""
GAIN = 0.4
"""Noise for what is missing, of its amplitude: all of it would cost more squared error than it is
worth, and none leaves silence."""


class NoiseFilling(nn.Module):
    """Measures how loud the bands of lapped segments are, and fills them up.

    Args:
        segments: S.
        size: P, samples of a segment.
        bands: of equal width, from a quarter of the highest frequency up; 1..3/4 P.
    """

    sines: Tensor
    shares: Tensor
    noise: Tensor

    def __init__(self, segments: int, size: int, bands: int) -> None:
        super().__init__()
        places = torch.arange(size, dtype=torch.float64) + 0.5
        sines = torch.sin(math.pi / size * torch.outer(places, places)) * math.sqrt(2 / size)
        self.register_buffer("sines", sines.float(), persistent=False)  # [P, P], its own inverse
        edges = torch.linspace(LOWEST * size, size, bands + 1).round().long()  # coefficients
        assert edges.diff().min() > 0
        shares = torch.zeros(size, bands)
        for band, (low, high) in enumerate(pairwise(edges.tolist())):
            shares[low:high, band] = 1 / (high - low)
        self.register_buffer("shares", shares, persistent=False)  # [P, bands]
        # Stored with the weights: the same noise for every sample, on every machine.
        self.register_buffer("noise", nn.init.normal_(torch.empty(segments, size)))  # [S, P]

    def loudness(self, parts: Tensor) -> Tensor:
        """Of each band, in weighted nepers above the floor: float [B, S, P] -> [B, S, bands]."""
        return WEIGHT / 2 * torch.log1p(self._powers(parts) / FLOOR**2)

    def complete(self, parts: Tensor, loudness: Tensor) -> Tensor:
        """Add noise where segments lack loudness.

        Args:
            parts: float [B, S, P], decoded.
            loudness: float [B, S, bands], as it should be.

        Returns:
            float [B, S, P].
        """
        wanted = FLOOR**2 * torch.expm1(loudness.clamp_min(0) * 2 / WEIGHT)
        wanted = wanted.clamp_max(CEILING**2)  # codes that were drawn may ask for anything
        lacking = (wanted - self._powers(parts)).clamp_min(0).sqrt()  # [B, S, bands]
        noise = self.noise * (lacking @ (self.shares > 0).to(parts.dtype).T)
        return parts + GAIN * noise @ self.sines

    def _powers(self, parts: Tensor) -> Tensor:
        """Mean square of the coefficients of each band: [B, S, P] -> [B, S, bands]."""
        with torch.autocast(parts.device.type, enabled=False):  # logarithms are taken of them
            return (parts.float() @ self.sines).square() @ self.shares
