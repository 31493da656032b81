"""Sounds: files and tables in, clips of one rate and length out, or one clear line."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from anytime_ar.data import DataConfig, load_data
from anytime_ar.errors import DataError, InputError

RATE = 8000


def tone(
    hertz: float = 440.0, seconds: float = 0.5, *, rate: int = RATE, level: float = 0.5
) -> np.ndarray:
    """float32 [n]."""
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


def wav(wave: np.ndarray, rate: int = RATE, kind: str = "WAV", subtype: str | None = None) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, wave, rate, format=kind, subtype=subtype)
    return stream.getvalue()


def folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def load(root: Path, **values: Any) -> Any:
    audio = {"length_multiple": 1, **values.pop("audio", {})}
    return load_data(DataConfig(name=str(root), audio=audio, **values))


def first_clip(root: Path, **audio: Any) -> torch.Tensor:
    """float32 [T] of the first training clip."""
    return next(load(root, audio=audio).train.batches(1)).data[0, 0]


def several(root: Path, content: bytes, name: str = "{}.wav") -> Path:
    """Enough copies for three splits."""
    return folder(root, {name.format(i): content for i in range(30)})


def loudest_hertz(wave: torch.Tensor, rate: int) -> float:
    spectrum = torch.fft.rfft(wave * torch.hann_window(len(wave))).abs()
    return float(spectrum.argmax()) * rate / len(wave)


def test_a_folder_of_classes(tmp_path: Path) -> None:
    files = {f"{name}/{i}.wav": wav(tone(hertz)) for name, hertz in (("high", 880), ("low", 220))
             for i in range(15)}  # fmt: skip
    data = load(folder(tmp_path, files), audio={"seconds": 0.4})
    assert data.sample_shape == (1, 3200)
    assert data.sample_rate == RATE
    assert data.label_names == ("high", "low")
    batch = next(data.train.batches(100))
    assert batch.data.dtype == torch.float32
    assert batch.data.abs().max() == pytest.approx(0.95, abs=1e-3)
    for clip, label in zip(batch.data, batch.labels, strict=True):
        expected = (880, 220)[int(label)]
        assert loudest_hertz(clip[0], RATE) == pytest.approx(expected, abs=5)


@pytest.mark.parametrize(("kind", "suffix"), [("WAV", "wav"), ("FLAC", "flac"), ("OGG", "ogg")])
def test_formats(tmp_path: Path, kind: str, suffix: str) -> None:
    root = several(tmp_path, wav(tone(), kind=kind), f"{{}}.{suffix}")
    clip = first_clip(root, seconds=0.5, normalize="none")
    assert loudest_hertz(clip, RATE) == pytest.approx(440, abs=4)
    tolerance = 0.05 if kind == "OGG" else 1e-3
    assert (clip - torch.from_numpy(tone())).abs().max() < tolerance


def test_short_clips_end_in_silence_and_long_ones_are_cut(tmp_path: Path) -> None:
    root = several(tmp_path, wav(tone(seconds=0.5)))
    padded = first_clip(root, seconds=0.7)
    assert padded.shape == (5600,)
    assert padded[4000:].abs().max() == 0
    assert padded[:4000].abs().max() > 0.9
    assert torch.equal(first_clip(root, seconds=0.3), padded[:2400])
    assert first_clip(root, seconds=0.3, length_multiple=1024).shape == (3072,)


def test_channels_become_their_mean(tmp_path: Path) -> None:
    left, right = tone(300, level=0.8), tone(300, level=0.2)
    root = several(tmp_path, wav(np.stack([left, right], axis=1)))
    clip = first_clip(root, seconds=0.5, normalize="none")
    assert (clip - torch.from_numpy((left + right) / 2)).abs().max() < 1e-3


@pytest.mark.parametrize("rate", [11_025, 16_000, 44_100])
def test_resampling_keeps_the_pitch(tmp_path: Path, rate: int) -> None:
    root = several(tmp_path, wav(tone(500, rate=rate), rate))
    clip = first_clip(root, seconds=0.5, sample_rate=RATE)
    assert clip.shape == (4000,)
    assert loudest_hertz(clip, RATE) == pytest.approx(500, abs=4)


def test_loudness(tmp_path: Path) -> None:
    quiet = several(tmp_path / "quiet", wav(tone(level=0.01)))
    assert first_clip(quiet, seconds=0.5).abs().max() == pytest.approx(0.95, abs=1e-3)
    stored = first_clip(quiet, seconds=0.5, normalize="none")
    assert stored.abs().max() == pytest.approx(0.01, abs=1e-3)
    silent = several(tmp_path / "silent", wav(np.zeros(4000, dtype=np.float32)))
    assert first_clip(silent, seconds=0.5).abs().max() == 0  # and no division by zero


def test_shuffled_batches_of_sounds(tmp_path: Path) -> None:
    files = {f"{i}.wav": wav(tone(200 + 20 * i)) for i in range(30)}
    data = load(folder(tmp_path, files), audio={"seconds": 0.2})
    batches = data.train.shuffled(8, seed=0)
    once = [next(batches).data for _ in range(3)]
    again = data.train.shuffled(8, seed=0)
    assert all(torch.equal(x, next(again).data) for x in once)
    assert once[0].shape == (8, 1, 1600)
    assert not torch.equal(once[0], once[1])


def parquet(path: Path, cells: list[bytes], **columns: list[Any]) -> Path:
    """A table as the Hub stores it; the library itself writes sounds with another package only."""
    import pyarrow
    from pyarrow import parquet

    features: dict[str, Any] = {"audio": {"sampling_rate": RATE, "_type": "Audio"}}
    for key, values in columns.items():
        kind = "string" if isinstance(values[0], str) else "int64"
        features[key] = {"dtype": kind, "_type": "Value"}
    table = pyarrow.table({"audio": [{"bytes": c, "path": "a.wav"} for c in cells], **columns})
    header = json.dumps({"info": {"features": features}})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table.replace_schema_metadata({"huggingface": header}), path)
    return path


@pytest.mark.parametrize("streaming", [False, True])
def test_tables_with_labels_as_integers_or_strings(tmp_path: Path, streaming: bool) -> None:
    names = ["nicolas", "george", "theo"]
    count = 40
    for split in ("train", "test"):
        parquet(
            tmp_path / f"{split}.parquet",
            [wav(tone(200 + 10 * i)) for i in range(count)],
            label=[i % 4 for i in range(count)],
            speaker=[names[i % 3] for i in range(count)],
        )
    digits = load(tmp_path, audio={"seconds": 0.1}, streaming=streaming)
    assert digits.label_names == ("0", "1", "2", "3")
    batch = next(digits.test.batches(count))
    assert batch.labels.tolist() == [i % 4 for i in range(count)]
    assert batch.data.shape == (count, 1, 800)
    speakers = load(tmp_path, audio={"seconds": 0.1}, label_key="speaker", streaming=streaming)
    assert speakers.label_names == ("george", "nicolas", "theo")
    labels = next(speakers.test.batches(count)).labels.tolist()
    assert labels == [speakers.label_names.index(names[i % 3]) for i in range(count)]


CUT = wav(tone())[:-2000]
NAN = np.array([0.1, np.nan, 0.2], dtype=np.float32)
BAD: list[tuple[str, bytes, str]] = [
    ("a.wav", CUT, r"a\.wav: is cut short, after \d+ samples; copy or record it again"),
    ("a.flac", wav(tone(), kind="FLAC")[:-1000], r"a\.flac: (is cut short|does not decode)"),
    ("a.wav", wav(np.zeros(0, dtype=np.float32)), r"a\.wav: holds no sound at all; copy or record"),
    ("a.wav", wav(NAN, subtype="FLOAT"), r"a\.wav: sample 1 is nan; repair or replace"),
    ("a.wav", b"not a sound", r"a\.wav: does not decode as a sound \(.*\); repair or replace it"),
    ("a.wav", b"", r"a\.wav: holds no sound at all; copy or record it again"),
    ("a.wav", wav(tone(rate=16_000), 16_000), r"a\.wav.* Hz.*; set data\.audio\.sample_rate"),
    ("a.png", b"", r"0\.wav: is a sound, and .*a\.png an image; keep them in different folders"),
]


# Named, because a file of floats holds the second in which it was written.
BAD_NAMES = ["cut", "cut_flac", "empty", "nan", "text", "nothing", "rate", "image"]


@pytest.mark.parametrize(("name", "content", "message"), BAD, ids=BAD_NAMES)
def test_bad_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    root = several(tmp_path, wav(tone()))
    folder(root, {name: content})
    with pytest.raises(DataError, match=message):
        load(root)


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    path = parquet(tmp_path / "train.parquet", [wav(tone())] * 30, label=[0] * 30)
    with pytest.raises(DataError, match=r"no column 'voice'; set data.audio.key to one of audio"):
        load(path, audio={"key": "voice"})
    with pytest.raises(DataError, match=r"no column 'speaker'; set data.label_key"):
        load(path, label_key="speaker")


FSDD = Path(__file__).parents[3] / "shared" / "data" / "fsdd"


@pytest.mark.skipif(not FSDD.is_dir(), reason=f"{FSDD} is not there")
def test_spoken_digits() -> None:
    data = load_data(DataConfig(name=str(FSDD), streaming=True))
    assert data.sample_rate == RATE
    assert data.sample_shape == (1, 8000)
    assert data.label_names == tuple(str(digit) for digit in range(10))
    assert (data.train.size, data.test.size) == (2430, 300)
    batch = next(data.test.batches(50))
    assert batch.data.abs().amax(dim=-1).min() > 0.9


@pytest.mark.parametrize("streaming", [False, True])
def test_training_cuts_longer_clips_at_random_and_the_rest_sees_their_beginning(
    tmp_path: Path, streaming: bool
) -> None:
    rising = np.linspace(0.1, 0.9, 4000, dtype=np.float32)  # tells where a cut began
    root = several(tmp_path, wav(rising))
    audio = {"seconds": 0.1, "max_stored_seconds": 0.4, "normalize": "none"}
    data = load(root, audio=audio, streaming=streaming)
    assert data.sample_shape == (1, 800)
    drawn = next(data.train.shuffled(64, seed=0)).data
    assert drawn.shape == (64, 1, 800)
    starts = (drawn[:, 0, 0] - 0.1) / 0.8 * 4000
    assert starts.min() < 400
    assert 2000 < starts.max() <= 2400  # 0.4 s are kept of 0.5 s
    torch.testing.assert_close(
        drawn[:, 0], drawn[:, :1, 0] + 0.8 / 3999 * torch.arange(800), atol=1e-3, rtol=0
    )
    for split in (data.train, data.validation, data.test):
        (batch,) = split.batches(64)
        assert batch.data.shape[1:] == (1, 800)
        torch.testing.assert_close(
            batch.data[:, 0, 0], torch.full((len(batch.data),), 0.1), atol=1e-3, rtol=0
        )
    again = next(data.train.shuffled(64, seed=0)).data
    assert torch.equal(again, drawn)


@pytest.mark.parametrize(
    "setting", [{"seconds": 1e300}, {"max_stored_seconds": 1e300}, {"length_multiple": 10**30}]
)
def test_a_clip_that_no_array_can_hold_is_refused(setting) -> None:
    with pytest.raises(InputError, match=rf"{next(iter(setting))}: input should be less than or"):
        DataConfig.parse({"audio": setting}, origin="test")
