"""Give hostile input to the readers of data sets: each is read correctly, or refused in one line.

    python benchmarks/fuzz_data.py --count 5000 --seed 0
    python benchmarks/fuzz_data.py --reader tables --seed 17 --count 1

It generates `--count` folder trees, images, audio files and tables, each from its own seed. Inputs
that break the rule are printed with their seed, and the exit code is 1. A few of them run with the
tests.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import struct
import sys
import tempfile
import traceback
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import soundfile
from PIL import Image
from pyarrow import parquet

from anytime_ar.data import DataConfig, DataSplits, load_data
from anytime_ar.data.sources.folders import scan_folder
from anytime_ar.errors import DataError
from anytime_ar.media.audio import AudioFile
from anytime_ar.media.image import decode_image

Random = np.random.Generator
LIMIT_S = 30
"""Time limit of one input, in seconds."""
EXPECTED_ERRORS = 0.2
"""Probability of the features that make an input hostile."""


def pick(random: Random, *choices: Any) -> Any:
    """Return one of several values at random."""
    return choices[random.integers(len(choices))]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return an image as the bytes of a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


PNG = encoded(Image.new("L", (4, 4), 90), "PNG")
"""A small valid image file."""


def load(path: Path, random: Random, **options: Any) -> tuple[DataSplits, int]:
    """Load a data set with random settings, read all of it, and count its samples.

    Returns:
        The splits, and the number of samples that were read.
    """
    config = DataConfig(
        name=str(path),
        validation_fraction=0.3,
        streaming=bool(random.random() < 0.3),
        skip_broken=bool(random.random() < 0.5),
        labels=bool(random.random() < 0.8),
        **options,
    )
    data = load_data(config)
    count = 0
    for split in (data.train, data.validation, data.test):
        for batch in split.batches(8):
            count += len(batch.data)
            assert np.isfinite(batch.data.numpy()).all()
            if batch.labels is not None:
                assert data.label_names is not None
                assert 0 <= batch.labels.min() <= batch.labels.max() < len(data.label_names)
                assert len(batch.labels) == len(batch.data)
    return data, count


def count_reported(data: DataSplits, what: str) -> int:
    """Return how many samples the notes of a data set report as left out."""
    return sum(int(each) for note in data.notes for each in re.findall(rf"(\d+) {what}", note))


# Folder trees

NAMES = (
    *("a", "b", "train", "Train", "test", "val", "valid", "trainval", "validated", "training"),
    *("café", unicodedata.normalize("NFD", "café"), "[12]", "a*b", "x::y", "50%", "#", "~", "-c"),
    *(" ", "2024", "data", ".hidden", "__MACOSX", "a.png", "x" * 120, "\udcff", "日本"),
)
"""Names of folders, many of them hostile."""
FILES = (
    *("{}.png", "{}.PNG", "{}.tif", "{}.jfif", "{}.gif", "{}.webp", "{} .png", "{}.é.bmp"),
    *("{}.txt", "{}.heic", "{}", ".{}.png", "._{}.png", ".DS_Store", "Thumbs.db", "{}.parquet"),
)
"""Patterns of file names, many of them hostile."""


def fill(folder: Path, random: Random, depth: int) -> None:
    """Create some files and folders in a folder.

    Args:
        folder: folder to create and fill.
        random: random numbers.
        depth: depth below the root.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sound_name = pick(random, *FILES[:4])
    for i in range(random.integers(0, 7) if depth else random.integers(0, 2) * 4):
        hostile = random.random() < EXPECTED_ERRORS / 4
        name = (pick(random, *FILES) if hostile else sound_name).format(i)
        path = folder / name
        if os.path.lexists(path):
            continue
        way = random.random() if hostile else 1.0
        if way < 0.1:
            os.mkfifo(path)
        elif way < 0.3:
            target = pick(random, folder, folder.parent, folder / "nothing", path)
            path.symlink_to(target)
        else:
            path.write_bytes(PNG if random.random() > EXPECTED_ERRORS / 20 else b"broken")
    if depth < 3:
        for name in random.choice(NAMES, random.integers(0, 4 - depth), replace=False):
            if not os.path.lexists(folder / name):
                fill(folder / name, random, depth + 1)


def tree(random: Random, folder: Path) -> None:
    """Check that every sample below a folder is read, reported or refused."""
    root = folder / pick(random, "set", "run[1]", "a*b", "x::y", "50%20", "~")
    fill(root, random, 0)
    layout = pick(random, "auto", "auto", "auto", "splits", "classes")
    data, count = load(root, random, folder_layout=layout)
    every = sum(1 for _ in scan_folder(root, Counter()).sample_paths())
    assert (
        count + count_reported(data, "samples that lie") + count_reported(data, "broken samples")
        == every
    )


