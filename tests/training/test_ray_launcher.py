"""Runs on Ray Train, as a user starts them; each start of Ray takes its time, so there are few."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from runs import config_file, start, trained, wait_for_checkpoint
from training_fakes import tiny

from anytime_ar.cli import main
from anytime_ar.errors import InputError, MissingExtraError
from anytime_ar.training import DistributedConfig, RayTrainConfig, train_on_ray
from anytime_ar.training.checkpoint import CheckpointManager
from processes import command_line, descendants

RAY = ("--engine", "ray", "--workers", "2")
WORKER = "ray::RayTrainWorker"
"""How Ray calls one."""


def test_a_killed_worker_and_an_ended_program_leave_no_trace(tmp_path: Path) -> None:
    """The run is that of two processes of our own, bit for bit."""
    usual = tiny()
    assert usual.decoder_gan is not None
    config = config_file(
        tmp_path,
        tiny(
            decoder_gan=usual.decoder_gan.model_copy(update={"steps": 60}),
            prior_training=usual.prior_training.model_copy(update={"steps": 150, "patience": 30}),
        ),
    )
    process = start(config, tmp_path / "ray", *RAY)
    wait_for_checkpoint(process, tmp_path / "ray", "decoder_gan")
    workers = [pid for pid in descendants(process.pid) if command_line(pid).startswith(WORKER)]
    os.kill(workers[-1], signal.SIGKILL)
    wait_for_checkpoint(process, tmp_path / "ray", "prior")
    process.terminate()
    out, told = process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGTERM, told
    assert out == ""
    assert told.count("anytime: a worker has died; all go on from the last checkpoint\n") == 1
    assert told.count("Traceback") == 0
    (step, *_) = CheckpointManager(tmp_path / "ray" / "checkpoints", "prior").steps()
    assert step < 150, "it ended before it was told to"
    trained(config, tmp_path / "ray", *RAY, "--resume")
    trained(config, tmp_path / "ours", "--devices", "2")
    for name in ("autoencoder.safetensors", "prior.safetensors", "manifest.json"):
        ours, theirs = (tmp_path / run / "bundle" / name for run in ("ours", "ray"))
        assert ours.read_bytes() == theirs.read_bytes()
    left = {path.name for path in (tmp_path / "ray").iterdir()}
    files = {"config.yaml", "data.json", "autotune.json", "log.jsonl"}
    assert left == {"bundle", "checkpoints"} | files


def test_what_is_wrong_is_told_once_and_not_tried_again(tmp_path: Path) -> None:
    process = start(
        config_file(tmp_path, tiny()), tmp_path / "run", *RAY, "--gradient-accumulation-steps", "3"
    )
    out, told = process.communicate(timeout=600)
    assert process.returncode == 2
    assert out == ""
    lines = [line for line in told.splitlines() if line.startswith("anytime: ")]
    assert lines == [
        "anytime: autoencoder: a batch of 32 cannot be cut into 6 equal parts, one for each "
        "process and gradient accumulation step; choose another batch_size, devices or "
        "gradient_accumulation_steps"
    ]


def test_settings_that_do_not_go_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="4 processes are asked for by devices and nodes"):
        train_on_ray(tiny(), tmp_path, distributed_config=DistributedConfig(devices=2, nodes=2))
    with pytest.raises(InputError, match="device is mps, and engine ray takes cpu, cuda or auto"):
        train_on_ray(tiny(), tmp_path, device="mps")
    with pytest.raises(SystemExit):
        main(["train", "digits", "--out", str(tmp_path / "run"), "--workers", "2"])
    assert "workers and max_failures are settings of engine ray" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"-m pip install 'ray\["):
        train_on_ray(tiny(), tmp_path, workers=RayTrainConfig(workers=2))
    assert not [*tmp_path.iterdir()]
