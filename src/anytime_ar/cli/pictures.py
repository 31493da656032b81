"""Samples as files: what commands need of pictures and sounds, and pictures."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from anytime_ar.codes import WindowedAudio
from anytime_ar.data import WRITABLE_IMAGE_SUFFIXES, image_grid, read_image, write_image
from anytime_ar.errors import InputError
from anytime_ar.evaluation import as_images, contact_sheet, write_contact_sheet
from anytime_ar.evaluation.protocols import ProgressCallback
from anytime_ar.files import check_output_path
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
