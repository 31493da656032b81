"""Inputs that nobody planned for: pictures, sounds, folders, tables and surroundings at random.

    python benchmarks/hostile.py --inputs 20000 --environments 500 --seed 0 --out runs/hostile

Every input is made from its number and the seed, with what the right answer is: files as programs
write them and as they should not, whole, cut short and altered. A reader has to give the right
answer, or one error of ours in one line; a command has to end with its result, or with one line and
its exit code. A traceback, another answer, samples left out without a word, a crash and a hang are
violations; each is printed with the number that makes it again (`--only NUMBER`).
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile
import torch
from PIL import Image, PngImagePlugin
from pyarrow import parquet

from anytime_ar.data import DataConfig, Recording, load_data, read_image
from anytime_ar.errors import AnytimeError
from anytime_ar.evaluation.comparison_report import aligned
from anytime_ar.files import write_json

LIMIT_S = 30
"""Of one input."""
COMMAND_LIMIT_S = 120
MEMORY = 8 * 2**30
CHUNK = 100
"""Inputs of one process."""
ODD_NAMES = ("plain", "with space", "a[1]", "b*?", "c::d", "50%", "x#y", "é", "e\u0301", "=", "-o")
Answer = str
"""`right`, or the kind of error that was told."""


class Violation(Exception):
    """An input was answered as it must not be."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--environments", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one input, with its traceback")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/hostile"))
    options = parser.parse_args()
    if options.only is not None:
        with tempfile.TemporaryDirectory() as place:
            print(answer_to(options.seed, options.only, Path(place)))
        return
    print(f"seed {options.seed}")
    found, violations = inputs(options.seed, options.inputs, options.jobs)
    of_commands, more = environments(options.seed, options.environments, options.jobs)
    violations += more
    rows = [["what", "answer", "count"]]
    rows += [[*key, str(count)] for key, count in sorted((found + of_commands).items())]
    print(aligned(rows))
    print("\n".join(violations) or "no violation")
    options.out.mkdir(parents=True, exist_ok=True)
    counts = [[*key, count] for key, count in sorted((found + of_commands).items())]
    write_json(options.out / "hostile.json", {"counts": counts, "violations": violations})
    sys.exit(bool(violations))


def inputs(seed: int, count: int, jobs: int) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Give readers so many inputs: counts by kind and answer, and violations."""
    found: Counter[tuple[str, str]] = Counter()
    violations: list[str] = []

    def work(first: int) -> None:
        numbers = range(first, min(first + CHUNK, count))
        while numbers:  # what kills the process ends one input, and not those after it
            with tempfile.TemporaryDirectory() as place:
                record = Path(place) / "answers.jsonl"
                process = multiprocessing.get_context("spawn").Process(
                    target=answer_all, args=(seed, numbers, record)
                )
                process.start()
                process.join()
                text = record.read_text("utf-8") if record.exists() else ""
            answers = [json.loads(line) for line in text.splitlines()]
            for kind, number, answer in answers:
                found[kind, answer.split(":")[0]] += 1
                if answer.startswith("violation"):
                    violations.append(f"input {number} ({kind}): {answer}")
            numbers = numbers[len(answers) :]
            if numbers:
                kind = KINDS[numbers[0] % len(KINDS)].__name__
                violations.append(f"input {numbers[0]} ({kind}): ended by {process.exitcode}")
                numbers = numbers[1:]

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(work, range(0, count, CHUNK)))
    return found, violations


def answer_all(seed: int, numbers: range, record: Path) -> None:
    """Note the answer to each input, in a process of its own."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with record.open("w", encoding="utf-8") as file:
        for number in numbers:
            kind = KINDS[number % len(KINDS)].__name__
            signal.alarm(LIMIT_S)
            place = Path(tempfile.mkdtemp())
            try:
                answer = answer_to(seed, number, place)
            except Violation as violation:
                answer = f"violation: {violation}"
            except Exception as error:
                answer = f"violation: {type(error).__name__}: {str(error)[:200]}"
            shutil.rmtree(place, ignore_errors=True)
            file.write(json.dumps([kind, number, answer]) + "\n")
            file.flush()


