"""Runs of several processes, as a user starts them, and of this one, and what becomes of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file

from anytime_ar.training import DistributedConfig, TrainConfig, train
from anytime_ar.training.checkpoint import CheckpointManager
from processes import wait_for

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
    out, complaint = process.communicate(timeout=900)
    assert process.returncode == 0, complaint
    assert out.count("trained; judge it with") == 1  # one of them speaks


def train_here(config: Path, folder: Path, microbatches: int = 1, **options: Any) -> None:
    """In this process, which has imported everything already."""
    train(
        TrainConfig.parse(yaml.safe_load(config.read_text(encoding="utf-8")), origin=str(config)),
        folder,
        device="cpu",
        show_progress=False,
        distributed_config=DistributedConfig(gradient_accumulation_steps=microbatches),
        **options,
    )


def wait_for_checkpoint(process: Any, folder: Path, stage: str) -> None:
    """Of a run that is going on, a new one."""
    checkpoints = CheckpointManager(folder / "checkpoints", stage)
    before = checkpoints.steps()[:1]

    def is_there() -> bool:
        assert process.poll() is None, process.communicate()
        return checkpoints.steps()[:1] not in (before, [])

    wait_for(is_there, f"a checkpoint of {stage} in {folder}; at first there was {before}")


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
    return [value for line in lines for key, value in line.items() if key.endswith("loss")]
