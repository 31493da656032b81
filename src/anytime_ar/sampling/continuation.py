"""Sounds and series of any length from a model of short ones.

Codes of consecutive parts of time stand in level-major order: level 1 of all parts, then level 2 of
all, and so on. So the codes of the last parts of a window are also codes of the first parts of a
window that begins there. The next window is drawn with these codes given, and the decoded windows
cross-fade over the parts that they share.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.media.windows import OVERLAP_DIVISOR, OverlappingWindows

if TYPE_CHECKING:
    from anytime_ar.sampling.model import AnytimeModel

_WINDOW_STRIDE = 2**40
"""Distance of the sample indices of consecutive windows within a seed."""


def windows_of(model: AnytimeModel, overlap: int | None) -> tuple[OverlappingWindows, int]:
    """Return the windows of a long sound, and the number of parts that two of them share.

    Args:
        model: model of sounds or series.
        overlap: number of parts that a window shares with the next; None: an eighth of all.

    Raises:
        InputError: the codes of the model do not stand for parts of time, or the overlap is out of
            range.
    """
    segments = model.autoencoder.time_segments
    if segments is None:
        raise InputError(
            f"model {model.bundle.card.name!r} has codes that stand for whole samples; longer ones "
            "need codes for parts of time, as of the layouts segment and lapped_segment without "
            "whole_codes, and of neural codecs"
        )
    length = model.sample_shape[1]
    shared = max(1, segments // OVERLAP_DIVISOR) if overlap is None else overlap
    if not 1 <= 2 * shared <= segments:
        raise InputError(
            f"overlap={shared} is outside 1..{segments // 2}, half of the {segments} parts of a "
            "window; pass a number in that range"
        )
    return OverlappingWindows(length, length * shared // segments), shared


def carry_over(codes: Tensor, segments: int, shared: int) -> Tensor:
    """Return the codes of the next window that are those of the end of this one.

    Args:
        codes: int64 [n, k], the first k codes of a window in level-major order.
        segments: number S of parts of a window.
        shared: number of parts that the windows share.

    Returns:
        int64 [n, k], with -1 for codes to draw.
    """
    n, drawn = codes.shape
    levels = -(-drawn // segments)
    whole = torch.full((n, levels * segments), -1, dtype=torch.int64, device="cpu")
    whole[:, :drawn] = codes.cpu()
    fixed = torch.full_like(whole, -1).view(n, levels, segments)
    fixed[..., :shared] = whole.view(n, levels, segments)[..., segments - shared :]
    return fixed.flatten(1)[:, :drawn]


def long_codes(
    model: AnytimeModel, n: int, count: int, shared: int, options: dict[str, Any]
) -> Iterator[Tensor]:
    """Draw the codes of consecutive windows.

    Args:
        model: model of sounds or series.
        n: number of long samples.
        count: number of windows.
        shared: number of parts that a window shares with the next.
        options: as for `AnytimeModel.sample_codes`.

    Yields:
        int64 [n, k] for each window. The first one has the codes of usual samples.
    """
    segments, first = model.autoencoder.time_segments, options.get("first", 0)
    assert segments is not None
    if not 0 <= first < _WINDOW_STRIDE - n:
        raise InputError(f"first={first} is too large for long samples; pass one below 2**40")
    fixed: Tensor | None = None
    for window in range(count):
        own = options | {"first": first + window * _WINDOW_STRIDE, "fixed_codes": fixed}
        codes = model.sample_codes(n, **own)
        yield codes
        fixed = carry_over(codes, segments, shared)


def join(batches: Iterator[Tensor], windows: OverlappingWindows, samples: int) -> Iterator[Tensor]:
    """Overlap-add the windows of several long samples.

    Args:
        batches: consecutive windows, float32 [n, C, T] each.
        windows: their length and overlap.
        samples: length of the long samples.

    Yields:
        Parts of the long samples, float32 [n, C, t].
    """
    first = next(batches)
    n, channels = first.shape[:2]

    def flat() -> Iterator[Tensor]:
        yield first.flatten(0, 1)[None]
        for batch in batches:
            yield batch.flatten(0, 1)[None]

    for part in windows.overlap_add(flat(), samples):
        yield part.view(n, channels, -1)
