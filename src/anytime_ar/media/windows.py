"""Split audio of any length into overlapping windows, and overlap-add the decoded windows.

Neighbouring windows share some samples, where the decoded audio cross-fades from one to the other.
The weights of the two sum to 1 in amplitude, not in power. Both windows decode the same audio, so
they are correlated, and power weights would be up to 3 dB louder in the middle. The fade is a
raised cosine, whose slope starts and ends at zero. Memory does not grow with the length of the
audio. Waveforms are [n] of mono audio, and [C, n] of several channels.
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
"""Divisor of the window length that gives the default overlap."""
WINDOW_BATCH_SIZE = 16
"""Most windows that are encoded or decoded at once."""


class SampleCodec(Protocol):
    """A model that encodes and decodes samples."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Return the shape of a sample: (C, H, W) of images, (C, T) of audio."""

    def encode(self, x: Tensor) -> Tensor:
        """Encode float32 [B, *sample_shape] to codes int64 [B, L]."""

    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes int64 [B, k] to float32 [B, *sample_shape]."""


@dataclass(frozen=True)
class OverlappingWindows:
    """The length and overlap of the windows into which audio is split.

    Raises:
        InputError: the overlap exceeds half of a window, so that three windows would meet.
    """

    length: int
    """Length T of a window, in samples."""
    overlap: int
    """Samples that a window shares with the next, 0..T/2."""

    def __post_init__(self) -> None:
        """Check that the overlap is at most half of a window."""
        if not 0 <= 2 * self.overlap <= self.length:
            raise InputError(
                f"windows of {self.length} samples cannot share {self.overlap}; "
                f"choose 0..{self.length // 2}"
            )

    @classmethod
    def for_codec(cls, codec: SampleCodec) -> OverlappingWindows:
        """Return the windows of a model, which overlap by an eighth.

        Args:
            codec: an audio model.

        Raises:
            InputError: the model's samples are not audio.
        """
        shape = tuple(codec.sample_shape)
        if len(shape) != 2:
            raise InputError(f"windows need a model of samples (C, T), got {shape}")
        return cls(shape[1], shape[1] // OVERLAP_DIVISOR)

    @property
    def hop(self) -> int:
        """Return the samples from the start of one window to the start of the next."""
        return self.length - self.overlap

    def count(self, samples: int) -> int:
        """Return the number W >= 1 of windows that cover audio of this length.

        Args:
            samples: length of the audio, in samples.
        """
        return max(1, math.ceil((samples - self.overlap) / self.hop))

    @yield_under_default_modes
    def split(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Split audio into windows, a batch at a time, and pad the last window with silence.

        Args:
            blocks: consecutive waveforms, float32 [n] or [C, n], any n.

        Yields:
            Windows float32 [b, C, T], 1 <= b <= `WINDOW_BATCH_SIZE`.
        """
        covered = 0  # samples of `held` that earlier windows contain
        held = torch.zeros(1, 0, dtype=torch.float32, device="cpu")  # [C, n]
        for block in blocks:
            block = block if block.ndim == 2 else block[None]
            held = torch.cat([held.expand(len(block), -1), block], dim=1)
            while held.shape[1] >= self.overlap + WINDOW_BATCH_SIZE * self.hop:
                yield self._batch(held, WINDOW_BATCH_SIZE)
                held, covered = held[:, WINDOW_BATCH_SIZE * self.hop :].clone(), self.overlap
        if held.shape[1] > covered:
            count = self.count(held.shape[1])
            missing = self.overlap + count * self.hop - held.shape[1]
            yield self._batch(torch.nn.functional.pad(held, (0, missing)), count)

    def _batch(self, held: Tensor, count: int) -> Tensor:
        """Return the first `count` windows of a waveform [C, n], float32 [count, C, T]."""
        windows = held[:, : self.overlap + count * self.hop].unfold(1, self.length, self.hop)
        return windows.transpose(0, 1).contiguous()  # no longer a view of `held`

    @yield_under_default_modes
    def overlap_add(self, batches: Iterable[Tensor], samples: int) -> Iterator[Tensor]:
        """Overlap-add windows to audio, without the padding of the last window.

        Args:
            batches: consecutive windows, float32 [b, C, T], any b >= 1.
            samples: length of the audio, in samples.

        Yields:
            A waveform float32 [n], or [C, n] of several channels, on the CPU.
        """
        positions = torch.arange(self.overlap, dtype=torch.float32, device="cpu")
        positions = (positions + 0.5) / max(1, self.overlap)
        fade = (1 - torch.cos(math.pi * positions)) / 2  # [overlap], from 0 to 1
        ending: Tensor | None = None
        left = samples
        for batch in batches:
            windows = batch.detach().float().cpu().transpose(0, 1)  # [C, b, T]
            outputs, heads = windows[..., : self.hop].clone(), windows[..., : self.overlap]
            ending = heads[:, :1] if ending is None else ending
            endings = torch.cat([ending, windows[..., self.hop :]], dim=1)  # [C, b + 1, overlap]
            # a + fade * (b - a) is exact where both windows are equal.
            outputs[..., : self.overlap] = torch.lerp(endings[:, :-1], heads, fade)
            ending = endings[:, -1:].clone()
            joined = outputs.flatten(1)
            yield _without_mono_axis(joined[:, :left])
            left = max(0, left - joined.shape[1])
        if ending is not None and left > 0:
            yield _without_mono_axis(ending.flatten(1)[:, :left])


def _without_mono_axis(waveform: Tensor) -> Tensor:
    """Return a waveform [C, n] as it is, or [n] if it is mono."""
    return waveform[0] if len(waveform) == 1 else waveform


def encode_windows(
    codec: SampleCodec, windows: OverlappingWindows, blocks: Iterable[Tensor]
) -> Iterator[Tensor]:
    """Encode audio of any length, some windows at a time.

    Args:
        codec: encodes windows.
        windows: their length and overlap.
        blocks: consecutive waveforms, float32 [n] or [C, n] in [-1, 1], any n.

    Returns:
        An iterator of codes int64 [b, L], one row per window.
    """
    return (codec.encode(batch) for batch in windows.split(blocks))


def decode_windows(
    codec: SampleCodec, windows: OverlappingWindows, codes: Tensor, samples: int
) -> Iterator[Tensor]:
    """Decode audio from any prefix of the codes of its windows.

    Args:
        codec: decodes windows.
        windows: their length and overlap, as encoded.
        codes: int64 [W, k].
        samples: length of the audio, in samples.

    Returns:
        An iterator of waveforms float32 [n], or [C, n] of several channels.

    Raises:
        InputError: there are more or fewer windows than the audio has, or the codes do not fit.
    """
    expected = windows.count(samples)
    if len(codes) != expected:
        raise InputError(
            f"{len(codes)} windows of {windows.length} samples that share {windows.overlap} do not "
            f"make a sound of {samples} samples; pass {expected}"
        )
    batches = (codec.decode(part) for part in codes.split(WINDOW_BATCH_SIZE))
    return windows.overlap_add(batches, samples)
