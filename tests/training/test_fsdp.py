"""Weights in shards, on two processes as a user starts them, train what whole ones train here."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import config_file, difference, losses, start, train_here, trained, wait_for_checkpoint
from torch import nn
from training_fakes import tiny

from anytime_ar.autoencoder import NetworkConfig, ProjectionConfig, VectorQuantizerConfig
from anytime_ar.training import TrainConfig
from anytime_ar.training.checkpoint import CheckpointManager
from anytime_ar.training.optimizer import ShardedMuon

SHARDS = ("--devices", "2", "--strategy", "fsdp")
ALIKE = 1e-3
"""What rounding makes of weights: gradients that are all but zero move them as others do."""


def exact(**changes: object) -> TrainConfig:
    return tiny(**{"precision": "32-true", "checkpoint_every_minutes": 1000.0} | changes)


@pytest.mark.parametrize(
    ("quantizer", "microbatches"),
    [
        (VectorQuantizerConfig(vocabulary=8), 2),
        # A codebook that is a weight, of which the second process has nothing.
        (
            VectorQuantizerConfig(
                vocabulary=8, codebook_update="loss", shared_codebook=True, dead_code_threshold=0.9
            ),
            1,
        ),
    ],
)
def test_shards_train_what_whole_weights_train(
    tmp_path: Path, quantizer: VectorQuantizerConfig, microbatches: int
) -> None:
    autoencoder = ProjectionConfig(
        code_length=4,
        code_width=3,
        fill="learned",
        quantizer=quantizer,
        network=NetworkConfig(widths=(4, 8), blocks=1),
    )
    config = config_file(tmp_path, exact(autoencoder=autoencoder))
    train_here(config, tmp_path / "whole", 2 * microbatches)
    options = ("--gradient-accumulation-steps", str(microbatches))
    trained(config, tmp_path / "shards", *SHARDS, *options)
    assert difference(tmp_path / "whole", tmp_path / "shards") < ALIKE
    assert losses(tmp_path / "shards") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


def test_runs_go_on_bit_for_bit_and_from_either_to_the_other(tmp_path: Path) -> None:
    """After a process was killed, in the stages that have most to remember."""
    changes: dict[str, object] = {"checkpoint_every_minutes": 1e-9}
    for stage in ("decoder_gan", "prior_training"):
        changes[stage] = getattr(exact(), stage).model_copy(update={"steps": 40})
    config = config_file(tmp_path, exact(**changes))
    runs = {name: tmp_path / name for name in ("whole", "cut", "one", "other")}
    trained(config, runs["whole"], *SHARDS)

    def kill(run: str, stage: str, *options: str) -> None:
        process = start(config, runs[run], *options, "--resume")
        wait_for_checkpoint(process, runs[run], stage)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=600)
        assert not (runs[run] / "bundle").exists()

    kill("cut", "decoder_gan", *SHARDS)
    kill("cut", "prior", *SHARDS)
    shutil.copytree(runs["cut"], runs["one"])
    trained(config, runs["cut"], *SHARDS, "--resume")
    for name in ("autoencoder.safetensors", "prior.safetensors", "manifest.json"):
        ours, theirs = (runs[run] / "bundle" / name for run in ("cut", "whole"))
        assert ours.read_bytes() == theirs.read_bytes()

    train_here(config, runs["one"], 2, resume=True)

    def interrupt(line: dict[str, Any]) -> None:
        if line.get("stage") == "decoder_gan" and line.get("step", 0) >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_here(config, runs["other"], 2, callbacks=[interrupt])
    assert CheckpointManager(runs["other"] / "checkpoints", "decoder_gan").steps()[0] >= 7
    assert not (runs["other"] / "bundle").exists()
    trained(config, runs["other"], *SHARDS, "--resume")
    for run in ("one", "other"):
        assert difference(runs[run], runs["whole"]) < ALIKE


def test_muon_of_whole_matrices_is_that_of_torch() -> None:
    matrices = [
        [nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))]
        for shape in ((6, 4), (6, 4))
    ]
    options: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.3, "adjust_lr_fn": "match_rms_adamw"}
    ours, theirs = matrices
    optimizers = ShardedMuon(ours, **options), torch.optim.Muon(theirs, **options)
    for seed in range(3):
        gradient = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))
        for (matrix,), optimizer in zip(matrices, optimizers, strict=True):
            matrix.grad = gradient.clone()
            optimizer.step()
        torch.testing.assert_close(ours[0], theirs[0])
    assert optimizers[0].state_dict()["state"].keys() == optimizers[1].state_dict()["state"].keys()


def test_scaled_losses_are_refused_once(tmp_path: Path) -> None:
    config = config_file(tmp_path, tiny(precision="16-mixed"))
    process = start(config, tmp_path / "run", *SHARDS)
    _, complaint = process.communicate(timeout=600)
    assert process.returncode == 2
    assert complaint == (
        "anytime: precision is 16-mixed, which strategy fsdp cannot do; set it to bf16-mixed or "
        "32-true, or choose strategy ddp\n"
    )
