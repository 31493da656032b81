"""Test crash recovery: kill training runs at random times, resume them, and compare the results.

    python benchmarks/crash_recovery.py --kills 50 --processes 1 2

A run trains all stages of a small model on the embedded digits, with every source of randomness. It
gets SIGKILL after a random time (sometimes only one of two processes), is resumed and killed again,
until it ends. Then its bundle and its checkpoints have to equal those of an undisturbed run, bit
for bit.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from process_stats import descendants

from anytime_ar.errors import InputError
from anytime_ar.evaluation.report import align_table
from anytime_ar.runtime.files import write_json
from anytime_ar.training.checkpoint import CheckpointManager

CONFIG = """
name: killed
data: {name: digits}
augmentation: {flip: true, rotate: 5}
autoencoder: {code_length: 8, code_width: 4, quantizer: {vocabulary: 16}}
autoencoder_training: {steps: 150, batch_size: 32, ema_decay: 0.9}
decoder_gan: {steps: 60, batch_size: 32, discriminator_width: 8}
prior: {layers: 1, width: 32, heads: 2, dropout: 0.1}
prior_training:
  {steps: 100, batch_size: 64, augmented_copies: 2, augmentation: {shift: 1}, validate_every: 25}
checkpoint_every_minutes: 0.005
log_every: 10
"""
"""Configuration of the small model."""
STAGES = ("autoencoder", "decoder_gan", "prior")
"""Training stages whose checkpoints are compared."""


def main() -> None:
    """Run the trials and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="for each number of processes")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/crash_recovery.json"))
    options = parser.parse_args()
    draw = random.Random(options.seed)
    rows = [["processes", "kills", "runs", "equal", "damaged files", "in the work"]]
    figures = []
    for count in options.processes:
        with tempfile.TemporaryDirectory() as place:
            found = _run_trials(Path(place), count, options.kills, draw)
        figures.append(found)
        rows.append([str(value) for value in found.values()])
        print(align_table([rows[0], rows[-1]]), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, figures)
    if any(found["equal"] < found["runs"] or found["damaged"] for found in figures):
        sys.exit("some runs did not end as the undisturbed one")


def _run_trials(place: Path, count: int, kills: int, draw: random.Random) -> dict[str, int]:
    """Kill and resume runs until there were enough kills, and return the counts.

    Args:
        place: folder for the runs.
        count: number of processes per run.
        kills: number of kills.
        draw: random numbers.
    """
    config = place / "killed.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    begin = time.perf_counter()
    assert _start_training(config, place / "whole", count).wait() == 0
    whole_s = time.perf_counter() - begin
    found = {"processes": count, "kills": 0, "runs": 0, "equal": 0, "damaged": 0, "inside": 0}
    while found["kills"] < kills:
        folder = place / f"run{found['runs']}"
        found["runs"] += 1
        while True:
            process = _start_training(config, folder, count)
            # Kill late, because a run spends most of its time in startup.
            wait_s = draw.uniform(0.4, 1.0) * whole_s
            if found["kills"] >= kills:
                wait_s = 100 * whole_s
            try:
                ended = process.wait(wait_s)
            except subprocess.TimeoutExpired:
                _kill(process, alone=count > 1 and draw.random() < 0.3, draw=draw)
                found["kills"] += 1
                found["inside"] += any((folder / "checkpoints").glob("*.safetensors"))
                found["damaged"] += _count_damaged(folder)
                continue
            assert ended == 0, f"a run ended with {ended}"
            break
        found["equal"] += _is_identical(folder, place / "whole")
        shutil.rmtree(folder)
    return found


def _start_training(config: Path, folder: Path, count: int) -> subprocess.Popen[bytes]:
    """Start or resume a training run in a process group of its own."""
    command = [sys.executable, "-m", "anytime_ar", "train", str(config), "--out", str(folder)]
    command += ["--resume", "--devices", str(count), "--device", "cpu"]
    return subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _kill(process: subprocess.Popen[bytes], *, alone: bool, draw: random.Random) -> None:
    """Kill all processes of a run.

    Args:
        process: main process of the run.
        alone: whether to kill one process first, so that the others have to notice its loss.
        draw: random numbers.
    """
    if alone:
        os.kill(draw.choice([process.pid, *descendants(process.pid)]), signal.SIGKILL)
        time.sleep(2)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _count_damaged(folder: Path) -> int:
    """Return the number of completed checkpoints that cannot be read."""
    count = 0
    for stage in STAGES:
        checkpoints = CheckpointManager(folder / "checkpoints", stage)
        for step in checkpoints.steps():
            try:
                checkpoints.read(step)
            except InputError:
                count += 1
    return count


def _is_identical(folder: Path, reference: Path) -> bool:
    """Return whether the bundles and checkpoints of two runs are equal, bit for bit."""
    files = [path.relative_to(reference) for path in (reference / "bundle").iterdir()]
    same = all((folder / file).read_bytes() == (reference / file).read_bytes() for file in files)
    for stage in STAGES:
        ours, theirs = (
            CheckpointManager(place / "checkpoints", stage) for place in (folder, reference)
        )
        same = same and ours.steps() == theirs.steps()
        for step in theirs.steps():
            groups, expected = ours.read(step).groups, theirs.read(step).groups
            same = same and all(
                groups[group][name].equal(value)
                for group, tensors in expected.items()
                for name, value in tensors.items()
            )
    return same


if __name__ == "__main__":
    main()
