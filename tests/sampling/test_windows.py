"""Sounds of any length through windows: nothing is lost, nothing clicks, nothing piles up."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from sampling_models import card
from torch import Tensor

from anytime_ar.bundle.card import Card
from anytime_ar.bundle.format import build_bundle
from anytime_ar.errors import InputError
from anytime_ar.media.windows import (
    WINDOW_BATCH_SIZE,
    OverlappingWindows,
    decode_windows,
    encode_windows,
)
from anytime_ar.sampling import AnytimeModel

T = 24
WINDOWS = OverlappingWindows(T, 3)
HOP = 21
FULL = 3 + WINDOW_BATCH_SIZE * HOP  # a whole batch of windows


@dataclass
class Lossless:
    """Its codes are the bits of the samples."""

    sample_shape: tuple[int, ...] = (1, T)
    batches: list[int] = field(default_factory=list)

    def encode(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        return x[:, 0].contiguous().view(torch.int32).long()

    def decode(self, codes: Tensor) -> Tensor:
        return codes.int().view(torch.float32)[:, None]


@dataclass
class Levels:
    """Windows decode to constant levels in turn."""

    levels: tuple[float, ...]
    sample_shape: tuple[int, ...] = (1, T)

    def decode(self, codes: Tensor) -> Tensor:
        levels = torch.tensor(self.levels)[codes[:, 0] % len(self.levels)]
        return levels[:, None, None].expand(-1, 1, T)


def sound_model() -> AnytimeModel:
    values = card(labels=None, with_prior=False).model_dump()
    values["data"] |= {"sample_shape": (1, 64), "sample_rate": 8000}
    if "kind" in values["autoencoder"]:
        values["autoencoder"]["config"] |= {"samples": 64, "frames": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AnytimeModel(build_bundle(Card.parse(values, origin="test")), device="cpu")


def noise(samples: int) -> Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(samples))


@pytest.mark.parametrize("block", [1, 7, 10_000])
@pytest.mark.parametrize(
    "samples",
    [1, T - 1, T, T + 1, T + HOP - 1, T + HOP, T + HOP + 1, 3 * HOP, 10 * T + 3,
     FULL - 1, FULL, FULL + 1, 2 * FULL, 3 * FULL],
)  # fmt: skip
def test_a_lossless_codec_gives_every_sound_back(samples: int, block: int) -> None:
    codec, sound = Lossless(), noise(samples)
    codes = torch.cat(list(encode_windows(codec, WINDOWS, sound.split(block))))
    assert codes.shape == (WINDOWS.count(samples), T)
    assert max(codec.batches) <= WINDOW_BATCH_SIZE
    joined = torch.cat(list(decode_windows(codec, WINDOWS, codes, samples)))
    assert torch.equal(joined, sound)


@pytest.mark.parametrize("overlap", [0, 1, T // 2])
def test_the_overlap_may_be_none_or_half(overlap: int) -> None:
    windows, sound = OverlappingWindows(T, overlap), noise(10 * T + 3)
    codes = torch.cat(list(encode_windows(Lossless(), windows, [sound])))
    joined = torch.cat(list(decode_windows(Lossless(), windows, codes, len(sound))))
    assert torch.equal(joined, sound)


def test_channels_are_split_and_joined_as_one_is() -> None:
    sounds = torch.stack([noise(2 * FULL), -noise(2 * FULL).flip(0)])
    batches = list(WINDOWS.split(sounds.split(100, dim=1)))
    for channel, sound in enumerate(sounds):
        for both, one in zip(batches, WINDOWS.split([sound]), strict=True):
            assert torch.equal(both[:, channel], one[:, 0])
    joined = torch.cat(list(WINDOWS.overlap_add(batches, 2 * FULL)), dim=1)
    assert torch.equal(joined, sounds)


def test_windows_lie_one_hop_apart_and_end_in_silence() -> None:
    sound = noise(2 * HOP + 5)
    (batch,) = WINDOWS.split([sound])
    assert batch.shape == (3, 1, T)
    assert torch.equal(batch[1, 0], sound[HOP : HOP + T])
    assert torch.equal(batch[2, 0, :5], sound[2 * HOP :])
    assert (batch[2, 0, 5:] == 0).all()
    assert list(WINDOWS.split([])) == []


@pytest.mark.parametrize("overlap", [3, 8, 11])
def test_windows_of_other_levels_are_joined_without_a_step(overlap: int) -> None:
    windows, codec = OverlappingWindows(T, overlap), Levels((-0.5, 0.75))
    samples = 40 * windows.hop
    codes = torch.arange(windows.count(samples))[:, None]
    joined = torch.cat(list(decode_windows(codec, windows, codes, samples)))
    steps = joined.diff().abs()
    assert steps.max() <= 1.25 * math.pi / (2 * overlap)  # the slope of a raised cosine
    assert steps.max() > 1.25 / overlap  # ... which is steepest in the middle
    assert joined.min() == -0.5
    assert joined.max() == 0.75
    second = joined[windows.hop : 2 * windows.hop]
    assert second[:overlap].diff().min() > 0
    torch.testing.assert_close(
        second[:overlap] + second[:overlap].flip(0), torch.full((overlap,), 0.25)
    )
    assert (second[overlap:] == 0.75).all()


def test_without_overlap_there_is_a_step() -> None:
    windows = OverlappingWindows(T, 0)
    joined = torch.cat(
        list(decode_windows(Levels((0, 1)), windows, torch.arange(4)[:, None], 4 * T))
    )
    assert joined.diff().abs().max() == 1


def test_nothing_piles_up_on_the_way() -> None:
    """Blocks and windows are let go of as the sound goes by, and none is asked for in advance."""
    alive: list[weakref.ref[Tensor]] = []
    most: list[int] = []

    def followed(tensors: Iterator[Tensor]) -> Iterator[Tensor]:
        for tensor in tensors:
            alive.append(weakref.ref(tensor))
            most.append(sum(ref() is not None for ref in alive))
            yield tensor
            del tensor

    blocks = followed(torch.zeros(FULL) for _ in range(30))
    codes = followed(encode_windows(Lossless(), WINDOWS, blocks))
    first = next(codes)
    assert len(most) == 2  # one block, one batch of codes
    assert first.shape == (WINDOW_BATCH_SIZE, T)
    pieces = followed(WINDOWS.overlap_add((Lossless().decode(part) for part in codes), 29 * FULL))
    assert sum(len(piece) for piece in pieces) == 29 * FULL
    assert len(most) > 80
    assert max(most) <= 5


def test_memory_of_a_piece_does_not_hold_a_batch() -> None:
    sound = torch.zeros(3 * FULL)
    (first, *_, last) = WINDOWS.split([sound])
    for batch in (first, last):
        assert batch.untyped_storage().nbytes() == 4 * batch.numel()


@pytest.mark.parametrize(
    "kind", ["images", "sounds", "a Llama prior", "a neural codec"], indirect=True
)  # modules of a user have one shape
def test_a_prefix_decodes_as_the_model_decodes_it() -> None:
    model = sound_model()
    windows = OverlappingWindows.for_codec(model)
    assert windows == OverlappingWindows(64, 8)
    samples = 20 * windows.hop + 11
    sound = noise(samples).clamp(-1, 1)
    codes = torch.cat(list(encode_windows(model, windows, sound.split(100))))
    assert codes.shape == (windows.count(samples), model.code_length)
    for k in (1, model.code_length):
        joined = torch.cat(list(decode_windows(model, windows, codes[:, :k], samples)))
        assert joined.shape == (samples,)
        middles = joined[: 20 * windows.hop].view(20, windows.hop)[:, windows.overlap :]
        alone = model.decode(codes[:20, :k])[:, 0, windows.overlap : windows.hop]
        torch.testing.assert_close(middles, alone)


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"windows of 24 samples cannot share 13; choose 0\.\.12"):
        OverlappingWindows(T, 13)
    with pytest.raises(InputError, match="cannot share -1"):
        OverlappingWindows(T, -1)
    with pytest.raises(InputError, match=r"need a model of samples \(C, T\), got \("):
        OverlappingWindows.for_codec(Lossless((1, 8, 8)))
    with pytest.raises(
        InputError, match="4 windows of 24 samples that share 3 do not make a sound of 88 samples"
    ):
        decode_windows(Lossless(), WINDOWS, torch.zeros(4, T, dtype=torch.int64), 4 * HOP + 4)
