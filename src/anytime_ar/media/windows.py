"""Sounds of any length through a model of one length: windows that overlap, and their joints.

Neighbouring windows share some samples, in which the decoded sound fades from one to the other. The
weights of the two add up to 1 in amplitude, not in power: both decode the same sound, so they are
alike, and weights whose squares add up to 1 would make it up to 3 dB louder in the middle. The fade
is a raised cosine, whose slope starts and ends at zero. Nothing is held that grows with the sound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.runtime.torch_modes import yield_under_default_modes

OVERLAP_DIVISOR = 8
"""Neighbouring windows share one part in so many."""
WINDOW_BATCH_SIZE = 16


class SampleCodec(Protocol):
    """What encodes and decodes one window: a model of sounds."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """(1, T)."""

    def encode(self, x: Tensor) -> Tensor:
        """float32 [B, 1, T] to codes int64 [B, L]."""

    def decode(self, codes: Tensor) -> Tensor:
        """int64 [B, k] to float32 [B, 1, T]."""


@dataclass(frozen=True)
class OverlappingWindows:
    """How a sound is cut.

    Raises:
        InputError: more than half of a window is shared, so that three would meet.
    """

    length: int
    """T, in samples."""
    overlap: int
    """Samples that a window shares with the next, 0..T/2."""

    def __post_init__(self) -> None:
        if not 0 <= 2 * self.overlap <= self.length:
            raise InputError(
                f"windows of {self.length} samples cannot share {self.overlap}; "
                f"choose 0..{self.length // 2}"
            )

    @classmethod
    def for_codec(cls, codec: SampleCodec) -> OverlappingWindows:
        """The windows of a model, of which neighbours share an eighth.

        Raises:
            InputError: its samples are not mono sounds.
        """
        shape = tuple(codec.sample_shape)
        if len(shape) != 2 or shape[0] != 1:
            raise InputError(f"windows need a model of samples (1, T), got {shape}")
        return cls(shape[1], shape[1] // OVERLAP_DIVISOR)

    @property
    def hop(self) -> int:
        """Samples from the start of a window to that of the next."""
        return self.length - self.overlap

    def count(self, samples: int) -> int:
        """W, the number of windows that cover a sound of so many samples, at least 1."""
        return max(1, math.ceil((samples - self.overlap) / self.hop))

    @yield_under_default_modes
    def split(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """A sound in windows, a batch at a time; silence fills the last one.

        Args:
            blocks: float32 [n], any n, one after the other.

        Yields:
            float32 [b, 1, T], 1 <= b <= `WINDOW_BATCH_SIZE`.
        """
        covered = 0  # of what is held, by windows that were given before
        held = torch.zeros(0, dtype=torch.float32, device="cpu")
        for block in blocks:
            held = torch.cat([held, block])
            while len(held) >= self.overlap + WINDOW_BATCH_SIZE * self.hop:
                yield self._batch(held, WINDOW_BATCH_SIZE)
                held, covered = held[WINDOW_BATCH_SIZE * self.hop :].clone(), self.overlap
        if len(held) > covered:
            count = self.count(len(held))
            missing = self.overlap + count * self.hop - len(held)
            yield self._batch(torch.nn.functional.pad(held, (0, missing)), count)

    def _batch(self, held: Tensor, count: int) -> Tensor:
        windows = held[: self.overlap + count * self.hop].unfold(0, self.length, self.hop)
        return windows[:, None].contiguous()  # [count, 1, T]; no longer one memory

    @yield_under_default_modes
    def overlap_add(self, batches: Iterable[Tensor], samples: int) -> Iterator[Tensor]:
        """The sound that windows make, without the silence that filled the last one.

        Args:
            batches: float32 [b, 1, T], any b >= 1, one after the other.
            samples: length of the sound.

        Yields:
            float32 [n], on the CPU.
        """
        places = torch.arange(self.overlap, dtype=torch.float32, device="cpu")
        places = (places + 0.5) / max(1, self.overlap)
        fade = (1 - torch.cos(math.pi * places)) / 2  # [overlap], from 0 to 1
        ending: Tensor | None = None
        left = samples
        for batch in batches:
            windows = batch.detach().float().cpu()[:, 0]  # [b, T]
            ahead, heads = windows[:, : self.hop].clone(), windows[:, : self.overlap]
            ending = heads[:1] if ending is None else ending
            endings = torch.cat([ending, windows[:, self.hop :]])  # [b + 1, overlap]
            # Two equal windows give themselves exactly: a + fade * (b - a).
            ahead[:, : self.overlap] = torch.lerp(endings[:-1], heads, fade)
            ending = endings[-1:].clone()
            yield ahead.flatten()[:left]
            left = max(0, left - ahead.numel())
        if ending is not None and left > 0:
            yield ending.flatten()[:left]


def encode_windows(
    codec: SampleCodec, windows: OverlappingWindows, blocks: Iterable[Tensor]
) -> Iterator[Tensor]:
    """Codes of a sound of any length, int64 [b, L] of some windows at a time.

    Args:
        codec: encodes windows.
        windows: their length and overlap.
        blocks: float32 [n] in [-1, 1], any n, one after the other.
    """
    return (codec.encode(batch) for batch in windows.split(blocks))


def decode_windows(
    codec: SampleCodec, windows: OverlappingWindows, codes: Tensor, samples: int
) -> Iterator[Tensor]:
    """A sound from any prefix of the codes of its windows, float32 [n] at a time.

    Args:
        codec: decodes windows.
        windows: their length and overlap, as encoded.
        codes: int64 [W, k].
        samples: length of the sound.

    Raises:
        InputError: there are more or fewer windows than the sound has, or the codes do not fit.
    """
    expected = windows.count(samples)
    if len(codes) != expected:
        raise InputError(
            f"{len(codes)} windows of {windows.length} samples that share {windows.overlap} do not "
            f"make a sound of {samples} samples; pass {expected}"
        )
    batches = (codec.decode(part) for part in codes.split(WINDOW_BATCH_SIZE))
    return windows.overlap_add(batches, samples)
