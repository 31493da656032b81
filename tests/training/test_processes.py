"""Several processes train what one trains; real ones, as a user starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from training_fakes import tiny

from anytime_ar.training import PriorTrainingConfig, TrainConfig
from anytime_ar.training.checkpoint import Checkpoints

LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def config_file(folder: Path, config: TrainConfig) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    return path


def start(config: Path, out: Path, *options: str, launcher: bool = False) -> Any:
    command = [sys.executable, *(LAUNCHER if launcher else []), "-m", "anytime_ar", "train"]
    return subprocess.Popen(
        [*command, str(config), "--out", str(out), "--device", "cpu", *options],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def trained(*arguments: Any, **options: Any) -> None:
    process = start(*arguments, **options)
    out, complaint = process.communicate(timeout=300)
    assert process.returncode == 0, complaint
    assert out.count("trained; judge it with") == 1  # one of them speaks


def difference(one: Path, other: Path) -> float:
    """Of the weights of two runs, at most."""
    most = 0.0
    for name in ("autoencoder.safetensors", "prior.safetensors"):
        a, b = (load_file(folder / "bundle" / name) for folder in (one, other))
        assert a.keys() == b.keys()
        most = max(most, *(float((a[key] - b[key]).abs().max()) for key in a))
    return most


def losses(folder: Path) -> list[float]:
    lines = [yaml.safe_load(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    """Restarts, feedback, augmentation and noise included; dropout is drawn for each part."""
    plain = tiny(precision="32-true", checkpoint_every_minutes=1000.0)
    assert plain.prior is not None
    still = plain.model_copy(update={"prior": plain.prior.model_copy(update={"dropout": 0.0})})
    config = config_file(tmp_path, still)
    trained(config, tmp_path / "one")
    trained(config, tmp_path / "two", "--devices", "2")
    assert difference(tmp_path / "one", tmp_path / "two") < 1e-3
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)


def test_passes_and_launchers_make_no_difference(tmp_path: Path) -> None:
    config = config_file(tmp_path, tiny(precision="32-true", checkpoint_every_minutes=1000.0))
    trained(config, tmp_path / "passes", "--passes", "2")
    trained(config, tmp_path / "torchrun", launcher=True)
    assert difference(tmp_path / "passes", tmp_path / "torchrun") < 1e-3


def test_two_processes_end_together_and_go_on_as_if_nothing_was(tmp_path: Path) -> None:
    """By SIGTERM, of which one of them hears, and by SIGKILL of one."""
    steps = tiny().autoencoder_training.model_copy(update={"steps": 60})
    config = config_file(
        tmp_path, tiny(autoencoder_training=steps, prior=None, prior_training=PriorTrainingConfig())
    )
    trained(config, tmp_path / "whole", "--devices", "2")
    checkpoints = Checkpoints(tmp_path / "cut" / "checkpoints", "autoencoder")
    for number, code in ((signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, None)):
        before = checkpoints.steps()[:1]
        process = start(config, tmp_path / "cut", "--devices", "2", "--resume")
        until = time.monotonic() + 120
        while checkpoints.steps()[:1] in (before, []):
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(number)
        process.communicate(timeout=120)
        assert process.returncode == (-number if code is None else code)
    trained(config, tmp_path / "cut", "--devices", "2", "--resume")
    for name in ("autoencoder.safetensors", "manifest.json"):
        ours, theirs = (tmp_path / run / "bundle" / name for run in ("cut", "whole"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_what_is_wrong_is_told_once(tmp_path: Path) -> None:
    config = config_file(tmp_path, tiny())
    process = start(config, tmp_path / "run", "--passes", "3", launcher=True)
    _, complaint = process.communicate(timeout=120)
    assert process.returncode != 0
    told = [line for line in complaint.splitlines() if line.startswith("anytime: ")]
    assert told == [
        "anytime: autoencoder: a batch of 32 cannot be cut into 6 equal parts, one for each "
        "process and pass; choose another batch_size, or other numbers"
    ]