# Images

MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "I;16", "I", "F")
"""Pillow modes of generated images."""
KINDS = ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "TGA", "PCX", "JPEG2000", "SGI", "ICO")
"""Pillow formats of generated images."""


def noise(random: Random, mode: str, size: tuple[int, int]) -> Image.Image:
    """Return an image of random pixels in a mode."""
    levels = random.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(levels[..., 0].astype(np.uint16) * 257)
    return Image.fromarray(levels, "RGBA").convert("RGB" if mode == "YCbCr" else mode)


def damaged(random: Random, content: bytes, within: int) -> bytes:
    """Return a file with some bytes changed, inserted or cut off.

    Args:
        random: random numbers.
        content: bytes of the file.
        within: number of leading bytes among which bytes are changed.
    """
    changed = bytearray(content)
    for _ in range(random.integers(1, 5)):
        changed[random.integers(min(within, len(changed)))] = random.integers(256)
    if random.random() < 0.3:
        at = random.integers(min(within, len(changed)))
        changed[at:at] = random.bytes(random.integers(1, 40))
    if random.random() < 0.3:
        del changed[random.integers(len(changed)) :]
    return bytes(changed)


def picture(random: Random, folder: Path) -> None:
    """Check that an image decodes to the right shape, and that an undamaged one always does."""
    mode, kind = pick(random, *MODES), pick(random, *KINDS)
    size = (int(random.integers(1, 40)), int(random.integers(1, 40)))
    try:
        content = encoded(noise(random, mode, size), kind)
    except (OSError, ValueError, KeyError):  # the format does not support the mode
        return
    whole = random.random() < 0.3
    path = folder / "x.png"
    path.write_bytes(content if whole else damaged(random, content, 400))
    try:
        # A header may claim more pixels than there is time to fill.
        with patch.object(Image, "MAX_IMAGE_PIXELS", 2**22):
            found = decode_image(path, str(path), size=8)
    except DataError:
        assert not whole or mode in ("I", "F", "RGBA", "LA"), f"{mode} in {kind} is refused"
        raise
    assert found.dtype == np.uint8
    assert found.shape in ((1, 8, 8), (3, 8, 8))


# Audio

SOUND_KINDS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3", "VOC")
"""libsndfile formats of generated audio."""
PLACEHOLDERS = (0, 8, 2**31 - 1, 2**31, 2**31 + 36, 0x7FFFF000, 0x7F000000, 2**32 - 1)
"""Sizes that programs write into headers when they do not know the size."""


def sound(random: Random, folder: Path) -> None:
    """Check that audio decodes to finite numbers, and completely if only header sizes are wrong.

    Two sounds in one file must be refused.
    """
    kind = pick(random, *SOUND_KINDS)
    count, channels = int(random.integers(1, 5000)), int(random.integers(1, 3))
    wave = np.clip(random.standard_normal((count, channels)) * 0.2, -1, 1)
    file = io.BytesIO()
    rate = pick(random, 8000, 16_000, 44_100)
    soundfile.write(file, wave.astype(np.float32), rate, format=kind)
    content = file.getvalue()
    way = pick(random, "whole", "sizes", "damaged", "joined", "tagged")
    if way == "sizes" and kind == "WAV":
        size = struct.pack("<I", pick(random, *PLACEHOLDERS[2:]))
        at = content.index(b"data") + 4
        content = content[:4] + size + content[8:at] + size + content[at + 4 :]
    elif way == "joined":
        content += content
    elif way == "tagged":
        content = b"ID3\4\0\0\0\0\7\x68" + random.bytes(1000) + content
    elif way != "whole":
        way, content = "damaged", damaged(random, content, 200)
    path = folder / "x.wav"
    path.write_bytes(content)
    try:
        found = AudioFile(path, rate).measure()
    except DataError:
        assert way in ("damaged", "joined"), f"{kind} with {way} is refused"
        raise
    assert way != "joined", f"only the first sound of {kind} is read"
    assert np.isfinite(found.peak)
    if way != "damaged" and kind != "MP3":
        assert found.num_samples == count


# Tables

BYTES_TYPES = (pa.binary(), pa.large_binary(), pa.binary_view())
"""Arrow types of image columns."""
TEXTS = (pa.string(), pa.large_string(), pa.string_view())
"""Arrow types of text labels."""
NUMBERS = (pa.int8(), pa.uint16(), pa.int64(), pa.float32(), pa.float64())


