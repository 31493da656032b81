"""Encode and decode long recordings with the command line on one core: time, memory and seams.

    python benchmarks/long_audio.py fsdd --data path/to/fsdd --out runs/long_audio

The recordings of one and ten minutes are joined test clips of a data set. The table shows the
seconds of work per second of audio, and the peak memory. It also shows how much the error jumps
between samples within 4 samples of a window border, relative to everywhere else. The last column is
the same for windows joined without a cross-fade, which must be larger.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from itertools import cycle
from pathlib import Path

import numpy as np
import soundfile
import torch

import anytime_ar as aar
from anytime_ar.data import DataConfig, load_data
from anytime_ar.media.windows import OverlappingWindows

NEAR = 4
"""Number of samples on either side of a border."""


def main() -> None:
    """Encode and decode recordings, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--data", help="of test clips; default: the model's own")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 10.0])
    parser.add_argument("--out", type=Path, default=Path("runs/long_audio"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = aar.load(options.model, device="cpu")
    assert model.sample_rate is not None
    values = dict(model.bundle.card.training["data"])
    data = load_data(DataConfig(**values | ({"name": options.data} if options.data else {})))
    clips = torch.cat([batch.data[:, 0] for batch in data.test.batches(64)]).numpy()
    results = []
    for minutes in options.minutes:
        sound = _recording(clips, round(60 * minutes * model.sample_rate))
        results.append(_measure(options.model, sound, model, options.out, minutes))
    print(
        f"{'minutes':>7}  {'encode':>7}  {'decode':>7}  {'MB':>11}  {'borders':>7}  {'no fade':>7}"
    )
    for row in results:
        memory = f"{row['encode_mb']:.0f} + {row['decode_mb']:.0f}"
        print(
            f"{row['minutes']:>7.3g}  {row['encode_share']:>7.3f}  {row['decode_share']:>7.3f}  "
            f"{memory:>11}  {row['borders']:>7.2f}  {row['borders_without_fade']:>7.2f}"
        )
    (options.out / "long_audio.json").write_text(json.dumps(results, indent=2) + "\n")
    print(f"seconds of work a second of sound, peak memory; {options.out / 'long_audio.json'}")


def _recording(clips: np.ndarray, samples: int) -> np.ndarray:
    """Return clips joined without the silence at their ends, float32 [samples]."""
    parts, missing = [], samples
    for clip in cycle(clips):
        audible = clip[: np.flatnonzero(clip)[-1] + 1] if clip.any() else clip
        parts.append(audible[:missing])
        missing -= len(parts[-1])
        if missing == 0:
            return np.concatenate(parts)
    raise AssertionError("no clips")


def _measure(
    name: str, sound: np.ndarray, model: aar.AnytimeModel, out: Path, minutes: float
) -> dict[str, float]:
    """Encode and decode one recording, and return a row of the table."""
    wav, codes, decoded = (out / f"{minutes:g}{end}" for end in (".wav", ".npz", "-decoded.wav"))
    soundfile.write(wav, sound, model.sample_rate, subtype="FLOAT")
    seconds = len(sound) / model.sample_rate
    encode_s, encode_mb = _run("encode", name, str(wav), "-o", str(codes))
    decode_s, decode_mb = _run("decode", name, str(codes), "--out", str(decoded))
    made, _ = soundfile.read(decoded, dtype="float32")
    windows = OverlappingWindows.for_codec(model)
    return {
        "minutes": minutes,
        "encode_share": encode_s / seconds,
        "decode_share": decode_s / seconds,
        "encode_mb": encode_mb,
        "decode_mb": decode_mb,
        "borders": _jumps(made - sound, windows),
        "borders_without_fade": _jumps(_without_fade(model, sound, windows), windows),
    }


_RUNNER = """
import os, resource, subprocess, sys, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
begin = time.perf_counter()
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
seconds = time.perf_counter() - begin
print(seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
sys.exit(code)
"""
"""Script that runs a command on one core and prints its seconds and peak memory."""


def _run(*arguments: str) -> tuple[float, float]:
    """Return the seconds and the peak memory in MB of one command on one core."""
    # Start it from a small process: the peak of a child includes the memory of its parent.
    command = [sys.executable, "-c", _RUNNER, sys.executable, "-m", "anytime_ar", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"anytime {' '.join(arguments)}: ended with {done.returncode}")
    seconds, megabytes = map(float, done.stdout.split())
    return seconds, megabytes


def _jumps(error: np.ndarray, windows: OverlappingWindows) -> float:
    """Return the mean jump of the error near borders, relative to that elsewhere."""
    jumps = np.abs(np.diff(error.astype(np.float64)))
    starts = np.arange(windows.hop, len(error), windows.hop)
    borders = np.concatenate([starts, starts + windows.overlap])
    near = (borders[:, None] + np.arange(-NEAR, NEAR)).ravel()
    chosen = np.zeros(len(jumps), dtype=bool)
    chosen[near[near < len(jumps)]] = True
    return float(jumps[chosen].mean() / jumps[~chosen].mean())


def _without_fade(
    model: aar.AnytimeModel, sound: np.ndarray, windows: OverlappingWindows
) -> np.ndarray:
    """Return the error if each window ends where the next one begins, float32 [samples]."""
    count = (len(sound) - windows.overlap) // windows.hop
    errors = []
    for batch in torch.from_numpy(sound).unfold(0, windows.length, windows.hop)[:count].split(64):
        made = model.decode(model.encode(batch[:, None].contiguous()))[:, 0]
        errors.append((made - batch)[:, : windows.hop].flatten().numpy())
    return np.concatenate(errors)


if __name__ == "__main__":
    main()
