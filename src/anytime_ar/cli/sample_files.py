"""Samples as files: what commands need of pictures and sounds, and pictures."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from anytime_ar.codes import WindowedAudio, bits
from anytime_ar.errors import InputError
from anytime_ar.evaluation import as_images, contact_sheet, write_contact_sheet
from anytime_ar.evaluation.protocols import ProgressCallback
from anytime_ar.media.audio import AudioFile, peak_gain, write_audio
from anytime_ar.media.formats import AUDIO_FORMATS, WRITABLE_IMAGE_SUFFIXES
from anytime_ar.media.image import image_grid, read_image, write_image
from anytime_ar.media.windows import OverlappingWindows, decode_windows, encode_windows
from anytime_ar.runtime.files import check_output_path
from anytime_ar.sampling import AnytimeModel


class EncodedFiles(NamedTuple):
    """What became of files."""

    codes: Tensor
    """int64 [B, L]."""
    windowed_audio: WindowedAudio | None = None
    """The long sound whose windows the rows are; None: each row is a file."""


class WrittenFiles(NamedTuple):
    """Where samples went."""

    path: Path
    """A file, or a folder of files."""
    sheet: Path | None = None
    """The picture beside them."""

    def __str__(self) -> str:
        return str(self.path) if self.sheet is None else f"{self.path}/ and {self.sheet}"

    @property
    def json_fields(self) -> dict[str, str]:
        """For `--json`."""
        sheet = {} if self.sheet is None else {"sheet": str(self.sheet)}
        return {"out": str(self.path)} | sheet


class CommandReport(NamedTuple):
    """What a command tells, for people and for `--json`."""

    text: str
    json_fields: dict[str, Any]


class SampleFiles(ABC):
    """Reads and writes what one model makes. Any samples can be written as a sheet of pictures."""

    noun: ClassVar[str]
    """What samples are called."""
    suffixes: ClassVar[tuple[str, ...]]
    """What can be written; the first by default."""

    def __init__(self, model: AnytimeModel) -> None:
        self.model = model

    def output_path(self, out: Path | str | None, stem: str) -> Path:
        """Where to write, checked before there is anything to lose.

        Args:
            out: what was asked for; None: `stem` here, with the suffix of these media.

        Raises:
            InputError: its suffix is that of something else, or it cannot be written.
        """
        out = Path(out or stem + self.suffixes[0])
        if out.suffix.lower() not in self.suffixes:
            raise InputError(
                f"{out}: cannot write {self.noun} with suffix {out.suffix!r}; "
                f"use one of {', '.join(self.suffixes)}"
            )
        check_output_path(out)
        return out

    @abstractmethod
    def encode(self, paths: Sequence[Path], progress: ProgressCallback) -> EncodedFiles:
        """Codes of files.

        Raises:
            InputError: a file cannot be used.
        """

    @abstractmethod
    def report_codes(self, encoded: EncodedFiles, out: Path | None) -> CommandReport:
        """What `encode` tells of codes, written to `path` if anywhere."""

    def decode(
        self, encoded: EncodedFiles, out: Path, columns: int | None, progress: ProgressCallback
    ) -> tuple[WrittenFiles, CommandReport]:
        """Write what codes, or any prefix of them, decode to; `columns` as in `write`.

        Raises:
            InputError: the codes are not this model's, or `path` cannot be written.
        """
        samples = self.model.decode(encoded.codes)
        count, parts = len(samples), self.row_noun(encoded)
        progress(count, count, parts)
        return self.write(samples, out, columns), CommandReport(f"{count} {parts}", {parts: count})

    def row_noun(self, encoded: EncodedFiles) -> str:
        """What rows of codes are called."""
        return self.noun if encoded.windowed_audio is None else "windows"

    def write(self, samples: Tensor, out: Path, columns: int | None) -> WrittenFiles:
        """Write samples, of which so many are in a row of a sheet; None: as many as there are rows.

        Raises:
            InputError: `path` cannot be written.
        """
        columns = min(columns or math.ceil(math.sqrt(len(samples))), len(samples))
        write_image(out, image_grid(as_images(samples, self.model.sample_rate), columns))
        return WrittenFiles(out)

    def write_budgets(self, codes: Tensor, budgets: Sequence[int], out: Path) -> WrittenFiles:
        """Write samples at several numbers of codes, each a column of a sheet.

        Args:
            codes: int64 [n, k].
            budgets: each in 1..k.
            out: file.

        Raises:
            InputError: `path` cannot be written.
        """
        sheet = contact_sheet(self.model, codes, budgets, sample_rate=self.model.sample_rate)
        write_contact_sheet(sheet, budgets, out)
        return WrittenFiles(out)


class ImageFiles(SampleFiles):
    """One sheet for any number of samples."""

    noun = "pictures"
    suffixes = WRITABLE_IMAGE_SUFFIXES

    def encode(self, paths: Sequence[Path], progress: ProgressCallback) -> EncodedFiles:
        channels: Literal[1, 3] = 1 if self.model.sample_shape[0] == 1 else 3
        size = self.model.sample_shape[1]
        pictures = [read_image(path, channels=channels, size=size) for path in paths]
        codes = self.model.encode(torch.cat(pictures)).cpu()
        progress(len(paths), len(paths), self.noun)
        return EncodedFiles(codes)

    def report_codes(self, encoded: EncodedFiles, out: Path | None) -> CommandReport:
        written = {} if out is None else {"out": str(out)}
        return CommandReport(
            format_codes(encoded.codes), {"codes": encoded.codes.tolist()} | written
        )


def format_codes(codes: Tensor) -> str:
    """Codes as numbers, a line for each row."""
    return "\n".join(" ".join(map(str, row)) for row in codes.tolist())


class AudioFiles(SampleFiles):
    """A file for each sample, and a sheet of spectrograms where there are several; a recording of
    any length in windows that overlap."""

    noun = "sounds"
    suffixes = (*AUDIO_FORMATS, *WRITABLE_IMAGE_SUFFIXES)

    def __init__(self, model: AnytimeModel) -> None:
        super().__init__(model)
        assert model.sample_rate is not None, "a card of sounds has a rate"
        self._sample_rate = model.sample_rate
        self._peak_normalize = model.bundle.card.data.normalize == "peak"

    def encode(self, paths: Sequence[Path], progress: ProgressCallback) -> EncodedFiles:
        """One recording of any length; or several that fit a window each, as rows, whose length
        and loudness are not kept."""
        windows = OverlappingWindows.for_codec(self.model)
        recordings = [AudioFile(path, self._sample_rate) for path in paths]
        if len(recordings) > 1:
            return EncodedFiles(self._encode_short_clips(recordings, windows.length, progress))
        samples, gain = self._measure(recordings[0])
        blocks = (block * gain for block in recordings[0].blocks())
        # All that grows with the sound.
        codes = torch.empty(windows.count(samples), self.model.code_length, dtype=torch.int64)
        done = 0
        for part in encode_windows(self.model, windows, blocks):
            codes[done : done + len(part)] = part
            done += len(part)
            progress(done, len(codes), "windows")
        sound = WindowedAudio(
            samples=samples,
            sample_rate=self._sample_rate,
            window=windows.length,
            overlap=windows.overlap,
            gain=gain,
        )
        return EncodedFiles(codes, sound)

    def _encode_short_clips(
        self, recordings: list[AudioFile], length: int, progress: ProgressCallback
    ) -> Tensor:
        clips = []
        for recording in recordings:
            clips.append(self._read_padded_clip(recording, length))
            progress(len(clips), len(recordings), "files")
        return self.model.encode(torch.stack(clips)).cpu()

    def _measure(self, recording: AudioFile) -> tuple[int, float]:
        """Length, and the gain that makes it as loud as what the model was trained on."""
        samples, peak = recording.measure()
        return samples, peak_gain(peak) if self._peak_normalize else 1.0

    def _read_padded_clip(self, recording: AudioFile, length: int) -> Tensor:
        """float32 [1, length], silent after the end."""
        samples, gain = self._measure(recording)
        if samples > length:
            raise InputError(
                f"{recording.path}: lasts {samples / self._sample_rate:.2f} s, and of several sounds each "
                f"has to fit into {length / self._sample_rate:.2f} s; encode it alone"
            )
        wave = torch.cat(list(recording.blocks())) * gain
        return torch.nn.functional.pad(wave, (0, length - samples))[None]

    def report_codes(self, encoded: EncodedFiles, out: Path | None) -> CommandReport:
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
        codes, sound = encoded
        if sound is None or out.suffix.lower() in WRITABLE_IMAGE_SUFFIXES:
            return super().decode(encoded, out, columns, progress)
        windows = OverlappingWindows(sound.window, sound.overlap)
        blocks = decode_windows(self.model, windows, codes, sound.samples)
        write_audio(out, _original_level_blocks(blocks, sound, progress), self._sample_rate)
        seconds = sound.samples / self._sample_rate
        figures = {"seconds": round(seconds, 4), "windows": len(codes)}
        return WrittenFiles(out), CommandReport(f"{seconds:.2f} s", figures)

    def write(self, samples: Tensor, out: Path, columns: int | None) -> WrittenFiles:
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
        """Write 0.wav, 1.wav, ... where the ending is .wav; samples are [n, 1, T]."""
        digits = len(str(len(samples) - 1))
        for number, sample in enumerate(samples):
            path = folder / f"{number:0{digits}}{ending}"
            write_audio(path, [sample[0]], self._sample_rate)


def _create_folder(out: Path) -> Path:
    """Create the folder `samples` where `out` is samples.wav."""
    folder = out.with_suffix("")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot create folder {folder}: {error.strerror}; choose another --out"
        ) from error
    return folder


def _original_level_blocks(
    blocks: Iterator[Tensor], sound: WindowedAudio, progress: ProgressCallback
) -> Iterator[Tensor]:
    """Blocks at the loudness that the sound had before it was encoded."""
    done = 0
    for block in blocks:
        yield block / sound.gain
        done += len(block)
        progress(done, sound.samples, "samples")


SAMPLE_FILES: dict[int, type[SampleFiles]] = {3: ImageFiles, 2: AudioFiles}
"""By the number of dimensions of a sample."""


def sample_files_for(model: AnytimeModel) -> SampleFiles:
    """What reads and writes the samples of a model."""
    return SAMPLE_FILES[len(model.sample_shape)](model)
