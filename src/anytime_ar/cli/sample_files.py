"""Read and write samples as image and audio files."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from anytime_ar.codes import WindowedAudio, bits
from anytime_ar.errors import InputError
from anytime_ar.evaluation import as_images, contact_sheet, write_contact_sheet
from anytime_ar.media.audio import AudioFile, peak_gain, require_audio, write_audio
from anytime_ar.media.formats import AUDIO_FORMATS, WRITABLE_IMAGE_SUFFIXES
from anytime_ar.media.image import image_grid, read_image, write_image
from anytime_ar.media.windows import OverlappingWindows, decode_windows, encode_windows
from anytime_ar.runtime.files import check_output_path
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
    """The image beside a folder of audio files; None: there is none."""

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


class SampleFiles(ABC):
    """Reads and writes the samples of a model. Any samples can be written as a sheet of images.

    Args:
        model: the model whose samples are read and written.
    """

    noun: ClassVar[str]
    """What messages call the samples, in the plural."""
    suffixes: ClassVar[tuple[str, ...]]
    """Suffixes of the files that can be written, the default first."""

    def __init__(self, model: AnytimeModel) -> None:
        """Create a reader and writer for a model."""
        self.model = model

    def output_path(self, out: Path | str | None, stem: str) -> Path:
        """Return the path to write to, checked before any samples exist.

        Args:
            out: the requested path; None: `stem` with the default suffix.
            stem: path without suffix, for the default.

        Raises:
            InputError: the suffix belongs to another kind of file, or the path is not writable.
        """
        requested = stem + self.suffixes[0] if out is None else out
        out = Path(requested)
        if os.fspath(requested) and out.suffix.lower() not in self.suffixes:
            raise InputError(
                f"{out}: cannot write {self.noun} with suffix {out.suffix!r}; "
                f"use one of {', '.join(self.suffixes)}"
            )
        check_output_path(requested)
        return out

    @abstractmethod
    def encode(self, paths: Sequence[Path], progress: ProgressCallback) -> EncodedFiles:
        """Encode files into codes.

        Args:
            paths: the files to read.
            progress: called with what is done, the total, and the unit.

        Raises:
            InputError: a file cannot be used.
        """

    @abstractmethod
    def report_codes(self, encoded: EncodedFiles, out: Path | None) -> CommandReport:
        """Return the report of the `encode` command.

        Args:
            encoded: the codes of the files.
            out: file that the codes were written to; None: they are part of the report.
        """

    def decode(
        self, encoded: EncodedFiles, out: Path, columns: int | None, progress: ProgressCallback
    ) -> tuple[WrittenFiles, CommandReport]:
        """Decode codes, or any prefix of them, and write the samples.

        Args:
            encoded: the codes to decode.
            out: file to write.
            columns: columns of a sheet; None: about as many as rows.
            progress: called with what is done, the total, and the unit.

        Raises:
            InputError: the codes do not fit the model, or `out` cannot be written.
        """
        samples = self.model.decode(encoded.codes)
        count, parts = len(samples), self.row_noun(encoded)
        progress(count, count, parts)
        return self.write(samples, out, columns), CommandReport(f"{count} {parts}", {parts: count})

    def row_noun(self, encoded: EncodedFiles) -> str:
        """Return what messages call the rows of codes, in the plural."""
        return self.noun if encoded.windowed_audio is None else "windows"

    def write(self, samples: Tensor, out: Path, columns: int | None) -> WrittenFiles:
        """Write samples as a sheet.

        Args:
            samples: float32 [n, *sample_shape] in [-1, 1].
            out: file to write.
            columns: columns of the sheet; None: about as many as rows.

        Raises:
            InputError: `out` cannot be written.
        """
        columns = min(columns or math.ceil(math.sqrt(len(samples))), len(samples))
        write_image(out, image_grid(as_images(samples, self.model.sample_rate), columns))
        return WrittenFiles(out)

    def write_budgets(self, codes: Tensor, budgets: Sequence[int], out: Path) -> WrittenFiles:
        """Write samples at several numbers of codes, each a column of a sheet.

        Args:
            codes: int64 [n, k].
            budgets: numbers of codes, each in 1..k.
            out: file to write.

        Raises:
            InputError: `out` cannot be written.
        """
        sheet = contact_sheet(self.model, codes, budgets, sample_rate=self.model.sample_rate)
        write_contact_sheet(sheet, budgets, out)
        return WrittenFiles(out)


class ImageFiles(SampleFiles):
    """Reads image files and writes one sheet for any number of samples."""

    noun = "images"
    suffixes = WRITABLE_IMAGE_SUFFIXES

    def encode(self, paths: Sequence[Path], progress: ProgressCallback) -> EncodedFiles:
        """Encode image files, a row of codes for each; see `SampleFiles.encode`."""
        channels: Literal[1, 3] = 1 if self.model.sample_shape[0] == 1 else 3
        size = self.model.sample_shape[1]
        images = [read_image(path, channels=channels, size=size) for path in paths]
        codes = self.model.encode(torch.cat(images)).cpu()
        progress(len(paths), len(paths), self.noun)
        return EncodedFiles(codes)

    def report_codes(self, encoded: EncodedFiles, out: Path | None) -> CommandReport:
        """Return the codes as text and as lists; see `SampleFiles.report_codes`."""
        written = {} if out is None else {"out": str(out)}
        return CommandReport(
            format_codes(encoded.codes), {"codes": encoded.codes.tolist()} | written
        )


def format_codes(codes: Tensor) -> str:
    """Return codes as numbers, one line for each row."""
    return "\n".join(" ".join(map(str, row)) for row in codes.tolist())


class AudioFiles(SampleFiles):
    """Reads recordings of any length in overlapping windows, and writes a file for each sample.

    Several samples also become a sheet of spectrograms.

    Args:
        model: the model whose samples are read and written.

    Raises:
        MissingExtraError: the extra `audio` is not installed.
    """

    noun = "clips"
    suffixes = (*AUDIO_FORMATS, *WRITABLE_IMAGE_SUFFIXES)

    def __init__(self, model: AnytimeModel) -> None:
        """Create a reader and writer for an audio model."""
        require_audio()
        super().__init__(model)
        assert model.sample_rate is not None, "a card of sounds has a rate"
        self._sample_rate = model.sample_rate
        self._peak_normalize = model.bundle.card.data.normalize == "peak"

    def encode(self, paths: Sequence[Path], progress: ProgressCallback) -> EncodedFiles:
        """Encode one recording of any length, or several that fit into one window each.

        Several recordings become one row each. The codes file does not store their length and
        level.
        """
        windows = OverlappingWindows.for_codec(self.model)
        recordings = [AudioFile(path, self._sample_rate) for path in paths]
        if len(recordings) > 1:
            return EncodedFiles(self._encode_short_clips(recordings, windows.length, progress))
        samples, gain = self._measure(recordings[0])
        blocks = (block * gain for block in recordings[0].blocks())
        # Only the codes grow with the recording.
        codes = torch.empty(windows.count(samples), self.model.code_length, dtype=torch.int64)
        done = 0
        for part in encode_windows(self.model, windows, blocks):
            codes[done : done + len(part)] = part
            done += len(part)
            progress(done, len(codes), "windows")
        audio = WindowedAudio(
            samples=samples,
            sample_rate=self._sample_rate,
            window=windows.length,
            overlap=windows.overlap,
            gain=gain,
        )
        return EncodedFiles(codes, audio)

    def _encode_short_clips(
        self, recordings: list[AudioFile], length: int, progress: ProgressCallback
    ) -> Tensor:
        clips = []
        for recording in recordings:
            clips.append(self._read_padded_clip(recording, length))
            progress(len(clips), len(recordings), "files")
        return self.model.encode(torch.stack(clips)).cpu()

    def _measure(self, recording: AudioFile) -> tuple[int, float]:
        """Return the number of samples, and the gain to the level of the training data."""
        samples, peak = recording.measure()
        return samples, peak_gain(peak) if self._peak_normalize else 1.0

    def _read_padded_clip(self, recording: AudioFile, length: int) -> Tensor:
        """Return a clip as float32 [1, length], padded with silence.

        Raises:
            InputError: the clip is longer than one window.
        """
        samples, gain = self._measure(recording)
        if samples > length:
            raise InputError(
                f"{recording.path}: lasts {samples / self._sample_rate:.2f} s, and of several "
                f"clips each has to fit into {length / self._sample_rate:.2f} s; encode it alone"
            )
        wave = torch.cat(list(recording.blocks())) * gain
        return torch.nn.functional.pad(wave, (0, length - samples))[None]

    def report_codes(self, encoded: EncodedFiles, out: Path | None) -> CommandReport:
        """Return the duration and the bit rate of the codes; see `SampleFiles.report_codes`."""
        count, length = encoded.codes.shape
        samples = count * self.model.sample_shape[1]
        if encoded.windowed_audio is not None:
            samples = encoded.windowed_audio.samples
        seconds, total = samples / self._sample_rate, count * bits(length, self.model.vocabulary)
        figures = {
            "seconds": round(seconds, 4),
            self.row_noun(encoded): count,
            "bits": round(total, 1),
            "bits_per_second": round(total / seconds, 1),
        }
        if out is None:
            return CommandReport(
                format_codes(encoded.codes), figures | {"codes": encoded.codes.tolist()}
            )
        text = (
            f"{out}: {seconds:.2f} s, {count} {self.row_noun(encoded)} of {length} codes, "
            f"{total:.0f} bits, {total / seconds:.0f} bits per second"
        )
        return CommandReport(text, figures | {"out": str(out)})

    def decode(
        self, encoded: EncodedFiles, out: Path, columns: int | None, progress: ProgressCallback
    ) -> tuple[WrittenFiles, CommandReport]:
        """Decode codes and join the windows of a recording; see `SampleFiles.decode`."""
        codes, audio = encoded
        if audio is None or out.suffix.lower() in WRITABLE_IMAGE_SUFFIXES:
            return super().decode(encoded, out, columns, progress)
        windows = OverlappingWindows(audio.window, audio.overlap)
        blocks = decode_windows(self.model, windows, codes, audio.samples)
        write_audio(out, _original_level_blocks(blocks, audio, progress), self._sample_rate)
        seconds = audio.samples / self._sample_rate
        figures = {"seconds": round(seconds, 4), "windows": len(codes)}
        return WrittenFiles(out), CommandReport(f"{seconds:.2f} s", figures)

    def write(self, samples: Tensor, out: Path, columns: int | None) -> WrittenFiles:
        """Write one clip, or a folder of clips with their spectrograms; see `SampleFiles.write`."""
        if out.suffix.lower() in WRITABLE_IMAGE_SUFFIXES:
            return super().write(samples, out, columns)
        if len(samples) == 1:
            write_audio(out, [samples[0, 0]], self._sample_rate)
            return WrittenFiles(out)
        folder = _create_folder(out)
        sheet = super().write(samples, out.with_suffix(".png"), columns)
        self._write_each(samples, folder, out.suffix)
        return WrittenFiles(folder, sheet.path)

    def write_budgets(self, codes: Tensor, budgets: Sequence[int], out: Path) -> WrittenFiles:
        """Write clips at several numbers of codes; see `SampleFiles.write_budgets`."""
        if out.suffix.lower() in WRITABLE_IMAGE_SUFFIXES:
            return super().write_budgets(codes, budgets, out)
        folder, digits = _create_folder(out), len(str(max(budgets)))
        sheet = super().write_budgets(codes, budgets, out.with_suffix(".png"))
        for k in budgets:
            self._write_each(
                self.model.decode(codes[:, :k]), folder, f"-k{k:0{digits}}{out.suffix}"
            )
        return WrittenFiles(folder, sheet.path)

    def _write_each(self, samples: Tensor, folder: Path, ending: str) -> None:
        """Write samples [n, 1, T] as 0.wav, 1.wav and so on, if `ending` is .wav."""
        digits = len(str(len(samples) - 1))
        for number, sample in enumerate(samples):
            path = folder / f"{number:0{digits}}{ending}"
            write_audio(path, [sample[0]], self._sample_rate)


def _create_folder(out: Path) -> Path:
    """Create the folder for several clips: `samples` if `out` is samples.wav.

    Raises:
        InputError: the folder cannot be created.
    """
    folder = out.with_suffix("")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot create folder {folder}: {error.strerror}; choose another --out"
        ) from error
    return folder


def _original_level_blocks(
    blocks: Iterator[Tensor], audio: WindowedAudio, progress: ProgressCallback
) -> Iterator[Tensor]:
    """Yield blocks of audio at the level of the recording before it was encoded."""
    done = 0
    for block in blocks:
        yield block / audio.gain
        done += len(block)
        progress(done, audio.samples, "samples")


SAMPLE_FILES: dict[int, type[SampleFiles]] = {3: ImageFiles, 2: AudioFiles}
"""Reader and writer class by the number of dimensions of a sample."""


def sample_files_for(model: AnytimeModel) -> SampleFiles:
    """Return the object that reads and writes the samples of a model."""
    return SAMPLE_FILES[len(model.sample_shape)](model)
