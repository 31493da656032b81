"""Sounds as files: recordings of any length, and a file for each sample beside a sheet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from anytime_ar.cli.pictures import (
    CommandReport,
    EncodedFiles,
    SampleFiles,
    WrittenFiles,
    format_codes,
)
from anytime_ar.codes import WindowedAudio, bits
from anytime_ar.data import WRITABLE_IMAGE_SUFFIXES, AudioFile, peak_gain, write_audio
from anytime_ar.data.suffixes import AUDIO_FORMATS
from anytime_ar.errors import InputError
from anytime_ar.evaluation.protocols import ProgressCallback
from anytime_ar.sampling import AnytimeModel
from anytime_ar.sampling.windows import OverlappingWindows, decode_windows, encode_windows


class AudioFiles(SampleFiles):
    """A file for each sample, and a sheet of spectrograms where there are several; a recording of
    any length in windows that overlap."""

    noun = "sounds"
    suffixes = (*AUDIO_FORMATS, *WRITABLE_IMAGE_SUFFIXES)

    def __init__(self, model: AnytimeModel) -> None:
        super().__init__(model)
        assert model.sample_rate is not None, "a card of sounds has a rate"
        self._sample_rate = model.sample_rate
        trained = model.bundle.card.training.get("data", {}).get("sound", {})
        self._peak_normalize = trained.get("loudness") == "peak"

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
