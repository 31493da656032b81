"""Wrong codes are refused with the first mistake named; saved codes come back as they were."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anytime_ar.codes import CodesFile, WindowedAudio, bits, check_codes, load_codes, save_codes
from anytime_ar.errors import InputError

LENGTH, VOCABULARY = 16, 500
SOUND = WindowedAudio(samples=2500, sample_rate=8000, window=1024, overlap=128, gain=0.95 / 0.3)


def codes(rows: int = 3, k: int = 5, vocabulary: int = VOCABULARY) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary, (rows, k), generator=generator)


def save(path: Path, **changes: Any) -> Path:
    given = {"codes": codes(), "model": "mnist", "code_length": LENGTH, "vocabulary": VOCABULARY}
    save_codes(path, **{**given, **changes})
    return path


def write_archive(path: Path, packed: Any = None, **header: Any) -> Path:
    """An archive in our layout, with the given fields of the header altered."""
    fields = {"format_version": 1, "model": "m", "code_length": LENGTH, "vocabulary": VOCABULARY}
    packed = np.zeros((2, 3), np.uint16) if packed is None else packed
    np.savez(path, codes=packed, header=np.array(json.dumps(fields | header)))
    return path


@pytest.mark.parametrize("k", range(1, LENGTH + 1))
def test_every_prefix_is_accepted_up_to_the_last_code(k: int) -> None:
    good = codes(k=k)
    good[0, 0], good[-1, -1] = 0, VOCABULARY - 1
    check_codes(good, code_length=LENGTH, vocabulary=VOCABULARY)
    with pytest.raises(InputError, match=f"prefix {k} exceeds code length {k - 1}"):
        check_codes(good, code_length=k - 1, vocabulary=VOCABULARY)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (codes().int(), r"codes are torch\.int32; pass torch\.int64"),
        (codes().float(), r"codes are torch\.float32; pass torch\.int64"),
        (codes()[0], r"codes have shape \[5\]; pass \[B, k\]"),
        (codes(k=0), r"prefix 0 holds no code; pass 1 <= k <= 16"),
        (codes(k=20), r"prefix 20 exceeds code length 16; pass k <= 16"),
    ],
)
def test_the_wrong_shape_or_type_is_named(bad: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_codes(bad, code_length=LENGTH, vocabulary=VOCABULARY)


@pytest.mark.parametrize("value", [-1, VOCABULARY, 2**40])
def test_the_first_bad_value_is_named(value: int) -> None:
    bad = codes()
    bad[1, 4] = value
    bad[2, 0] = -7
    message = f"code {value} at row 1, position 4 is out of range; this model's codes are 0..499"
    with pytest.raises(InputError, match=message):
        check_codes(bad, code_length=LENGTH, vocabulary=VOCABULARY)


def test_bits() -> None:
    assert bits(0, 64) == 0
    assert bits(24, 64) == 144
    assert bits(50, 126) == pytest.approx(348.86, abs=0.01)


@pytest.mark.parametrize(
    ("vocabulary", "dtype"), [(1, np.uint8), (256, np.uint8), (257, np.uint16), (65537, np.uint32)]
)
def test_round_trip_in_the_smallest_type(
    tmp_path: Path, vocabulary: int, dtype: type[np.unsignedinteger]
) -> None:
    given = codes(vocabulary=vocabulary)
    given[0, 0] = vocabulary - 1
    path = save(tmp_path / "a.npz", codes=given, vocabulary=vocabulary)
    read = load_codes(path)
    assert read == CodesFile(read.codes, "mnist", LENGTH, vocabulary)
    assert read.codes.dtype == torch.int64
    assert torch.equal(read.codes, given)
    assert np.load(path)["codes"].dtype == dtype


def test_a_long_sound_keeps_how_it_was_cut(tmp_path: Path) -> None:
    read = load_codes(save(tmp_path / "a.npz", windowed_audio=SOUND))
    assert read == CodesFile(read.codes, "mnist", LENGTH, VOCABULARY, SOUND)
    assert load_codes(save(tmp_path / "b.npz")).windowed_audio is None


def test_rows_that_are_samples_have_the_header_that_they_always_had(tmp_path: Path) -> None:
    fields = {"format_version": 1, "model": "mnist", "code_length": 16, "vocabulary": 500}
    header = json.dumps(fields, separators=(",", ":"))
    assert str(np.load(save(tmp_path / "a.npz"))["header"]) == header


@pytest.mark.parametrize("sound", [None, SOUND])
def test_equal_codes_give_equal_bytes(tmp_path: Path, sound: WindowedAudio | None) -> None:
    first, second = (save(tmp_path / name, windowed_audio=sound) for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_bad_codes_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="prefix 20 exceeds"):
        save(tmp_path / "a.npz", codes=codes(k=20))
    assert list(tmp_path.iterdir()) == []


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    whole = save(tmp_path / "a.npz").read_bytes()
    cut = tmp_path / "cut.npz"
    for size in range(0, len(whole), 7):
        cut.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"cut\.npz is"):
            load_codes(cut)


def test_an_altered_code_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz")
    packed = codes().numpy().astype(np.uint16).tobytes()
    whole = path.read_bytes()
    assert whole.count(packed) == 1
    path.write_bytes(whole.replace(packed, bytes([packed[0] ^ 1]) + packed[1:]))
    with pytest.raises(InputError, match=r"a\.npz is damaged .*encode again"):
        load_codes(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*nowhere\.npz: No such file"):
        load_codes(tmp_path / "nowhere.npz")
    with pytest.raises(InputError, match=r"cannot read .*: Is a directory"):
        load_codes(tmp_path)


def test_foreign_files(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("not an archive")
    with pytest.raises(InputError, match=r"a\.txt is no codes file.*anytime encode"):
        load_codes(text)
    other = tmp_path / "b.npz"
    np.savez(other, weights=np.zeros(3))
    with pytest.raises(InputError, match=r"it holds \['weights'\], not codes and header"):
        load_codes(other)


def test_a_pickle_inside_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, codes=np.array([{}], dtype=object), header=np.array("{}"))
    with pytest.raises(InputError, match=r"damaged .*allow_pickle=False"):
        load_codes(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"format_version": 2}, "codes format version 2, and this anytime-ar reads 1"),
        ({"code_length": 0}, r"header: code_length: input should be greater than 0 \(got 0\)"),
        ({"color": "red"}, "header: color: extra inputs are not permitted"),
        ({"sound": SOUND.model_dump() | {"gain": 0}}, r"header: sound\.gain: .*greater than 0"),
        ({"sound": SOUND.model_dump() | {"gain": math.inf}}, r"header: sound\.gain: .*finite"),
        ({"sound": {"samples": 3}}, r"header: sound\.sample_rate: field required; sound\.window"),
        ({"code_length": 2}, "contradicts its own header: prefix 3 exceeds code length 2"),
    ],
)
def test_a_wrong_header_is_named(tmp_path: Path, header: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_codes(write_archive(tmp_path / "a.npz", **header))


@pytest.mark.parametrize("text", ["nonsense", "[]", "{}"])
def test_a_header_of_another_kind(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, codes=np.zeros((2, 3), np.uint8), header=np.array(text))
    with pytest.raises(InputError, match="is no codes file: its header"):
        load_codes(path)


def test_arrays_of_another_kind(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.npz", packed=np.zeros((2, 3)))
    with pytest.raises(InputError, match="no codes file: float64 codes"):
        load_codes(path)
