"""Recordings of any length: block by block in, block by block out."""

from __future__ import annotations

import io
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from anytime_ar.errors import DataError, InputError
from anytime_ar.media.audio import BLOCK_FRAMES, AudioFile, write_audio

RATE = 8000
LONG = 2 * BLOCK_FRAMES + 7


def noise(samples: int, channels: int = 1) -> np.ndarray:
    """float32 [n, channels] in [-0.5, 0.5], at levels that 16 bits hold exactly."""
    levels = np.random.default_rng(0).integers(-(2**14), 2**14, (samples, channels))
    return (levels / 2**15).astype(np.float32)


def write(path: Path, wave: np.ndarray, rate: int = RATE, subtype: str | None = None) -> Path:
    soundfile.write(path, wave, rate, subtype=subtype)
    return path


def read(path: Path, rate: int = RATE) -> torch.Tensor:
    return torch.cat(list(AudioFile(path, rate).blocks()))


@pytest.mark.parametrize("samples", [1, BLOCK_FRAMES - 1, BLOCK_FRAMES, BLOCK_FRAMES + 1, LONG])
def test_blocks_are_the_whole(tmp_path: Path, samples: int) -> None:
    wave = noise(samples)
    blocks = list(AudioFile(write(tmp_path / "a.wav", wave), RATE).blocks())
    assert len(blocks) == -(-samples // BLOCK_FRAMES)
    assert all(block.dtype == torch.float32 and block.ndim == 1 for block in blocks)
    assert torch.equal(torch.cat(blocks), torch.from_numpy(wave[:, 0]))


def test_channels_become_their_mean(tmp_path: Path) -> None:
    wave = noise(LONG, channels=2)
    read_back = read(write(tmp_path / "a.flac", wave))
    torch.testing.assert_close(read_back, torch.from_numpy(wave.mean(axis=1)))


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_channels_are_kept_if_as_many_are_asked_for(tmp_path: Path, suffix: str) -> None:
    wave = noise(LONG, channels=2)
    path = tmp_path / f"a.{suffix}"
    stereo = torch.from_numpy(wave.T.copy())
    write_audio(path, stereo.split([3, 0, LONG - 3], dim=1), RATE, channels=2)
    assert torch.equal(torch.cat(list(AudioFile(path, RATE, 2).blocks()), dim=1), stereo)
    mono = write(tmp_path / "mono.wav", wave[:, :1])
    twice = torch.cat(list(AudioFile(mono, RATE, 2).blocks()), dim=1)
    assert torch.equal(twice, stereo[:1].expand(2, -1))
    with pytest.raises(DataError, match=r"a\.\w+: has 2 channels, expected 3 or 1; convert it"):
        list(AudioFile(path, RATE, 3).blocks())
    with pytest.raises(InputError, match=r"block of shape \(5,\); pass \[2, n\]"):
        write_audio(path, [torch.zeros(5)], RATE, channels=2)


def test_each_channel_is_resampled_as_one_is(tmp_path: Path) -> None:
    wave = noise(LONG, channels=2)
    both = torch.cat(
        list(AudioFile(write(tmp_path / "a.wav", wave, 11_025), RATE, 2).blocks()), dim=1
    )
    for channel in range(2):
        alone = read(write(tmp_path / "b.wav", wave[:, channel], 11_025))
        torch.testing.assert_close(both[channel], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate", [4000, 11_025, 44_100])
def test_resampled_in_blocks_as_in_one_piece(tmp_path: Path, rate: int) -> None:
    wave = noise(LONG)
    whole = soxr.resample(wave[:, 0], rate, RATE)
    in_blocks = read(write(tmp_path / "a.wav", wave, rate))
    torch.testing.assert_close(in_blocks, torch.from_numpy(whole), rtol=0, atol=1e-6)


def test_measured_and_read_again(tmp_path: Path) -> None:
    wave = noise(LONG)
    wave[BLOCK_FRAMES + 5] = -0.75
    recording = AudioFile(write(tmp_path / "a.wav", wave), RATE)
    assert recording.measure() == (LONG, 0.75)
    assert recording.measure() == (LONG, 0.75)
    resampled = AudioFile(recording.path, 2 * RATE)
    assert resampled.measure().num_samples == 2 * LONG
    assert len(torch.cat(list(resampled.blocks()))) == 2 * LONG


def test_a_file_that_was_written_to_a_pipe(tmp_path: Path) -> None:
    """Its writer could not go back to say how long it has become."""
    path = write(tmp_path / "a.wav", noise(100))
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff" * 4
    path.write_bytes(content)
    assert len(read(path)) == 100


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    peaks = []
    for blocks in (4, 32):
        path = write(tmp_path / f"{blocks}.wav", noise(blocks * BLOCK_FRAMES), 2 * RATE)
        tracemalloc.start()
        AudioFile(path, RATE).measure()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[0] > 4 * BLOCK_FRAMES  # blocks were seen
    assert peaks[1] < 1.2 * peaks[0]


def wav(wave: np.ndarray, rate: int = RATE, subtype: str = "PCM_16") -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, wave, rate, format="WAV", subtype=subtype)
    return stream.getvalue()


def with_nan() -> np.ndarray:
    wave = noise(LONG)
    wave[BLOCK_FRAMES + 5] = np.nan
    return wave


BAD = {
    "cut": ("a.wav", wav(noise(LONG))[:-2000], r"is cut short, after \d+ samples; copy or record"),
    "empty": ("a.wav", wav(noise(0)), "holds no sound at all; copy or record"),
    "nan": (
        "a.wav",
        wav(with_nan(), subtype="FLOAT"),
        rf"sample {BLOCK_FRAMES + 5} is nan; repair",
    ),
    "text": ("a.wav", b"text", r"does not decode as a sound \(Format not recognised\); repair"),
    "raw": ("a.raw", b"text", r"does not decode as a sound \(Format not recognised\); repair"),
    "short": ("a.wav", wav(noise(1), 48_000), "is shorter than one sample at 8000 Hz; pass"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(tmp_path: Path, name: str) -> None:
    file, content, message = BAD[name]
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{file}: {message}"):
        AudioFile(path, RATE).measure()


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.wav: no such file; pass the path of a sound"):
        AudioFile(tmp_path / "none.wav", RATE).measure()
    with pytest.raises(DataError, match=f"{tmp_path.name}: is a folder"):
        AudioFile(tmp_path, RATE).measure()


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".WAV"])
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    wave = torch.from_numpy(noise(LONG)[:, 0])
    path = tmp_path / f"a{suffix}"
    write_audio(path, wave.split([3, 0, BLOCK_FRAMES + 9, LONG - BLOCK_FRAMES - 12]), RATE)
    assert torch.equal(read(path), wave)
    info = soundfile.info(path)
    assert (info.samplerate, info.channels, info.subtype) == (RATE, 1, "PCM_16")
    assert info.format == suffix[1:].upper()
    assert list(tmp_path.iterdir()) == [path]


def test_vorbis(tmp_path: Path) -> None:
    wave = 0.5 * torch.sin(torch.arange(LONG) * 0.2)
    write_audio(tmp_path / "a.ogg", [wave], RATE)
    back = read(tmp_path / "a.ogg")
    assert len(back) == LONG
    assert (back - wave).abs().max() < 0.05
    assert soundfile.info(tmp_path / "a.ogg").subtype == "VORBIS"


def test_values_beyond_the_range_are_clipped(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", [torch.tensor([-3.0, 3.0, -1.0, 1.0, 0.0])], RATE)
    top = 1 - 2**-15
    assert read(tmp_path / "a.wav").tolist() == [-1, top, -1, top, 0]


def test_what_cannot_be_written(tmp_path: Path) -> None:
    block = torch.zeros(3)
    with pytest.raises(InputError, match=r"suffix '\.mp3'; use one of \.wav, \.flac, \.ogg"):
        write_audio(tmp_path / "a.mp3", [block], RATE)
    with pytest.raises(InputError, match="choose a folder that exists"):
        write_audio(tmp_path / "no" / "a.wav", [block], RATE)
    with pytest.raises(InputError, match=r"cannot write a block of shape \(1, 3\); pass \[n\]"):
        write_audio(tmp_path / "a.wav", [block, block[None]], RATE)
    with pytest.raises(InputError, match=r"a\.flac: FLAC has no 700000 Hz; use \.wav"):
        write_audio(tmp_path / "a.flac", [block], 700_000)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_on_the_way_keeps_the_old_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", noise(10))
    before = path.read_bytes()

    def failing() -> Iterator[torch.Tensor]:
        yield torch.zeros(5)
        raise DataError("no more")

    with pytest.raises(DataError, match="no more"):
        write_audio(path, failing(), RATE)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_blocks_are_written_as_they_come(tmp_path: Path) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    most: list[int] = []

    def followed() -> Iterator[torch.Tensor]:
        for _ in range(20):
            block = torch.zeros(BLOCK_FRAMES + 1)
            alive.append(weakref.ref(block))
            most.append(sum(ref() is not None for ref in alive))
            yield block
            del block

    write_audio(tmp_path / "a.wav", followed(), RATE)
    assert max(most) <= 2
    assert soundfile.info(tmp_path / "a.wav").frames == 20 * (BLOCK_FRAMES + 1)
