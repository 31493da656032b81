"""The embedded digits and sounds, and folders of images or sounds with a sub-folder per class."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile  # type: ignore[import-untyped]
from PIL import Image

from anytime_ar.data.rows import Kind, ListedRows, Row, Rows, Source
from anytime_ar.data.sounds import to_int16
from anytime_ar.errors import DataError

SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff")
IMAGE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
"""Pillow's format by suffix. Pillow knows it as well, but imports all its formats to tell."""
IMAGE_SUFFIXES = tuple(IMAGE_FORMATS)
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test",),
}
_CLIPS = 1800
"""As many as there are digits, about."""


def digits_source() -> Source:
    """scikit-learn's 1797 digits, grayscale 8x8; their levels 0..16 become 0..255."""
    from sklearn.datasets import load_digits

    levels, labels = load_digits(return_X_y=True)  # [1797, 64], [1797]
    pixels = np.round(levels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    rows = [
        Row(i, Image.fromarray(pixels[i]), int(labels[i]), f"digits row {i}")
        for i in range(len(pixels))
    ]
    return Source({"train": ListedRows(rows)}, tuple(str(digit) for digit in range(10)))


def sounds_source() -> Source:
    """1800 synthetic clips of 0.3 to 0.5 s at 8 kHz, 225 of each class in turn; see `synthesis`."""
    from anytime_ar.data.synthesis import CLASSES, SAMPLE_RATE, clip

    rows = []
    for made in map(clip, range(_CLIPS)):
        wav = io.BytesIO()
        soundfile.write(wav, to_int16(made.wave()), SAMPLE_RATE, format="WAV")
        rows.append(Row(made.index, wav.getvalue(), made.label, f"sounds row {made.index}"))
    return Source({"train": ListedRows(rows)}, CLASSES, "sound")


def folder_source(root: Path) -> Source | None:
    """Read `root/class/*`, `root/{train,test,...}/class/*`, or either without class folders.

    Returns:
        None if there is neither image nor sound where this layout has them.

    Raises:
        DataError: files lie beside class folders, the splits differ in their classes, or there are
            images as well as sounds.
    """
    folders = {
        split: root / name
        for split, names in SPLIT_FOLDERS.items()
        for name in names
        if (root / name).is_dir()
    }
    if "train" not in folders:
        folders = {"train": root}
    files = {split: _files_by_class(folder) for split, folder in folders.items()}
    if not files["train"]:
        return None
    classes = sorted(name for name in files["train"] if name is not None)
    splits: dict[str, Rows] = {}
    for split, by_class in files.items():
        for name, paths in by_class.items():
            if name not in files["train"]:
                raise DataError(
                    f"{paths[0]}: its class is not one of {folders['train']} "
                    f"({', '.join(classes) or 'no class folders'}); use the same class folders in "
                    "every split"
                )
        pairs = [(path, name) for name, paths in by_class.items() for path in paths]
        rows = [
            Row(i, path, None if name is None else classes.index(name), str(path))
            for i, (path, name) in enumerate(pairs)
        ]
        if not rows:
            raise DataError(f"{folders[split]}: no samples in this split; add some or remove it")
        splits[split] = ListedRows(rows)
    every = [path for by_class in files.values() for paths in by_class.values() for path in paths]
    return Source(splits, tuple(classes) or None, _kind(every))


def _kind(paths: list[Path]) -> Kind:
    sounds = [path for path in paths if path.suffix.lower() in SOUND_SUFFIXES]
    images = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
    if sounds and images:
        raise DataError(
            f"{sounds[0]}: is a sound, and {images[0]} an image; keep them in different folders"
        )
    return "sound" if sounds else "image"


def _files_by_class(folder: Path) -> dict[str | None, list[Path]]:
    """Sorted files by sorted sub-folder, or under None when `folder` holds them itself."""
    loose = _samples(folder)
    by_class: dict[str | None, list[Path]] = {
        child.name: paths
        for child in sorted(folder.iterdir())
        if child.is_dir() and not child.name.startswith(".") and (paths := _samples(child))
    }
    if loose and by_class:
        raise DataError(
            f"{loose[0]}: lies beside class folders ({', '.join(map(str, by_class))}); move it "
            "into one of them or remove it"
        )
    return {None: loose} if loose else by_class


def _samples(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in (*IMAGE_SUFFIXES, *SOUND_SUFFIXES)
        and not path.name.startswith(".")
    )
