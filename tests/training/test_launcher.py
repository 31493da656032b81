"""Several processes, real ones as a user starts them, train what this one trains."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from runs import config_file, difference, losses, start, train_here, trained, wait_for_checkpoint
from training_fakes import tiny

from anytime_ar.training import PriorTrainingConfig


def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    """Restarts, feedback, augmentation and noise included; dropout is drawn for each part."""
    plain = tiny(precision="32-true", checkpoint_every_minutes=1000.0)
    assert plain.prior is not None
    still = plain.model_copy(update={"prior": plain.prior.model_copy(update={"dropout": 0.0})})
    config = config_file(tmp_path, still)
    train_here(config, tmp_path / "one")
    trained(config, tmp_path / "two", "--devices", "2")
    assert difference(tmp_path / "one", tmp_path / "two") < 1e-3
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)


def test_passes_and_launchers_make_no_difference(tmp_path: Path) -> None:
    config = config_file(tmp_path, tiny(precision="32-true", checkpoint_every_minutes=1000.0))
    train_here(config, tmp_path / "passes", 2)
    trained(config, tmp_path / "torchrun", launcher=True)
    assert difference(tmp_path / "passes", tmp_path / "torchrun") < 1e-3


def test_two_processes_end_together_and_go_on_as_if_nothing_was(tmp_path: Path) -> None:
    """By SIGTERM, of which one of them hears, and by SIGKILL of one."""
    steps = tiny().autoencoder_training.model_copy(update={"steps": 60})
    config = config_file(
        tmp_path, tiny(autoencoder_training=steps, prior=None, prior_training=PriorTrainingConfig())
    )
    trained(config, tmp_path / "whole", "--devices", "2")
    for number, code in ((signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, None)):
        process = start(config, tmp_path / "cut", "--devices", "2", "--resume")
        wait_for_checkpoint(process, tmp_path / "cut", "autoencoder")
        process.send_signal(number)
        process.communicate(timeout=600)
        assert process.returncode == (-number if code is None else code)
    trained(config, tmp_path / "cut", "--devices", "2", "--resume")
    for name in ("autoencoder.safetensors", "manifest.json"):
        ours, theirs = (tmp_path / run / "bundle" / name for run in ("cut", "whole"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_what_is_wrong_is_told_once(tmp_path: Path) -> None:
    config = config_file(tmp_path, tiny())
    process = start(config, tmp_path / "run", "--gradient-accumulation-steps", "3", launcher=True)
    _, complaint = process.communicate(timeout=600)
    assert process.returncode != 0
    told = [line for line in complaint.splitlines() if line.startswith("anytime: ")]
    assert told == [
        "anytime: autoencoder: a batch of 32 cannot be cut into 6 equal parts, one for each "
        "process and gradient accumulation step; choose another batch_size, devices or "
        "gradient_accumulation_steps"
    ]