def table(random: Random, folder: Path) -> None:
    """Check that every row of a table is read, whatever its types, paths and shards."""
    root = folder / pick(random, "set", "run[12]", "a?b", "x::y", "50%20", "a#b", "{a}")
    root.mkdir()
    count = 0
    names = pick(random, ["train"], ["train-00000-of-00002", "train-00001-of-00002"], ["train_7"])
    cells, label = pick(random, *BYTES_TYPES), pick(random, "number", "text", "none")
    kind = pick(random, *(NUMBERS if label == "number" else TEXTS))
    values = pick(random, [0, 1], [1, 2, 3], [20, 90], [-1, 0], [-1], [0, None], [7])
    for name in names:
        rows = int(random.integers(0, 30)) if random.random() < EXPECTED_ERRORS else 12
        pictures = [PNG if random.random() > EXPECTED_ERRORS / 30 else None for _ in range(rows)]
        image = pa.array(pictures, cells)
        if random.random() < 0.3:
            image = pa.array([{"bytes": each, "path": "x.png"} for each in pictures])
        columns: dict[str, Any] = {"image": image, "odd": [[i] for i in range(rows)]}
        stored = [values[i % len(values)] for i in range(rows)]
        if label == "number":
            numbers = [0 if each == -1 and "u" in str(kind) else each for each in stored]
            columns["label"] = pa.array(numbers, pa.int64()).cast(kind)
        elif label == "text":
            columns["label"] = pa.array(
                [None if each is None else f"é{each}" for each in stored]
            ).cast(kind)
        group = int(random.integers(1, 20))
        parquet.write_table(pa.table(columns), root / f"{name}.parquet", row_group_size=group)
        count += rows
    if random.random() < EXPECTED_ERRORS:
        path = root / f"{names[0]}.parquet"
        path.write_bytes(damaged(random, path.read_bytes(), 10**6))
        count = -1  # unknown
    # A cell with a path but without bytes is a broken sample, because the file does not exist.
    data, found = load(root, random, **({"label_key": "label"} if label == "text" else {}))
    if count >= 0:
        assert found + count_reported(data, "broken samples") == count


READERS: dict[str, Callable[[Random, Path], None]] = {
    "trees": tree,
    "pictures": picture,
    "sounds": sound,
    "tables": table,
}
"""The check of each reader, by its name."""


class Hang(BaseException):
    """Signal that an input took too long.

    It is not an `Exception`, so that no reader takes it for an error of its own.
    """


def _hang(*_: object) -> None:
    """Raise `Hang` when the time limit expires."""
    raise Hang


def attempt(reader: str, seed: int) -> str:
    """Give a reader the input of one seed.

    Args:
        reader: name of the reader.
        seed: seed of the input.

    Returns:
        `read` or `refused`.

    Raises:
        AssertionError: it was neither.
    """
    random = np.random.default_rng([seed, *reader.encode()])
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        signal.signal(signal.SIGALRM, _hang)
        signal.alarm(LIMIT_S)
        try:
            READERS[reader](random, Path(folder))
        except DataError as error:
            if "\n" in str(error):
                raise AssertionError(f"{reader} of seed {seed}: {error}") from error
            return "refused"
        except (Exception, Hang) as error:
            raise AssertionError(f"{reader} of seed {seed}: {error!r}") from error
        finally:
            signal.alarm(0)
    return "read"


def main() -> None:
    """Try the requested number of inputs and print the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="inputs for each reader")
    parser.add_argument("--seed", type=int, default=0, help="of the first")
    parser.add_argument("--reader", choices=READERS, action="append", help="all when not given")
    options = parser.parse_args()
    failed = False
    for reader in options.reader or READERS:
        outcomes: Counter[str] = Counter()
        for outcome in map(
            partial(_outcome, reader), range(options.seed, options.seed + options.count)
        ):
            outcomes[outcome] += 1
        failed |= outcomes["wrong"] > 0
        print(f"{reader}: " + ", ".join(f"{n} {what}" for what, n in sorted(outcomes.items())))
    sys.exit(failed)


def _outcome(reader: str, seed: int) -> str:
    """Return the outcome of one input, and print the error of a wrong one."""
    try:
        return attempt(reader, seed)
    except AssertionError as error:
        traceback.print_exception(error.__cause__ or error)
        print(f"WRONG: {error}")
        return "wrong"


if __name__ == "__main__":
    main()
