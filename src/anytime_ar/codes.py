"""What a caller's codes must look like, and the file they travel in.

Codes are `int64 [B, k]`, coarse to fine: a prefix, 1 <= k <= L, of the `L` codes of each sample,
with values 0..V-1. The file is an `.npz` archive of two plain arrays (never a pickle): `codes` in
the smallest unsigned type that holds V-1, and `header`, a JSON object. Equal codes, equal bytes.

The rows are samples of their own, or, where the header says how it was cut, the windows of one long
sound.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from anytime_ar.config import Config
from anytime_ar.errors import InputError
from anytime_ar.runtime.files import write_atomically
from anytime_ar.runtime.size_limits import check_npy_size

CODES_FORMAT_VERSION = 1


class WindowedAudio(Config):
    """How one sound was cut into the windows whose codes are the rows of a file."""

    samples: PositiveInt
    """Its length; the last window ends in silence."""
    sample_rate: PositiveInt
    """In Hz."""
    window: PositiveInt
    """Length of each window, in samples."""
    overlap: NonNegativeInt
    """Samples that a window shares with the next."""
    gain: float = Field(gt=0, allow_inf_nan=False)
    """What the sound was multiplied by before it was encoded."""


class _CodesHeader(Config):
    format_version: int
    model: str
    code_length: PositiveInt
    vocabulary: PositiveInt
    sound: WindowedAudio | None = None


@dataclass(frozen=True)
class CodesFile:
    """What `load_codes` read."""

    codes: Tensor
    """int64 [B, k], coarse to fine, 0..V-1."""
    model: str
    """The model that made them, as given to `save_codes`."""
    code_length: int
    """`L`, the code length of that model; k <= L."""
    vocabulary: int
    """`V`, the size of its codebook."""
    windowed_audio: WindowedAudio | None = None
    """The long sound whose windows the rows are; None: each row is a sample."""

    def __repr__(self) -> str:
        return (
            f"CodesFile(codes=int64 {list(self.codes.shape)}, model={self.model!r}, "
            f"length={self.code_length}, vocabulary={self.vocabulary}, sound={self.windowed_audio!r})"
        )


def as_codes(codes: Any) -> Tensor:
    """Return codes as int64, whatever format of whole numbers and library they come in.

    Args:
        codes: a tensor, an array of numpy, or what `numpy.asarray` makes one of.

    Raises:
        InputError: these are no whole numbers, or rows have different lengths.
    """
    if isinstance(codes, Tensor):
        whole = not codes.is_floating_point() and not codes.is_complex()
        return codes.long() if whole and codes.dtype != torch.bool else codes
    try:
        array = np.asarray(codes)
    except ValueError as error:
        raise InputError(f"codes are no array ({error}); cut all rows to one length") from error
    if array.dtype.kind not in "iu":
        raise InputError(f"codes are {array.dtype}; pass whole numbers, as encode returns them")
    # A copy: arrays may be read-only, in another byte order, or reversed.
    return torch.from_numpy(np.array(array, dtype=np.int64, order="C"))


def check_codes(codes: Tensor, *, code_length: int, vocabulary: int) -> None:
    """Refuse codes that a model with `code_length` codes of `vocabulary` entries cannot decode.

    Args:
        codes: int64 [B, k] with 1 <= k <= `code_length` and values 0..`vocabulary`-1.

    Raises:
        InputError: wrong type, rank, prefix length or value; the first bad value is named.
    """
    check_prefix(codes, code_length=code_length)
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < vocabulary:
        bad = ((codes < 0) | (codes >= vocabulary)).nonzero()  # [bad values, 2]
        row, position = bad[0].tolist()
        raise InputError(
            f"code {int(codes[row, position])} at row {row}, position {position} is out of range; "
            f"this model's codes are 0..{vocabulary - 1}"
        )


def check_prefix(codes: Tensor, *, code_length: int) -> None:
    """Refuse what is no prefix of `code_length` codes, whatever its values are; see `check_codes`."""
    if codes.dtype != torch.int64:
        raise InputError(f"codes are {codes.dtype}; pass torch.int64, as encode returns them")
    if codes.ndim != 2:
        raise InputError(f"codes have shape {list(codes.shape)}; pass [B, k], one row per sample")
    prefix = codes.shape[1]
    if prefix == 0:
        raise InputError(f"prefix 0 holds no code; pass 1 <= k <= {code_length}")
    if prefix > code_length:
        raise InputError(
            f"prefix {prefix} exceeds code length {code_length}; pass k <= {code_length}"
        )


def bits(k: int, vocabulary: int) -> float:
    """The bits that `k` codes of `vocabulary` equally likely entries carry, `k log2 V`."""
    return k * math.log2(vocabulary)


def save_codes(
    path: Path | str,
    codes: Tensor,
    *,
    model: str,
    code_length: int,
    vocabulary: int,
    windowed_audio: WindowedAudio | None = None,
) -> None:
    """Write codes to `path` (by custom `*.npz`), atomically.

    Args:
        codes: int64 [B, k], 1 <= k <= `code_length`, on any device.
        model: name of the model that made them.
        code_length: `L`, the model's code length.
        vocabulary: `V`, the size of its codebook.
        windowed_audio: the long sound whose windows the rows are; None: each row is a sample.

    Raises:
        InputError: the codes do not fit `code_length` and `vocabulary`, or `path` cannot be written.
    """
    check_codes(codes, code_length=code_length, vocabulary=vocabulary)
    header = _CodesHeader(
        format_version=CODES_FORMAT_VERSION,
        model=model,
        code_length=code_length,
        vocabulary=vocabulary,
        sound=windowed_audio,
    )
    packed = codes.cpu().numpy().astype(np.min_scalar_type(vocabulary - 1))  # unsigned [B, k]
    text = np.array(header.model_dump_json(exclude_none=True))
    write_atomically(path, lambda file: np.savez(file, codes=packed, header=text))


def load_codes(path: Path | str) -> CodesFile:
    """Read what `save_codes` wrote.

    Raises:
        InputError: the file is missing, cut short, altered, of another kind, or of another version.
    """
    packed, text = _read_arrays(Path(path))
    try:
        values: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no codes file: its header is not JSON") from error
    if not isinstance(values, dict) or "format_version" not in values:
        raise InputError(f"{path} is no codes file: its header has no format_version")
    if values["format_version"] != CODES_FORMAT_VERSION:
        raise InputError(
            f"{path} has codes format version {values['format_version']!r}, and this anytime-ar "
            f"reads {CODES_FORMAT_VERSION}; read it with the version that wrote it"
        )
    header = _CodesHeader.parse(values, origin=f"{path}, header")
    codes = torch.from_numpy(packed.astype(np.int64))  # [B, k]
    try:
        check_codes(codes, code_length=header.code_length, vocabulary=header.vocabulary)
    except InputError as error:
        raise InputError(f"{path} contradicts its own header: {error}") from error
    return CodesFile(codes, header.model, header.code_length, header.vocabulary, header.sound)


def _read_arrays(path: Path) -> tuple[np.ndarray, str]:
    """The two arrays of the archive, unsigned codes and header text, with no pickle ever opened."""
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise InputError(
                    f"{path} is no codes file, or is cut short; write one with `anytime encode`"
                )
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                if set(archive.files) != {"codes", "header"}:
                    raise InputError(
                        f"{path} is no codes file: it holds {sorted(archive.files)}, "
                        "not codes and header"
                    )
                _check_claimed_sizes(archive.zip, path.stat().st_size)
                packed, header = archive["codes"], archive["header"]
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; pass a codes file") from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is damaged ({error}); encode again") from error
    if packed.dtype.kind != "u" or header.dtype.kind != "U" or header.ndim != 0:
        raise InputError(f"{path} is no codes file: {packed.dtype} codes, {header.dtype} header")
    return packed, str(header)


def _check_claimed_sizes(archive: zipfile.ZipFile | None, max_bytes: int) -> None:
    """Refuse arrays that claim to be larger than the file, before they get memory.

    Raises:
        ValueError: which one.
    """
    assert archive is not None
    for entry in archive.infolist():
        if entry.file_size > max_bytes:
            raise ValueError(
                f"{entry.filename} of {entry.file_size:,} bytes is larger than the file"
            )
        with archive.open(entry) as member:
            check_npy_size(member, max_bytes)
