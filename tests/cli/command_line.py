"""What the tests of several commands need: tiny settings, data, and what a command says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from anytime_ar.cli import main

TINY = [
    "--autoencoder.code_length=4",
    "--autoencoder.quantizer.vocabulary=8",
    "--autoencoder.network.widths=[4,8]",
    "--autoencoder.network.blocks=0",
    "--autoencoder.network.hidden=8",
    "--autoencoder_training.steps=6",
    "--autoencoder_training.batch_size=16",
    "--autoencoder_training.codebook_init_samples=32",
    "--prior.layers=1",
    "--prior.width=8",
    "--prior.heads=2",
    "--prior_training.steps=4",
    "--prior_training.augmented_copies=1",
    "--feature_extractor.steps=10",
    "--feature_extractor.width=4",
    "--feature_extractor.num_features=8",
    "--device=cpu",
]
RATE, WINDOW = 8000, 256
"""Of sounds: samples per second, and samples per window."""
CONFIG = """
name: tiny
data: {{name: "{data}"{more}}}
autoencoder: {{code_length: 4, code_width: 4, quantizer: {{vocabulary: 8}}}}
autoencoder_training: {{steps: 4, batch_size: 8, codebook_init_samples: 16}}
prior: {{layers: 1, width: 8, heads: 2}}
prior_training: {{steps: 4, batch_size: 8, augmented_copies: 1}}
feature_extractor: {{steps: 10, width: 4, num_features: 8, precision: 32-true}}
"""


def beep(path: Path, seconds: float, *, rate: int = RATE, level: float = 0.2) -> Path:
    """A stereo file whose mean has that peak."""
    wave = level * np.sin(np.arange(round(seconds * rate)) * 3000 / rate)
    soundfile.write(path, np.stack([wave, wave], axis=1), rate, subtype="FLOAT")
    return path


def wave_of(path: Path) -> torch.Tensor:
    """float32 [n]."""
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == RATE
    return torch.from_numpy(samples)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str], lines: int = 1) -> str:
    """The one line that a mistake gives; checks that it is one, and the exit code 2. More lines if
    it has details."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert printed.out == ""
    assert len(printed.err.splitlines()) == lines
    assert printed.err.startswith("anytime: ")
    return printed.err.removesuffix("\n")


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What a command that is refused says, by lines."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()


def add(folder: Path, first: int, end: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, end):
        shade = (37 * i + 11 * ord(folder.name)) % 256
        Image.new("L", (8, 8), shade).save(folder / f"{i:02}.png")


def write_config(folder: Path, more: str = "") -> str:
    path = folder / "tiny.yaml"
    path.write_text(CONFIG.format(data=folder / "data", more=more))
    return str(path)