def answer_to(seed: int, number: int, place: Path) -> Answer:
    """Make an input, and have it read."""
    make = KINDS[number % len(KINDS)]
    chance = random.Random(f"{seed}/{number}")
    read, whole = make(chance, place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read()
        except AnytimeError as error:
            if "\n" in str(error).strip() and len(str(error)) > 2000:
                raise Violation(f"a long error: {str(error)[:200]}") from error
            if whole:
                raise Violation(f"refused: {str(error)[:300]}") from error
            return type(error).__name__
    return "right"


# Each takes what chance decides and a folder to write to. It returns what reads the input and
# judges what comes of it, and whether the input is whole and clear, so that refusing it would be
# wrong.

Case = tuple[Callable[[], None], bool]


def picture(chance: random.Random, place: Path) -> Case:
    """A picture in any format and mode, with any metadata."""
    side = chance.choice([1, 8, 28, 33])
    generator = np.random.default_rng(chance.randrange(2**32))
    gray = generator.integers(0, 256, (side, side), dtype=np.uint8)
    colours = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
    mode = chance.choice(["L", "RGB", "P", "1", "LA", "RGBA", "I;16", "CMYK", "transparent P"])
    exact: Any = None  # uint8 [C, H, W], where there is one right answer
    options: dict[str, Any] = {}
    match mode:
        case "L":
            image, exact = Image.fromarray(gray), gray[None]
        case "RGB":
            image, exact = Image.fromarray(colours), colours.transpose(2, 0, 1)
        case "1":
            image = Image.fromarray(gray).point(lambda x: 255 * (x > 127), "1")
            exact = (255 * (gray > 127)).astype(np.uint8)[None]
        case "P" | "transparent P":
            image = Image.fromarray(colours).quantize(16)
            if mode == "P":
                exact = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
            else:
                options["transparency"] = chance.randrange(16)
        case "LA":
            image = Image.fromarray(np.stack([gray, np.full_like(gray, 255)], 2), "LA")
            exact = gray[None]
        case "RGBA":
            opaque = np.full((side, side, 1), 255, dtype=np.uint8)
            image = Image.fromarray(np.concatenate([colours, opaque], 2), "RGBA")
            exact = colours.transpose(2, 0, 1)
        case "I;16":
            image, exact = Image.fromarray(gray.astype(np.uint16) * 257), gray[None]
        case _:
            image = Image.fromarray(colours).convert("CMYK")
    kinds = {
        "L": "png bmp tiff gif",
        "RGB": "png bmp tiff",
        "I;16": "png tiff",
        "CMYK": "jpeg tiff",
    }
    kind = chance.choice(kinds.get(mode, "png").split())
    if kind == "png" and chance.random() < 0.3:
        info = PngImagePlugin.PngInfo()
        info.add_text(chance.choice(["Comment", "x", "XML:com.adobe.xmp"]), "\u00e9" * 99, zip=True)
        options["pnginfo"] = info
    if kind in ("png", "jpeg", "tiff") and chance.random() < 0.3:
        options["dpi"] = chance.choice([(0, 0), (1, 65535), (72.5, 0.001)])
    if kind in ("png", "jpeg") and chance.random() < 0.3:
        noise = chance.randbytes(chance.randrange(64))
        options["exif"] = b"Exif\0\0" + chance.choice([b"", b"II*\0\x08\0\0\0", b"MM\0*"]) + noise
    if kind in ("png", "jpeg", "tiff") and chance.random() < 0.2:
        options["icc_profile"] = chance.randbytes(chance.choice([0, 1, 128, 500]))
    content = io.BytesIO()
    image.save(content, kind, **options)
    data, harm = harmed(chance, content.getvalue())
    path = place / f"{chance.choice(ODD_NAMES)}.{kind}"
    path.write_bytes(data)
    wanted = chance.choice([None, 1, 3])

    def read() -> None:
        found = read_image(path, channels=wanted)
        channels = wanted or found.shape[1]
        if harm is None and found.shape != (1, channels, side, side):
            raise Violation(f"{mode} {kind} {side}: shape {tuple(found.shape)}")
        if not bool(((found >= -1) & (found <= 1)).all()):
            raise Violation(f"{mode} {kind}: values beyond [-1, 1]")
        pixels = ((found[0] + 1) * 127.5).round().to(torch.uint8).numpy()
        same = exact is not None and harm is None and len(exact) == len(pixels)
        if same and "exif" not in options and not np.array_equal(pixels, exact):
            raise Violation(f"{mode} {kind} {options.keys()}: other pixels")

    return read, harm is None and (wanted is not None or mode in ("L", "RGB", "1", "P"))


def sound(chance: random.Random, place: Path) -> Case:
    """A sound in any container, with any sizes in its header."""
    count = chance.choice([1, 7, 256, 4000])
    rate = chance.choice([8000, 16000, 44100])
    wave = np.random.default_rng(chance.randrange(2**32)).uniform(-0.5, 0.5, count)
    kind = chance.choice(["header", "WAV", "FLAC", "OGG", "AIFF", "W64", "RF64", "AU", "CAF"])
    content = io.BytesIO()
    if kind == "header":
        samples = (wave * 32767).astype("<i2").tobytes()
        right = 36 + len(samples), len(samples)
        riff, size = chance.choice(
            [
                right,
                (0xFFFFFFFF, 0xFFFFFFFF),
                (0x7FFFF024, 0x7FFFF000),
                (0x80000024, 0x80000000),
                (0x7FFFFFFF, 0x7FFFFFFF),
                (44 + len(samples), len(samples)),
                (0, 0),
                (right[0], 0xFFFFFFFF),
                (0, len(samples)),
            ]
        )
        junk = chance.choice([b"", b"LIST" + struct.pack("<I", 4) + b"INFO"])
        form = struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
        content.write(b"RIFF" + struct.pack("<I", riff) + b"WAVEfmt " + form + junk + b"data")
        content.write(struct.pack("<I", size) + samples)
    else:
        subtype = "VORBIS" if kind == "OGG" else "PCM_16"
        soundfile.write(content, wave, rate, format=kind, subtype=subtype)
    data, harm = harmed(chance, content.getvalue())
    path = place / f"{chance.choice(ODD_NAMES)}.{'wav' if kind == 'header' else kind.lower()}"
    path.write_bytes(data)

    def read() -> None:
        extent = Recording(path, rate).measure()
        if harm is None and extent.samples != count:
            raise Violation(f"{kind}: {extent.samples} samples, not {count}")
        if harm is None and extent.peak > 0.6:
            raise Violation(f"{kind}: a peak of {extent.peak}")

    return read, harm is None


def harmed(chance: random.Random, data: bytes) -> tuple[bytes, str | None]:
    """Return a file as it is, cut short, altered, or with more behind it, and what was done."""
    harm = chance.choice([None, None, "cut", "altered", "zeros"])
    if harm == "cut":
        return data[: chance.randrange(len(data))], harm
    if harm == "altered":
        changed = bytearray(data)
        for _ in range(chance.choice([1, 3, 20])):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        return bytes(changed), harm
    if harm == "zeros":
        return bytes(len(data)), harm
    return data, None


def folder(chance: random.Random, place: Path) -> Case:
    """Folders of pictures with any names, depths and things beside them."""
    root = place / chance.choice(ODD_NAMES)
    names = [
        "a",
        "b",
        "train",
        "test",
        "trainval",
        "Train",
        "val",
        "é",
        "e\u0301",
        ".hidden",
        "c d",
    ]
    suffixes = [".png", ".PNG", ".tif", ".gif", ".jfif", ".bmp", ".txt", ".npy"]
    formats = {".tif": "TIFF", ".gif": "GIF", ".jfif": "JPEG", ".bmp": "BMP"}
    root.mkdir()
    made = 0
    for name in chance.sample(names, chance.randrange(1, 5)):
        depth = chance.choice(["", "", "", "2024", "a/b"])
        parent = root / name / depth
        parent.mkdir(parents=True, exist_ok=True)
        suffix = chance.choice(suffixes) if chance.random() < 0.4 else ".png"
        for i in range(chance.choice([0, 1, 12])):
            path = parent / f"{i}{suffix}"
            if suffix in (".txt", ".npy"):
                path.write_bytes(b"no picture")
                continue
            Image.new("L", (8, 8), 9 * i).save(path, formats.get(suffix, suffix[1:].upper()))
            made += name != ".hidden"
    for extra in chance.sample([".DS_Store", "Thumbs.db", "desktop.ini", "readme.txt"], 2):
        (root / extra).write_bytes(b"x")
    if chance.random() < 0.2:
        (root / "loop").symlink_to(root, target_is_directory=True)
    if chance.random() < 0.2:
        (root / "gone.png").symlink_to(root / "nothing.png")

    def read() -> None:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            data = load_data(DataConfig(name=str(root)))
        sizes = [split.size or 0 for split in (data.train, data.validation, data.test)]
        if sum(sizes) != made and not said:
            raise Violation(f"{sum(sizes)} of {made} pictures, and no word")

    return read, False  # which folders are splits may be unclear


def table(chance: random.Random, place: Path) -> Case:
    """Parquet with any types of its columns, names of its files and labels."""
    count = 24
    pictures = []
    for i in range(count):
        content = io.BytesIO()
        Image.new("L", (8, 8), 10 * i).save(content, "PNG")
        pictures.append(content.getvalue())
    kind = chance.choice([pa.binary(), pa.large_binary(), pa.binary_view()])
    struct_of = pa.struct([("bytes", kind), ("path", pa.string())])
    column = chance.choice(
        [
            pa.array(pictures, kind),
            pa.array([{"bytes": p, "path": None} for p in pictures], struct_of),
        ]
    )
    numbers: list[int | None] = [i % 3 for i in range(count)]
    labels = chance.choice(["none", "ints", "ids", "minus", "nulls", "strings", "dictionary"])
    options: dict[str, Any] = {}
    columns: dict[str, Any] = {"image": column}
    match labels:
        case "ints":
            types = [pa.int8(), pa.uint16(), pa.int64(), pa.uint64()]
            columns["label"] = pa.array(numbers, chance.choice(types))
        case "ids":
            columns["label"] = [20240101 + (n or 0) for n in numbers]
        case "minus":
            columns["label"] = [-1] * count
        case "nulls":
            columns["label"] = pa.array([None] * count, pa.int64())
        case "strings" | "dictionary":
            text = chance.choice([pa.string(), pa.large_string(), pa.string_view()])
            words = pa.array([f"class {n}" for n in numbers], text)
            if labels == "dictionary":
                words = pa.array([f"class {n}" for n in numbers]).dictionary_encode()
            columns["label"] = words
            options["label_key"] = "label"
    root = place / chance.choice(ODD_NAMES)
    root.mkdir()
    name = chance.choice(["train.parquet", "train-00000-of-00001.parquet", "train-0000.parquet"])
    parquet.write_table(pa.table(columns), root / name)
    if chance.random() < 0.3:
        stray = chance.choice(["validated.parquet", "trainval.parquet", "testing.parquet"])
        parquet.write_table(pa.table(columns).slice(0, 3), root / stray)
    if chance.random() < 0.3:
        parquet.write_table(pa.table(columns).slice(0, 0), root / "train-00001-of-00001.parquet")
    options["streaming"] = chance.random() < 0.3

    def read() -> None:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            data = load_data(DataConfig(name=str(root), **options))
        if options["streaming"]:
            sizes = [sum(len(b.data) for b in s.batches(8)) for s in (data.train, data.test)]
            sizes.append(sum(len(b.data) for b in data.validation.batches(8)))
        else:
            sizes = [split.size or 0 for split in (data.train, data.validation, data.test)]
        if sum(sizes) != count and not said:
            raise Violation(f"{labels}, {column.type}: {sum(sizes)} of {count} rows, and no word")
        classes = None if labels in ("none", "minus", "nulls") else 3
        if (data.label_names and len(data.label_names)) != classes:
            raise Violation(f"{labels}: classes {str(data.label_names)[:80]}")

    return read, True


KINDS = (picture, sound, folder, table)


def environments(seed: int, count: int, jobs: int) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Run commands in so many surroundings: counts by exit code, and violations."""
    found: Counter[tuple[str, str]] = Counter()
    violations: list[str] = []

    def work(number: int) -> None:
        chance = random.Random(f"{seed}/environment {number}")
        with tempfile.TemporaryDirectory() as place:
            answer, told = command_in(chance, Path(place))
        found["command", answer] += 1
        if answer == "violation":
            violations.append(f"environment {number}: {told}")

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(work, range(count)))
    return found, violations


def command_in(chance: random.Random, place: Path) -> tuple[str, str]:
    """Run one command in surroundings at random: `exit N` or `violation`, and what it was."""
    picture_path = place / "digit.png"
    Image.new("L", (28, 28), 99).save(picture_path)
    out = place / chance.choice(["out.png", "é.png", "a[1].png", "missing/out.png"])
    commands = [
        ["sample", "mnist", "-n", "1", "--out", str(out)],
        ["encode", "mnist", str(picture_path)],
        ["sample", "mnist", "-n", chance.choice(["²", "--5", "1e999", "9" * 20, "0", "x"])],
        ["--help"],
        ["sample", "--help"],
        ["evaluate", str(place / "nothing")],
        ["train", "digits", "--out", str(picture_path / "run")],
    ]
    command = chance.choice(commands)
    environment = dict(os.environ)
    shell = []
    for _ in range(chance.randrange(1, 4)):
        match chance.randrange(10):
            case 0:
                shell.append("exec >&-")
            case 1:
                shell.append("exec 2>&-")
            case 2:
                shell.append("exec >/dev/full")
            case 3:
                environment.pop("HOME", None)
            case 4:
                environment["HOME"] = chance.choice(["/nonexistent", "/proc", str(picture_path)])
            case 5:
                environment["PYTHONIOENCODING"] = chance.choice(["cp1252", "ascii", "utf-16"])
            case 6:
                environment["LC_ALL"] = chance.choice(["C", "POSIX", "tr_TR.UTF-8", "xx"])
            case 7:
                shell.append(f"ulimit -n {chance.choice([32, 64, 256])}")
            case 8:
                environment["TMPDIR"] = chance.choice(["/nonexistent", str(picture_path)])
            case _:
                shell.append("exec <&-")
    run = [sys.executable, "-m", "anytime_ar", *command]
    lines = [*shell, 'exec "$@"']
    begin = time.monotonic()
    try:
        done = subprocess.run(
            ["bash", "-c", "\n".join(lines), "bash", *run],
            env=environment,
            cwd=place,
            capture_output=True,
            timeout=COMMAND_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return "violation", f"{command} {shell}: not done after {COMMAND_LIMIT_S} s"
    said = done.stderr.decode("utf-8", "replace")
    changed = {k: v for k, v in environment.items() if os.environ.get(k) != v}
    told = f"{command} {shell} {changed}: exit {done.returncode}, {said[-300:]!r}"
    told += f" after {time.monotonic() - begin:.0f} s"
    wrong = "Traceback" in said or done.returncode < 0 or "Exception ignored" in said
    if done.returncode == 0 and "--out" in command and command[0] == "sample":
        wrong = wrong or not out.exists()
    return ("violation" if wrong else f"exit {done.returncode}"), told


if __name__ == "__main__":
    main()
