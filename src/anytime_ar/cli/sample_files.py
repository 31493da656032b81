"""Read and write samples as image and audio files, and series as arrays and tables."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from anytime_ar.codes import WindowedAudio, bits
from anytime_ar.errors import InputError
from anytime_ar.media.audio import require_audio, write_audio
from anytime_ar.media.formats import WRITABLE_IMAGE_SUFFIXES
from anytime_ar.media.image import write_image
from anytime_ar.media.processor import AudioProcessor, ImageProcessor
from anytime_ar.media.sheets import as_images, contact_sheet, image_grid, write_contact_sheet
from anytime_ar.runtime.files import check_output_path, write_atomically
from anytime_ar.runtime.progress import ProgressCallback
from anytime_ar.sampling import AnytimeModel


class EncodedFiles(NamedTuple):
    """The codes of input files."""

    codes: Tensor
    """Codes, coarse to fine, int64 [B, L]."""
    windowed_audio: WindowedAudio | None = None
    """The long recording whose windows are the rows; None: each row is a file."""


class WrittenFiles(NamedTuple):
    """The paths of written samples."""

    path: Path
    """The file, or the folder of files."""
    sheet: Path | None = None
    """The image beside a folder of audio files or series; None: there is none."""

    def __str__(self) -> str:
        """Return the paths as text for messages."""
        return str(self.path) if self.sheet is None else f"{self.path}/ and {self.sheet}"

    @property
    def json_fields(self) -> dict[str, str]:
        """Return the paths as fields of the JSON output."""
        sheet = {} if self.sheet is None else {"sheet": str(self.sheet)}
        return {"out": str(self.path)} | sheet


class CommandReport(NamedTuple):
    """The result of a command as text for people and as fields for `--json`."""

    text: str
    """Text for people, of one or more lines."""
    json_fields: dict[str, Any]
    """Fields of the JSON output."""


class SampleFiles:
    """Reads and writes the samples of a model. Any samples can be written as a sheet of images.

    A recording of any length is read in overlapping windows. Several sounds or series become
    a folder of files, and a sheet of spectrograms or line plots beside it.

    Args:
        model: the model whose samples are read and written.

    Raises:
        MissingExtraError: the model is for audio, and the extra `audio` is not installed.
    """

    def __init__(self, model: AnytimeModel) -> None:
        """Create a reader and writer for a model."""
        self.model, self.media = model, model.media
        if isinstance(self.media, AudioProcessor):
            require_audio()

    def output_path(self, out: Path | str | None, stem: str) -> Path:
        """Return the path to write to, checked before any samples exist.

        Args:
            out: the requested path; None: `stem` with the default suffix.
            stem: path without suffix, for the default.

        Raises:
            InputError: the suffix belongs to another kind of file, or the path is not writable.
        """
        suffixes = self.media.suffixes
        requested = stem + suffixes[0] if out is None else out
        out = Path(requested)
        if os.fspath(requested) and out.suffix.lower() not in suffixes:
            raise InputError(
                f"{out}: cannot write {self.media.noun} with suffix {out.suffix!r}; "
                f"use one of {', '.join(suffixes)}"
            )
        check_output_path(requested)
        return out

    def encode(self, paths: Sequence[Path], progress: ProgressCallback) -> EncodedFiles:
        """Encode one recording of any length, or files that become a row of codes each.

        The codes file does not store the length and level of several recordings. One warning tells
        how images of another size were changed.

        Args:
            paths: the files to read.
            progress: called with what is done, the total, and the unit.

        Raises:
            InputError: a file cannot be used.
        """
        arrays = [path for path in paths if path.suffix.lower() == ".npy"]
        if arrays and len(arrays) < len(paths):
            raise InputError(f"{arrays[0]} is an array, and other files are not; encode it alone")
        if arrays:
            rows = torch.cat([self.media.read_array(path) for path in arrays])
            progress(len(rows), len(rows), self.media.noun)
            return EncodedFiles(self.model.encode(rows).cpu())
        if isinstance(self.media, AudioProcessor) and len(paths) == 1:
            return EncodedFiles(*self.media.encode_recording(self.model, paths[0], progress))
        samples: list[Tensor] = []
        changes: list[str] = []
        for path in paths:
            samples.append(self.media.read(path))
            if isinstance(self.media, ImageProcessor) and (fit := self.media.describe_fit(path)):
                changes.append(fit)
            progress(len(samples), len(paths), "files")
        if changes:
            count = f"; changed: {len(changes)} of {len(paths)} images" if len(paths) > 1 else ""
            warnings.warn(f"{changes[0]} for this model{count}", stacklevel=2)
        return EncodedFiles(self.model.encode(torch.stack(samples)).cpu())

    def report_codes(self, encoded: EncodedFiles, out: Path | None) -> CommandReport:
        """Return the report of the `encode` command; for audio with duration and bit rate.

        Args:
            encoded: the codes of the files.
            out: file that the codes were written to; None: they are part of the report.
        """
        text = "\n".join(" ".join(map(str, row)) for row in encoded.codes.tolist())
        codes: dict[str, Any] = {"codes": encoded.codes.tolist()}
        written = {} if out is None else {"out": str(out)}
        rate = self.model.sample_rate
        if rate is None:
            return CommandReport(text, codes | written)
        count, length = encoded.codes.shape
        samples = count * self.model.sample_shape[1]
        if encoded.windowed_audio is not None:
            samples = encoded.windowed_audio.samples
        seconds, total = samples / rate, count * bits(length, self.model.vocabulary)
        figures = {
            "seconds": round(seconds, 4),
            self.row_noun(encoded): count,
            "bits": round(total, 1),
            "bits_per_second": round(total / seconds, 1),
        }
        if out is None:
            return CommandReport(text, figures | codes)
        text = (
            f"{out}: {seconds:.2f} s, {count} {self.row_noun(encoded)} of {length} codes, "
            f"{total:.0f} bits, {total / seconds:.0f} bits per second"
        )
        return CommandReport(text, figures | written)

    def row_noun(self, encoded: EncodedFiles) -> str:
        """Return what messages call the rows of codes, in the plural."""
        return self.media.noun if encoded.windowed_audio is None else "windows"

    def decode(
        self, encoded: EncodedFiles, out: Path, columns: int | None, progress: ProgressCallback
    ) -> tuple[WrittenFiles, CommandReport]:
        """Decode codes, or any prefix of them, join windows, and write the samples.

        Args:
            encoded: the codes to decode.
            out: file to write.
            columns: columns of a sheet; None: about as many as rows.
            progress: called with what is done, the total, and the unit.

        Raises:
            InputError: the codes do not fit the model, or `out` cannot be written.
        """
        codes, audio = encoded
        if audio is not None and not _is_image(out):
            blocks = AudioProcessor.decode_recording(self.model, codes, audio, progress)
            if self._is_array(out):
                _write_array(out, torch.cat([*blocks], dim=-1)[None])
            else:
                write_audio(out, blocks, audio.sample_rate, self.model.sample_shape[0])
            seconds = audio.samples / audio.sample_rate
            figures = {"seconds": round(seconds, 4), "windows": len(codes)}
            return WrittenFiles(out), CommandReport(f"{seconds:.2f} s", figures)
        samples = self.model.decode(codes)
        count, noun = len(samples), self.row_noun(encoded)
        progress(count, count, noun)
        return self.write(samples, out, columns), CommandReport(f"{count} {noun}", {noun: count})

    def write(self, samples: Tensor, out: Path, columns: int | None) -> WrittenFiles:
        """Write images as a sheet, and sounds and series as a file, or as a folder with a sheet.

        A file .npy holds all images or sounds as one array.

        Args:
            samples: float32 [n, *sample_shape] in [-1, 1].
            out: file to write.
            columns: columns of the sheet; None: about as many as rows.

        Raises:
            InputError: `out` cannot be written.
        """
        if self._is_array(out):
            _write_array(out, samples)
            return WrittenFiles(out)
        is_sheet = _is_image(out) and self.media.modality != "image"
        if len(samples) == 1 and not is_sheet:
            self.media.write(out, samples[0])
            return WrittenFiles(out)
        written = _create_output(out)
        columns = min(columns or math.ceil(math.sqrt(len(samples))), len(samples))
        tiles = as_images(samples, self.model.sample_rate)
        write_image(written.sheet or out, image_grid(tiles, columns))
        if written.sheet is not None:
            self._write_clips(samples, written.path, out.suffix)
        return written

    def write_budgets(self, codes: Tensor, budgets: Sequence[int], out: Path) -> WrittenFiles:
        """Write samples at several numbers of codes, each a column of a sheet, and others as files.

        An array has the numbers of codes as its second dimension.

        Args:
            codes: int64 [n, k].
            budgets: numbers of codes, each in 1..k.
            out: file to write.

        Raises:
            InputError: `out` cannot be written.
        """
        if self._is_array(out):
            _write_array(out, torch.stack([self.model.decode(codes[:, :k]) for k in budgets], 1))
            return WrittenFiles(out)
        written = _create_output(out)
        sheet = contact_sheet(self.model, codes, budgets, sample_rate=self.model.sample_rate)
        write_contact_sheet(sheet, budgets, written.sheet or out)
        if written.sheet is not None:
            digits = len(str(max(budgets)))
            for k in budgets:
                samples = self.model.decode(codes[:, :k])
                self._write_clips(samples, written.path, f"-k{k:0{digits}}{out.suffix}")
        return written

    def _is_array(self, out: Path) -> bool:
        """Return whether a file holds all samples as one array; series have a file each."""
        return out.suffix.lower() == ".npy" and self.media.modality != "series"

    def _write_clips(self, samples: Tensor, folder: Path, ending: str) -> None:
        """Write samples [n, C, T] as 0.wav, 1.wav and so on, if `ending` is .wav."""
        digits = len(str(len(samples) - 1))
        for number, sample in enumerate(samples):
            self.media.write(folder / f"{number:0{digits}}{ending}", sample)


def _write_array(out: Path, samples: Tensor) -> None:
    """Write samples as one array, float32 [n, ...]."""
    array = samples.cpu().numpy()
    write_atomically(out, lambda file: np.lib.format.write_array(file, array, allow_pickle=False))


def _is_image(out: Path) -> bool:
    return out.suffix.lower() in WRITABLE_IMAGE_SUFFIXES


def _create_output(out: Path) -> WrittenFiles:
    """Return an image's path, or that of a new folder for several clips and of its sheet.

    For samples.wav these are the folder `samples` and samples.png.

    Raises:
        InputError: the folder cannot be created.
    """
    if _is_image(out):
        return WrittenFiles(out)
    folder = out.with_suffix("")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot create folder {folder}: {error.strerror}; choose another --out"
        ) from error
    return WrittenFiles(folder, out.with_suffix(".png"))
